# SPDX-License-Identifier: BSD-3-Clause
"""EEG operators as ordinary torch functions: differentiable, traceable, any leading dimensions."""

from eegfast.ops.band_power import band_bins, band_power
from eegfast.ops.bandpass_power import bandpass_power
from eegfast.ops.depthwise_conv3d import depthwise_conv3d
from eegfast.ops.filter_bank_power import filter_bank_power
from eegfast.ops.lds_smooth import lds_smooth
from eegfast.ops.mobile_unit3d import mobile_unit3d
from eegfast.ops.scaling_conv1d import scaling_conv1d, scaling_levels

__all__ = [
    "band_bins",
    "band_power",
    "bandpass_power",
    "depthwise_conv3d",
    "filter_bank_power",
    "lds_smooth",
    "mobile_unit3d",
    "scaling_conv1d",
    "scaling_levels",
]
