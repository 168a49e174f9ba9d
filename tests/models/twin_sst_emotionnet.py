# SPDX-License-Identifier: BSD-3-Clause
"""SST-EmotionNet in the plainest PyTorch: nn.Conv3d, contiguous tensors, published order.

Takes the arguments and the state dict of ``eegfast.models.SSTEmotionNet``.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def tf_same(x, kernel, stride, value=0.0):
    """Pad the last three axes as TensorFlow's SAME: out = ceil(in / stride), odd zero behind."""
    pads = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        out = math.ceil(size / s)
        total = max((out - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads, value=value)


class Stem(nn.Module):
    def __init__(self, channels, kernel, stride, momentum, symmetric):
        super().__init__()
        self.kernel, self.stride, self.symmetric = kernel, stride, symmetric
        self.conv = nn.Conv3d(1, channels, kernel, stride, bias=False)
        if stride != (1, 1, 1):
            self.norm = nn.BatchNorm3d(channels, 1.1e-5, momentum)

    def forward(self, x):
        if self.symmetric:
            d, h, w = (k // 2 for k in self.kernel)
            x = F.pad(x, (w, w, h, h, d, d))
        else:
            x = tf_same(x, self.kernel, self.stride)
        x = self.conv(x)
        if self.stride == (1, 1, 1):
            return x
        x = F.relu(self.norm(x))
        if self.symmetric:
            return F.max_pool3d(x, 2, 2, padding=(1, 0, 0))
        return F.max_pool3d(tf_same(x, (2, 2, 2), (2, 2, 2), -math.inf), 2, 2)


class ConvBlock(nn.Module):
    def __init__(self, channels, growth, momentum, extra):
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels, 1.1e-5, momentum)
        self.bottleneck = nn.Conv3d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(4 * growth, 1.1e-5, momentum)
        self.plane = nn.Conv3d(4 * growth, growth, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.extra = nn.Conv3d(growth, growth, 1, bias=False) if extra else nn.Identity()
        self.depth = nn.Conv3d(growth, growth, (3, 1, 1), padding=(1, 0, 0), bias=False)

    def forward(self, x):
        y = self.bottleneck(F.relu(self.norm1(x)))
        y = self.depth(self.extra(self.plane(F.relu(self.norm2(y)))))
        return torch.cat([x, y], 1)


class Transition(nn.Module):
    def __init__(self, channels, reduced, momentum, relu):
        super().__init__()
        self.relu = relu
        self.norm = nn.BatchNorm3d(channels, 1.1e-5, momentum)
        self.conv = nn.Conv3d(channels, reduced, 1, bias=False)

    def forward(self, x):
        x = self.norm(x)
        return F.avg_pool3d(self.conv(F.relu(x) if self.relu else x), 2)


class Attention(nn.Module):
    def __init__(self, depth, height, width, gate):
        super().__init__()
        self.gate = gate
        self.spatial = nn.Linear(height * width, height * width)
        self.depth = nn.Linear(depth, depth)

    def forward(self, x):
        n, _, d, h, w = x.shape
        mean = x.mean(1)
        spatial = self.spatial(mean.mean(1).reshape(n, h * w))
        depth = self.depth(mean.mean((2, 3)))
        if self.gate == "softmax":
            spatial, depth = F.softmax(spatial, 1), F.softmax(depth, 1)
        else:
            spatial, depth = torch.sigmoid(spatial), torch.sigmoid(depth)
        return x * spatial.view(n, 1, 1, h, w) * depth.view(n, 1, d, 1, 1)


class Stream(nn.Sequential):
    """Modules in order of construction; ``out_channels`` of the last."""

    def __init__(self, stem, size, depth, growth, compression, n_blocks, placement, gate, **kwargs):
        super().__init__()
        momentum, relu = kwargs["momentum"], kwargs["relu"]
        self.stem = stem
        with torch.no_grad():
            size = stem(torch.zeros(2, 1, *size)).shape[2:]
        channels = 2 * growth
        for i in range(1, n_blocks + 1):
            if placement == "before_block":
                self.add_module(f"attention{i}", Attention(*size, gate))
            block = nn.Sequential()
            for _ in range((depth - 4) // 3 // 2):
                block.append(ConvBlock(channels, growth, momentum, kwargs["extra"]))
                channels += growth
            self.add_module(f"block{i}", block)
            if i < n_blocks:
                reduced = math.floor(channels * compression)
                self.add_module(f"transition{i}", Transition(channels, reduced, momentum, relu))
                channels, size = reduced, [s // 2 for s in size]
                if placement == "after_transition":
                    self.add_module(f"attention{i}", Attention(*size, gate))
        self.norm = nn.BatchNorm3d(channels, 1.1e-5, momentum)
        self.out_channels = channels


class TwinSSTEmotionNet(nn.Module):
    def __init__(
        self,
        variant="released",
        n_bands=5,
        n_steps=25,
        grid=32,
        n_outputs=3,
        frequency_depth=16,
        time_depth=22,
        frequency_growth=12,
        time_growth=24,
        frequency_compression=0.5,
        time_compression=1.0,
        n_blocks=3,
        n_hidden=50,
        placement=None,
        gate=None,
        transition_relu=None,
        drop_prob=None,
    ):
        super().__init__()
        torcheeg, paper = variant == "torcheeg", variant == "paper"
        placement = placement or ("before_block" if torcheeg or paper else "after_transition")
        gate = gate or ("softmax" if paper else "sigmoid")
        relu = not paper if transition_relu is None else transition_relu
        drop_prob = (0.0 if torcheeg else 0.5) if drop_prob is None else drop_prob
        momentum = 0.1 if torcheeg else 0.01
        common = {"n_blocks": n_blocks, "placement": placement, "gate": gate, "relu": relu}
        common |= {"momentum": momentum, "extra": torcheeg}
        height, width = (grid, grid) if isinstance(grid, int) else grid

        stem = Stem(2 * frequency_growth, (1, 3, 3), (1, 1, 1), momentum, torcheeg)
        self.frequency = Stream(
            stem,
            (n_bands, height, width),
            frequency_depth,
            frequency_growth,
            frequency_compression,
            **common,
        )
        stem = Stem(2 * time_growth, (3, 5, 5), (1, 2, 2), momentum, torcheeg)
        stem.eval()
        self.time = Stream(
            stem, (n_steps, height, width), time_depth, time_growth, time_compression, **common
        )
        self.train()
        self.head = nn.Sequential(
            nn.Linear(self.frequency.out_channels + self.time.out_channels, n_hidden),
            nn.Dropout(drop_prob),
            nn.Linear(n_hidden, n_outputs),
        )

    def forward(self, frequency_maps, time_maps):
        x = F.relu(self.frequency(frequency_maps)).mean((2, 3, 4))
        y = F.relu(self.time(time_maps)).mean((2, 3, 4))
        return self.head(torch.cat([x, y], 1))
