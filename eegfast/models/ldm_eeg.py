# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG: two streams of dense Mobile units over maps of the scalp, attention before the last two.

Layout of the tensors, for the published sizes (n=2, c=4; D is 5 bands or 8 time steps)::

    maps             (N,   1, D, 32, 32)   depth is the band, or the time step
    stem             (N,   4, D, 16, 16)
    block 1          (N,  16, D, 16, 16)   each of the n units doubles the channels
    transition 1     (N,   8, D,  8,  8)   and each transition halves channels and plane
    block 2          (N,  32, D,  8,  8)
    transition 2     (N,  16, D,  4,  4)
    attention        (N,  16, D,  4,  4)
    block 3          (N,  64, D,  4,  4)
    transition 3     (N,  32, D,  2,  2)
    attention        (N,  32, D,  2,  2)
    block 4          (N, 128, D,  2,  2)
    transition 4     (N,  64, D,  1,  1)
    pooled           (N,  64)              mean over the depth, which nothing has shortened
    both streams     (N, 128)
    logits           (N, n_outputs)
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eegfast.models.base import Network
from eegfast.models.registry import register
from eegfast.nn import MobileUnit3d

CONVS = ("depthwise", "pseudo", "pseudo-wide", "pseudo-depthwise", "pseudo-parallel")
MERGES = ("concat", "add")
SMALLEST_GRID = 32
HIDDEN = 50

# Layout of what enters the dense convolutions, which torch computes and which are most of the
# arithmetic. The Mobile units give contiguous tensors and take any.
DENSE_LAYOUT = torch.contiguous_format


