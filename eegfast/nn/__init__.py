# SPDX-License-Identifier: BSD-3-Clause
"""Layers over the operators."""

from eegfast.nn.scaling_conv1d import ScalingConv1d

__all__ = ["ScalingConv1d"]
