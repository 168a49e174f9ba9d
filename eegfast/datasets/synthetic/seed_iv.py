# SPDX-License-Identifier: BSD-3-Clause
"""SEED-IV's layout: 15 subjects, three sessions of 24 clips, a folder a session."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.synthetic import _tables, _visits
from eegfast.datasets.synthetic._tree import (
    PlannedFile,
    Progress,
    check_count,
    check_kinds,
    check_scale,
    scaled_seconds,
    write_tree,
)
from eegfast.datasets.synthetic._visits import Visit, visit_date
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_seed_iv", "write_seed_iv"]

KINDS = ("preprocessed", "features")
CLASS_NAMES = ("neutral", "sad", "fear", "happy")
LABELS = (
    (1, 2, 3, 0, 2, 0, 0, 1, 0, 1, 2, 1, 1, 1, 2, 3, 2, 2, 3, 3, 0, 3, 0, 3),
    (2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1),
    (1, 2, 2, 1, 3, 3, 3, 1, 1, 2, 1, 0, 2, 3, 3, 0, 2, 3, 0, 0, 2, 0, 1, 0),
)
# Windows of 4 s of each trial; a session's sum is 851, 832 and 822, as papers have it.
WINDOWS = (
    (
        42,
        23,
        49,
        32,
        22,
        40,
        38,
        52,
        36,
        42,
        12,
        27,
        54,
        42,
        64,
        35,
        17,
        44,
        35,
        12,
        28,
        28,
        43,
        34,
    ),
    (
        55,
        25,
        34,
        36,
        53,
        27,
        34,
        46,
        34,
        20,
        60,
        12,
        36,
        27,
        44,
        15,
        46,
        49,
        45,
        10,
        37,
        44,
        24,
        19,
    ),
    (
        42,
        32,
        23,
        45,
        48,
        26,
        64,
        23,
        26,
        16,
        51,
        41,
        39,
        19,
        28,
        44,
        14,
        17,
        45,
        22,
        39,
        38,
        41,
        39,
    ),
)
FEATURES = ("de_movingAve", "de_LDS", "psd_movingAve", "psd_LDS")


def write_seed_iv(
    root: str | Path,
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write synthetic EEG in the layout of SEED-IV, without the eyes' files.

    Parameters, errors and result are those of `write_seed`; `subjects` is up to 15, `kinds` are
    ``"preprocessed"`` (``eeg_raw_data``, 200 Hz) and ``"features"`` (``eeg_feature_smooth``, 4 s).
    """
    files = plan_seed_iv(subjects, sessions, kinds, scale, seed)
    return write_tree(root, "seed-iv", check_scale(scale), seed, files, progress)


def plan_seed_iv(
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
) -> list[PlannedFile]:
    """The files that `write_seed_iv` would write, with their sizes."""
    numbers = check_count("subjects", subjects, 15), check_count("sessions", sessions, 3)
    kinds, scale = check_kinds(kinds, KINDS), check_scale(scale)
    eeg = SyntheticEEG(SEED_CHANNELS, CLASS_NAMES, len(LABELS[0]), seed)
    files = [
        PlannedFile("ReadMe.txt", 600, _write_readme),
        PlannedFile("Channel Order.xlsx", 3000, _tables.write_channel_order),
        PlannedFile("channel_62_pos.locs", 1500, _tables.write_locs),
    ]
    for session in numbers[1]:
        seconds = [scaled_seconds(4 * count, scale) for count in WINDOWS[session - 1]]
        for subject in numbers[0]:
            visit = Visit(eeg, subject, session, LABELS[session - 1], seconds)
            name = f"{session}/{subject}_{visit_date(seed, subject, session, 2015):%Y%m%d}.mat"
            if "preprocessed" in kinds:
                n_bytes, write = _visits.signal_bytes(seconds), _visits.write_signals
                files.append(
                    PlannedFile(f"eeg_raw_data/{name}", n_bytes, partial(write, visit=visit))
                )
            if "features" in kinds:
                n_bytes = 8 * 4 * 62 * 5 * sum(length // 4 for length in seconds)
                write = partial(_write_features, visit=visit)
                files.append(PlannedFile(f"eeg_feature_smooth/{name}", n_bytes, write))
    return files


def _write_features(stream, visit: Visit) -> None:
    def features_of(index: int) -> dict[str, np.ndarray]:
        found = _visits.four_second_features(visit.signal(index))
        return {name: np.swapaxes(found[name], 0, 1) for name in FEATURES}

    _visits.write_features(stream, len(visit.labels), features_of, FEATURES)


def _write_readme(stream) -> None:
    lines = ["Synthetic signals in the layout of SEED-IV, made by eegfast.", "", "Labels:"]
    for number, labels in enumerate(LABELS, start=1):
        lines.append(f"session{number}_label = [{','.join(map(str, labels))}];")
    lines.append("The labels 0, 1, 2, and 3 denote neutral, sad, fear, and happy.")
    stream.write("\r\n".join([*lines, ""]).encode())
