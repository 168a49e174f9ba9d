# SPDX-License-Identifier: BSD-3-Clause
"""Honest splits: by subject, by session. Papers' own are in ``published.py``.

``SubjectKFold`` and ``LeaveOneSubjectOut`` are also splitters of scikit-learn's interface
(``split(X, y, groups)``), since subjects are all that they need.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from eegfast.protocols.holdout import deal, names_of
from eegfast.protocols.leakage import check_split
from eegfast.protocols.protocol import Protocol, Split
from eegfast.protocols.samples import Samples

_SAME_CLIPS = (
    "Where all subjects watch the same clips, as in the SEED sets and DEAP, the clips are on both "
    "sides."
)


class SubjectKFold(Protocol):
    """K folds over subjects: every subject is tested once, never beside its own training data.

    Parameters
    ----------
    n_splits : int
        Folds, at least 2 and at most the number of subjects. Folds differ by at most one subject.
    seed : int
        Seed of the shuffle that deals subjects into folds.
    stratify : bool
        Deal subjects by their most frequent class, so that folds have alike class counts. Of use
        where each subject has one class (patients and controls).

    Raises
    ------
    ValueError
        If ``n_splits`` is below 2.

    Examples
    --------
    >>> groups = ["a", "a", "b", "b", "c", "c"]
    >>> for train, test in SubjectKFold(3, seed=0).split(groups, groups=groups):
    ...     print(sorted({groups[i] for i in test}))
    ['c']
    ['a']
    ['b']
    """

    name = "subject-k-fold"
    apart = "subject"
    mixes = f"Nothing of the tested subjects is trained on. {_SAME_CLIPS}"

    def __init__(self, n_splits: int = 6, seed: int = 0, stratify: bool = False):
        if n_splits < 2:
            raise ValueError(f"SubjectKFold: n_splits must be at least 2, got {n_splits}")
        self.n_splits, self.seed, self.stratify = n_splits, seed, stratify

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of folds."""
        return self.n_splits

    def split(
        self, X=None, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield index pairs.

        Parameters
        ----------
        X : ignored
            For scikit-learn's sake.
        y : array_like, shape (n_samples,), optional
            Classes; needed when ``stratify`` is set.
        groups : array_like, shape (n_samples,)
            Subject of each sample, compared as text.

        Yields
        ------
        train, test : ndarray of int
            Ascending indices.

        Raises
        ------
        ValueError
            If ``groups`` is missing, there are fewer subjects than folds, or ``stratify`` lacks
            ``y``.
        """
        names, subjects = names_of(groups)
        if len(subjects) < self.n_splits:
            raise ValueError(
                f"SubjectKFold: {self.n_splits} folds need as many subjects, got {len(subjects)}"
            )
        if self.stratify and y is None:
            raise ValueError("SubjectKFold: stratify=True needs y")
        folds = deal(subjects, self.n_splits, self.seed, names, y if self.stratify else None)
        for held_out in folds:
            inside = np.isin(names, held_out)
            train, test = np.flatnonzero(~inside), np.flatnonzero(inside)
            check_split(train, test, names)
            yield train, test

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        sides = self.split(None, trials.label, trials.subject_id)
        for i, (train, test) in enumerate(sides, 1):
            yield Split(f"fold {i}", train, test)


class LeaveOneSubjectOut(Protocol):
    """Every subject tested alone, by a model trained on all others."""

    name = "leave-one-subject-out"
    apart = "subject"
    mixes = f"Nothing of the tested subject is trained on. {_SAME_CLIPS}"

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of subjects in ``groups``."""
        return len(names_of(groups)[1])

    def split(
        self, X=None, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield index pairs, subjects in ascending order; arguments as :meth:`SubjectKFold.split`.

        Yields
        ------
        train, test : ndarray of int
            Ascending indices.

        Raises
        ------
        ValueError
            If ``groups`` is missing or has one subject only.
        """
        names, subjects = names_of(groups)
        if len(subjects) < 2:
            raise ValueError("LeaveOneSubjectOut: needs at least 2 subjects, got 1")
        for subject in subjects:
            train, test = np.flatnonzero(names != subject), np.flatnonzero(names == subject)
            check_split(train, test, names)
            yield train, test

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        for train, test in self.split(groups=trials.subject_id):
            yield Split(f"subject {trials.subject_id[test[0]]}", train, test)


def _sessions(given) -> tuple[str, ...]:
    given = (given,) if isinstance(given, (str, int)) else given
    return tuple(str(session) for session in given)


class _WithinSubject(Protocol):
    """Some sessions of a subject trained on, others tested, one subject at a time."""

    apart = "session"
    mixes = (
        "Training and test hold the same subject on different days. In SEED every session shows "
        "the same clips, so the clips are on both sides; in SEED-IV, SEED-V and SEED-VII each has "
        "its own."
    )

    def _by_subject(self, trials: Samples) -> Iterator[tuple[str, np.ndarray, list[str]]]:
        for subject in np.unique(trials.subject_id):
            rows = np.flatnonzero(trials.subject_id == subject)
            sessions = np.unique(trials.session_id[rows]).tolist()
            if len(sessions) < 2:
                raise ValueError(
                    f"{self.name}: needs at least 2 sessions of each subject, "
                    f"got {len(sessions)} of subject {subject}"
                )
            yield subject, rows, sessions


class LeaveOneSessionOut(_WithinSubject):
    """Within each subject, every session tested by a model trained on the subject's others."""

    name = "leave-one-session-out"

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        for subject, rows, sessions in self._by_subject(trials):
            for session in sessions:
                tested = trials.session_id[rows] == session
                yield Split(f"subject {subject}, session {session}", rows[~tested], rows[tested])


class CrossSession(_WithinSubject):
    """Within each subject, given sessions trained on and others tested, as time would have it.

    Parameters
    ----------
    train : str, int or sequence of them
        Sessions to train on.
    test : str, int or sequence of them, optional
        Sessions to test. Default: all others.

    Raises
    ------
    ValueError
        If no session is given or one is on both sides.
    """

    name = "cross-session"

    def __init__(self, train=("1", "2"), test=None):
        self.train, self.test = _sessions(train), None if test is None else _sessions(test)
        if not self.train or self.test == () or set(self.train) & set(self.test or ()):
            raise ValueError(
                "CrossSession: train and test must be different sessions, at least one each, "
                f"got {self.train} and {self.test}"
            )

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        for subject, rows, sessions in self._by_subject(trials):
            wanted = {*self.train, *(self.test or ())}
            if not wanted <= set(sessions):
                raise ValueError(
                    f"{self.name}: subject {subject} has the sessions {', '.join(sessions)}, "
                    f"but {', '.join(sorted(wanted - set(sessions)))} is asked for"
                )
            trained = np.isin(trials.session_id[rows], self.train)
            tested = ~trained if self.test is None else np.isin(trials.session_id[rows], self.test)
            yield Split(f"subject {subject}", rows[trained], rows[tested])
