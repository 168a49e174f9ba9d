# SPDX-License-Identifier: BSD-3-Clause
"""What all data sets of many trials have in common: a table of trials, read one at a time."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Dataset", "Trial", "TrialFeatures"]


@dataclass(frozen=True, eq=False)
class TrialFeatures:
    """Features of one trial, as a data set supplies them.

    Parameters
    ----------
    values : ndarray, shape (windows, n_chans, bands)
        float32 or float64, in the order of axes that all of eegfast uses, whatever the file's.
    ch_names : list of str
        Names of the channels.
    bands : dict
        Band name to (low, high) in hertz, in the order of the last axis.
    feature : str
        The data set's own name of the feature, such as ``"de_LDS"``.
    window : float
        Seconds per window; they do not overlap.
    subject_id, session_id : str
        Whose, and which visit.
    trial_id : int
        Number of the trial within the session, from 1.
    label : int
        Class number, from 0.
    class_names : tuple of str
        Names of the classes.
    source : str
        The file it came from.
    """

    values: np.ndarray
    ch_names: list[str]
    bands: dict[str, tuple[float, float]]
    feature: str
    window: float
    subject_id: str
    session_id: str
    trial_id: int
    label: int
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self):
        expected = (len(self.ch_names), len(self.bands))
        if self.values.ndim != 3 or self.values.shape[1:] != expected:
            raise ValueError(
                f"TrialFeatures: values must be (windows, {expected[0]} channels, "
                f"{expected[1]} bands), got {self.values.shape}."
            )


@dataclass(frozen=True)
class Trial:
    """A row of a data set's table.

    Parameters
    ----------
    subject_id, session_id : str
        Two digits, and one: text order is numeric order.
    trial_id : int
        From 1, within the session.
    label : int
        Class number, from 0.
    path : Path
        The file that holds the trial.
    key : object
        Where in the file: whatever the data set's reader needs, such as a variable's name.
    """

    subject_id: str
    session_id: str
    trial_id: int
    label: int
    path: Path
    key: object = None


class Dataset(Sequence, abc.ABC):
    """A folder as downloaded: a sequence of trials, each read when it is asked for.

    Opening lists files and checks names, counts and labels; it reads no signal. Items are
    `Recording` for signals and `TrialFeatures` for supplied features, in the order of subject,
    session and trial. A folder may hold a part of the data set: `missing` says what is not there.

    Attributes
    ----------
    name : str
        Of the data set, as in ``eegfast extract --dataset``.
    kind : str
        Which of the data set's forms: ``"preprocessed"``, ``"raw"`` or ``"features"``.
    root : Path
        The folder.
    class_names : tuple of str
        Names of the classes.
    trials : list of Trial
        The table.
    missing : list of str
        What the complete data set has and this folder does not, in words; empty if nothing.
    """

    name: str
    kind: str
    root: Path
    class_names: tuple[str, ...]
    trials: list[Trial]
    missing: list[str]

    @abc.abstractmethod
    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator:
        """Yield the item of each of a file's trials, in order, holding one at a time in memory."""

    def read(self, indices: Iterable[int]) -> Iterator:
        """Items by index, in the order given; neighbours from one file cost one opening.

        Parameters
        ----------
        indices : iterable of int
            Indices of trials.

        Yields
        ------
        Recording or TrialFeatures

        Raises
        ------
        ValueError
            If a file is damaged or does not hold what it should; the message names it.
        """
        chosen = [self.trials[i] for i in indices]
        start = 0
        for end in range(1, len(chosen) + 1):
            if end == len(chosen) or chosen[end].path != chosen[start].path:
                yield from self._read_file(chosen[start].path, chosen[start:end])
                start = end

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(self.read(range(*index.indices(len(self)))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: index {index} is out of range for {len(self)} trials.")
        return next(self.read([index % len(self)]))

    def __iter__(self) -> Iterator:
        return self.read(range(len(self)))

    @property
    def files(self) -> dict[Path, list[int]]:
        """Each file and the indices of its trials, in the order of the first of them."""
        found: dict[Path, list[int]] = {}
        for i, trial in enumerate(self.trials):
            found.setdefault(trial.path, []).append(i)
        return found

    @property
    def labels(self) -> np.ndarray:
        """Class number of each trial."""
        return np.array([trial.label for trial in self.trials], dtype=np.int64)

    @property
    def subjects(self) -> list[str]:
        """Subjects of whom there is a trial, in order."""
        return sorted({trial.subject_id for trial in self.trials})

    def __repr__(self) -> str:
        gaps = f", {len(self.missing)} things missing" if self.missing else ""
        return (
            f"<{type(self).__name__} {self.kind}: {len(self.subjects)} subjects, "
            f"{len(self.files)} files, {len(self)} trials{gaps}>"
        )
