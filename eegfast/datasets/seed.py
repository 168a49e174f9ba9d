# SPDX-License-Identifier: BSD-3-Clause
"""SEED: 15 subjects, three sessions each, 15 film clips a session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from eegfast.datasets._checks import choose, folders_below, listed
from eegfast.datasets._cnt import CntFile
from eegfast.datasets._mat import open_mat
from eegfast.datasets._seed_family import (
    SFREQ,
    MatTrials,
    around,
    check_root,
    folders_by_kind,
    one_of,
    only,
    recordings_in,
    row_names,
)
from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.datasets.dataset import Trial
from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.recording import Recording

__all__ = ["SEED"]

LABELS = (1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1)
SECONDS = (235, 233, 206, 238, 185, 195, 237, 216, 265, 237, 235, 233, 235, 238, 206)
STARTS = (27, 290, 551, 784, 1050, 1262, 1484, 1748, 1993, 2287, 2551, 2812, 3072, 3335, 3599)
N_SUBJECTS, N_SESSIONS = 15, 3
RAW_SFREQ = 1000
KINDS = ("preprocessed", "features", "raw")
FEATURES = tuple(
    f"{kind}_{smoother}"
    for kind in ("de", "psd", "dasm", "rasm", "asm", "dcau")
    for smoother in ("movingAve", "LDS")
)
_RAW_FILE = re.compile(r"(\d{1,2})_([1-9])\.cnt", re.IGNORECASE)
_MOST_TEXT = 2**16


class SEED(MatTrials):
    """SEED as downloaded: a sequence of 675 trials, or of those that are there.

    Items are `Recording` (62 channels, float32 microvolts, 200 Hz; 1000 Hz of the raw files) or, of
    the supplied features, `TrialFeatures` with values of shape (windows, rows, 5 bands).

    Parameters
    ----------
    root : path-like
        ``SEED_EEG``, a folder around it, or the very folder with the files.
    kind : {"preprocessed", "features", "raw"}, optional
        ``Preprocessed_EEG`` (.mat), ``ExtractedFeatures`` (.mat) or ``SEED_RAW_EEG`` (.cnt, needs
        MNE), told apart by what is in the files. Default: the first of them that is there.
    subjects, sessions : iterable of int or str, optional
        Which of those that are there; default all.
    feature : str, default "de_LDS"
        For ``kind="features"``: ``de``, ``psd``, ``dasm``, ``rasm`` or ``dcau``, then ``_LDS`` or
        ``_movingAve``.

    Attributes
    ----------
    name, kind, root, class_names, trials, missing
        As in `Dataset`; the classes are negative, neutral, positive.
    feature : str
        As given.
    window : float
        Seconds per window of the supplied features.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or nothing of the data set in it.
    ImportError
        If h5py (for .mat files of version 7.3) or MNE (for .cnt) is needed and not installed.
    ValueError
        If an argument makes no sense, more than one folder could be meant, or a file or the labels
        are not what the data set has. The message names the file.

    Notes
    -----
    Files of a subject carry dates; the session is the rank of the date. Where some of the three are
    absent, that rank may be too low, and `missing` says so.

    A trial may be one second longer or shorter than it should be.

    References
    ----------
    Zheng W.-L. and Lu B.-L., "Investigating Critical Frequency Bands and Channels for EEG-based
    Emotion Recognition with Deep Neural Networks", IEEE TAMD 7(3), 2015.
    """

    name = "seed"
    n_trials = len(LABELS)
    class_names = ("negative", "neutral", "positive")

    def __init__(
        self,
        root: str | Path,
        kind: str | None = None,
        *,
        subjects: Iterable[str | int] | None = None,
        sessions: Iterable[str | int] | None = None,
        feature: str = "de_LDS",
    ):
        root = check_root("SEED", root)
        if kind is not None:
            one_of("SEED", "kind", kind, KINDS)
        self.feature = one_of("SEED", "feature", feature, FEATURES)
        if feature.startswith("asm"):
            raise ValueError(
                f"SEED: {feature} is dasm and rasm, one below the other; read these, whose rows "
                "are pairs of electrodes."
            )
        self.kind, self.root = _find(root, kind)
        self.window = 4.0 if "4s" in self.root.name else 1.0
        self.trials, self.missing = [], []
        self._checks_lengths = synthetic_scale(self.root) is None
        files = self._raw_files() if self.kind == "raw" else self._mat_files()
        labels = self._labels()
        if self.kind == "raw":
            self._times = self._read_times()
        chosen = choose("SEED: subjects", subjects, (subject for subject, *_ in files))
        visits = choose("SEED: sessions", sessions, (session for _, session, _ in files))
        self._note_gaps(files, range(1, N_SUBJECTS + 1) if subjects is None else chosen)
        for subject, session, path in files:
            if subject in chosen and session in visits:
                self._add(subject, session, path, labels)

    def _mat_files(self) -> list[tuple[int, int, Path]]:
        """Subject, session and path of each recording; the session is the rank of its date."""
        by_subject: dict[int, list[tuple[str, Path]]] = {}
        for subject, date, path in recordings_in(self.root):
            by_subject.setdefault(subject, []).append((date, path))
        files = []
        for subject, dated in by_subject.items():
            if not 1 <= subject <= N_SUBJECTS or len(dated) > N_SESSIONS:
                raise ValueError(
                    f"{self.root}: expected {N_SESSIONS} files of each of subjects 1 to "
                    f"{N_SUBJECTS}, got {', '.join(path.name for _, path in dated)}."
                )
            if len({date for date, _ in dated}) < len(dated):
                raise ValueError(
                    f"{self.root}: expected one file a subject and date, got "
                    f"{', '.join(path.name for _, path in dated)}."
                )
            files += [(subject, rank, path) for rank, (_, path) in enumerate(dated, start=1)]
        return files

    def _raw_files(self) -> list[tuple[int, int, Path]]:
        files = _raw_in(self.root)
        visits = {(subject, session) for subject, session, _ in files}
        known = {(i, j) for i in range(1, N_SUBJECTS + 1) for j in range(1, N_SESSIONS + 1)}
        if len(visits) < len(files) or not visits <= known:
            raise ValueError(
                f"{self.root}: expected one .cnt file of each of subjects 1 to {N_SUBJECTS} and "
                f"sessions 1 to {N_SESSIONS}, got {', '.join(path.name for *_, path in files)}."
            )
        return files

    def _note_gaps(self, files: list[tuple[int, int, Path]], subjects: Iterable[int]) -> None:
        absent = set(subjects) - {subject for subject, *_ in files}
        if absent:
            self.missing.append(f"subjects {listed(absent)}")
        for subject in sorted(set(subjects) - absent):
            there = {session: path for other, session, path in files if other == subject}
            absent = set(range(1, N_SESSIONS + 1)) - set(there)
            if absent and self.kind == "raw":
                self.missing.append(f"subject {subject:02d}: session {listed(absent)}")
            elif absent:
                self.missing.append(
                    f"subject {subject:02d}: {len(absent)} of {N_SESSIONS} files; "
                    f"{', '.join(path.name for path in there.values())} counted as session "
                    f"{listed(there)} by date, which may be too low"
                )

    def _labels(self) -> list[int]:
        """Class numbers from 0: the known ones, which label.mat must agree with."""
        path = self.root / "label.mat"
        if path.is_file():
            with open_mat(path) as mat:
                values = mat.read("label", [(1, len(LABELS)), (1, len(LABELS))])
            got = values.ravel().tolist()
            if values.dtype == np.uint8:  # where -1 has wrapped around
                got = [-1 if label == 255 else label for label in got]
            if got != list(LABELS):
                raise ValueError(
                    f"{path}: expected the labels {_words(LABELS)}, got {_words(got)}."
                )
        elif self.kind != "raw":
            self.missing.append("label.mat; labels are the published ones")
        return [label + 1 for label in LABELS]

    def _read_times(self) -> list[tuple[int, int]]:
        """First sample of each trial and the one after its last, from time.txt if it is there."""
        path = self.root / "time.txt"
        if not path.is_file():
            self.missing.append("time.txt; trials are cut at the published times")
            return [
                (RAW_SFREQ * start, RAW_SFREQ * (start + seconds))
                for start, seconds in zip(STARTS, SECONDS, strict=True)
            ]
        with path.open("rb") as stream:
            text = stream.read(_MOST_TEXT).decode("latin-1")
        starts, ends = (_numbers_after(word, text) for word in ("start", "end"))
        fits = len(starts) == len(ends) == self.n_trials and all(
            0 <= a < b <= c for a, b, c in zip(starts, ends, [*starts[1:], ends[-1]], strict=True)
        )
        if fits and self._checks_lengths:
            fits = all(
                low <= end - start <= high
                for start, end, (low, high) in zip(
                    starts, ends, (around(s, RAW_SFREQ) for s in SECONDS), strict=True
                )
            )
        if not fits:
            raise ValueError(
                f"{path}: expected {self.n_trials} starts and ends of trials in samples, "
                f"{_words(SECONDS)} seconds long, got starts {_words(starts)} and ends "
                f"{_words(ends)}."
            )
        return list(zip(starts, ends, strict=True))

    def _add(self, subject: int, session: int, path: Path, labels: Sequence[int]) -> None:
        if self.kind != "raw":
            super()._add(subject, session, path, labels)
            return
        self.trials += [
            Trial(f"{subject:02d}", str(session), number, label, path, times)
            for number, (label, times) in enumerate(zip(labels, self._times, strict=True), start=1)
        ]

    def _shape(self, session: int, trial: int) -> list:
        seconds = SECONDS[trial - 1]
        if self.kind == "preprocessed":
            n_times = around(seconds, int(SFREQ), 1) if self._checks_lengths else (1, None)
            return [len(SEED_CHANNELS), n_times]
        windows = (1, None)
        if self._checks_lengths:
            windows = around(int(seconds // self.window), 1)
        return [len(row_names(self.feature)), windows, 5]

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        if self.kind != "raw":
            yield from super()._read_file(path, trials)
            return
        with CntFile(path, RAW_SFREQ) as cnt:
            for trial in trials:
                signal = cnt.read(*trial.key, f"trial {trial.trial_id}")
                yield Recording(signal, RAW_SFREQ, list(SEED_CHANNELS), **self._about(trial))


def _find(root: Path, kind: str | None) -> tuple[str, Path]:
    """Which kind of files there is, and the folder with them."""
    with_mat, with_cnt = {}, []
    for folder in folders_below(root):
        files = recordings_in(folder)
        if files:
            with_mat[folder] = files[0][2]
        if _raw_in(folder):
            with_cnt.append(folder)
    found = {} if kind == "raw" else folders_by_kind(with_mat)
    if with_cnt:
        found["raw"] = with_cnt
    for candidate in KINDS if kind is None else (kind,):
        if candidate in found:
            return candidate, only("SEED", candidate, found[candidate])
    other = f" (of the kinds {', '.join(found)})" if found else ""
    raise FileNotFoundError(
        f"SEED: expected {kind or 'Preprocessed_EEG, ExtractedFeatures or SEED_RAW_EEG'}: files "
        f"such as 1_20131027.mat or 1_1.cnt in {root} or up to two folders below, "
        f"got {len(with_mat) + len(with_cnt)} folders with such files{other}."
    )


def _raw_in(folder: Path) -> list[tuple[int, int, Path]]:
    """Subject, session and path of each .cnt file, in that order."""
    matches = ((_RAW_FILE.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(m[1]), int(m[2]), path) for m, path in matches if m and path.is_file())


def _numbers_after(word: str, text: str) -> list[int]:
    """The whole numbers of the first list that follows a word."""
    match = re.search(rf"(?<![a-z]){word}[^\d\[]*\[?([\d\s,;]*)", text, re.IGNORECASE)
    return [int(number) for number in re.findall(r"\d{1,12}", match[1])] if match else []


def _words(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.12g}" for number in list(numbers)[:20]) or "none"
