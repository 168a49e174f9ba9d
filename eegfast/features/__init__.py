# SPDX-License-Identifier: BSD-3-Clause
"""Named recipes for differential entropy, smoothers, electrode maps, and the networks' inputs."""

from eegfast.features.differential_entropy import DifferentialEntropy, differential_entropy
from eegfast.features.inputs import (
    ModelInputs,
    channel_statistics,
    hamnet_inputs,
    resattentionet_inputs,
    scalingnet_inputs,
)
from eegfast.features.map_inputs import ldm_eeg_inputs, sst_emotionnet_inputs
from eegfast.features.maps import ElectrodeMaps, electrode_maps
from eegfast.features.recipes import DEFAULT_BANDS, RECIPES
from eegfast.features.smoothing import LDS_VARIANTS, LDSSmoother, moving_average

__all__ = [
    "DEFAULT_BANDS",
    "LDS_VARIANTS",
    "RECIPES",
    "DifferentialEntropy",
    "ElectrodeMaps",
    "LDSSmoother",
    "ModelInputs",
    "channel_statistics",
    "differential_entropy",
    "electrode_maps",
    "hamnet_inputs",
    "ldm_eeg_inputs",
    "moving_average",
    "resattentionet_inputs",
    "scalingnet_inputs",
    "sst_emotionnet_inputs",
]
