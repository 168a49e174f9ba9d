# SPDX-License-Identifier: BSD-3-Clause
"""Groups of samples: dealt into folds, or some of them held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from eegfast.protocols.leakage import check_split


def names_of(groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Group of each sample as text, and the groups there are."""
    if groups is None:
        raise ValueError("split: groups (the subject of each sample) must be given")
    names = np.asarray([str(group) for group in groups])
    if names.size == 0:
        raise ValueError("split: groups is empty")
    return names, np.unique(names)


def deal(
    groups: np.ndarray,
    n_folds: int,
    seed: int | list[int],
    names: np.ndarray,
    y: ArrayLike | None = None,
) -> list[np.ndarray]:
    """Shuffle the groups and deal them into folds, class by class when ``y`` is given."""
    order = np.random.default_rng(seed).permutation(groups)
    if y is not None:
        classes = np.unique(np.asarray(y), return_inverse=True)[1]
        main_class = [np.bincount(classes[names == group]).argmax() for group in order]
        order = order[np.argsort(main_class, kind="stable")]
    return [order[i::n_folds] for i in range(n_folds)]


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
    names, _ = names_of(groups)
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
