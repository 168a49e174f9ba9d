# SPDX-License-Identifier: BSD-3-Clause
"""SEED-V's layout: 16 subjects, three sessions of 15 clips, raw files and pickled features."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import datetime, time
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
    write_tree,
)
from eegfast.datasets.synthetic._visits import Visit, visit_date
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_seed_v", "write_seed_v"]

KINDS = ("features", "raw")
CLASS_NAMES = ("disgust", "fear", "sad", "neutral", "happy")
LABELS = (
    (4, 1, 3, 2, 0, 4, 1, 3, 2, 0, 4, 1, 3, 2, 0),
    (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
    (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
)
STARTS = (
    (30, 132, 287, 555, 773, 982, 1271, 1628, 1730, 2025, 2227, 2435, 2667, 2932, 3204),
    (30, 299, 548, 646, 836, 1000, 1091, 1392, 1657, 1809, 1966, 2186, 2333, 2490, 2741),
    (30, 353, 478, 674, 825, 908, 1200, 1346, 1451, 1711, 2055, 2307, 2457, 2726, 2888),
)
ENDS = (
    (102, 228, 524, 742, 920, 1240, 1568, 1697, 1994, 2166, 2401, 2607, 2901, 3172, 3359),
    (267, 488, 614, 773, 967, 1059, 1331, 1622, 1777, 1908, 2153, 2302, 2428, 2709, 2817),
    (321, 418, 643, 764, 877, 1147, 1284, 1418, 1679, 1996, 2275, 2425, 2664, 2857, 3066),
)


def write_seed_v(
    root: str | Path,
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("features",),
    scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
    object_arrays: bool = False,
) -> Path:
    """Write synthetic EEG in the layout of SEED-V, without the eyes' files and the scores.

    Parameters, errors and result are those of `write_seed`; `subjects` is up to 16, `kinds` are
    ``"features"`` (one .npz a subject with all three sessions, DE in 4 s windows) and ``"raw"``
    (.cnt at 1000 Hz; `sessions` limits only these).

    Parameters
    ----------
    object_arrays : bool, default False
        How the .npz files hold their pickles: as arrays of bytes, which NumPy opens with
        ``allow_pickle=False`` and the laboratory's own script reads; True: as arrays of objects,
        a pickle in a pickle.
    """
    files = plan_seed_v(subjects, sessions, kinds, scale, seed, object_arrays)
    return write_tree(root, "seed-v", check_scale(scale), seed, files, progress)


def plan_seed_v(
    subjects: int = 3,
    sessions: int = 3,
    kinds: Sequence[str] = ("features",),
    scale: float = 1.0,
    seed: int = 0,
    object_arrays: bool = False,
) -> list[PlannedFile]:
    """The files that `write_seed_v` would write, with their sizes."""
    numbers = check_count("subjects", subjects, 16), check_count("sessions", sessions, 3)
    kinds, scale = check_kinds(kinds, KINDS), check_scale(scale)
    eeg = SyntheticEEG(SEED_CHANNELS, CLASS_NAMES, len(LABELS[0]), seed)
    times = [_visits.times_at(*pair, scale) for pair in zip(STARTS, ENDS, strict=True)]
    lengths = [[end - start for start, end in zip(*pair, strict=True)] for pair in times]

    def visit(subject: int, session: int) -> Visit:
        return Visit(eeg, subject, session, LABELS[session - 1], lengths[session - 1])

    files = [
        PlannedFile("Channel Order.xlsx", 3000, _tables.write_channel_order),
        PlannedFile("trial_start_end_timestamp.txt", 600, partial(_write_times, times=times)),
    ]
    if "features" in kinds:
        n_windows = sum(length // 4 for length in sum(lengths, []))
        for subject in numbers[0]:
            visits = [visit(subject, session) for session in (1, 2, 3)]
            write = partial(_write_features, visits=visits, object_arrays=object_arrays)
            name = f"EEG_DE_features/{subject}_123.npz"
            files.append(PlannedFile(name, 8 * 311 * n_windows + 10_000, write))
    if "raw" in kinds:
        for subject in numbers[0]:
            # The number is that of the clips; on which of the visits they were shown differs.
            order = np.random.default_rng([seed, 6, subject]).permutation(3) + 1
            for session in numbers[1]:
                starts, ends = times[session - 1]
                started = datetime.combine(
                    visit_date(seed, subject, int(order[session - 1]), 2017), time(14)
                )
                files.append(
                    PlannedFile(
                        f"EEG_raw/{subject}_{session}_{started:%Y%m%d}.cnt",
                        _visits.raw_bytes(ends),
                        partial(
                            _visits.write_raw,
                            visit=visit(subject, session),
                            starts=starts,
                            ends=ends,
                            started=started,
                        ),
                    )
                )
    return files


def _write_features(stream, visits: Sequence[Visit], object_arrays: bool) -> None:
    data, label = {}, {}
    for visit in visits:
        for index, number in enumerate(visit.labels):
            de = _visits.four_second_features(visit.signal(index))["de"]
            data[len(label)] = de.reshape(len(de), -1)
            label[len(label)] = np.full(len(de), number, np.int64)
    kind = object if object_arrays else None
    packed = {"data": pickle.dumps(data, 4), "label": pickle.dumps(label, 4)}
    np.savez(stream, **{name: np.array(value, kind) for name, value in packed.items()})


def _write_times(stream, times) -> None:
    for session, (starts, ends) in enumerate(times, start=1):
        text = f"Session {session}:\nstart_second: {starts}\nend_second: {ends}\n\n"
        stream.write(text.encode())
