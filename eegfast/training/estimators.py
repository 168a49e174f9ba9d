# SPDX-License-Identifier: BSD-3-Clause
"""The two kinds of classifier that :func:`~eegfast.training.cross_validate` runs.

An estimator has ``fit(features, labels, *, validation, seed)`` and ``predict_proba(features)``.
Features are whole recordings ``(n_recordings, windows, n_chans, n_bands)``, already normalised;
probabilities are per *unit* of a recording, ``(n_recordings, n_units, n_outputs)``: a window for
the baseline, a sequence of windows for a network. ``history`` is the learning curve or ``None``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController
from torch import nn

from eegfast.training.fit import TrainingOptions, fit, predict_proba, seeded
from eegfast.training.sequences import cut_sequences


@functools.cache
def _blas_threads() -> ThreadpoolController:
    return ThreadpoolController()


class LogisticBaseline:
    """L2-regularised logistic regression on single windows.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty.
    """

    unit = "window"
    history = None

    def __init__(self, C: float = 0.01):
        self.C = C

    def fit(self, features, labels, *, validation=None, seed: int = 0) -> LogisticBaseline:
        """Fit to every window of the recordings; ``validation`` and ``seed`` are not used.

        Parameters
        ----------
        features : ndarray, shape (n_recordings, windows, n_chans, n_bands)
            Normalised features.
        labels : ndarray of int, shape (n_recordings,)
            Classes; all classes must occur.
        validation, seed
            Not used.

        Returns
        -------
        LogisticBaseline
            Itself.
        """
        n, windows = features.shape[:2]
        self.model_ = LogisticRegression(C=self.C, tol=1e-3, max_iter=1000)
        with _blas_threads().limit(limits=1):
            self.model_.fit(features.reshape(n * windows, -1), np.repeat(labels, windows))
        return self

    def predict_proba(self, features) -> np.ndarray:
        """Probabilities per window: ``(n_recordings, windows, n_outputs)``."""
        n, windows = features.shape[:2]
        return self.model_.predict_proba(features.reshape(n * windows, -1)).reshape(n, windows, -1)


class NetworkEstimator:
    """A network on sequences of windows, trained by :func:`~eegfast.training.fit`.

    Parameters
    ----------
    factory : callable
        Takes nothing and returns a fresh network ``(N, length, n_chans, n_bands)`` -> logits.
    n_outputs : int
        Classes.
    sequence_length : int
        Windows per sequence. Shorter recordings are zero-padded at their end.
    sequence_step : int, optional
        Windows between the starts of training sequences; default ``sequence_length``. Test
        sequences never overlap.
    options : TrainingOptions, optional
        Default: the published recipe.
    """

    unit = "sequence"

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        n_outputs: int,
        *,
        sequence_length: int,
        sequence_step: int | None = None,
        options: TrainingOptions | None = None,
    ):
        self.factory, self.n_outputs = factory, n_outputs
        self.sequence_length, self.sequence_step = sequence_length, sequence_step
        self.options = options or TrainingOptions()
        self.history: dict[str, list[float]] | None = None

    def _samples(self, features, labels, step: int | None) -> tuple[np.ndarray, np.ndarray]:
        sequences = cut_sequences(features, self.sequence_length, step, pad=True)
        flat = sequences.reshape(-1, *sequences.shape[2:])
        return flat, np.repeat(labels, sequences.shape[1])

    def fit(self, features, labels, *, validation=None, seed: int = 0) -> NetworkEstimator:
        """Draw weights and train.

        Parameters
        ----------
        features : ndarray, shape (n_recordings, windows, n_chans, n_bands)
            Normalised features of the training subjects.
        labels : ndarray of int, shape (n_recordings,)
            Classes.
        validation : (features, labels), optional
            Recordings of other training subjects.
        seed : int
            Of weights, order and dropout.

        Returns
        -------
        NetworkEstimator
            Itself; ``history`` holds the learning curve.
        """
        with seeded(seed):
            self.model_ = self.factory()
        if validation is not None:
            validation = self._samples(*validation, None)
        result = fit(
            self.model_,
            *self._samples(features, labels, self.sequence_step),
            n_outputs=self.n_outputs,
            options=self.options,
            validation=validation,
            seed=seed,
        )
        self.history = result.history
        return self

    def predict_proba(self, features) -> np.ndarray:
        """Probabilities per sequence: ``(n_recordings, n_sequences, n_outputs)``."""
        sequences = cut_sequences(features, self.sequence_length, pad=True)
        n, units = sequences.shape[:2]
        flat = sequences.reshape(n * units, *sequences.shape[2:])
        return predict_proba(self.model_, flat).reshape(n, units, -1)
