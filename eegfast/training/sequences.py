# SPDX-License-Identifier: BSD-3-Clause
"""Recordings cut into the window sequences a network takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def cut_sequences(
    features: ArrayLike, length: int, step: int | None = None, *, pad: bool = False
) -> np.ndarray:
    """Cut each recording's windows into sequences.

    Parameters
    ----------
    features : array_like, shape (n_recordings, windows, ...)
        Features of recordings of one length.
    length : int
        Windows per sequence.
    step : int, optional
        Windows between the starts of neighbours; default ``length`` (no overlap).
    pad : bool
        Recordings shorter than ``length`` are filled up with zeros at their end, as
        ResAttentioNet's authors do, instead of being refused. Where recordings of different classes
        differ in length, the zeros tell the class.

    Returns
    -------
    ndarray, shape (n_recordings, n_sequences, length, ...)
        A read-only view. ``n_sequences = (windows - length) // step + 1``; windows behind the last
        whole sequence are left out.

    Raises
    ------
    ValueError
        If ``length`` or ``step`` is below 1, or recordings are shorter than ``length`` and ``pad``
        is not set.
    """
    features = np.asarray(features)
    step = length if step is None else step
    if length < 1 or step < 1:
        raise ValueError(f"cut_sequences: length and step must be at least 1: {length}, {step}")
    if pad and features.ndim >= 2 and features.shape[1] < length:
        missing = length - features.shape[1]
        features = np.pad(features, [(0, 0), (0, missing), *[(0, 0)] * (features.ndim - 2)])
    if features.ndim < 2 or features.shape[1] < length:
        raise ValueError(
            f"cut_sequences: sequences of {length} windows do not fit into features of shape "
            f"{features.shape} (recordings, windows, ...)"
        )
    views = np.lib.stride_tricks.sliding_window_view(features, length, axis=1)[:, ::step]
    return np.moveaxis(views, -1, 2)
