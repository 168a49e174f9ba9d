# SPDX-License-Identifier: BSD-3-Clause
"""HAMNet in torch's own modules, with the arguments and the state dict of ``HAMNet``.

It makes the mirrored signal, filters both and stores what comes out.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import firwin
from torch import nn

from eegfast.datasets import SEED_CHANNELS, mirror_map


class TwinHAMNet(nn.Module):
    def __init__(
        self,
        stage="finetune",
        n_chans=62,
        n_times=200,
        sfreq=200.0,
        n_outputs=3,
        ch_names=None,
        n_spatial=16,
        bands=None,
        n_taps=41,
        relation_width=16,
        log=False,
        drop_prob=0.0,
        freeze_filters=None,
        shared_spatial=False,
        norm_per_branch=False,
    ):
        super().__init__()
        self.stage, self.log, self.norm_per_branch = stage, log, norm_per_branch
        bands = bands or [(low, low + 2) for low in range(40, 76, 2)]
        taps = [firwin(n_taps, band, pass_zero=False, fs=sfreq) for band in bands]
        self.spatial = nn.Conv2d(1, n_spatial, (n_chans, 1), bias=False)
        conv = nn.Conv2d(1, len(bands), (1, n_taps), padding="same", bias=False)
        conv.weight.data[:, 0, 0] = torch.from_numpy(np.stack(taps)).float()
        self.filter_bank = nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm2d(len(bands))})
        if freeze_filters or (freeze_filters is None and stage == "finetune"):
            conv.requires_grad_(False)
        n_features = len(bands) * n_spatial
        self.spatial_mirrored = None
        if stage == "finetune":
            self.mirror = mirror_map(ch_names or SEED_CHANNELS)
            if not shared_spatial:
                self.spatial_mirrored = nn.Conv2d(1, n_spatial, (n_chans, 1), bias=False)
                self.spatial_mirrored.load_state_dict(self.spatial.state_dict())
            self.relation = nn.Conv2d(2, relation_width, 1)
            n_features *= relation_width
        self.dropout = nn.Dropout(drop_prob)
        self.classifier = nn.Linear(n_features, n_outputs)

    def power(self, components):
        """(N, 1, rows, T) -> (N, filters, rows)"""
        y = self.filter_bank["norm"](self.filter_bank["conv"](components))
        power = y.square().mean(-1)
        return power.log() if self.log else power

    def forward(self, x):
        x = x.unsqueeze(1)
        original = self.spatial(x).transpose(1, 2)
        if self.stage == "pretrain":
            features = self.power(original)
        else:
            spatial = self.spatial if self.spatial_mirrored is None else self.spatial_mirrored
            mirrored = spatial(x[:, :, self.mirror]).transpose(1, 2)
            if self.norm_per_branch:
                powers = [self.power(original), self.power(mirrored)]
            else:
                powers = self.power(torch.cat([original, mirrored], 2)).chunk(2, 2)
            features = torch.relu(self.relation(torch.stack(powers, 1)))
        return self.classifier(self.dropout(features.flatten(1)))
