# SPDX-License-Identifier: BSD-3-Clause
"""SEED-VII's layout: 20 subjects, four sessions of 20 clips, seven classes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
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
    write_mat,
    write_tree,
)
from eegfast.datasets.synthetic._visits import Visit, visit_date
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_seed_vii", "write_seed_vii"]

KINDS = ("preprocessed", "features", "raw")
CLASS_NAMES = ("disgust", "fear", "sad", "neutral", "happy", "anger", "surprise")
LABELS = (
    2 * (4, 3, 0, 2, 5, 5, 2, 0, 3, 4),
    2 * (5, 2, 1, 3, 6, 6, 3, 1, 2, 5),
    2 * (4, 6, 0, 1, 5, 5, 1, 0, 6, 4),
    2 * (0, 2, 1, 6, 4, 4, 6, 1, 2, 0),
)
FEATURES = ("de", "de_LDS", "psd", "psd_LDS")
# Here the triggers in the .cnt are wrong, and those of trigger_info.csv are to be used.
WRONG_TRIGGERS = {
    (9, 3): datetime(2022, 11, 11, 14, 1, 27),
    (14, 1): datetime(2022, 10, 15, 14, 25, 34),
}
_PAUSE, _SHIFT = 20, 1700


def write_seed_vii(
    root: str | Path,
    subjects: int = 3,
    sessions: int = 4,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write synthetic EEG in the layout of SEED-VII, without the eyes' files and the scores.

    Parameters, errors and result are those of `write_seed`; `subjects` is up to 20, `sessions` up
    to 4, `kinds` are ``"preprocessed"`` (one .mat a subject, 200 Hz), ``"features"`` (one .mat a
    subject, 4 s windows) and ``"raw"`` (.cnt at 1000 Hz with triggers, and trigger_info.csv).
    `sessions` limits the raw files only. The clips' lengths are made up.
    """
    files = plan_seed_vii(subjects, sessions, kinds, scale, seed)
    return write_tree(root, "seed-vii", check_scale(scale), seed, files, progress)


def plan_seed_vii(
    subjects: int = 3,
    sessions: int = 4,
    kinds: Sequence[str] = ("preprocessed", "features"),
    scale: float = 1.0,
    seed: int = 0,
) -> list[PlannedFile]:
    """The files that `write_seed_vii` would write, with their sizes."""
    numbers = check_count("subjects", subjects, 20), check_count("sessions", sessions, 4)
    kinds, scale = check_kinds(kinds, KINDS), check_scale(scale)
    eeg = SyntheticEEG(SEED_CHANNELS, CLASS_NAMES, len(LABELS[0]), seed)
    times = [_visits.times_at(*_official_times(session), scale) for session in (1, 2, 3, 4)]
    lengths = [[end - start for start, end in zip(*pair, strict=True)] for pair in times]
    every = [length for session in lengths for length in session]
    files = [
        PlannedFile("Channel Order.xlsx", 3000, _tables.write_channel_order),
        PlannedFile("emotion_label_and_stimuli_order.xlsx", 3000, _write_order),
    ]
    for subject in numbers[0]:
        visits = [
            Visit(eeg, subject, session, LABELS[session - 1], lengths[session - 1])
            for session in (1, 2, 3, 4)
        ]
        if "preprocessed" in kinds:
            write = partial(_write_preprocessed, visits=visits)
            n_bytes = _visits.signal_bytes(every)
            files.append(PlannedFile(f"EEG_preprocessed/{subject}.mat", n_bytes, write))
        if "features" in kinds:
            write = partial(_write_features, visits=visits)
            n_bytes = 8 * 4 * 62 * 5 * sum(length // 4 for length in every)
            files.append(PlannedFile(f"EEG_features/{subject}.mat", n_bytes, write))
        if "raw" in kinds:
            for session in numbers[1]:
                files += _raw_files(visits[session - 1], *times[session - 1])
    return files


def _official_times(session: int) -> tuple[list[int], list[int]]:
    """Starts and ends of a session's clips at full length, in seconds: invented."""
    lengths = np.random.default_rng([7, session]).integers(120, 271, 20)
    ends = np.cumsum(lengths + _PAUSE)
    return (ends - lengths).tolist(), ends.tolist()


def _raw_files(visit: Visit, starts: Sequence[int], ends: Sequence[int]) -> list[PlannedFile]:
    wrong = WRONG_TRIGGERS.get((visit.subject, visit.session))
    day = visit_date(visit.eeg.seed, visit.subject, visit.session, 2022)
    started = wrong or datetime.combine(day, time(14))
    name = f"{visit.subject}_{started:%Y%m%d}_{visit.session}"
    raw = partial(
        _visits.write_raw,
        visit=visit,
        starts=starts,
        ends=ends,
        started=started,
        shift=_SHIFT if wrong else 0,
    )
    triggers = partial(_write_triggers, starts=starts, ends=ends, started=started)
    return [
        PlannedFile(f"EEG_raw/{name}.cnt", _visits.raw_bytes(ends), raw),
        PlannedFile(f"save_info/{name}_trigger_info.csv", 1200, triggers),
    ]


def _write_triggers(stream, starts, ends, started: datetime) -> None:
    for pair in zip(starts, ends, strict=True):
        for code, second in enumerate(pair, start=1):
            moment = started + timedelta(seconds=second)
            stream.write(f"{code},{moment:%Y-%m-%d %H:%M:%S.%f}\n".encode())


def _write_preprocessed(stream, visits: Sequence[Visit]) -> None:
    places = [(visit, index) for visit in visits for index in range(len(visit.labels))]
    makers = {
        f"{number}": partial(visit.signal, index)
        for number, (visit, index) in enumerate(places, start=1)
    }
    write_mat(stream, makers)


def _write_features(stream, visits: Sequence[Visit]) -> None:
    places = [(visit, index) for visit in visits for index in range(len(visit.labels))]

    def features_of(number: int) -> dict[str, np.ndarray]:
        visit, index = places[number]
        found = _visits.four_second_features(visit.signal(index))
        return {name: np.swapaxes(found[name], 1, 2) for name in FEATURES}

    _visits.write_features(stream, len(places), features_of, FEATURES, joint="_")


def _write_order(stream) -> None:
    rows = []
    for session, labels in enumerate(LABELS):
        rows.append([f"Session {session + 1}", *range(20 * session + 1, 20 * session + 21)])
        rows.append(["Emotion", *(CLASS_NAMES[label].capitalize() for label in labels)])
    _tables.write_xlsx(stream, rows)
