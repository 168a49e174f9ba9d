# SPDX-License-Identifier: BSD-3-Clause
"""Networks. Every model takes features or signals and returns logits."""

from eegfast.models.base import Network, from_pretrained
from eegfast.models.ldm_eeg import LDMEEG
from eegfast.models.registry import create, names, register
from eegfast.models.resattentionet import ResAttentioNet

__all__ = ["LDMEEG", "Network", "ResAttentioNet", "create", "from_pretrained", "names", "register"]