class MultiAttention(nn.Module):
    """Rescale channels, then positions, then depth, each by a softmax that sums to 1.

    Each factor is computed from the tensor that the previous one has rescaled: the mean over all
    other axes, a linear layer, a softmax. Nothing undoes the scale: even attention before block 4
    of the published network divides its input by 32 * 4 * 5 = 640.

    Parameters
    ----------
    channels : int
        C.
    depth : int
        D, bands or time steps.
    size : int
        Height and width of the plane.
    channel_attention : bool
        Whether there is the first factor.

    Notes
    -----
    Input and output ``(N, C, D, size, size)``. The authors' code does not name the axis of its
    softmax; for the matrix it gets, torch takes axis 1, as here.
    """

    def __init__(self, channels: int, depth: int, size: int, channel_attention: bool = True):
        super().__init__()
        self.size = size
        self.channel = nn.Linear(channels, channels) if channel_attention else None
        self.spatial = nn.Linear(size**2, size**2)
        self.depth = nn.Linear(depth, depth)

    def attend(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rescaled tensor and the weights.

        Parameters
        ----------
        x : Tensor, shape (N, C, D, size, size)

        Returns
        -------
        rescaled : Tensor, shape of ``x``
        weights : dict of str to Tensor
            ``"channel"`` (N, C), unless disabled, ``"spatial"`` (N, size, size) and ``"depth"``
            (N, D); each sums to 1 over all but the batch.
        """
        weights = {}
        if self.channel is not None:
            weights["channel"] = self.channel(x.mean((2, 3, 4))).softmax(1)
            x = x * weights["channel"][:, :, None, None, None]
        # The channels' mean of a tensor that is rescaled along other axes is their mean, rescaled.
        mean = x.mean(1)
        spatial = self.spatial(mean.mean(1).flatten(1)).softmax(1)
        spatial = weights["spatial"] = spatial.unflatten(1, (self.size, self.size))
        depth = weights["depth"] = self.depth((mean * spatial[:, None]).mean((2, 3))).softmax(1)
        return x * (spatial[:, None] * depth[:, :, None, None])[:, None], weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)[0]


class _Sum(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        return sum(module(x) for module in self)


def _conv(channels: tuple[int, int], kernel, groups: int = 1, stride=1) -> nn.Conv3d:
    """A convolution without bias that keeps its input's size, but for the stride."""
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(*channels, kernel, stride, padding, groups=groups, bias=False)


class PseudoUnit3d(nn.Module):
    """The Mobile unit with its 3x3x3 kernels split into a plane and the depth axis.

    BatchNorm, ReLU, 1x1x1 expansion from C to E = r C channels, BatchNorm, ReLU; then instead of
    the depthwise convolution and the projection, without a bias:

    ====================  =========================================================
    ``pseudo``            1x3x3 from E to C, 3x1x1 from C to C
    ``pseudo-wide``       1x3x3 from E to C, 3x1x1 from C to E, 1x1x1 from E to C
    ``pseudo-depthwise``  1x3x3 and 3x1x1 per channel, 1x1x1 from E to C
    ``pseudo-parallel``   sum of 1x3x3 from E to C and 3x1x1 from E to C
    ====================  =========================================================

    Parameters
    ----------
    channels : int
        C.
    conv : str
        One of the names above.
    expansion : int
        r.
    merge : {"concat", "add"}
        Put the result behind the input (2 C channels come out), or add it (C channels).
    """

    def __init__(
        self, channels: int, conv: str = "pseudo", expansion: int = 8, merge: str = "concat"
    ):
        super().__init__()
        wide = expansion * channels
        grow, keep, shrink = (channels, wide), (wide, wide), (wide, channels)
        point, plane, axis = (1, 1, 1), (1, 3, 3), (3, 1, 1)
        self.merge = merge
        self.norm1 = nn.BatchNorm3d(channels)
        self.expand = _conv(grow, point)
        self.norm2 = nn.BatchNorm3d(wide)
        if conv == "pseudo":
            layers = [_conv(shrink, plane), _conv((channels, channels), axis)]
        elif conv == "pseudo-wide":
            layers = [_conv(shrink, plane), _conv(grow, axis), _conv(shrink, point)]
        elif conv == "pseudo-depthwise":
            layers = [_conv(keep, plane, wide), _conv(keep, axis, wide), _conv(shrink, point)]
        else:
            layers = [_conv(shrink, plane), _conv(shrink, axis)]
        self.filter = _Sum(layers) if conv == "pseudo-parallel" else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, D, H, W)`` to ``(N, 2 C or C, D, H, W)``."""
        y = self.expand(torch.relu(self.norm1(x)))
        y = torch.relu(self.norm2(y)).contiguous(memory_format=DENSE_LAYOUT)
        y = self.filter(y)
        return torch.cat([x, y], 1) if self.merge == "concat" else x + y


class Transition(nn.Module):
    """Dense 3x3x3 convolution without bias, then the mean over 2x2 of the plane.

    Nothing stands between the two, so they are one convolution, with stride 2 and a 3x4x4 kernel:
    the mean of the four shifts of the 3x3x3 one. That is 48 products per result instead of
    4 * 27 = 108, forward and backward; only rounding differs. On a plane of 2x2 all but the middle
    of the kernel meets padding, so 12 are left.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.

    Notes
    -----
    Input ``(N, in_channels, D, H, W)``, output ``(N, out_channels, D, H // 2, W // 2)``.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = _conv((in_channels, out_channels), (3, 3, 3))
        mean = torch.zeros(3, 3, 4, 4)  # of the shifts of each tap of the plane
        for h, w in itertools.product(range(3), repeat=2):
            mean[h, w, h : h + 2, w : w + 2] = 1 / 4
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3:] == (2, 2):
            return self._of_four(x)
        kernel = self.conv.weight.flatten(3) @ self.mean.flatten(2).flatten(0, 1)
        x = x.contiguous(memory_format=DENSE_LAYOUT)
        return F.conv3d(x, kernel.unflatten(3, (4, 4)), stride=(1, 2, 2), padding=1)

    def _of_four(self, x: Tensor) -> Tensor:
        """Of a plane of 2x2: a matrix product per step of depth, for itself and its neighbours."""
        taps = self.conv.weight.flatten(3).permute(1, 3, 2, 0).flatten(2)  # C, 9, depth * out
        mean = self.mean[..., 1:3, 1:3].flatten(2).flatten(0, 1)
        matrix = (mean.T @ taps).flatten(0, 1)
        y = (x.transpose(1, 2).flatten(2) @ matrix).unflatten(2, (3, -1))
        before, own, after = F.pad(y, (0, 0, 0, 0, 1, 1)).unbind(2)
        y = before[:, :-2] + own[:, 1:-1] + after[:, 2:]
        return y.transpose(1, 2)[..., None, None]


class _Block(nn.Module):
    """Attention or none, the units of a residual block, a transition."""

    def __init__(self, attention: MultiAttention | None, units: nn.Sequential, transition):
        super().__init__()
        self.attention, self.units, self.transition = attention, units, transition

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            x = self.attention(x)
        return self.transition(self.units(x))


