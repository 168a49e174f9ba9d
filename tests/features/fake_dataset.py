# SPDX-License-Identifier: BSD-3-Clause
"""A small data set of .npy files for tests; importable by the worker processes too."""

import os
import signal
import time

import numpy as np

from eegfast.datasets import Dataset, Recording, Trial, TrialFeatures
from eegfast.datasets.registry import DATASETS

NAMES = ["Fp1", "Cz", "O2"]
SFREQ = 200.0


def write_files(root, subjects=2, sessions=2, trials=3):
    """`{subject}_{session}.npy`, (trials, 3, n) microvolts."""
    root.mkdir(parents=True, exist_ok=True)
    for subject in range(1, subjects + 1):
        for session in range(1, sessions + 1):
            rng = np.random.default_rng([subject, session])
            np.save(root / f"{subject:02d}_{session}.npy", rng.normal(0, 20, (trials, 3, 2000)))


class Fake(Dataset):
    """Trials of `{subject}_{session}.npy`."""

    name = "fake"
    class_names = ("low", "high")

    def __init__(self, root, kind=None, gain=1.0):
        self.root = root
        self.kind = kind or "preprocessed"
        self.gain = gain
        self.missing = []
        self.trials = [
            Trial(path.stem[:2], path.stem[3:], k + 1, k % 2, path, k)
            for path in sorted(root.glob("*.npy"))
            for k in range(len(np.load(path, mmap_mode="r")))
        ]

    def _read_file(self, path, trials):
        misbehave(path)
        signals = np.load(path)
        for trial in trials:
            about = {
                "ch_names": NAMES,
                "subject_id": trial.subject_id,
                "session_id": trial.session_id,
                "trial_id": trial.trial_id,
                "label": trial.label,
                "class_names": self.class_names,
                "source": path.name,
            }
            x = signals[trial.key] * self.gain
            n = 1500 + 200 * trial.key  # trials differ in length
            if self.kind == "features":
                values = x[:, :50].reshape(3, 10, 5).transpose(1, 0, 2)
                bands = {name: (i + 1.0, i + 2.0) for i, name in enumerate("abcde")}
                yield TrialFeatures(values, bands=bands, feature="de_LDS", window=1.0, **about)
            else:
                yield Recording(x[:, :n], SFREQ, **about)


def misbehave(path):
    """Do what files beside it say: `.kill` kills the process, once; `.slow` waits."""
    if path.with_suffix(".slow").exists():
        time.sleep(1)
    order = path.with_suffix(".kill")
    if order.exists():
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def register():
    DATASETS["fake"] = "fake_dataset:Fake"
