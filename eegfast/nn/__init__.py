# SPDX-License-Identifier: BSD-3-Clause
"""Layers over :mod:`eegfast.ops`: modules with weights, drop-in where torch has the like."""

from eegfast.nn.depthwise_conv3d import DepthwiseConv3d
from eegfast.nn.filter_bank_power import FilterBankPower, fir_bank

__all__ = ["DepthwiseConv3d", "FilterBankPower", "fir_bank"]
