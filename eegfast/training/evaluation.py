# SPDX-License-Identifier: BSD-3-Clause
"""Cross-validation by subject. The leak check always runs; normalisation is fitted inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from eegfast.protocols import Samples, check_split, hold_out_subjects, make_normalization
from eegfast.training.answers import Answers
from eegfast.training.scores import answers_of, count_answers, intervals


@dataclass
class Evaluation:
    """Out-of-fold answers for every recording.

    Attributes
    ----------
    labels : ndarray of int, shape (n_recordings,)
        Truth.
    subjects : ndarray of str, shape (n_recordings,)
        Who was recorded.
    folds : ndarray of int, shape (n_recordings,)
        Fold in which a recording was tested.
    unit_proba : ndarray, shape (n_recordings, n_units, n_outputs)
        Probabilities per window or sequence, from a model that never saw the subject.
    unit : str
        What a unit is: ``"window"`` or ``"sequence"``.
    normalization : str
        Name of the normalisation.
    histories : list of dict
        Learning curve per fold; empty without curves.
    """

    labels: np.ndarray
    subjects: np.ndarray
    folds: np.ndarray
    unit_proba: np.ndarray = field(repr=False)
    unit: str
    normalization: str
    histories: list[dict[str, list[float]]] = field(default_factory=list, repr=False)

    @property
    def proba(self) -> np.ndarray:
        """Probabilities per recording: the mean over its units, ``(n_recordings, n_outputs)``."""
        return self.unit_proba.mean(1)

    @property
    def predictions(self) -> np.ndarray:
        """Class per recording; ``n_outputs``, which is wrong, where a probability is NaN."""
        return answers_of(self.proba)

    @property
    def _unit_right(self) -> np.ndarray:
        answers = answers_of(self.unit_proba.reshape(-1, self.unit_proba.shape[2]))
        return answers.reshape(self.unit_proba.shape[:2]) == self.labels[:, None]

    @property
    def accuracy(self) -> float:
        """Share of recordings answered right after pooling their units."""
        return float((self.predictions == self.labels).mean())

    @property
    def unit_accuracy(self) -> float:
        """Share of single units answered right. Units of one recording are not independent."""
        return float(self._unit_right.mean())

    def per_subject(self) -> dict[str, dict[str, float]]:
        """Accuracies of each subject: ``{"01": {"accuracy": 1.0, "unit_accuracy": 0.93}, ...}``."""
        right = self.predictions == self.labels
        unit_right = self._unit_right
        return {
            str(subject): {
                "accuracy": float(right[self.subjects == subject].mean()),
                "unit_accuracy": float(unit_right[self.subjects == subject].mean()),
            }
            for subject in np.unique(self.subjects)
        }

    def _counts(self, groups: ArrayLike | None = None) -> np.ndarray:
        return count_answers(self.labels, self.predictions, self.unit_proba.shape[2], groups)

    def interval(self, level: float = 0.95, n_draws: int = 10_000) -> tuple[float, float]:
        """Percentile bootstrap of the accuracy per recording, drawing subjects, not recordings.

        It says how far the accuracy depends on who was recorded. It does not cover what another
        training run or another deal of the folds would change.
        """
        subjects = np.unique(self.subjects, return_inverse=True)[1]
        low, high = intervals(self._counts(subjects), level, n_draws=n_draws)["accuracy"]
        return float(low), float(high)

    def confusion(self) -> np.ndarray:
        """Counts of recordings, truth along the rows: ``(n_outputs, n_outputs)``."""
        return self._counts()[0, :, :-1]

    def answers(self) -> list[Answers]:
        """The answers fold by fold, as :func:`~eegfast.training.score` takes them.

        A recording is a trial here, and its units are the samples.
        """
        n_units, n_outputs = self.unit_proba.shape[1:]
        return [
            Answers(
                f"fold {fold + 1}",
                Samples(
                    np.repeat(self.subjects[rows], n_units),
                    np.repeat("1", len(rows) * n_units),
                    np.repeat(rows, n_units),
                    np.repeat(self.labels[rows], n_units),
                ),
                self.unit_proba[rows].reshape(-1, n_outputs),
            )
            for fold in np.unique(self.folds)
            for rows in [np.flatnonzero(self.folds == fold)]
        ]


@dataclass
class PreparedFold:
    """One checked, normalised fold: indices of the three sides and all features, scaled.

    Attributes
    ----------
    train, validation, test : ndarray of int
        Recordings. ``validation`` may be empty.
    features : dict of str to ndarray
        Normalised features of each side, under the same names.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    features: dict[str, np.ndarray] = field(repr=False)


