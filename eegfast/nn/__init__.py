# SPDX-License-Identifier: BSD-3-Clause
"""Layers over ``eegfast.ops``: modules with weights, for networks of your own."""

from eegfast.nn.filter_bank_power import FilterBankPower, fir_bank

__all__ = ["FilterBankPower", "fir_bank"]
