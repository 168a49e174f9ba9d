# SPDX-License-Identifier: BSD-3-Clause
"""What SEED and SEED-IV share: .mat files of one recording each, trials as variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from eegfast.datasets._checks import check_finite, check_microvolts, listed, span
from eegfast.datasets._mat import MatFile, open_mat
from eegfast.datasets.dataset import Dataset, Trial, TrialFeatures
from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.recording import Recording

__all__ = [
    "BANDS",
    "MatTrials",
    "SFREQ",
    "around",
    "check_root",
    "folders_by_kind",
    "one_of",
    "only",
    "recordings_in",
    "row_names",
]

SFREQ = 200.0
BANDS = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 14), "beta": (14, 31), "gamma": (31, 50)}
"""Bands of the supplied features, in hertz, in their order."""

_FILE = re.compile(r"(\d{1,2})_(\d{8})\.mat")
_SIGNAL = re.compile(r"[A-Za-z]\w*_eeg(\d{1,3})")
_SUPPLIED = re.compile(r"(?:de|psd|dasm|rasm|asm|dcau)_(?:movingAve|LDS)\d{1,3}")

_LEFT = [name for name in SEED_CHANNELS if name[-1] in "1357"]
_CAUDAL = (
    "FT7-TP7 FC5-CP5 FC3-CP3 FC1-CP1 FCZ-CPZ FC2-CP2 FC4-CP4 FC6-CP6 FT8-TP8 F7-P7 F5-P5 F3-P3 "
    "F1-P1 FZ-PZ F2-P2 F4-P4 F6-P6 F8-P8 FP1-O1 FP2-O2 FPZ-OZ AF3-CB1 AF4-CB2"
).split()


def row_names(feature: str) -> list[str]:
    """Names of the rows of a supplied feature.

    Parameters
    ----------
    feature : str
        Such as ``"de_LDS"`` or ``"dasm_movingAve"``.

    Returns
    -------
    list of str
        The channels; for ``dasm`` and ``rasm`` 27 pairs left-right, for ``dcau`` 23 pairs
        front-back.

    Notes
    -----
    The data set says which pairs there are, but nowhere that we know of in which order: pairs
    left-right are named in the order of their left electrode, pairs front-back in that of the list
    of Duan, Zhu and Lu (2013). Whoever needs to be sure compares a ``dasm`` with the differences of
    its ``de``.
    """
    kind = feature.partition("_")[0]
    if kind in ("dasm", "rasm"):
        return [f"{name}-{name[:-1]}{int(name[-1]) + 1}" for name in _LEFT]
    if kind == "dcau":
        return list(_CAUDAL)
    return list(SEED_CHANNELS)


def recordings_in(folder: Path) -> list[tuple[int, str, Path]]:
    """Subject, date and path of each .mat file of a recording, in that order."""
    found = []
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match and path.is_file():
            found.append((int(match[1]), match[2], path))
    return sorted(found)


def holds(path: Path) -> str | None:
    """Whether a .mat file holds ``"preprocessed"`` signals or ``"features"``, if either."""
    with open_mat(path) as mat:
        if any(_SIGNAL.fullmatch(name) for name in mat.variables):
            return "preprocessed"
        if any(_SUPPLIED.fullmatch(name) for name in mat.variables):
            return "features"
    return None


def one_of(name: str, argument: str, value: str, allowed: Sequence[str]) -> str:
    """A value that must be one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: {argument} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def folders_by_kind(folders: dict[Path, Path]) -> dict[str, list[Path]]:
    """Folders by what a file of theirs, which is opened, holds."""
    found: dict[str, list[Path]] = {}
    for folder, file in folders.items():
        kind = holds(file)
        if kind is not None:
            found.setdefault(kind, []).append(folder)
    return found


def only(name: str, kind: str, folders: Sequence[Path]) -> Path:
    """The one folder of a kind; more are an error."""
    if len(folders) > 1:
        raise ValueError(
            f"{name}: more than one folder holds {kind}: {', '.join(map(str, folders))}; "
            "make root one of them."
        )
    return folders[0]


def check_root(name: str, root: str | Path) -> Path:
    """The folder as a path; it must be there."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {root}.")
    return root


class MatTrials(Dataset):
    """Reads trials that are variables of .mat files; subclasses find and name them."""

    n_trials: int
    feature: str
    window: float

    def _shape(self, session: int, trial: int) -> list:
        """The shape that a trial's variable should have, in the form of `MatFile.read`."""
        raise NotImplementedError

    def _add(self, subject: int, session: int, path: Path, labels: Sequence[int]) -> None:
        """Add the trials of one file to the table, and what it lacks to `missing`."""
        with open_mat(path) as mat:
            names = self._names(mat)
            for number, name in names.items():
                mat.check(name, self._shape(session, number))
        absent = set(range(1, self.n_trials + 1)) - set(names)
        if absent:
            self.missing.append(f"{path.name} of session {session}: trials {listed(absent)}")
        for number in sorted(names):
            label = labels[number - 1]
            self.trials.append(
                Trial(f"{subject:02d}", str(session), number, label, path, names[number])
            )

    def _names(self, mat: MatFile) -> dict[int, str]:
        """Number of the trial to variable."""
        if self.kind == "preprocessed":
            pattern, described = _SIGNAL, "<initials>_eeg"
        else:
            pattern, described = re.compile(re.escape(self.feature) + r"(\d{1,3})"), self.feature
        names: dict[int, str] = {}
        for name in mat.variables:
            match = pattern.fullmatch(name)
            if match:
                number = int(match[1])
                if number in names:
                    raise ValueError(
                        f"{mat.path}: expected one variable of trial {number}, got "
                        f"{names[number]} and {name}."
                    )
                names[number] = name
        if not names or not set(names) <= set(range(1, self.n_trials + 1)):
            raise ValueError(
                f"{mat.path}: expected variables {described}1 to {described}{self.n_trials}, "
                f"got {'trials ' + listed(names) if names else mat.listed()}."
            )
        return names

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        read = self._recording if self.kind == "preprocessed" else self._features
        with open_mat(path) as mat:
            for trial in trials:
                yield read(mat, trial)

    def _about(self, trial: Trial) -> dict:
        return {
            "subject_id": trial.subject_id,
            "session_id": trial.session_id,
            "trial_id": trial.trial_id,
            "label": trial.label,
            "class_names": self.class_names,
            "source": str(trial.path),
        }

    def _recording(self, mat: MatFile, trial: Trial) -> Recording:
        signal = mat.read(trial.key, self._shape(int(trial.session_id), trial.trial_id), np.float32)
        check_microvolts(f"{mat.path}: variable {trial.key}", signal)
        return Recording(signal, SFREQ, list(SEED_CHANNELS), **self._about(trial))

    def _features(self, mat: MatFile, trial: Trial) -> TrialFeatures:
        values = mat.read(trial.key, self._shape(int(trial.session_id), trial.trial_id), np.float64)
        check_finite(f"{mat.path}: variable {trial.key}", values)
        return TrialFeatures(
            np.ascontiguousarray(values.transpose(1, 0, 2)),
            row_names(self.feature),
            dict(BANDS),
            self.feature,
            self.window,
            **self._about(trial),
        )

    def _feature_shape(self, windows: tuple[int, int | None]) -> list:
        return [len(row_names(self.feature)), windows, len(BANDS)]


def around(seconds: int, per_second: int, extra: int = 0) -> tuple[int, int]:
    """A length that may be off by a second.

    Copies of the data differ by the first sample or a part of a second at the end. Trials that
    follow each other differ by more, so trials in a wrong order still stand out.
    """
    return span(seconds * per_second + extra, per_second)