def prepare_folds(
    features: ArrayLike,
    labels: ArrayLike,
    subjects: ArrayLike,
    *,
    protocol,
    normalization: str = "train_zscore",
    n_validation_subjects: int = 0,
    seed: int = 0,
) -> list[PreparedFold]:
    """Split by subject, check every split, and normalise with the training side's numbers.

    Parameters
    ----------
    features, labels, subjects, protocol, normalization, n_validation_subjects, seed
        As :func:`cross_validate` takes them.

    Returns
    -------
    list of PreparedFold
        In the protocol's order; every recording is tested once.

    Raises
    ------
    LeakageError
        If a subject is on two sides of a fold.
    ValueError
        If lengths disagree, features are not finite, or a recording is tested never or twice.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    subjects = np.asarray(subjects).astype(str)
    n = len(features)
    if features.ndim != 4 or labels.shape != (n,) or subjects.shape != (n,):
        raise ValueError(
            "cross_validate: expected features (n, windows, n_chans, n_bands) with n labels and n "
            f"subjects, got {features.shape}, {labels.shape}, {subjects.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("cross_validate: features hold NaN or infinite values")
    folds = []
    for i, (side, test) in enumerate(protocol.split(features, labels, subjects)):
        check_split(side, test, subjects)
        train, held = hold_out_subjects(side, subjects, n_validation_subjects, seed + i)
        scaler = make_normalization(normalization).fit(features[train], subjects[train])
        sides = {"train": train, "validation": held, "test": test}
        scaled = {
            name: scaler.transform(features[index], subjects[index])
            for name, index in sides.items()
            if len(index)
        }
        folds.append(PreparedFold(**sides, features=scaled))
    if not folds:
        raise ValueError("cross_validate: the protocol gives no fold")
    times_tested = np.bincount(np.concatenate([fold.test for fold in folds]), minlength=n)
    if (times_tested != 1).any():
        raise ValueError("cross_validate: the protocol must test every recording exactly once")
    return folds


def run_folds(
    folds: list[PreparedFold],
    labels: ArrayLike,
    make_estimator: Callable[[], object],
    *,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, list[object]]:
    """Train and test one estimator per fold.

    Parameters
    ----------
    folds : list of PreparedFold
        From :func:`prepare_folds`.
    labels : array_like of int, shape (n_recordings,)
        Classes.
    make_estimator, seed, on_fold
        As :func:`cross_validate` takes them.

    Returns
    -------
    unit_proba : ndarray, shape (n_recordings, n_units, n_outputs)
        Out-of-fold probabilities.
    estimators : list
        The trained estimators.
    """
    labels = np.asarray(labels)
    estimators, answers = [], []
    for i, fold in enumerate(folds):
        validation = None
        if len(fold.validation):
            validation = (fold.features["validation"], labels[fold.validation])
        estimator = make_estimator()
        estimator.fit(
            fold.features["train"], labels[fold.train], validation=validation, seed=seed + i
        )
        answers.append(estimator.predict_proba(fold.features["test"]))
        estimators.append(estimator)
        if on_fold is not None:
            on_fold(i)
    unit_proba = np.empty((len(labels), *answers[0].shape[1:]))
    for fold, answer in zip(folds, answers, strict=True):
        unit_proba[fold.test] = answer
    return unit_proba, estimators


def cross_validate(
    features: ArrayLike,
    labels: ArrayLike,
    subjects: ArrayLike,
    make_estimator: Callable[[], object],
    *,
    protocol,
    normalization: str = "train_zscore",
    n_validation_subjects: int = 0,
    seed: int = 0,
    on_fold: Callable[[int], None] | None = None,
) -> Evaluation:
    """Train and test on subject-wise folds.

    Parameters
    ----------
    features : array_like, shape (n_recordings, windows, n_chans, n_bands)
        Features of all recordings.
    labels : array_like of int, shape (n_recordings,)
        Classes from 0.
    subjects : array_like, shape (n_recordings,)
        Subject of each recording.
    make_estimator : callable
        Takes nothing and returns a fresh estimator (see :mod:`eegfast.training.estimators`).
    protocol : object
        With ``split(X, y, groups)``: :class:`~eegfast.protocols.SubjectKFold`,
        :class:`~eegfast.protocols.LeaveOneSubjectOut`, or a splitter of scikit-learn, whose
        splits are checked just the same.
    normalization : {"train_zscore", "subject_zscore", "none"}
        Fitted on the training subjects that are left after validation subjects are taken.
    n_validation_subjects : int
        Training subjects per fold that are set aside for the learning rate and early stopping.
    seed : int
        Fold ``i`` uses ``seed + i``.
    on_fold : callable, optional
        Called with the number of each finished fold.

    Returns
    -------
    Evaluation
        Out-of-fold answers, all recordings once.

    Raises
    ------
    LeakageError
        If a subject is on both sides of a split.
    ValueError
        If lengths disagree, features are not finite, or a recording is tested never or twice.
    """
    folds = prepare_folds(
        features,
        labels,
        subjects,
        protocol=protocol,
        normalization=normalization,
        n_validation_subjects=n_validation_subjects,
        seed=seed,
    )
    unit_proba, estimators = run_folds(folds, labels, make_estimator, seed=seed, on_fold=on_fold)
    tested_in = np.empty(len(unit_proba), int)
    for i, fold in enumerate(folds):
        tested_in[fold.test] = i
    return Evaluation(
        labels=np.asarray(labels),
        subjects=np.asarray(subjects).astype(str),
        folds=tested_in,
        unit_proba=unit_proba,
        unit=estimators[0].unit,
        normalization=normalization,
        histories=[e.history for e in estimators if e.history is not None],
    )
