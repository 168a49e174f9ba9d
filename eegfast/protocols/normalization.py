# SPDX-License-Identifier: BSD-3-Clause
"""Normalisations of features ``(n, ..., n_chans, n_bands)``, each saying whose numbers it uses.

All have ``fit(features, groups)`` (called with the training side only) and
``transform(features, groups)``; ``name``, ``transductive`` and ``statement`` go into every report.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation per (channel, band); 1 where the deviation is 0."""
    axes = tuple(range(features.ndim - 2))
    std = features.std(axis=axes)
    return features.mean(axis=axes), np.where(std == 0, 1, std)


def _features(features: ArrayLike) -> np.ndarray:
    array = np.asarray(features)
    if array.ndim < 3 or array.size == 0:
        raise ValueError(
            "normalization: features must be (n, ..., n_chans, n_bands) and not empty, "
            f"got shape {array.shape}"
        )
    return array


class NoNormalization:
    """Features as they are."""

    name = "none"
    transductive = False
    statement = "Features are used as they are."

    def fit(self, features: ArrayLike, groups: ArrayLike | None = None) -> NoNormalization:
        """Do nothing."""
        return self

    def transform(self, features: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Return the features unchanged."""
        return _features(features)


class TrainZScore:
    """Zero mean and unit variance per channel and band, by the training side's numbers only.

    The statistics run over all leading axes (samples and windows) of what :meth:`fit` is given.
    """

    name = "train_zscore"
    transductive = False
    statement = (
        "Each feature is shifted and scaled by mean and standard deviation of the training "
        "subjects; nothing of the test subjects is used."
    )

    def fit(self, features: ArrayLike, groups: ArrayLike | None = None) -> TrainZScore:
        """Take mean and standard deviation from the training side.

        Parameters
        ----------
        features : array_like, shape (n, ..., n_chans, n_bands)
            Training features.
        groups : array_like, optional
            Not used.

        Returns
        -------
        TrainZScore
            Itself.
        """
        self.mean_, self.std_ = _moments(_features(features))
        return self

    def transform(self, features: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Shift and scale.

        Parameters
        ----------
        features : array_like, shape (n, ..., n_chans, n_bands)
            Features of either side.
        groups : array_like, optional
            Not used.

        Returns
        -------
        ndarray
            Same shape.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        """
        if not hasattr(self, "mean_"):
            raise RuntimeError(f"{type(self).__name__}: call fit with the training side first")
        return (_features(features) - self.mean_) / self.std_


class ChannelZScore(TrainZScore):
    """Zero mean and unit variance per channel of raw signals, by the training side's numbers only.

    For signals ``(n, n_chans, n_times)``; the statistics run over samples and time.
    """

    name = "channel_zscore"
    statement = (
        "Each channel is shifted and scaled by mean and standard deviation of the training side; "
        "nothing of the test side is used."
    )

    def fit(self, features: ArrayLike, groups: ArrayLike | None = None) -> ChannelZScore:
        """Take mean and standard deviation from the training side.

        Parameters
        ----------
        features : array_like, shape (n, n_chans, n_times)
            Training signals.
        groups : array_like, optional
            Not used.

        Returns
        -------
        ChannelZScore
            Itself; ``mean_`` and ``std_`` have shape (n_chans, 1).
        """
        signals = _features(features)
        axes = (*range(signals.ndim - 2), signals.ndim - 1)
        std = signals.std(axis=axes, keepdims=True)[0]
        self.mean_ = signals.mean(axis=axes, keepdims=True)[0]
        self.std_ = np.where(std == 0, 1, std)
        return self


class SubjectZScore:
    """Zero mean and unit variance per channel and band within each subject: **transductive**.

    Every subject, test subjects included, is normalised by its own unlabelled recordings, over all
    leading axes and over all its recordings together. No label is used, but the classifier can be
    applied only to a subject of whom recordings of every class are there. With one recording per
    class, the two recordings of a subject become mirror images about zero, so deciding about one is
    deciding about the other: it answers "which of the two is which".
    """

    name = "subject_zscore"
    transductive = True
    statement = (
        "Each feature is shifted and scaled within each subject, test subjects included, by that "
        "subject's own unlabelled recordings (transductive). No label is used, but recordings of "
        "all classes of a new subject must be at hand before the first decision."
    )

    def fit(self, features: ArrayLike, groups: ArrayLike | None = None) -> SubjectZScore:
        """Do nothing: no number is carried from the training side."""
        return self

    def transform(self, features: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Shift and scale within each subject.

        Parameters
        ----------
        features : array_like, shape (n, ..., n_chans, n_bands)
            Features. All recordings of a subject should be there: the result depends on them.
        groups : array_like, shape (n,)
            Subject of each entry of the first axis.

        Returns
        -------
        ndarray
            Same shape.

        Raises
        ------
        ValueError
            If ``groups`` is missing or has another length.
        """
        features = _features(features)
        names = np.asarray([] if groups is None else groups).astype(str)
        if names.shape != (len(features),):
            raise ValueError(
                f"SubjectZScore: groups must name the subject of each of the {len(features)} "
                f"entries, got shape {names.shape}"
            )
        result = np.empty(features.shape, np.result_type(features, np.float32))
        for name in np.unique(names):
            mean, std = _moments(features[names == name])
            result[names == name] = (features[names == name] - mean) / std
        return result


_ALL = (NoNormalization, TrainZScore, ChannelZScore, SubjectZScore)
NORMALIZATIONS = {cls.name: cls for cls in _ALL}


def make_normalization(name: str) -> NoNormalization | TrainZScore | SubjectZScore:
    """A fresh normalisation by name.

    Parameters
    ----------
    name : {"none", "train_zscore", "channel_zscore", "subject_zscore"}
        Which.

    Returns
    -------
    object
        With ``fit``, ``transform``, ``name``, ``transductive`` and ``statement``.

    Raises
    ------
    ValueError
        If there is no such normalisation.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(
            f"make_normalization: unknown name {name!r}; known: {', '.join(NORMALIZATIONS)}"
        )
    return NORMALIZATIONS[name]()
