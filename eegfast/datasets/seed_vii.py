# SPDX-License-Identifier: BSD-3-Clause
"""SEED-VII: 20 subjects, four sessions, seven emotions."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from eegfast.datasets._archives import read_sheet
from eegfast.datasets._checks import by_subject, check_finite, check_microvolts, choose, listed
from eegfast.datasets._cnt import CntFile
from eegfast.datasets._layout import find_files, one_file_each
from eegfast.datasets._mat import open_mat
from eegfast.datasets._seed_family import BANDS
from eegfast.datasets.dataset import Dataset, Trial, TrialFeatures
from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.recording import Recording

__all__ = ["SEEDVII"]

_MOST_SUBJECTS, _SESSIONS, _TRIALS = 20, 4, 20
_CLASSES = ("disgust", "fear", "sad", "neutral", "happy", "anger", "surprise")
_LABELS = (
    2 * (4, 3, 0, 2, 5, 5, 2, 0, 3, 4),
    2 * (5, 2, 1, 3, 6, 6, 3, 1, 2, 5),
    2 * (4, 6, 0, 1, 5, 5, 1, 0, 6, 4),
    2 * (0, 2, 1, 6, 4, 4, 6, 1, 2, 0),
)
_FEATURES = ("de_LDS", "de", "psd_LDS", "psd")
_WINDOW = 4.0
_RATES = {"preprocessed": 200.0, "raw": 1000.0}
_SECONDS = (4, 1200)
_SHAPES = {
    "preprocessed": (len(SEED_CHANNELS), tuple(200 * s for s in _SECONDS)),
    "features": ((1, _SECONDS[1]), len(BANDS), len(SEED_CHANNELS)),
}
_ORDER_FILE = "emotion_label_and_stimuli_order.xlsx"
# The triggers in these files are wrong; their true times are in a table, by the clock, and these
# are the moments at which recording began.
_WRONG_TRIGGERS = {
    "9_20221111_3": datetime(2022, 11, 11, 14, 1, 27),
    "14_20221015_1": datetime(2022, 10, 15, 14, 25, 34),
}


class SEEDVII(Dataset):
    """SEED-VII as downloaded: disgust, fear, sad, neutral, happy, anger, surprise.

    20 subjects, 4 sessions of 20 trials; clip k of 80 is trial ``(k - 1) % 20 + 1`` of session
    ``(k - 1) // 20 + 1``.

    Parameters
    ----------
    root : path-like
        The data set's folder, the one above it, or the one with the files themselves.
    kind : {"preprocessed", "features", "raw"}, optional
        ``"preprocessed"``: ``EEG_preprocessed/{subject}.mat``, 200 Hz, as `Recording` (float32).
        ``"features"``: ``EEG_features/{subject}.mat``, windows of 4 s, as `TrialFeatures`.
        ``"raw"``: ``EEG_raw/{subject}_{date}_{session}.cnt``, 1000 Hz, as `Recording` (float32), of
        which only the trials are read. Default: the first that is there.
    subjects, sessions : iterable of str or int, optional
        Which; default all.
    feature : {"de_LDS", "de", "psd_LDS", "psd"}, default "de_LDS"
        Which of the supplied features.

    Attributes
    ----------
    name, kind, root, class_names, trials, missing
        As `Dataset`.

    Raises
    ------
    FileNotFoundError
        If no such files are there.
    ImportError
        When a raw trial is read and MNE is not installed.
    ValueError
        If an argument is none of the above, two files claim the same session, or the table of
        labels cannot be; if a file is damaged or holds other variables, shapes, rates, triggers or
        channels than SEED-VII, or no plausible EEG.

    Warns
    -----
    UserWarning
        If the data set's own table of labels is not the one known here; its own is used.

    Notes
    -----
    Labels are those of ``emotion_label_and_stimuli_order.xlsx`` in the folder or above it, else the
    table known here, which comes from published totals and public code, not from the authors.
    Feature files hold (windows, bands, channels), unlike all others; items have eegfast's order.
    Raw trials lie between pairs of triggers. In 9_20221111_3.cnt and 14_20221015_1.cnt those are
    wrong, and ``save_info/..._trigger_info.csv`` is used; without it they are left out and counted
    among `missing`.
    """

    name = "seed-vii"
    class_names = _CLASSES

    def __init__(
        self,
        root: str | Path,
        kind: str | None = None,
        *,
        subjects: Iterable[str | int] | None = None,
        sessions: Iterable[str | int] | None = None,
        feature: str = "de_LDS",
    ):
        if feature not in _FEATURES:
            raise ValueError(
                f"SEEDVII: feature must be one of {', '.join(_FEATURES)}, got {feature!r}."
            )
        chosen = choose("SEEDVII: subjects", subjects, range(1, _MOST_SUBJECTS + 1))
        visits = choose("SEEDVII: sessions", sessions, range(1, _SESSIONS + 1))
        mat = "{subject}.mat", r"(\d{1,2})\.mat"
        cnt = "{subject}_{date}_{session}.cnt", r"(\d{1,2})_\d{8}_([1-4])\.cnt"
        self.root, self.feature = Path(root), feature
        self.kind, folder, files = find_files(
            "SEEDVII",
            root,
            kind,
            {
                "preprocessed": [("EEG_preprocessed", *mat)],
                "features": [("EEG_features", *mat)],
                "raw": [("EEG_raw", *cnt)],
            },
        )
        labels = _labels(folder)
        found = one_file_each(
            "SEEDVII", ((tuple(map(int, match.groups())), path) for path, match in files.items())
        )
        self.trials, lacks = [], []
        for subject in chosen:
            if self.kind == "raw":
                there = self._raw_sessions(subject, visits, found, lacks)
            else:
                there = self._mat_sessions(subject, visits, found, lacks)
            self.trials += [
                Trial(f"{subject:02d}", str(session), trial, labels[session - 1][trial - 1], path)
                for session, trial, path in there
            ]
        self.missing = by_subject(lacks)

    def _raw_sessions(self, subject: int, visits, found, lacks) -> Iterator[tuple[int, int, Path]]:
        absent = [session for session in visits if (subject, session) not in found]
        if absent:
            lacks.append((subject, f", session {listed(absent)}: no raw file"))
        for session in (session for session in visits if session not in absent):
            path = found[subject, session]
            if path.stem in _WRONG_TRIGGERS and not _trigger_file(path).is_file():
                why = f"its own triggers are wrong, no save_info/{_trigger_file(path).name}"
                lacks.append((subject, f", session {session}: {why}"))
                continue
            yield from ((session, trial, path) for trial in range(1, _TRIALS + 1))

    def _mat_sessions(self, subject: int, visits, found, lacks) -> Iterator[tuple[int, int, Path]]:
        path = found.get((subject,))
        if path is None:
            lacks.append((subject, f": no {self.kind} file"))
            return
        clips = [(s, t) for s in visits for t in range(1, _TRIALS + 1)]
        with open_mat(path) as mat:
            there = {clip for clip in clips if self._variable(*clip) in mat.variables}
            for clip in sorted(there):
                mat.check(self._variable(*clip), _SHAPES[self.kind])
            if not there:
                raise ValueError(
                    f"{path}: expected variables {self._variable(1, 1)} to "
                    f"{self._variable(_SESSIONS, _TRIALS)}, got {mat.listed()}."
                )
        for session in visits:
            absent = [t for s, t in clips if s == session and (s, t) not in there]
            if absent:
                lacks.append((subject, f", session {session}: no trial {listed(absent)}"))
        yield from ((*clip, path) for clip in clips if clip in there)

    def _variable(self, session: int, trial: int) -> str:
        clip = _TRIALS * (session - 1) + trial
        return f"{clip}" if self.kind == "preprocessed" else f"{self.feature}_{clip}"

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        if self.kind == "features":
            return self._features(path, trials)
        return self._raw(path, trials) if self.kind == "raw" else self._preprocessed(path, trials)

    def _about(self, trial: Trial) -> dict:
        return {
            "subject_id": trial.subject_id,
            "session_id": trial.session_id,
            "trial_id": trial.trial_id,
            "label": trial.label,
            "class_names": self.class_names,
            "source": str(trial.path),
        }

    def _recording(self, trial: Trial, signal: np.ndarray) -> Recording:
        return Recording(signal, _RATES[self.kind], list(SEED_CHANNELS), **self._about(trial))

    def _preprocessed(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        with open_mat(path) as mat:
            for trial in trials:
                name = self._variable(int(trial.session_id), trial.trial_id)
                signal = mat.read(name, _SHAPES[self.kind], np.float32)
                check_microvolts(f"{path}: variable {name}", signal)
                yield self._recording(trial, signal)

    def _features(self, path: Path, trials: Sequence[Trial]) -> Iterator[TrialFeatures]:
        with open_mat(path) as mat:
            for trial in trials:
                name = self._variable(int(trial.session_id), trial.trial_id)
                values = mat.read(name, _SHAPES[self.kind], np.float64)
                check_finite(f"{path}: variable {name}", values)
                yield TrialFeatures(
                    np.ascontiguousarray(values.transpose(0, 2, 1)),
                    list(SEED_CHANNELS),
                    dict(BANDS),
                    self.feature,
                    _WINDOW,
                    **self._about(trial),
                )

    def _raw(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        with CntFile(path, _RATES["raw"]) as raw:
            wrong = path.stem in _WRONG_TRIGGERS
            edges = _edges_by_the_clock(path, _RATES["raw"]) if wrong else raw.triggers
            if len(edges) != 2 * _TRIALS or edges != sorted(set(edges)):
                raise ValueError(
                    f"{_trigger_file(path) if wrong else path}: expected {2 * _TRIALS} triggers, a "
                    f"start and an end for each of {_TRIALS} trials, each later than the one "
                    f"before; got {len(edges)}."
                )
            for trial in trials:
                start, end = edges[2 * trial.trial_id - 2 : 2 * trial.trial_id]
                yield self._recording(trial, raw.read(start, end, f"trial {trial.trial_id}"))


def _trigger_file(path: Path) -> Path:
    """The table of times that belongs to a raw file."""
    name = f"{path.stem}_trigger_info.csv"
    beside = path.with_name(name)
    return beside if beside.is_file() else path.parent.parent / "save_info" / name


def _edges_by_the_clock(path: Path, sfreq: float) -> list[int]:
    """Samples of starts and ends, from a table of codes (1 start, 2 end) and times of day."""
    began, table = _WRONG_TRIGGERS[path.stem], _trigger_file(path)
    edges = []
    with table.open(encoding="latin-1", newline="") as stream:
        for number, row in enumerate(csv.reader(stream), start=1):
            if not row:
                continue
            try:
                code, time = int(row[0]), datetime.fromisoformat(row[1].strip())
            except (IndexError, ValueError):
                code, time = 0, began
            if code != len(edges) % 2 + 1:
                raise ValueError(
                    f"{table}: line {number}: expected {len(edges) % 2 + 1} and a time as "
                    f"yyyy-mm-dd hh:mm:ss.ffffff, got {','.join(row)[:60]!r}."
                )
            edges.append(round((time - began).total_seconds() * sfreq))
    return edges


def _labels(folder: Path) -> Sequence[Sequence[int]]:
    """Class of each trial of each session."""
    for path in (folder / _ORDER_FILE, folder.parent / _ORDER_FILE):
        if path.is_file():
            break
    else:
        return _LABELS
    found = []
    for row in read_sheet(path):
        words = [cell.strip().casefold() for cell in row[1:] if re.search("[^\\W\\d]", cell)]
        if any(word in _CLASSES for word in words):
            unknown = [word for word in words if word not in _CLASSES]
            if unknown or len(words) != _TRIALS:
                raise ValueError(
                    f"{path}: expected rows of {_TRIALS} words out of {', '.join(_CLASSES)}, got "
                    f"{len(words)}{' with ' + ', '.join(unknown)[:80] if unknown else ''}."
                )
            found.append(tuple(_CLASSES.index(word) for word in words))
    counts = Counter(label for labels in found for label in labels)
    if len(found) != _SESSIONS or counts != Counter(label for row in _LABELS for label in row):
        raise ValueError(
            f"{path}: expected {_SESSIONS} rows with 12 trials of each emotion and 8 neutral, got "
            f"{len(found)} rows with {[counts[label] for label in range(len(_CLASSES))]} of "
            f"{', '.join(_CLASSES)}."
        )
    for session, (own, known) in enumerate(zip(found, _LABELS, strict=True), start=1):
        differ = [i + 1 for i in range(_TRIALS) if own[i] != known[i]]
        if differ:
            warnings.warn(
                f"{path}: the labels of session {session} are not those known here, at trial "
                f"{listed(differ)}; the file's are used.",
                UserWarning,
                stacklevel=3,
            )
    return found
