# SPDX-License-Identifier: BSD-3-Clause
"""What a protocol has to know of each sample: whose it is, from which session and trial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

LEVELS = ("subject", "session", "trial")


def _text(name: str, values: ArrayLike) -> np.ndarray:
    array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
    if array.dtype.kind not in "iuU":
        for value in array.ravel():
            if not isinstance(value, (str, int, np.integer)):
                raise ValueError(
                    f"Samples: {name} must be text or whole numbers, got {value!r}: "
                    "a sample that lacks one cannot be split safely"
                )
    return array.astype(str)


def _whole(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"Samples: {name} must hold whole numbers, got {array.dtype}")
    return array.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Samples:
    """One entry per sample (a window, a sequence or a whole trial), in the order of the features.

    A trial is known by subject, session and number: trial 3 of another session is another trial.

    Parameters
    ----------
    subject_id, session_id : array_like of str or int, shape (n,)
        Whose, and which visit; kept and compared as text.
    trial_id : array_like of int, shape (n,)
        Number of the trial within the session.
    label : array_like of int, shape (n,)
        Class number, from 0; one for all samples of a trial.

    Raises
    ------
    ValueError
        If the arrays are empty or not of one length, a value is missing or of the wrong kind, or a
        trial has two labels.

    Examples
    --------
    >>> samples = Samples(["01", "01", "01"], ["1", "1", "1"], [1, 1, 2], [0, 0, 2])
    >>> samples.trial
    array([0, 0, 1])
    >>> samples.groups("trial").tolist()
    ['01/1/1', '01/1/1', '01/1/2']
    """

    subject_id: np.ndarray
    session_id: np.ndarray
    trial_id: np.ndarray
    label: np.ndarray

    def __post_init__(self):
        columns = {
            "subject_id": _text("subject_id", self.subject_id),
            "session_id": _text("session_id", self.session_id),
            "trial_id": _whole("trial_id", self.trial_id),
            "label": _whole("label", self.label),
        }
        shapes = {column.shape for column in columns.values()}
        if len(shapes) > 1 or len(min(shapes)) != 1 or min(shapes) == (0,):
            listed = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise ValueError(
                f"Samples: expected four arrays of one length, at least 1, got {listed}"
            )
        for name, column in columns.items():
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        if self.label.min() < 0:
            raise ValueError(
                f"Samples: label must be a class number from 0, got {self.label.min()}"
            )
        differs = np.flatnonzero(self.label != self.label[self._first][self.trial])
        if len(differs):
            i = differs[0]
            other = self.label[self._first][self.trial[i]]
            raise ValueError(
                f"Samples: trial {self.groups('trial')[i]} (subject/session/trial) has the labels "
                f"{other} and {self.label[i]}; a trial has one"
            )

    @classmethod
    def from_trials(cls, trials: Iterable, windows: int | ArrayLike = 1) -> Samples:
        """Samples of a table of trials, or of the windows cut from it.

        Parameters
        ----------
        trials : iterable
            A data set of trials (whose table is used; no signal is read), or anything with
            ``subject_id``, ``session_id``, ``trial_id`` and ``label``: rows of such a table,
            recordings. Where none has a session, all are session 1.
        windows : int or array_like of int
            Windows of each trial, of all or one by one. Sample order is that of features put
            together trial after trial.

        Returns
        -------
        Samples
            ``sum(windows)`` entries.

        Raises
        ------
        ValueError
            If the counts do not fit the trials.
        """
        rows = list(getattr(trials, "trials", trials))
        counts = np.asarray(windows)
        if counts.ndim == 0:
            counts = np.full(len(rows), counts)
        if counts.shape != (len(rows),) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise ValueError(
                f"Samples: windows must be a count, or one for each of the {len(rows)} trials, "
                f"got {windows!r}"
            )
        sessions = [row.session_id for row in rows]
        if all(session is None for session in sessions):
            sessions = ["1"] * len(rows)
        index = np.repeat(np.arange(len(rows)), counts)
        columns = (
            [row.subject_id for row in rows],
            sessions,
            [row.trial_id for row in rows],
            [row.label for row in rows],
        )
        return cls(*(np.asarray(column, dtype=object)[index].tolist() for column in columns))

    @cached_property
    def _trial_codes(self) -> tuple[np.ndarray, np.ndarray]:
        columns = (self.subject_id, self.session_id, self.trial_id)
        codes = [np.unique(column, return_inverse=True)[1] for column in columns]
        key = codes[0]
        for code in codes[1:]:
            key = key * (code.max() + 1) + code
        _, first, trial = np.unique(key, return_index=True, return_inverse=True)
        return first, trial

    @property
    def _first(self) -> np.ndarray:
        return self._trial_codes[0]

    @property
    def trial(self) -> np.ndarray:
        """Which row of :attr:`trials` each sample belongs to, shape (n,)."""
        return self._trial_codes[1]

    @cached_property
    def trials(self) -> Samples:
        """The table of trials, in the order of subject, session and number."""
        return self.take(self._first)

    def take(self, indices: ArrayLike) -> Samples:
        """Samples by index, or by a boolean mask."""
        index = np.asarray(indices)
        return Samples(
            self.subject_id[index], self.session_id[index], self.trial_id[index], self.label[index]
        )

    def groups(self, level: str) -> np.ndarray:
        """Name of what each sample belongs to.

        Parameters
        ----------
        level : {"subject", "session", "trial"}
            ``"01"``, ``"01/1"`` or ``"01/1/3"``.

        Returns
        -------
        ndarray of str, shape (n,)
            Names that differ between subjects, sessions of a subject, trials of a session.
        """
        if level not in LEVELS:
            raise ValueError(f"groups: level must be one of {', '.join(LEVELS)}, got {level!r}")
        columns = (self.subject_id, self.session_id, self.trial_id.astype(str))
        parts = [column[self._first] for column in columns[: LEVELS.index(level) + 1]]
        return np.array(["/".join(row) for row in zip(*parts, strict=True)])[self.trial]

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        counts = [len(np.unique(self.groups(level))) for level in LEVELS]
        return "<Samples: {} of {} subjects, {} sessions, {} trials>".format(len(self), *counts)
