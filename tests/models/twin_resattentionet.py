# SPDX-License-Identifier: BSD-3-Clause
"""ResAttentioNet written once more from torch's own modules, with its arguments and state dict.

The network itself is plain PyTorch too; this is what it is held against when it changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv1d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(after)
        self.conv2 = nn.Conv1d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(after)
        self.shortcut = nn.Sequential()
        if stride > 1:
            conv = nn.Conv1d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm1d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Encoder(nn.Module):
    def __init__(self, n_features, width):
        super().__init__()
        conv = nn.Conv1d(n_features, width, 7, stride=2, padding=3, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm1d(width), nn.ReLU())
        self.stages = nn.ModuleList([nn.Sequential(*(Residual(width, width, 1) for _ in range(2)))])
        for _ in range(3):
            first = Residual(width, 2 * width, 2)
            width = 2 * width
            self.stages.append(nn.Sequential(first, Residual(width, width, 1)))

    def forward(self, x):
        x = F.max_pool1d(self.stem(x), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return x


class Pooling(nn.Module):
    def __init__(self, dim, n_heads):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)

    def forward(self, x):
        return self.attention(self.query.expand(len(x), 1, -1), x, x)[0][:, 0]


class TwinResAttentioNet(nn.Module):
    def __init__(
        self,
        n_chans=62,
        n_bands=5,
        n_windows=60,
        n_outputs=3,
        base_width=16,
        drop_prob=0.5,
        n_heads=2,
    ):
        super().__init__()
        dim = 8 * base_width
        self.encoder = Encoder(n_chans * n_bands, base_width)
        self.dropout = nn.Dropout(drop_prob)
        self.pooling = Pooling(dim, n_heads)
        self.classifier = nn.Sequential(
            nn.Linear(dim, 128), nn.ReLU(), nn.Dropout(drop_prob), nn.Linear(128, n_outputs)
        )

    def forward(self, x):
        n, windows, n_chans, n_bands = x.shape
        features = x.permute(0, 3, 2, 1).reshape(n, n_bands * n_chans, windows)
        sequence = self.dropout(self.encoder(features).permute(0, 2, 1))
        return self.classifier(self.pooling(sequence))
