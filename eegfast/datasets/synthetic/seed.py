# SPDX-License-Identifier: BSD-3-Clause
"""SEED's layout: 15 subjects, three sessions, the same 15 clips in each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time
from functools import partial
from pathlib import Path

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.synthetic import _tables, _visits
from eegfast.datasets.synthetic._features import seed_features
from eegfast.datasets.synthetic._tree import (
    PlannedFile,
    Progress,
    check_count,
    check_kinds,
    check_scale,
    write_mat,
    write_tree,
)
from eegfast.datasets.synthetic._visits import Visit, visit_date
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_seed", "write_seed"]

KINDS = ("preprocessed", "features", "raw")
CLASS_NAMES = ("negative", "neutral", "positive")
LABELS = (1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1)
STARTS = (27, 290, 551, 784, 1050, 1262, 1484, 1748, 1993, 2287, 2551, 2812, 3072, 3335, 3599)
ENDS = (262, 523, 757, 1022, 1235, 1457, 1721, 1964, 2258, 2524, 2786, 3045, 3307, 3573, 3805)
FEATURES = tuple(
    f"{name}_{smoothing}"
    for name in ("de", "psd", "dasm", "rasm", "asm", "dcau")
    for smoothing in ("movingAve", "LDS")
)
FEATURE_ROWS = 2 * (62 + 62 + 27 + 27 + 54 + 23)


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
    OSError
        If the disk is too small.
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
    kinds = check_kinds(kinds, KINDS)
    starts, ends = _visits.times_at(STARTS, ENDS, check_scale(scale))
    seconds = [end - start for start, end in zip(starts, ends, strict=True)]
    eeg = SyntheticEEG(SEED_CHANNELS, CLASS_NAMES, len(LABELS), seed)
    classes = [label + 1 for label in LABELS]
    visits = [Visit(eeg, i, j, classes, seconds) for i in numbers[0] for j in numbers[1]]
    files = [PlannedFile("channel-order.xlsx", 3000, _tables.write_channel_order)]
    if "preprocessed" in kinds:
        folder = "Preprocessed_EEG"
        n_bytes = _visits.signal_bytes(seconds)
        files += [
            PlannedFile(f"{folder}/label.mat", 200, _write_labels),
            PlannedFile(f"{folder}/readme.txt", 200, _write_readme),
            *(
                PlannedFile(
                    f"{folder}/{_name(v)}", n_bytes, partial(_visits.write_signals, visit=v)
                )
                for v in visits
            ),
        ]
    if "features" in kinds:
        folder = "ExtractedFeatures"
        n_bytes = 8 * FEATURE_ROWS * 5 * sum(seconds)
        files += [
            PlannedFile(f"{folder}/label.mat", 200, _write_labels),
            *(
                PlannedFile(f"{folder}/{_name(v)}", n_bytes, partial(_write_features, visit=v))
                for v in visits
            ),
        ]
    if "raw" in kinds:
        folder = "SEED_RAW_EEG"
        n_bytes = _visits.raw_bytes(ends)
        write_times = partial(_write_times, starts=starts, ends=ends)
        files += [
            PlannedFile(f"{folder}/time.txt", 300, write_times),
            *(
                PlannedFile(
                    f"{folder}/{v.subject}_{v.session}.cnt",
                    n_bytes,
                    partial(_write_raw, visit=v, starts=starts, ends=ends),
                )
                for v in visits
            ),
        ]
    return files


def _name(visit: Visit) -> str:
    day = visit_date(visit.eeg.seed, visit.subject, visit.session)
    return f"{visit.subject}_{day:%Y%m%d}.mat"


def _write_features(stream, visit: Visit) -> None:
    def features_of(index: int) -> dict[str, np.ndarray]:
        return seed_features(visit.signal(index), _visits.SFREQ)

    _visits.write_features(stream, len(visit.labels), features_of, FEATURES)


def _write_raw(stream, visit: Visit, starts, ends) -> None:
    day = visit_date(visit.eeg.seed, visit.subject, visit.session)
    _visits.write_raw(stream, visit, starts, ends, datetime.combine(day, time(14)))


def _write_times(stream, starts, ends) -> None:
    for name, seconds in (("start_point_list", starts), ("end_point_list", ends)):
        samples = ",".join(str(_visits.RAW_SFREQ * second) for second in seconds)
        stream.write(f"{name} = [{samples}];\r\n".encode())


def _write_labels(stream) -> None:
    write_mat(stream, {"label": lambda: np.array([LABELS], np.int16)})


def _write_readme(stream) -> None:
    stream.write(
        b"Synthetic signals in the layout of SEED's Preprocessed_EEG, made by eegfast.\r\n"
        b"label.mat: 1 positive, 0 neutral, -1 negative.\r\n"
    )
