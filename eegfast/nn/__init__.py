# SPDX-License-Identifier: BSD-3-Clause
"""Layers over :mod:`eegfast.ops`, drop-in where torch has the like."""

from eegfast.nn.mobile_unit3d import MobileUnit3d

__all__ = ["MobileUnit3d"]
