# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG in torch's own modules, with the arguments and the state dict of ``LDMEEG``."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, channels, depth, size, channel_attention):
        super().__init__()
        self.channel = nn.Linear(channels, channels) if channel_attention else None
        self.spatial = nn.Linear(size * size, size * size)
        self.depth = nn.Linear(depth, depth)

    def forward(self, x):
        batch, channels, depth, height, width = x.shape
        if self.channel is not None:
            weight = torch.softmax(self.channel(x.mean(dim=(2, 3, 4))), dim=1)
            x = x * weight.view(batch, channels, 1, 1, 1)
        plane = x.mean(dim=2).mean(dim=1).view(batch, height * width)
        weight = torch.softmax(self.spatial(plane), dim=1)
        x = x * weight.view(batch, 1, 1, height, width)
        weight = torch.softmax(self.depth(x.mean(dim=(1, 3, 4))), dim=1)
        return x * weight.view(batch, 1, depth, 1, 1)


class Unit(nn.Module):
    def __init__(self, channels, conv, expansion, merge):
        super().__init__()
        wide = expansion * channels
        self.merge = merge
        self.norm1 = nn.BatchNorm3d(channels)
        self.expand = nn.Conv3d(channels, wide, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(wide)
        self.relu = nn.ReLU()
        plane = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "bias": False}
        axis = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "bias": False}
        project = nn.Conv3d(wide, channels, 1, bias=False)
        self.parallel = conv == "pseudo-parallel"
        if conv == "depthwise":
            self.depthwise = nn.Conv3d(wide, wide, 3, padding=1, groups=wide, bias=False)
            self.project = project
        elif conv == "pseudo":
            self.filter = nn.Sequential(
                nn.Conv3d(wide, channels, **plane), nn.Conv3d(channels, channels, **axis)
            )
        elif conv == "pseudo-wide":
            self.filter = nn.Sequential(
                nn.Conv3d(wide, channels, **plane), nn.Conv3d(channels, wide, **axis), project
            )
        elif conv == "pseudo-depthwise":
            self.filter = nn.Sequential(
                nn.Conv3d(wide, wide, groups=wide, **plane),
                nn.Conv3d(wide, wide, groups=wide, **axis),
                project,
            )
        elif self.parallel:
            self.filter = nn.ModuleList(
                [nn.Conv3d(wide, channels, **plane), nn.Conv3d(wide, channels, **axis)]
            )

    def forward(self, x):
        y = self.expand(self.relu(self.norm1(x)))
        y = self.relu(self.norm2(y))
        if hasattr(self, "depthwise"):
            y = self.project(self.depthwise(y))
        elif self.parallel:
            y = self.filter[0](y) + self.filter[1](y)
        else:
            y = self.filter(y)
        return torch.cat([x, y], dim=1) if self.merge == "concat" else x + y


class Transition(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = nn.AvgPool3d((1, 2, 2))

    def forward(self, x):
        return self.pool(self.conv(x))


class Block(nn.Module):
    def __init__(self, attention, units, transition):
        super().__init__()
        self.attention = attention
        self.units = units
        self.transition = transition

    def forward(self, x):
        if self.attention is not None:
            x = self.attention(x)
        return self.transition(self.units(x))


class Stream(nn.Module):
    def __init__(self, depth, stem, args):
        super().__init__()
        self.stem = stem
        width, size = stem.out_channels, (args["grid"] + 1) // 2
        for i in range(4):
            attention = None
            if args["attention"][i] == "1":
                attention = Attention(width, depth, size, args["channel_attention"])
            units = nn.Sequential()
            for _ in range(args["n"]):
                units.append(Unit(width, args["conv"], args["expansion"], args["merge"]))
                if args["merge"] == "concat":
                    width = 2 * width
            transition = Transition(width, int(args["compression"] * width))
            width, size = int(args["compression"] * width), size // 2
            setattr(self, f"block{i + 1}", Block(attention, units, transition))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.width = width

    def forward(self, x):
        x = self.stem(x)
        x = self.block2(self.block1(x))
        x = self.block4(self.block3(x))
        return self.pool(x).flatten(1)


class TwinLDMEEG(nn.Module):
    def __init__(
        self,
        n=2,
        c=4,
        attention="0011",
        conv="depthwise",
        n_outputs=3,
        n_bands=5,
        n_steps=8,
        grid=32,
        expansion=8,
        compression=0.5,
        merge="concat",
        channel_attention=True,
        drop_prob=0.5,
    ):
        super().__init__()
        args = {
            "n": n,
            "attention": attention,
            "conv": conv,
            "grid": grid,
            "expansion": expansion,
            "compression": compression,
            "merge": merge,
            "channel_attention": channel_attention,
        }
        stem = nn.Conv3d(1, c, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2), bias=False)
        self.frequency = Stream(n_bands, stem, args)
        stem = nn.Conv3d(1, c, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
        self.time = Stream(n_steps, stem, args)
        self.classifier = nn.Sequential(
            nn.Linear(2 * self.time.width, 50), nn.Dropout(drop_prob), nn.Linear(50, n_outputs)
        )

    def forward(self, frequency_maps, time_maps):
        pooled = [self.frequency(frequency_maps), self.time(time_maps)]
        return self.classifier(torch.cat(pooled, dim=1))
