# SPDX-License-Identifier: BSD-3-Clause
"""Synthetic EEG, and writers of the layouts in which the data sets come: for tests, benchmarks and
trying things out before the real files are there. All of it is invented."""

from eegfast.datasets.synthetic._tree import PlannedFile, check_folder, write_tree
from eegfast.datasets.synthetic.bdf import write_bdf
from eegfast.datasets.synthetic.cnt import write_cnt
from eegfast.datasets.synthetic.deap import plan_deap, write_deap
from eegfast.datasets.synthetic.seed import plan_seed, write_seed
from eegfast.datasets.synthetic.seed_iv import plan_seed_iv, write_seed_iv
from eegfast.datasets.synthetic.seed_v import plan_seed_v, write_seed_v
from eegfast.datasets.synthetic.seed_vii import plan_seed_vii, write_seed_vii
from eegfast.datasets.synthetic.signals import BANDS, EFFECTS, SyntheticEEG

__all__ = [
    "BANDS",
    "EFFECTS",
    "PLANS",
    "PlannedFile",
    "SyntheticEEG",
    "check_folder",
    "write_bdf",
    "write_cnt",
    "write_deap",
    "write_seed",
    "write_seed_iv",
    "write_seed_v",
    "write_seed_vii",
    "write_tree",
]

PLANS = {
    "seed": plan_seed,
    "seed-iv": plan_seed_iv,
    "seed-v": plan_seed_v,
    "seed-vii": plan_seed_vii,
    "deap": plan_deap,
}
"""Name of a data set to the function that lists the files of its layout, for `write_tree`."""
