# SPDX-License-Identifier: BSD-3-Clause
from dataclasses import dataclass

import numpy as np
import pytest

from eegfast.protocols import Samples

SEED = [2, 1, 0, 0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 2, 0]


@dataclass
class Row:
    subject_id: str
    session_id: str
    trial_id: int
    label: int


@pytest.fixture
def table():
    """A table of trials, SEED's by default, in a shuffled order as nothing promises another."""

    def make(n_subjects=15, n_sessions=3, labels=SEED, shuffle=True):
        rows = [
            Row(f"{subject:02d}", str(session), trial, label)
            for subject in range(1, n_subjects + 1)
            for session in range(1, n_sessions + 1)
            for trial, label in enumerate(labels, 1)
        ]
        return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]

    return make


@pytest.fixture
def seed_windows(table):
    """SEED's shape, two to four windows a trial."""
    rows = table()
    return Samples.from_trials(rows, [2 + row.trial_id % 3 for row in rows])
