# SPDX-License-Identifier: BSD-3-Clause
"""SEED's layout: 15 subjects, three sessions, the same 15 clips in each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.synthetic._tree import (
    PlannedFile,
    Progress,
    check_count,
    check_kinds,
    check_scale,
    scaled_seconds,
    write_mat,
    write_tree,
)
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_seed", "write_seed"]

KINDS = ("preprocessed", "features", "raw")
CLASS_NAMES = ("negative", "neutral", "positive")
LABELS = (1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1)
SECONDS = (235, 233, 206, 238, 185, 195, 237, 216, 265, 237, 235, 233, 235, 238, 206)
SFREQ = 200


def write_seed(
    root: str | Path,
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write synthetic EEG in the layout of SEED.

    Parameters
    ----------
    root : path-like
        What ``SEED_EEG`` is: an empty or new folder, or one that this function began to fill with
        the same `scale` and `seed`, in which case files that are there are kept.
    subjects, sessions : int
        How many, up to 15 and 3.
    kinds : sequence of {"preprocessed", "features", "raw"}
        .mat at 200 Hz, the twelve features in windows of 1 s, .cnt at 1000 Hz.
    scale : float, default 1
        Makes trials shorter (at least 4 s); ``SYNTHETIC.json`` at the root tells readers.
    seed : int, default 0
        Of the signals.
    progress : callable, optional
        Called as ``progress(files_done, files, path)`` before each file and at the end.

    Returns
    -------
    Path
        The root.

    Raises
    ------
    FileExistsError
        If the folder holds something else.
    ImportError
        If SciPy is not installed.
    ValueError
        If an option makes no sense.

    Notes
    -----
    One trial's raw and preprocessed signals are the same but for the rate and the recorder's step.
    """
    files = plan_seed(subjects, sessions, kinds, scale, seed)
    return write_tree(root, "seed", check_scale(scale), seed, files, progress)


def plan_seed(
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
) -> list[PlannedFile]:
    """The files that `write_seed` would write, with their sizes."""
    numbers = check_count("subjects", subjects, 15), check_count("sessions", sessions, 3)
    visits = [(subject, session) for subject in numbers[0] for session in numbers[1]]
    kinds = check_kinds(kinds, KINDS)
    seconds = [scaled_seconds(length, check_scale(scale)) for length in SECONDS]
    eeg = SyntheticEEG(SEED_CHANNELS, CLASS_NAMES, len(LABELS), seed)
    files = []
    if "preprocessed" in kinds:
        folder = "Preprocessed_EEG"
        files += [PlannedFile(f"{folder}/label.mat", 200, _write_labels)]
        files += [PlannedFile(f"{folder}/readme.txt", 200, _write_readme)]
        n_bytes = mat_bytes(sum(seconds) * SFREQ * len(SEED_CHANNELS))
        files += [
            PlannedFile(
                f"{folder}/{subject}_{visit_date(seed, subject, session):%Y%m%d}.mat",
                n_bytes,
                partial(_write_preprocessed, eeg=eeg, visit=(subject, session), seconds=seconds),
            )
            for subject, session in visits
        ]
    return files


def mat_bytes(n_values: int) -> int:
    """About what double values of single precision take, compressed."""
    return round(4.9 * n_values)


def visit_date(seed: int, subject: int, session: int, year: int = 2013) -> date:
    """A day; later sessions are on later days, over the turn of months and years too."""
    rng = np.random.default_rng([seed, 4, subject])
    gaps = rng.integers(6, 60, 4)
    return date(year, 10, 1) + timedelta(days=int(rng.integers(0, 60) + gaps[:session].sum()))


def initials(seed: int, subject: int, session: int) -> str:
    """What a file's variables begin with: two or three letters, others in each file."""
    rng = np.random.default_rng([seed, 5, subject, session])
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 4)))


def signal_of(eeg: SyntheticEEG, visit, trial: int, label: int, seconds: int) -> np.ndarray:
    """One trial as preprocessed files have it: float64, 200 Hz, ``200 * seconds + 1`` samples."""
    return eeg.trial(*visit, trial, label, seconds, SFREQ).astype(np.float64)


def write_trials(stream, prefix: str, eeg: SyntheticEEG, visit, labels, seconds) -> None:
    """Write the trials of one visit as variables ``<prefix>1`` ... of a .mat file."""
    trials = enumerate(zip(labels, seconds, strict=True), start=1)
    makers = {
        f"{prefix}{trial}": partial(signal_of, eeg, visit, trial, label, length)
        for trial, (label, length) in trials
    }
    write_mat(stream, makers)


def _write_preprocessed(stream, eeg: SyntheticEEG, visit, seconds) -> None:
    prefix = f"{initials(eeg.seed, *visit)}_eeg"
    write_trials(stream, prefix, eeg, visit, [label + 1 for label in LABELS], seconds)


def _write_labels(stream) -> None:
    write_mat(stream, {"label": lambda: np.array([LABELS], np.int16)})


def _write_readme(stream) -> None:
    stream.write(
        b"Synthetic signals in the layout of SEED's Preprocessed_EEG, made by eegfast.\r\n"
        b"label.mat: 1 positive, 0 neutral, -1 negative.\r\n"
    )
