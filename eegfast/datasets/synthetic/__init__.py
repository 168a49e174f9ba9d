# SPDX-License-Identifier: BSD-3-Clause
"""Synthetic EEG, and writers of the layouts in which the data sets come: for tests, benchmarks and
trying things out before the real files are there."""

from eegfast.datasets.synthetic.seed import write_seed
from eegfast.datasets.synthetic.signals import BANDS, EFFECTS, SyntheticEEG

__all__ = ["BANDS", "EFFECTS", "SyntheticEEG", "write_seed"]
