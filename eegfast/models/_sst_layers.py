# SPDX-License-Identifier: BSD-3-Clause
"""Layers of SST-EmotionNet. Tensors are ``(N, channels, depth, height, width)``."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1.1e-5

# Activations stay in this layout from the stem to the last mean. A voxel's channels are then
# neighbours, and depth, or height and width, fold into other axes without a copy: every
# convolution is a channels-last 2-D one, which the libraries do best.
LAYOUT = torch.channels_last_3d


def _planes(x: Tensor) -> Tensor:
    """``(N, C, D, H, W)`` -> ``(N * D, C, H, W)``."""
    return x.transpose(1, 2).flatten(0, 1)


def _volume(x: Tensor, n: int, depth: int, height: int, width: int) -> Tensor:
    """Channels-last 4-D tensor -> ``(n, C, depth, height, width)`` with the strides of LAYOUT."""
    x = x.permute(0, 2, 3, 1).reshape(n, depth, height, width, x.shape[1])
    return x.permute(0, 4, 1, 2, 3)


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, ...], pad: tuple[int, ...]) -> Tensor:
    """``F.conv3d`` without bias as the 2-D convolution that it amounts to.

    For this network's kernels: within planes, along depth (not strided), or of one input channel.
    """
    n, _, depth, height, width = x.shape
    taps = weight.shape[2]
    if taps > 1 and weight.shape[3:] == (1, 1):  # along depth
        y = F.conv2d(x.flatten(3), weight[..., 0], padding=(pad[0], 0))
        return _volume(y, n, y.shape[2], height, width)
    if taps == 1:  # within planes
        y = F.conv2d(_planes(x), weight[:, :, 0], None, stride[1:], pad[1:])
        return _volume(y, n, depth, *y.shape[2:])
    # Of one channel: the taps along depth become the channels of a plane.
    x = F.pad(x[:, 0], (0, 0, 0, 0, pad[0], pad[0]))
    depth = x.shape[1] - taps + 1
    x = torch.stack([x[:, i : i + depth] for i in range(taps)], -1)
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight[:, 0], None, stride[1:], pad[1:])
    return _volume(y, n, depth, *y.shape[2:])


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, as TensorFlow's ``SAME`` has it: the odd one goes behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _norm(channels: int, momentum: float) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, BN_EPS, momentum)


class Conv3d(nn.Conv3d):
    """Bias-free convolution, ``kernel // 2`` zeros on both sides; computed by :func:`convolve`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], stride=(1, 1, 1)
    ):
        padding = tuple(k // 2 for k in kernel_size)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.stride, self.padding)

    def of_planes(self, planes: Tensor) -> Tensor:
        """The same of ``(N * D, C, H, W)``, for a kernel within planes."""
        return F.conv2d(planes, self.weight[:, :, 0], None, self.stride[1:], self.padding[1:])


class FrequencyStem(nn.Module):
    """3x3 within each band: ``(N, 1, D, H, W)`` -> ``(N, channels, D, H, W)``."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv3d(1, channels, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).contiguous(memory_format=LAYOUT)

    def output_size(self, depth: int, height: int, width: int) -> tuple[int, int, int]:
        return depth, height, width


class TimeStem(nn.Module):
    """5x5x3 with stride 2 in the plane, BN, ReLU, max-pool 2x2x2.

    ``(N, 1, D, H, W)`` -> ``(N, channels, ceil(D/2), ceil(ceil(H/2)/2), ceil(ceil(W/2)/2))``,
    padded as TensorFlow pads. With ``symmetric`` as torcheeg does: two zeros on every side of the
    plane, and one step on either side of the depth before the pool, which then ends after
    ``D // 2 + 1``.
    """

    def __init__(self, channels: int, momentum: float, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.conv = Conv3d(1, channels, (3, 5, 5), (1, 2, 2))
        self.norm = _norm(channels, momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self.symmetric:
            x = self.conv(x)
        else:
            plane = [p for size in x.shape[:2:-1] for p in same_padding(size, 5, 2)]
            x = convolve(F.pad(x, plane), self.conv.weight, self.conv.stride, (1, 0, 0))
        x = self.norm(x)
        # The greatest first: of an eighth of the values ReLU is the same, and cheaper.
        if self.symmetric:
            return F.max_pool3d(x, 2, padding=(1, 0, 0)).relu_()
        return F.max_pool3d(x, 2, ceil_mode=True).relu_()

    def output_size(self, depth: int, height: int, width: int) -> tuple[int, int, int]:
        plane = [(size + 1) // 2 for size in (height, width)]
        if self.symmetric:
            return depth // 2 + 1, plane[0] // 2, plane[1] // 2
        return (depth + 1) // 2, (plane[0] + 1) // 2, (plane[1] + 1) // 2


class ConvBlock(nn.Module):
    """BN-ReLU-1x1x1 (to 4g), BN-ReLU, 3x3 in the plane (to g), 3 along depth, behind its input.

    ``(N, C, D, H, W)`` -> ``(N, C + growth, D, H, W)``. ``extra`` puts torcheeg's 1x1x1
    convolution between the last two.
    """

    def __init__(self, in_channels: int, growth: int, momentum: float, extra: bool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, BN_EPS, momentum)
        self.bottleneck = Conv3d(in_channels, 4 * growth, (1, 1, 1))
        self.norm2 = nn.BatchNorm2d(4 * growth, BN_EPS, momentum)
        self.plane = Conv3d(4 * growth, growth, (1, 3, 3))
        self.extra = Conv3d(growth, growth, (1, 1, 1)) if extra else None
        self.depth = Conv3d(growth, growth, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # What a convolution keeps for its backward is then the result of ReLU; where a view stands
        # between them, torch.compile stores masks as well, and is slow at that.
        y = self.bottleneck.of_planes(self.norm1(_planes(x)).relu_())
        y = self.plane.of_planes(self.norm2(y).relu_())
        y = _volume(y, x.shape[0], *x.shape[2:])
        if self.extra is not None:
            y = self.extra(y)
        return torch.cat([x, self.depth(y)], 1)


class Transition(nn.Module):
    """BN, ReLU, 1x1x1 convolution, average over 2x2x2 voxels; an odd one at an end is left out.

    The average is taken before the convolution: both are linear, and the convolution then has an
    eighth of the work.
    """

    def __init__(self, in_channels: int, out_channels: int, momentum: float, relu: bool):
        super().__init__()
        self.relu = relu
        self.norm = _norm(in_channels, momentum)
        self.conv = Conv3d(in_channels, out_channels, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.relu:
            x = x.relu_()
        # Not `F.avg_pool3d`, which would give up the layout.
        planes = F.avg_pool2d(_planes(x), 2)
        x = _volume(planes, x.shape[0], x.shape[2], *planes.shape[2:])
        pooled = F.avg_pool2d(x.flatten(3), (2, 1))
        return self.conv(pooled.unflatten(3, x.shape[3:]))


class ParallelAttention(nn.Module):
    """Spatial and depth attention, both from the mean over channels of the unscaled input.

    Parameters
    ----------
    depth, height, width : int
        Size of the maps.
    gate : {"sigmoid", "softmax"}
        What makes weights of the two linear layers' outputs. The softmax runs over the plane, and
        over depth.

    Notes
    -----
    ``(N, C, depth, height, width)`` in and out. "Depth" is bands in one stream, time in the other.
    """

    def __init__(self, depth: int, height: int, width: int, gate: str):
        super().__init__()
        self.gate = gate
        self.spatial = nn.Linear(height * width, height * width)
        self.depth = nn.Linear(depth, depth)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``(N, height, width)`` and ``(N, depth)``."""
        mean = x.mean(1)
        spatial = self.spatial(mean.mean(1).flatten(1))
        depth = self.depth(mean.mean((2, 3)))
        if self.gate == "softmax":
            spatial, depth = spatial.softmax(1), depth.softmax(1)
        else:
            spatial, depth = spatial.sigmoid(), depth.sigmoid()
        return spatial.unflatten(1, x.shape[3:]), depth

    def forward(self, x: Tensor) -> Tensor:
        spatial, depth = self.weights(x)
        return x * (spatial[:, None] * depth[:, :, None, None])[:, None]


def build_stream(
    name: str,
    stem: FrequencyStem | TimeStem,
    size: tuple[int, int, int],
    depth: int,
    growth: int,
    compression: float,
    *,
    n_blocks: int,
    placement: str,
    gate: str,
    transition_relu: bool,
    extra: bool,
    momentum: float,
) -> tuple[nn.Sequential, int]:
    """One stream up to its last ReLU, and how many channels leave it; arguments are checked."""
    if depth < 10 or (depth - 4) % 3:
        raise ValueError(
            f"SSTEmotionNet: {name}_depth must be 3 k + 4 and at least 10, got {depth}"
        )
    if not 0 < compression <= 1:
        raise ValueError(f"SSTEmotionNet: {name}_compression must be in (0, 1], got {compression}")
    maps, size = size, stem.output_size(*size)
    if min(size) < 2 ** (n_blocks - 1):
        raise ValueError(
            f"SSTEmotionNet: {name} maps of {maps[0]} x {maps[1]} x {maps[2]} (depth, height, "
            f"width) are too small for n_blocks = {n_blocks}: the stem leaves "
            f"{size[0]} x {size[1]} x {size[2]}, expected at least {2 ** (n_blocks - 1)} each"
        )
    channels = 2 * growth
    layers = OrderedDict(stem=stem)
    for i in range(1, n_blocks + 1):
        if placement == "before_block":
            layers[f"attention{i}"] = ParallelAttention(*size, gate)
        block = nn.Sequential()
        for _ in range((depth - 4) // 3 // 2):
            block.append(ConvBlock(channels, growth, momentum, extra))
            channels += growth
        layers[f"block{i}"] = block
        if i < n_blocks:
            reduced = int(channels * compression)
            layers[f"transition{i}"] = Transition(channels, reduced, momentum, transition_relu)
            channels, size = reduced, tuple(s // 2 for s in size)
            if placement == "after_transition":
                layers[f"attention{i}"] = ParallelAttention(*size, gate)
    layers["norm"] = _norm(channels, momentum)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers), channels
