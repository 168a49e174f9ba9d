# SPDX-License-Identifier: BSD-3-Clause
"""Layers over :mod:`eegfast.ops`: modules with weights, drop-in where torch has the like."""

from eegfast.nn.depthwise_conv3d import DepthwiseConv3d
from eegfast.nn.filter_bank_power import FilterBankPower, fir_bank
from eegfast.nn.mobile_unit3d import MobileUnit3d
from eegfast.nn.scaling_conv1d import ScalingConv1d

__all__ = ["DepthwiseConv3d", "FilterBankPower", "fir_bank", "MobileUnit3d", "ScalingConv1d"]
