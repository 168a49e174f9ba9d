# SPDX-License-Identifier: BSD-3-Clause
"""DEAP: 32 subjects, 40 music videos, ratings of valence, arousal, dominance and liking."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from eegfast.datasets._bdf import BdfFile, bdf_codes
from eegfast.datasets._checks import by_subject, check_microvolts, choose
from eegfast.datasets._layout import find_files, one_file_each
from eegfast.datasets._mat import open_mat
from eegfast.datasets._pickles import load_arrays
from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.datasets.dataset import Dataset, Trial
from eegfast.datasets.recording import Recording

__all__ = ["DEAP", "DEAP_CHANNELS"]

DEAP_CHANNELS: tuple[str, ...] = tuple(
    "FP1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 OZ PZ "
    "FP2 AF4 FZ F4 F8 FC6 FC2 CZ C4 T8 CP6 CP2 P4 P8 PO4 O2".split()
)
"""The 32 EEG channels of DEAP in the order of its preprocessed files, that of Geneva."""

_MOST_SUBJECTS = 32
_RATINGS = ("valence", "arousal", "dominance", "liking")
_TRIALS, _CHANNELS = 40, 40
_BASELINE, _VIDEO = 3, 60
_RATES = {"preprocessed": 128, "raw": 512}
_VIDEO_CODE, _AFTER_CODE = 4, 5
_TABLE = "participant_ratings.csv"
_QUADRANTS = (
    "low valence, low arousal",
    "low valence, high arousal",
    "high valence, low arousal",
    "high valence, high arousal",
)


class DEAP(Dataset):
    """DEAP as downloaded: 32 subjects, one session of 40 trials each.

    Items are `Recording`, the 32 EEG channels in the order of `DEAP_CHANNELS`. The number of a
    trial is that of its video, in all forms, so that both forms agree in layout.

    Parameters
    ----------
    root : path-like
        The data set's folder, the one above it, or the one with the files themselves.
    kind : {"preprocessed", "raw"}, optional
        ``"preprocessed"``: ``data_preprocessed_python/s01.dat`` or, if there are none,
        ``data_preprocessed_matlab/s01.mat``; 128 Hz. ``"raw"``: ``data_original/s01.bdf``, 512 Hz,
        nothing filtered or referenced, of which only the trials are read; it needs
        ``participant_ratings.csv`` from the data set's metadata. Default: the first that is there.
    target : {"valence", "arousal", "dominance", "liking", "quadrant"}, default "valence"
        What the label is made of: one rating, low or high; or valence and arousal together.
    threshold : float, default 5.0
        A rating above it is high, all others are low.
    baseline : {"drop", "keep"}, default "drop"
        The 3 s before the video: without them a trial has 60 s, with them 63 s.
    subjects : iterable of str or int, optional
        Which; default all.

    Attributes
    ----------
    ratings : ndarray, shape (trials, 4)
        Valence, arousal, dominance and liking of each trial, 1 to 9.
    name, kind, root, class_names, trials, missing
        As `Dataset`.

    Raises
    ------
    FileNotFoundError
        If no such files are there, or the ratings of raw ones are not.
    ImportError
        When a raw trial is read and MNE is not installed.
    ValueError
        If an argument is none of the above; if a file is damaged, would run code, or holds other
        shapes, rates, channels, triggers or ratings than DEAP.

    Notes
    -----
    Raw files of subjects 1 to 22 (Twente) have the channels in another order than those of 23 to
    32 (Geneva); they are found by name. Their triggers are the lowest 8 bits of the Status channel:
    code 4 begins a video. ``.dat`` files are Python 2 pickles; they are read without running them,
    and only the trials asked for leave the disk. A ``.mat`` file is inflated whole, 100 MB, each
    time that it is opened: go through trials with `read` or a loop.
    """

    name = "deap"

    def __init__(
        self,
        root: str | Path,
        kind: str | None = None,
        target: str = "valence",
        threshold: float = 5.0,
        *,
        baseline: str = "drop",
        subjects: Iterable[str | int] | None = None,
    ):
        if target not in (*_RATINGS, "quadrant"):
            raise ValueError(
                f"DEAP: target must be one of {', '.join(_RATINGS)}, quadrant, got {target!r}."
            )
        if not (math.isfinite(threshold) and 1 <= threshold < 9):
            raise ValueError(f"DEAP: threshold must be from 1 to below 9, got {threshold}.")
        if baseline not in ("drop", "keep"):
            raise ValueError(f"DEAP: baseline must be drop or keep, got {baseline!r}.")
        chosen = choose("DEAP: subjects", subjects, range(1, _MOST_SUBJECTS + 1))
        self.root = Path(root)
        self.target, self.threshold, self.baseline = target, float(threshold), baseline
        self.class_names = _QUADRANTS if target == "quadrant" else ("low", "high")
        self.kind, folder, files = find_files(
            "DEAP",
            root,
            kind,
            {
                "preprocessed": [
                    ("data_preprocessed_python", "s01.dat", r"s(\d\d)\.dat"),
                    ("data_preprocessed_matlab", "s01.mat", r"s(\d\d)\.mat"),
                ],
                "raw": [("data_original", "s01.bdf", r"s(\d\d)\.bdf")],
            },
        )
        self._scaled = synthetic_scale(folder) is not None
        found = one_file_each("DEAP", (((match[1],), path) for path, match in files.items()))
        table = _read_table(folder, self.root) if self.kind == "raw" else None
        self.trials, lacks, ratings = [], [], []
        for subject in (f"{number:02d}" for number in chosen):
            path = found.get((subject,))
            if path is None:
                lacks.append((int(subject), f": no {self.kind} file"))
                continue
            if table is None:
                of_trials, keys = _ratings_of(path)
            elif subject in table:
                of_trials, keys = table[subject]
            else:
                lacks.append((int(subject), f": no ratings in {_TABLE}"))
                continue
            labels = self._labels(of_trials)
            self.trials += [
                Trial(subject, "1", i + 1, label, path, key)
                for i, (label, key) in enumerate(zip(labels, keys, strict=True))
            ]
            ratings.append(of_trials)
        self.missing = by_subject(lacks)
        self.ratings = np.concatenate(ratings) if ratings else np.empty((0, len(_RATINGS)))

    def _labels(self, ratings: np.ndarray) -> list[int]:
        high = (ratings > self.threshold).astype(int)
        if self.target == "quadrant":
            return (2 * high[:, 0] + high[:, 1]).tolist()
        return high[:, _RATINGS.index(self.target)].tolist()

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        read = self._raw if self.kind == "raw" else self._preprocessed
        for trial, signal in read(path, trials):
            check_microvolts(f"{path}: trial {trial.trial_id}", signal)
            yield Recording(
                signal,
                _RATES[self.kind],
                list(DEAP_CHANNELS),
                subject_id=trial.subject_id,
                session_id=trial.session_id,
                trial_id=trial.trial_id,
                label=trial.label,
                class_names=self.class_names,
                source=str(path),
            )

    def _preprocessed(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        rate = _RATES["preprocessed"]
        data = _load(path, "data")
        expected = (_TRIALS, _CHANNELS, (_BASELINE + _VIDEO) * rate)
        if self._scaled and data.shape[2:] > (_BASELINE * rate,):
            expected = (*expected[:2], data.shape[2])
        if data.shape != expected:
            raise ValueError(f"{path}: data: expected shape {expected}, got {data.shape}.")
        first = _BASELINE * rate if self.baseline == "drop" else 0
        for trial in trials:
            yield trial, data[trial.key, : len(DEAP_CHANNELS), first:].astype(np.float32)

    def _raw(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        rate = _RATES["raw"]
        starts, ends = _videos(path, None if self._scaled else _VIDEO * rate)
        raw = BdfFile(path, DEAP_CHANNELS)
        if raw.sfreq != rate:
            raise ValueError(f"{path}: expected {rate} Hz as in DEAP, got {raw.sfreq:g} Hz.")
        before = 0 if self.baseline == "drop" else _BASELINE * rate
        for trial in trials:
            start, end = int(starts[trial.key]), int(ends[trial.key])
            yield trial, raw.read(start - before, end, f"trial {trial.trial_id}")


def _videos(path: Path, length: int | None) -> tuple[np.ndarray, np.ndarray]:
    """First sample of each video and the one after its last, in the order in which they were shown.

    Videos last `length` samples; without it, which is for shortened ones, until the screen behind.
    """
    codes = bdf_codes(path)
    found = {
        code: np.flatnonzero((codes[1:] == code) & (codes[:-1] != code)) + 1
        for code in (_VIDEO_CODE, _AFTER_CODE)
    }
    starts, after = found[_VIDEO_CODE], found[_AFTER_CODE]
    if len(starts) != _TRIALS:
        raise ValueError(
            f"{path}: expected {_TRIALS} triggers {_VIDEO_CODE} (a video begins) in Status, "
            f"got {len(starts)}."
        )
    if length is not None:
        return starts, starts + length
    if len(after) != _TRIALS or (after <= starts).any():
        raise ValueError(f"{path}: expected a trigger {_AFTER_CODE} after each video.")
    return starts, after


def _load(path: Path, name: str) -> np.ndarray:
    """An array of real numbers of a preprocessed file."""
    if path.suffix.lower() == ".mat":
        with open_mat(path) as mat:
            return mat.read(name)
    found = load_arrays(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dict of data and labels, got {type(found).__name__}.")
    value = found.get(name, found.get(name.encode()))
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        got = "nothing" if value is None else getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{path}: {name}: expected an array of real numbers, got {got}.")
    return value


def _ratings_of(path: Path) -> tuple[np.ndarray, range]:
    """Ratings in a preprocessed file, and where its trials are."""
    ratings = _load(path, "labels")
    if ratings.shape != (_TRIALS, len(_RATINGS)):
        raise ValueError(
            f"{path}: labels: expected shape {(_TRIALS, len(_RATINGS))}, got {ratings.shape}."
        )
    _check_ratings(f"{path}: labels", ratings)
    return np.array(ratings, np.float64), range(_TRIALS)


def _check_ratings(where: str, ratings: np.ndarray) -> None:
    if not ((ratings >= 1) & (ratings <= 9)).all():
        bad = ratings[~((ratings >= 1) & (ratings <= 9))][0]
        raise ValueError(f"{where}: expected ratings from 1 to 9, got {bad:g}.")


def _read_table(folder: Path, root: Path) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Ratings of each subject in the order of videos, and when each video was shown, from 0."""
    places = dict.fromkeys(
        base / below / _TABLE
        for base in (folder, folder.parent, root)
        for below in ("", "metadata_csv", "metadata", "Metadata")
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"DEAP: raw files have no ratings in them; expected {_TABLE} (of metadata_csv.zip) in "
            f"{folder}, {folder.parent} or their folder metadata_csv."
        )
    names = ("participant_id", "trial", "experiment_id", *_RATINGS)
    table: dict[str, dict[int, tuple[int, list[float]]]] = {}
    with path.open(encoding="latin-1", newline="") as stream:
        rows = csv.DictReader(stream)
        rows.fieldnames = [str(name).strip().casefold() for name in rows.fieldnames or ()]
        absent = [name for name in names if name not in rows.fieldnames]
        if absent:
            raise ValueError(f"{path}: expected the columns {', '.join(absent)}.")
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            try:
                subject, trial, video = (int(row[name]) for name in names[:3])
                ratings = [float(row[name]) for name in _RATINGS]
            except (TypeError, ValueError):
                raise ValueError(f"{where}: expected numbers in {', '.join(names)}.") from None
            _check_ratings(where, np.array(ratings))
            table.setdefault(f"{subject:02d}", {})[video] = trial - 1, ratings
    for subject, videos in table.items():
        shown = sorted(trial for trial, _ in videos.values())
        if sorted(videos) != [*range(1, _TRIALS + 1)] or shown != [*range(_TRIALS)]:
            raise ValueError(
                f"{path}: expected each of {_TRIALS} trials and videos once for subject {subject}, "
                f"got {len(videos)} videos."
            )
    return {
        subject: (
            np.array([videos[video][1] for video in sorted(videos)]),
            [videos[video][0] for video in sorted(videos)],
        )
        for subject, videos in table.items()
    }
