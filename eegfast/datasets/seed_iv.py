# SPDX-License-Identifier: BSD-3-Clause
"""SEED-IV: 15 subjects, three sessions each, 24 film clips a session."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from eegfast.datasets._checks import choose, folders_below, listed
from eegfast.datasets._seed_family import (
    SFREQ,
    MatTrials,
    check_root,
    folders_by_kind,
    one_of,
    only,
    recordings_in,
    row_names,
)
from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.datasets.montage import SEED_CHANNELS

__all__ = ["SEEDIV"]

LABELS = {
    1: (1, 2, 3, 0, 2, 0, 0, 1, 0, 1, 2, 1, 1, 1, 2, 3, 2, 2, 3, 3, 0, 3, 0, 3),
    2: (2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1),
    3: (1, 2, 2, 1, 3, 3, 3, 1, 1, 2, 1, 0, 2, 3, 3, 0, 2, 3, 0, 0, 2, 0, 1, 0),
}
N_SUBJECTS = 15
_SUBJECTS = range(1, N_SUBJECTS + 1)
LONGEST = 64  # windows of 4 s
KINDS = ("preprocessed", "features")
FEATURES = ("de_movingAve", "de_LDS", "psd_movingAve", "psd_LDS")
_MOST_TEXT = 2**20


class SEEDIV(MatTrials):
    """SEED-IV as downloaded: a sequence of 1080 trials, or of those that are there.

    Items are `Recording` (62 channels, float32 microvolts, 200 Hz) or, of the supplied features,
    `TrialFeatures` with values of shape (windows of 4 s, 62, 5 bands).

    Parameters
    ----------
    root : path-like
        The folder with ``eeg_raw_data`` and ``eeg_feature_smooth``, one around it, or one of these
        two, in which are the sessions' folders ``1``, ``2``, ``3``.
    kind : {"preprocessed", "features"}, optional
        ``eeg_raw_data`` or ``eeg_feature_smooth``, told apart by what is in the files. Default: the
        first of them that is there.
    subjects, sessions : iterable of int or str, optional
        Which of those that are there; default all.
    feature : {"de_LDS", "de_movingAve", "psd_LDS", "psd_movingAve"}
        For ``kind="features"``.

    Attributes
    ----------
    name, kind, root, class_names, trials, missing
        As in `Dataset`; the classes are neutral, sad, fear, happy.
    feature : str
        As given.
    window : float
        Seconds per window of the supplied features: 4.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or nothing of the data set in it.
    ImportError
        If a .mat file is of version 7.3 and h5py is not installed.
    ValueError
        If an argument makes no sense, more than one folder could be meant, or a file or the labels
        are not what the data set has. The message names the file.

    Notes
    -----
    The lengths of the trials are not known to us; they must be from 4 s to 260 s, which no trial of
    the data set exceeds.

    References
    ----------
    Zheng W.-L. et al., "EmotionMeter: A Multimodal Framework for Recognizing Human Emotions", IEEE
    Transactions on Cybernetics 49(3), 2019.
    """

    name = "seed-iv"
    n_trials = 24
    class_names = ("neutral", "sad", "fear", "happy")
    window = 4.0

    def __init__(
        self,
        root: str | Path,
        kind: str | None = None,
        *,
        subjects: Iterable[str | int] | None = None,
        sessions: Iterable[str | int] | None = None,
        feature: str = "de_LDS",
    ):
        root = check_root("SEEDIV", root)
        if kind is not None:
            one_of("SEEDIV", "kind", kind, KINDS)
        self.feature = one_of("SEEDIV", "feature", feature, FEATURES)
        self.kind, self.root = _find(root, kind)
        self.trials, self.missing = [], []
        self._checks_lengths = synthetic_scale(self.root) is None
        self._check_labels()
        files = self._files(subjects is None)
        chosen = choose("SEEDIV: subjects", subjects, (subject for subject, *_ in files))
        visits = choose("SEEDIV: sessions", sessions, (session for _, session, _ in files))
        for subject, session, path in files:
            if subject in chosen and session in visits:
                self._add(subject, session, path, LABELS[session])

    def _files(self, note_subjects: bool) -> list[tuple[int, int, Path]]:
        """Subject, session and path of each recording; the session is the folder."""
        files = []
        for session in LABELS:
            folder = self.root / str(session)
            there = recordings_in(folder) if folder.is_dir() else []
            numbers = [subject for subject, *_ in there]
            if len(set(numbers)) < len(numbers) or not set(numbers) <= set(_SUBJECTS):
                raise ValueError(
                    f"{folder}: expected one file of each of subjects 1 to {N_SUBJECTS}, got "
                    f"{', '.join(path.name for *_, path in there)}."
                )
            absent = set(_SUBJECTS) - set(numbers)
            if not there:
                self.missing.append(f"session {session}")
            elif absent and note_subjects:
                self.missing.append(f"session {session}: subjects {listed(absent)}")
            files += [(subject, session, path) for subject, _, path in there]
        return sorted(files)

    def _check_labels(self) -> None:
        """Hold the labels in ReadMe.txt, beside the files or a folder up, against ours."""
        for path in _read_mes(self.root):
            with path.open("rb") as stream:
                text = stream.read(_MOST_TEXT).decode("latin-1")
            lists = re.findall(r"session\s*([1-3])_label\s*=\s*\[([^\]]*)\]", text, re.IGNORECASE)
            for session, listing in lists:
                got = tuple(int(number) for number in re.findall(r"-?\d{1,9}", listing))
                if got != LABELS[int(session)]:
                    raise ValueError(
                        f"{path}: expected the labels {_words(LABELS[int(session)])} of session "
                        f"{session}, got {_words(got)}."
                    )
            if lists:
                return
        self.missing.append("ReadMe.txt with the labels; they are the published ones")

    def _shape(self, session: int, trial: int) -> list:
        most = LONGEST + 1 if self._checks_lengths else None
        if self.kind == "features":
            return [len(row_names(self.feature)), (1, most), 5]
        seconds = int(self.window)
        n_times = int(SFREQ) * seconds
        return [len(SEED_CHANNELS), (n_times, most and n_times * most + 1)]


def _find(root: Path, kind: str | None) -> tuple[str, Path]:
    """Which kind of files there is, and the folder with the sessions' folders."""
    firsts = {}
    for folder in folders_below(root):
        for session in LABELS:
            files = recordings_in(folder / str(session)) if (folder / str(session)).is_dir() else []
            if files:
                firsts.setdefault(folder, files[0][2])
    found = folders_by_kind(firsts)
    for candidate in KINDS if kind is None else (kind,):
        if candidate in found:
            return candidate, only("SEEDIV", candidate, found[candidate])
    other = f" of the kinds {', '.join(found)}" if found else ""
    raise FileNotFoundError(
        f"SEEDIV: expected {kind or 'eeg_raw_data or eeg_feature_smooth'}: folders 1, 2, 3 with "
        f"files such as 1_20160518.mat in {root} or up to two folders below, "
        f"got {len(firsts)} such{other}."
    )


def _read_mes(folder: Path) -> list[Path]:
    return [
        path
        for place in (folder, folder.parent)
        for path in sorted(place.iterdir())
        if path.name.lower() == "readme.txt" and path.is_file()
    ]


def _words(numbers: Iterable[int]) -> str:
    return " ".join(map(str, list(numbers)[:30])) or "none"
