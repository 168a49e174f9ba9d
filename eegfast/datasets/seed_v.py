# SPDX-License-Identifier: BSD-3-Clause
"""SEED-V: 16 subjects, three sessions, five emotions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from eegfast.datasets._archives import read_npz_object
from eegfast.datasets._checks import by_subject, check_finite, choose
from eegfast.datasets._cnt import CntFile
from eegfast.datasets._layout import find_files, one_file_each
from eegfast.datasets._seed_family import BANDS
from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.datasets.dataset import Dataset, Trial, TrialFeatures
from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.recording import Recording

__all__ = ["SEEDV"]

_MOST_SUBJECTS = 16
_SESSIONS = ("1", "2", "3")
_TRIALS = 15
_LABELS = {
    "1": (4, 1, 3, 2, 0, 4, 1, 3, 2, 0, 4, 1, 3, 2, 0),
    "2": (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
    "3": (2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0),
}
_TIMES = {
    session: tuple(zip(map(int, start.split()), map(int, end.split()), strict=True))
    for session, start, end in (
        (
            "1",
            "30 132 287 555 773 982 1271 1628 1730 2025 2227 2435 2667 2932 3204",
            "102 228 524 742 920 1240 1568 1697 1994 2166 2401 2607 2901 3172 3359",
        ),
        (
            "2",
            "30 299 548 646 836 1000 1091 1392 1657 1809 1966 2186 2333 2490 2741",
            "267 488 614 773 967 1059 1331 1622 1777 1908 2153 2302 2428 2709 2817",
        ),
        (
            "3",
            "30 353 478 674 825 908 1200 1346 1451 1711 2055 2307 2457 2726 2888",
            "321 418 643 764 877 1147 1284 1418 1679 1996 2275 2425 2664 2857 3066",
        ),
    )
}
_TIMES_FILE = "trial_start_end_timestamp.txt"
_WINDOW = 4.0
_SFREQ = 1000.0


class SEEDV(Dataset):
    """SEED-V as downloaded: disgust, fear, sad, neutral, happy.

    16 subjects, 3 sessions of 15 trials. A session's number is its set of film clips, as in the
    files' names, not the order in which a subject came.

    Parameters
    ----------
    root : path-like
        The data set's folder, the one above it, or the one with the files themselves.
    kind : {"features", "raw"}, optional
        ``"features"``: ``EEG_DE_features/{subject}_123.npz``, differential entropy in windows of
        4 s, as `TrialFeatures`. ``"raw"``: ``EEG_raw/{subject}_{session}_{date}.cnt``, 1000 Hz, as
        `Recording` (float32), of which only the trials are read. Default: the first that is there.
    subjects, sessions : iterable of str or int, optional
        Which; default all.

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
        If an argument is none of the above, two files claim the same session, or the file of times
        is unreadable; and when a trial is read: if its file is damaged, would run code, holds
        another label, shape, rate or channels than SEED-V, or no plausible EEG.

    Notes
    -----
    Channels are the 62 of `SEED_CHANNELS`, by name: raw files have M1, M2, VEO and HEO among them.
    Times of raw trials come from ``trial_start_end_timestamp.txt`` in the folder or above it, else
    from the table in this file, which agrees with it. The ``.npz`` files hold pickles; they are
    read without running them.
    """

    name = "seed-v"
    class_names = ("disgust", "fear", "sad", "neutral", "happy")

    def __init__(
        self,
        root: str | Path,
        kind: str | None = None,
        *,
        subjects: Iterable[str | int] | None = None,
        sessions: Iterable[str | int] | None = None,
    ):
        chosen = choose("SEEDV: subjects", subjects, range(1, _MOST_SUBJECTS + 1))
        visits = [str(n) for n in choose("SEEDV: sessions", sessions, map(int, _SESSIONS))]
        self.root = Path(root)
        self.kind, folder, files = find_files(
            "SEEDV",
            root,
            kind,
            {
                "features": [("EEG_DE_features", "{subject}_123.npz", r"(\d{1,2})_123\.npz")],
                "raw": [
                    (
                        "EEG_raw",
                        "{subject}_{session}_{date}.cnt",
                        r"(\d{1,2})_([123])_\d{8}\.cnt",
                    )
                ],
            },
        )
        self._times = _times(folder)
        self._scaled = synthetic_scale(folder) is not None
        found = one_file_each(
            "SEEDV",
            (
                ((match[1].zfill(2), session), path)
                for path, match in files.items()
                for session in (match.groups()[1:] or _SESSIONS)
            ),
        )
        self.trials, lacks = [], []
        for subject in (f"{number:02d}" for number in chosen):
            absent = [session for session in visits if (subject, session) not in found]
            if absent:
                which = "" if len(absent) == len(visits) else f", session {', '.join(absent)}"
                lacks.append((int(subject), f"{which}: no {self.kind} file"))
            for session in (session for session in visits if session not in absent):
                path = found[subject, session]
                self.trials += [
                    Trial(subject, session, i + 1, label, path)
                    for i, label in enumerate(_LABELS[session])
                ]
        self.missing = by_subject(lacks)

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        return self._features(path, trials) if self.kind == "features" else self._raw(path, trials)

    def _raw(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        with CntFile(path, _SFREQ) as raw:
            for trial in trials:
                start, end = self._times[trial.session_id][trial.trial_id - 1]
                samples = round(start * _SFREQ), round(end * _SFREQ)
                yield Recording(
                    raw.read(*samples, f"trial {trial.trial_id}"),
                    _SFREQ,
                    list(SEED_CHANNELS),
                    subject_id=trial.subject_id,
                    session_id=trial.session_id,
                    trial_id=trial.trial_id,
                    label=trial.label,
                    class_names=self.class_names,
                    source=str(path),
                )

    def _features(self, path: Path, trials: Sequence[Trial]) -> Iterator[TrialFeatures]:
        values, labels = (_numbered(path, name) for name in ("data", "label"))
        for trial in trials:
            where = f"{path}: session {trial.session_id}, trial {trial.trial_id}"
            number = _TRIALS * _SESSIONS.index(trial.session_id) + trial.trial_id - 1
            self._check(where, values[number], labels[number], trial)
            yield TrialFeatures(
                values[number].reshape(-1, len(SEED_CHANNELS), len(BANDS)),
                list(SEED_CHANNELS),
                dict(BANDS),
                "de",
                _WINDOW,
                trial.subject_id,
                trial.session_id,
                trial.trial_id,
                trial.label,
                self.class_names,
                str(path),
            )

    def _check(self, where: str, values, labels, trial: Trial) -> None:
        width = len(SEED_CHANNELS) * len(BANDS)
        shape = getattr(values, "shape", None)
        if shape is None or len(shape) != 2 or shape[1] != width or values.dtype.kind != "f":
            got = type(values).__name__ if shape is None else f"{values.dtype} of shape {shape}"
            raise ValueError(f"{where}: expected real numbers (windows, {width}), got {got}.")
        start, end = self._times[trial.session_id][trial.trial_id - 1]
        windows = int((end - start) // _WINDOW)
        if not self._scaled and abs(len(values) - windows) > 1:
            raise ValueError(f"{where}: expected {windows} windows of 4 s, got {len(values)}.")
        check_finite(where, values)
        if np.shape(labels) != (len(values),):
            raise ValueError(
                f"{where}: expected a label for each of {len(values)} windows, "
                f"got shape {np.shape(labels)}."
            )
        got = sorted(set(np.asarray(labels).tolist()))
        if got != [trial.label]:
            raise ValueError(
                f"{where}: expected label {trial.label} ({self.class_names[trial.label]}) for all "
                f"windows, got {', '.join(map(str, got))[:80]}."
            )


def _numbered(path: Path, name: str) -> dict:
    """A dict of the subject's 45 trials, numbered from 0 through all sessions."""
    found = read_npz_object(path, name)
    count = _TRIALS * len(_SESSIONS)
    if not isinstance(found, dict) or set(found) != set(range(count)):
        got = f"{len(found)} others" if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path}: {name}: expected a dict of trials 0 to {count - 1}, got {got}.")
    return found


