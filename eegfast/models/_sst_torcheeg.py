# SPDX-License-Identifier: BSD-3-Clause
"""torcheeg's SSTEmotionNet weights under our names and in our layout."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# torcheeg's streams are flat lists of (attention, dense block, transition), three per block.
_ATTENTION = {"spatail_dense": "spatial", "temporal_dense": "depth"}
_BLOCK = {"0": "norm1", "2": "bottleneck", "3": "norm2", "5": "plane", "6": "extra", "7": "depth"}
_TRANSITION = {"0": "norm", "2": "conv"}
_STEM = {"conv1": "conv", "batch1": "norm"}


def _in_stream(name: str) -> str:
    if match := re.fullmatch(r"conv_layer\.(conv1|batch1)\.(\w+)", name):
        return f"stem.{_STEM[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d+)\.(spatail_dense|temporal_dense)\.(\w+)", name):
        return f"attention{int(match[1]) // 3 + 1}.{_ATTENTION[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"layers\.(\d+)\.layers\.(\d+)\.layers\.([023567])\.(\w+)", name):
        return f"block{int(match[1]) // 3 + 1}.{match[2]}.{_BLOCK[match[3]]}.{match[4]}"
    if match := re.fullmatch(r"layers\.(\d+)\.layers\.([02])\.(\w+)", name):
        return f"transition{int(match[1]) // 3 + 1}.{_TRANSITION[match[2]]}.{match[3]}"
    return name.replace("final_layers.0.", "norm.")


def _our_name(name: str) -> str:
    """A name that torcheeg does not have comes back as it is."""
    for theirs, ours in (("spatial_spectral.", "frequency."), ("spatial_temporal.", "time.")):
        if name.startswith(theirs):
            return ours + _in_stream(name.removeprefix(theirs))
    return re.sub(r"^layers\.([02])\.", r"head.\1.", name)


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state_dict`` of torcheeg's network -> one for ours."""
    return {
        # torcheeg has the depth last.
        _our_name(name): t.permute(0, 1, 4, 2, 3).contiguous() if t.dim() == 5 else t
        for name, t in state_dict.items()
    }
