# SPDX-License-Identifier: BSD-3-Clause
"""Recordings: readers and the bundled set. Everything read comes back as a `Recording`."""

from eegfast.datasets._formats import READABLE, files_of
from eegfast.datasets.byo import BYO
from eegfast.datasets.dataset import Dataset, Trial, TrialFeatures
from eegfast.datasets.deap import DEAP, DEAP_CHANNELS
from eegfast.datasets.eegmat import EEGMAT
from eegfast.datasets.montage import SEED_CHANNELS, canonical_name, mirror_map, positions_for
from eegfast.datasets.readers import read_recording
from eegfast.datasets.recording import Recording
from eegfast.datasets.seed import SEED
from eegfast.datasets.seed_iv import SEEDIV
from eegfast.datasets.seed_v import SEEDV
from eegfast.datasets.seed_vii import SEEDVII

__all__ = [
    "BYO",
    "DEAP",
    "DEAP_CHANNELS",
    "EEGMAT",
    "Dataset",
    "READABLE",
    "SEEDV",
    "SEEDVII",
    "SEED",
    "SEEDIV",
    "SEED_CHANNELS",
    "Recording",
    "Trial",
    "TrialFeatures",
    "canonical_name",
    "files_of",
    "mirror_map",
    "positions_for",
    "read_recording",
]