@register("ldm-eeg")
class LDMEEG(Network):
    """Lightweight dense Mobile network over frequency maps and time maps.

    Parameters
    ----------
    n : int
        Mobile units per residual block.
    c : int
        Channels of the stem.
    attention : str of four ``0`` or ``1``
        Whether multi-attention stands before residual block 1, 2, 3, 4.
    conv : {"depthwise", "pseudo", "pseudo-wide", "pseudo-depthwise", "pseudo-parallel"}
        Convolution inside the units; the pseudo-3D ones are described by :class:`PseudoUnit3d`.
    n_outputs : int
        Classes.
    n_bands : int
        Depth of the frequency maps.
    n_steps : int
        Depth of the time maps: feature windows per sample. It is not called ``n_times`` because
        that counts samples of a raw signal everywhere else.
    grid : int
        Height and width of all maps, at least 32.
    expansion : int
        Channels inside a unit per channel of its input, the paper's r.
    compression : float
        Channels behind a transition per channel before it, the paper's t, above 0 and at most 1;
        rounded down.
    merge : {"concat", "add"}
        What a unit does with its input. With ``"add"`` channels never grow, so a small ``c`` needs
        a greater ``compression``.
    channel_attention : bool
        False leaves out the first factor of each attention (the paper's ablation NC).
    drop_prob : float
        Dropout inside the classifier.

    Raises
    ------
    ValueError
        If an argument is none of the above, or a transition leaves no channel.

    Notes
    -----
    Parameters, with 3 classes: 7,367, 18,255, 53,567 for n=1 and c=2, 4, 8; 248,447, 899,743,
    3,413,855 for n=2; with ``attention="1111"`` 158,443 (n=1, c=4) and 1,040,035 (n=2, c=4). All
    agree with the paper's table.

    **Not reproduced.** The paper gives its pseudo-3D network 2.10 M parameters and no code. For
    n=2, c=4, ``"pseudo"`` has 1,733,183, ``"pseudo-wide"`` 2,127,583, ``"pseudo-depthwise"``
    856,543, ``"pseudo-parallel"`` 2,018,783; which one was meant, if any, is unknown.

    **Where paper and code differ**, the code is followed. The paper's text and equation (10) add a
    unit's input to its result; the code concatenates, input first, and only this gives the
    published parameter counts. The class in the code defaults to c=2; the paper's best network,
    the default here, has c=4. The code builds the linear layer of the channel attention even where
    it is switched off; here it is then absent. The code fixes 8 time steps. The softmax belongs to
    the loss: the output is logits.

    **Evaluate late.** Behind attention a variance is near the norms' eps of 1e-5, while the running
    variances start at 1 and come down by a tenth per batch. For the first hundred batches or so,
    logits in evaluation mode hardly depend on the input.

    The maps hold the differential entropy of each band, and of each time step. How the authors made
    them, their batch size and learning rate cannot be read from the paper. Their accuracies (95.18
    percent on SEED) come from samples divided at random, neighbours from one trial on both sides:
    they are no target for an honest evaluation.

    References
    ----------
    .. [1] Lei and Liu, "LDM-EEG", Computer Science 50(6A), 2023, 220300262; code in
       ``ECNU-Cross-Innovation-Lab/EEG-Emotion``.

    Examples
    --------
    >>> import torch
    >>> net = LDMEEG(n=1, c=2, n_outputs=2).eval()
    >>> net(torch.zeros(4, 1, 5, 32, 32), torch.zeros(4, 1, 8, 32, 32)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        n: int = 2,
        c: int = 4,
        attention: str = "0011",
        conv: str = "depthwise",
        n_outputs: int = 3,
        n_bands: int = 5,
        n_steps: int = 8,
        grid: int = 32,
        expansion: int = 8,
        compression: float = 0.5,
        merge: str = "concat",
        channel_attention: bool = True,
        drop_prob: float = 0.5,
    ):
        super().__init__()
        sizes = {"n": n, "c": c, "n_outputs": n_outputs, "n_bands": n_bands, "n_steps": n_steps}
        for name, value in {**sizes, "grid": grid, "expansion": expansion}.items():
            least = SMALLEST_GRID if name == "grid" else 1
            if not isinstance(value, int) or value < least:
                raise _refuse(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name, value, known in (("conv", conv, CONVS), ("merge", merge, MERGES)):
            if value not in known:
                raise _refuse(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not isinstance(attention, str) or len(attention) != 4 or set(attention) - set("01"):
            raise _refuse(f"attention must be four of '0' and '1', got {attention!r}")
        if not 0 < compression <= 1:
            raise _refuse(f"compression must be above 0 and at most 1, got {compression!r}")
        if not 0 <= drop_prob <= 1:
            raise _refuse(f"drop_prob must be from 0 to 1, got {drop_prob!r}")
        self.n_bands, self.n_steps, self.grid = n_bands, n_steps, grid

        def unit(channels):
            if conv == "depthwise":
                return MobileUnit3d(channels, expansion, merge)
            return PseudoUnit3d(channels, conv, expansion, merge)

        def stream(depth, kernel):
            layers = OrderedDict(stem=_conv((1, c), kernel, stride=(1, 2, 2)))
            width, size = c, (grid + 1) // 2
            for block, attended in enumerate(attention, 1):
                attend = None
                if attended == "1":
                    attend = MultiAttention(width, depth, size, channel_attention)
                units = []
                for _ in range(n):
                    units.append(unit(width))
                    width *= 2 if merge == "concat" else 1
                narrow = int(compression * width)
                if narrow < 1:
                    raise _refuse(
                        f"transition {block} makes {compression} * {width} channels, which is less "
                        f"than one; take a greater c (now {c}) or compression"
                    )
                transition = Transition(width, narrow)
                layers[f"block{block}"] = _Block(attend, nn.Sequential(*units), transition)
                width, size = narrow, size // 2
            return nn.Sequential(layers), width

        self.frequency, width = stream(n_bands, (3, 5, 5))
        self.time, width = stream(n_steps, (1, 3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(2 * width, HIDDEN), nn.Dropout(drop_prob), nn.Linear(HIDDEN, n_outputs)
        )

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        device = self.classifier[0].weight.device
        return tuple(
            torch.randn(batch_size, 1, depth, self.grid, self.grid, device=device)
            for depth in (self.n_bands, self.n_steps)
        )

    def _check(self, frequency_maps: Tensor, time_maps: Tensor) -> None:
        maps = {"frequency_maps": (frequency_maps, self.n_bands)}
        maps["time_maps"] = (time_maps, self.n_steps)
        for name, (x, depth) in maps.items():
            shape = (1, depth, self.grid, self.grid)
            if x.shape[1:] != shape:
                raise _refuse(f"{name} must be (N, {', '.join(map(str, shape))}), got {_got(x)}")
        if frequency_maps.shape[0] != time_maps.shape[0]:
            raise _refuse(
                "frequency_maps and time_maps must be of the same samples, "
                f"got {_got(frequency_maps)} and {_got(time_maps)}"
            )

    def forward(self, frequency_maps: Tensor, time_maps: Tensor) -> Tensor:
        """Logits of a batch.

        Parameters
        ----------
        frequency_maps : Tensor, shape (N, 1, n_bands, grid, grid)
            A map of the scalp per frequency band.
        time_maps : Tensor, shape (N, 1, n_steps, grid, grid)
            A map per time step of the same samples.

        Returns
        -------
        Tensor, shape (N, n_outputs)
            Logits.

        Raises
        ------
        ValueError
            If a shape is not that, or the batches differ.
        """
        self._check(frequency_maps, time_maps)
        pooled = [
            stream(maps).mean((2, 3, 4))
            for stream, maps in ((self.frequency, frequency_maps), (self.time, time_maps))
        ]
        return self.classifier(torch.cat(pooled, 1))

    @torch.no_grad()
    def attention_maps(
        self, frequency_maps: Tensor, time_maps: Tensor
    ) -> dict[str, dict[int, dict[str, Tensor]]]:
        """Weights of every attention, in evaluation mode whatever mode the network is in.

        Parameters
        ----------
        frequency_maps, time_maps : Tensor
            As for :meth:`forward`.

        Returns
        -------
        dict
            ``maps["frequency" or "time"][block]`` with the block's number from 1 to 4; for blocks
            that have attention, a dict of ``"channel"`` (N, C), ``"spatial"`` (N, height, width)
            and ``"depth"`` (N, n_bands or n_steps). Block 3 has a plane of 4x4, block 4 of 2x2 for
            a grid of 32. Each is positive and sums to 1.
        """
        self._check(frequency_maps, time_maps)
        found: dict[str, dict[int, dict[str, Tensor]]] = {"frequency": {}, "time": {}}
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            for name, x in (("frequency", frequency_maps), ("time", time_maps)):
                stem, *blocks = getattr(self, name)
                x = stem(x)
                for number, block in enumerate(blocks, 1):
                    if block.attention is not None:
                        found[name][number] = block.attention.attend(x)[1]
                    x = block(x)
        finally:
            for module, mode in modes:
                module.training = mode
        return found


def _refuse(text: str) -> ValueError:
    return ValueError(f"LDMEEG: {text}")


def _got(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
