# SPDX-License-Identifier: BSD-3-Clause
"""What a model answered on the test side of one split, and to whose samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eegfast.protocols import Samples
from eegfast.training.scores import answers_of, count_answers

UNITS = ("sample", "trial")
_SUM_TOLERANCE = 1e-2  # of probabilities rounded to bfloat16


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities for the tested samples of one split.

    Parameters
    ----------
    split : str
        Name of the split.
    samples : Samples
        Whose they are, and the truth.
    proba : array_like, shape (n, K)
        Probabilities of the classes ``0..K-1``. A row with NaN or an infinite value is no answer.
    leaks : bool
        Something of the test side was at hand in training.

    Raises
    ------
    ValueError
        If the probabilities are none, do not fit the samples, or a label is not below ``K``.
    """

    split: str
    samples: Samples
    proba: np.ndarray
    leaks: bool = False

    def __post_init__(self):
        proba = np.asarray(self.proba, dtype=np.float64)
        object.__setattr__(self, "proba", proba)
        n = len(self.samples)
        if proba.ndim != 2 or len(proba) != n or proba.shape[1] < 2:
            raise ValueError(
                f"{self.split}: expected probabilities of at least 2 classes for each of the {n} "
                f"samples, got shape {proba.shape}"
            )
        answered = proba[np.isfinite(proba).all(1)]
        if (answered < 0).any() or (abs(answered.sum(1) - 1) > _SUM_TOLERANCE).any():
            raise ValueError(
                f"{self.split}: expected probabilities, not negative and with the sum 1, got "
                f"values from {answered.min():g} and sums up to {answered.sum(1).max():g}"
            )
        if self.samples.label.max() >= proba.shape[1]:
            raise ValueError(
                f"{self.split}: there are {proba.shape[1]} classes, but a label "
                f"{self.samples.label.max()}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def answer(self) -> np.ndarray:
        """Class per sample; ``K`` where there is no answer."""
        return answers_of(self.proba)

    def trials(self) -> Answers:
        """One answer per trial: the mean of its samples' probabilities.

        Only the samples of this split count: where windows of one trial lie on both sides, those of
        the test side. A trial with a sample that got no answer gets none.
        """
        trial = self.samples.trial
        sums = np.zeros((len(self.samples.trials), self.proba.shape[1]))
        np.add.at(sums, trial, self.proba)
        return Answers(
            self.split, self.samples.trials, sums / np.bincount(trial)[:, None], self.leaks
        )


class AnswerTable:
    """The answers of all splits at one unit, one after the other.

    Parameters
    ----------
    answers : sequence of Answers
        One for each split, all with the same classes.
    unit : {"sample", "trial"}
        What is counted.

    Attributes
    ----------
    split, subject, session : ndarray of int, shape (n,)
        Number of the split, and index into ``subjects`` and ``sessions``.
    subjects, sessions : ndarray of str
        Names, in order; a session's is that of the subject and its own, ``"01/2"``.
    """

    def __init__(self, answers: Sequence[Answers], unit: str):
        if unit not in UNITS:
            raise ValueError(f"AnswerTable: unit must be one of {', '.join(UNITS)}, got {unit!r}")
        parts = [part.trials() if unit == "trial" else part for part in answers]
        self._n_outputs = parts[0].proba.shape[1]
        self._label = np.concatenate([part.samples.label for part in parts])
        self._answer = np.concatenate([part.answer for part in parts])
        self.split = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self.subjects, self.subject = np.unique(
            np.concatenate([part.samples.subject_id for part in parts]), return_inverse=True
        )
        self.sessions, self.session = np.unique(
            np.concatenate([part.samples.groups("session") for part in parts]), return_inverse=True
        )

    def counts(self, groups: np.ndarray | None = None) -> np.ndarray:
        """Tables of counts by group, see :func:`~eegfast.training.scores.count_answers`."""
        return count_answers(self._label, self._answer, self._n_outputs, groups)
