# SPDX-License-Identifier: BSD-3-Clause
"""Subject-wise splits. Every split is passed through :func:`check_split` before it is handed out.

The classes follow scikit-learn's splitter interface (``split(X, y, groups)``,
``get_n_splits(X, y, groups)``), so they also serve ``sklearn.model_selection.cross_val_score``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from eegfast.protocols.leakage import check_split


def _subjects(groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    if groups is None:
        raise ValueError("split: groups (the subject of each sample) must be given")
    names = np.asarray([str(group) for group in groups])
    if names.size == 0:
        raise ValueError("split: groups is empty")
    return names, np.unique(names)


def _deal(
    subjects: np.ndarray, n_folds: int, seed: int, names: np.ndarray, y: ArrayLike | None
) -> list[np.ndarray]:
    """Shuffle the subjects and deal them into folds, class by class when ``y`` is given."""
    order = np.random.default_rng(seed).permutation(subjects)
    if y is not None:
        classes = np.unique(np.asarray(y), return_inverse=True)[1]
        main_class = [np.bincount(classes[names == subject]).argmax() for subject in order]
        order = order[np.argsort(main_class, kind="stable")]
    return [order[i::n_folds] for i in range(n_folds)]


class SubjectKFold:
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
        names, subjects = _subjects(groups)
        if len(subjects) < self.n_splits:
            raise ValueError(
                f"SubjectKFold: {self.n_splits} folds need as many subjects, got {len(subjects)}"
            )
        if self.stratify and y is None:
            raise ValueError("SubjectKFold: stratify=True needs y")
        folds = _deal(subjects, self.n_splits, self.seed, names, y if self.stratify else None)
        for held_out in folds:
            inside = np.isin(names, held_out)
            train, test = np.flatnonzero(~inside), np.flatnonzero(inside)
            check_split(train, test, names)
            yield train, test


class LeaveOneSubjectOut:
    """Every subject tested alone, by a model trained on all others."""

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of subjects in ``groups``."""
        return len(_subjects(groups)[1])

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
        names, subjects = _subjects(groups)
        if len(subjects) < 2:
            raise ValueError("LeaveOneSubjectOut: needs at least 2 subjects, got 1")
        for subject in subjects:
            train, test = np.flatnonzero(names != subject), np.flatnonzero(names == subject)
            check_split(train, test, names)
            yield train, test


def hold_out_subjects(
    indices: ArrayLike, groups: ArrayLike, n_subjects: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Take whole subjects out of a training side, for validation.

    Parameters
    ----------
    indices : array_like of int
        The training side.
    groups : array_like, shape (n_samples,)
        Subject of each sample of the whole data set.
    n_subjects : int
        Subjects to take; 0 takes none.
    seed : int
        Seed of the draw.

    Returns
    -------
    train, validation : ndarray of int
        Ascending indices. ``validation`` is empty when ``n_subjects`` is 0.

    Raises
    ------
    ValueError
        If no subject would be left to train on, or ``n_subjects`` is negative.
    """
    indices = np.sort(np.asarray(indices))
    names, _ = _subjects(groups)
    subjects = np.unique(names[indices])
    if not 0 <= n_subjects < len(subjects):
        raise ValueError(
            f"hold_out_subjects: n_subjects must be between 0 and {len(subjects) - 1}, "
            f"got {n_subjects}"
        )
    if n_subjects == 0:
        return indices, indices[:0]
    taken = np.random.default_rng(seed).choice(subjects, n_subjects, replace=False)
    inside = np.isin(names[indices], taken)
    train, validation = indices[~inside], indices[inside]
    check_split(train, validation, names)
    return train, validation
