# SPDX-License-Identifier: BSD-3-Clause
"""Networks. Every model takes features or signals and returns logits."""

from eegfast.models.base import Network, from_pretrained
from eegfast.models.hamnet import HAMNet
from eegfast.models.ldm_eeg import LDMEEG
from eegfast.models.registry import create, names, register
from eegfast.models.resattentionet import ResAttentioNet
from eegfast.models.scalingnet import ScalingNet
from eegfast.models.sst_emotionnet import SSTEmotionNet

__all__ = [
    "HAMNet",
    "LDMEEG",
    "Network",
    "ResAttentioNet",
    "ScalingNet",
    "SSTEmotionNet",
    "create",
    "from_pretrained",
    "names",
    "register",
]