def _times(folder: Path) -> dict[str, tuple[tuple[float, float], ...]]:
    """Start and end of each session's trials in seconds."""
    for path in (folder / _TIMES_FILE, folder.parent / _TIMES_FILE):
        if path.is_file():
            break
    else:
        return _TIMES
    with path.open(encoding="latin-1") as stream:
        text = stream.read(2**16)
    times = {}
    for session, start, end in re.findall(
        r"Session\s*(\d)\s*:?\s*start_second\s*:?\s*\[([^]]*)\]\s*end_second\s*:?\s*\[([^]]*)\]",
        text,
        re.IGNORECASE,
    ):
        seconds = [[float(s) for s in re.findall(r"\d+\.?\d*", part)] for part in (start, end)]
        edges = [edge for pair in zip(*seconds, strict=False) for edge in pair]
        if [len(part) for part in seconds] != [_TRIALS, _TRIALS] or edges != sorted(set(edges)):
            raise ValueError(
                f"{path}: session {session}: expected {_TRIALS} starts and ends, each later than "
                "the one before."
            )
        times[session] = tuple(zip(*seconds, strict=True))
    if sorted(times) != list(_SESSIONS):
        raise ValueError(
            f"{path}: expected start_second and end_second of sessions 1, 2 and 3, got "
            f"{', '.join(sorted(times)) or 'none'}."
        )
    return times
