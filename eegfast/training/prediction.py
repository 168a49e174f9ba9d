# SPDX-License-Identifier: BSD-3-Clause
"""What a pipeline answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a pipeline answers: one row per window.

    Attributes
    ----------
    proba : ndarray of float64, shape (windows, n_outputs)
        Probabilities. NaN where the window's features are not finite, as those of a flat channel.
    class_names : tuple of str
        Names of the classes.
    start, stop : ndarray of float64, shape (windows,)
        Seconds from the beginning of the recording.
    notes : tuple of str
        What should be known about these numbers.
    """

    proba: np.ndarray
    class_names: tuple[str, ...]
    start: np.ndarray
    stop: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.proba)

    @property
    def labels(self) -> np.ndarray:
        """Name of the most probable class of each window; empty where there is none."""
        answered = np.isfinite(self.proba).all(1)
        best = np.where(answered, np.nan_to_num(self.proba).argmax(1), len(self.class_names))
        return np.array([*self.class_names, ""])[best]

    @property
    def mean(self) -> np.ndarray:
        """Mean probabilities over the windows that have an answer; NaN if none has."""
        answered = self.proba[np.isfinite(self.proba).all(1)]
        return answered.mean(0) if len(answered) else np.full(len(self.class_names), np.nan)

    def rows(self) -> Iterator[dict[str, object]]:
        """Rows of a table: ``window, start_s, stop_s, predicted`` and ``p_<class>`` for each."""
        columns = [f"p_{name}" for name in self.class_names]
        for i, label in enumerate(self.labels):
            yield {
                "window": i,
                "start_s": float(self.start[i]),
                "stop_s": float(self.stop[i]),
                "predicted": str(label),
                **dict(zip(columns, self.proba[i].tolist(), strict=True)),
            }
