# SPDX-License-Identifier: BSD-3-Clause
"""The check that refuses a split whose two sides share a subject or a trial."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class LeakageError(ValueError):
    """A split lets the training side see what it is tested on.

    Attributes
    ----------
    shared : list of str
        The subjects or trials found on both sides.
    """

    def __init__(self, message: str, shared: list[str]):
        super().__init__(message)
        self.shared = shared


class LeakageWarning(UserWarning):
    """A split that leaks was asked for by name: its scores say nothing about new trials."""


def as_indices(name: str, indices: ArrayLike, n: int) -> np.ndarray:
    """One side of a split as indices, from indices or a mask; refuse one that cannot be."""
    array = np.asarray(indices)
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"check_split: mask {name} has shape {array.shape}, expected ({n},)")
        array = np.flatnonzero(array)
    if array.size == 0:
        raise ValueError(f"check_split: {name} is empty")
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"check_split: {name} must be a 1-D array of indices or a boolean mask")
    if array.min() < 0 or array.max() >= n:
        raise ValueError(f"check_split: {name} has indices outside 0..{n - 1}")
    return array


def check_split(
    train: ArrayLike,
    test: ArrayLike,
    groups: ArrayLike,
    *,
    trials: ArrayLike | None = None,
    what: str = "subject",
) -> None:
    """Refuse a split whose two sides meet.

    Parameters
    ----------
    train, test : array_like of int or bool
        Indices into ``groups``, or boolean masks of its length.
    groups : array_like, shape (n_samples,)
        Subject of each sample. No sample may lack one (``None`` or NaN).
    trials : array_like, shape (n_samples,), optional
        Trial (recording) of each sample, unique over the data set. When given, trials that lie on
        both sides are refused too.
    what : str
        What a group is, for the message.

    Raises
    ------
    LeakageError
        If a group or a trial is on both sides. The message names them, ``shared`` lists them.
    ValueError
        If a side is empty, an index is out of range, or a sample has no group.

    Examples
    --------
    >>> check_split([0, 1], [2], ["anna", "anna", "ben"])
    >>> check_split([0], [1, 2], ["anna", "anna", "ben"])
    Traceback (most recent call last):
    ...
    eegfast.protocols.leakage.LeakageError: 1 subject on both sides of the split: anna
    """
    columns = [(what, np.asarray(groups, dtype=object))]
    n = len(columns[0][1])
    if trials is not None:
        columns.append(("trial", np.asarray(trials, dtype=object)))
    train, test = as_indices("train", train, n), as_indices("test", test, n)
    for name, column in columns:
        if column.shape != (n,):
            raise ValueError(f"check_split: {name}s have shape {column.shape}, expected ({n},)")
        if any(value is None or value != value for value in column):
            raise ValueError(
                f"check_split: some samples have no {name}, so no split can be checked"
            )
        shared = sorted({str(value) for value in column[train]} & {str(v) for v in column[test]})
        if shared:
            listed = ", ".join(shared[:10]) + (", ..." if len(shared) > 10 else "")
            plural = "s" if len(shared) > 1 else ""
            raise LeakageError(
                f"{len(shared)} {name}{plural} on both sides of the split: {listed}", shared
            )
