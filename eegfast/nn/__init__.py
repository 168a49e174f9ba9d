# SPDX-License-Identifier: BSD-3-Clause
"""Layers over :mod:`eegfast.ops`, drop-in where torch has the like."""

from eegfast.nn.depthwise_conv3d import DepthwiseConv3d

__all__ = ["DepthwiseConv3d"]
