# SPDX-License-Identifier: BSD-3-Clause
"""Named recipes for differential entropy, and the smoothers that follow it."""

from eegfast.features.differential_entropy import DifferentialEntropy, differential_entropy
from eegfast.features.recipes import DEFAULT_BANDS, RECIPES
from eegfast.features.smoothing import LDS_VARIANTS, LDSSmoother, moving_average

__all__ = [
    "DEFAULT_BANDS",
    "LDS_VARIANTS",
    "RECIPES",
    "DifferentialEntropy",
    "LDSSmoother",
    "differential_entropy",
    "moving_average",
]
