# SPDX-License-Identifier: BSD-3-Clause
"""ScalingNet in torch's own functions, with the arguments and the state dict of ``ScalingNet``."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class ScalingLayer(nn.Module):
    def __init__(self, n_chans, length, max_levels, shared, count_include_pad):
        super().__init__()
        self.n_chans, self.count_include_pad = n_chans, count_include_pad
        self.paddings = []  # of the pooling from each level to the next
        shorter = length
        while shorter > 1 and len(self.paddings) + 1 != max_levels:
            self.paddings.append(1 if (shorter // 2) % 2 == 0 else 0)
            shorter = (shorter + 2 * self.paddings[-1]) // 2
        rows = (1,) if shared else (n_chans, 1)
        bound = 1 / math.sqrt(length)
        levels = len(self.paddings) + 1
        self.weight = nn.Parameter(torch.empty(*rows, length).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*rows, levels).uniform_(-bound, bound))

    def forward(self, x):
        kernel = self.weight.expand(self.n_chans, 1, -1)
        bias = self.bias.expand(self.n_chans, 1, -1)
        rows = []
        for level in range(bias.shape[-1]):
            rows.append(F.conv1d(x, kernel, bias[:, 0, level], padding="same", groups=self.n_chans))
            if level < len(self.paddings):
                kernel = F.avg_pool1d(
                    kernel,
                    2,
                    padding=self.paddings[level],
                    count_include_pad=self.count_include_pad,
                )
        return torch.relu(torch.stack(rows, 2))


class TwinScalingNet(nn.Module):
    def __init__(
        self,
        kernel_length=33,
        n_chans=32,
        n_times=8064,
        n_outputs=2,
        sfreq=128.0,
        max_levels=None,
        shared=False,
        count_include_pad=True,
        filters=(16, 8, 6),
        conv_kernel=(3, 5),
    ):
        super().__init__()
        self.scaling = ScalingLayer(n_chans, kernel_length, max_levels, shared, count_include_pad)
        self.convs = nn.ModuleList()
        for before, after in zip((n_chans, *filters), filters, strict=False):
            self.convs.append(nn.Conv2d(before, after, tuple(conv_kernel), padding="same"))
        self.classifier = nn.Linear(filters[-1], n_outputs)

    def forward(self, x):
        x = self.scaling(x)
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.classifier(x.mean((2, 3)))
