# SPDX-License-Identifier: BSD-3-Clause
"""The operators in plain PyTorch: the truth for tests, and what runs where no kernel does.

Each function has the signature of the torch operator of the same name. The forward functions are
differentiable by autograd, which is what the tests hold the written-out backward functions against.
All work on any device and in float64, and favour clarity over speed.
"""

from eegfast.reference.band_power import band_power, band_power_backward
from eegfast.reference.bandpass_power import bandpass_power, bandpass_power_backward
from eegfast.reference.depthwise_conv3d import depthwise_conv3d, depthwise_conv3d_backward
from eegfast.reference.filter_bank_power import filter_bank_power, filter_bank_power_backward
from eegfast.reference.lds_smooth import lds_smooth, lds_smooth_backward
from eegfast.reference.mobile_unit3d import mobile_unit3d, mobile_unit3d_backward
from eegfast.reference.scaling_conv1d import scaling_conv1d, scaling_conv1d_backward

__all__ = [
    "band_power",
    "band_power_backward",
    "bandpass_power",
    "bandpass_power_backward",
    "depthwise_conv3d",
    "depthwise_conv3d_backward",
    "filter_bank_power",
    "filter_bank_power_backward",
    "lds_smooth",
    "lds_smooth_backward",
    "mobile_unit3d",
    "mobile_unit3d_backward",
    "scaling_conv1d",
    "scaling_conv1d_backward",
]
