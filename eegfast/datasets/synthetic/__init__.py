# SPDX-License-Identifier: BSD-3-Clause
"""Synthetic EEG, and writers of the layouts in which the data sets come: for tests, benchmarks and
trying things out before the real files are there. All of it is invented."""

from eegfast.datasets.synthetic.bdf import write_bdf
from eegfast.datasets.synthetic.cnt import write_cnt
from eegfast.datasets.synthetic.deap import write_deap
from eegfast.datasets.synthetic.seed import write_seed
from eegfast.datasets.synthetic.seed_iv import write_seed_iv
from eegfast.datasets.synthetic.seed_v import write_seed_v
from eegfast.datasets.synthetic.seed_vii import write_seed_vii
from eegfast.datasets.synthetic.signals import BANDS, EFFECTS, SyntheticEEG

__all__ = [
    "BANDS",
    "EFFECTS",
    "SyntheticEEG",
    "write_bdf",
    "write_cnt",
    "write_deap",
    "write_seed",
    "write_seed_iv",
    "write_seed_v",
    "write_seed_vii",
]
