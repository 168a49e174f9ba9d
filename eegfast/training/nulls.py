# SPDX-License-Identifier: BSD-3-Clause
"""What scores would be if labels meant nothing: two label-permutation nulls.

Both permute labels *within* each subject (with one recording per class: swap or not), or within
each session where there are several, because under the null hypothesis a subject's recordings are
exchangeable among themselves, while recordings of different subjects are not. Shuffling windows, or
labels across subjects, would break the dependence between the windows of a recording and give a
null far too narrow.

* :func:`refit_null` permutes, then runs the whole cross-validation again. This is the right null
  for "the procedure finds nothing", since training labels carry the permutation too.
* :func:`swap_null`, and :func:`swap_nulls` for answers from anywhere, keep the trained models and
  permute the labels their out-of-fold answers are compared with. Within one fold it is exact given
  the trained model, as nothing tested was trained on. Across folds it ignores that each model was
  trained on the others' test labels, so its spread is an approximation. It costs nothing and
  serves where re-training is too dear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eegfast.training.evaluation import Evaluation, prepare_folds, run_folds
from eegfast.training.scores import METRICS, scores


@dataclass
class NullResult:
    """A score under permuted labels.

    Attributes
    ----------
    kind : {"refit", "swap"}
        How they were made.
    observed : float
        Score with the true labels; for an ``Evaluation``, accuracy per recording.
    values : ndarray, shape (n_permutations,)
        The same score under each permutation.
    """

    kind: str
    observed: float
    values: np.ndarray

    @property
    def p_value(self) -> float:
        """``(1 + permutations that score as high) / (1 + permutations)``; never 0."""
        beaten = np.sum(self.values >= self.observed - 1e-12)
        return float((1 + beaten) / (1 + len(self.values)))

    def summary(self) -> dict[str, object]:
        """Plain values for a report.

        Returns
        -------
        dict
            ``kind``, ``n_permutations``, ``mean``, ``p95`` (95th percentile), ``p_value``, and the
            distribution itself as ``levels`` (scores) and ``counts``.
        """
        levels, counts = np.unique(self.values.round(9), return_counts=True)
        return {
            "kind": self.kind,
            "n_permutations": len(self.values),
            "mean": float(self.values.mean()),
            "p95": float(np.quantile(self.values, 0.95)),
            "p_value": self.p_value,
            "levels": levels.tolist(),
            "counts": counts.tolist(),
        }


def permute_within(labels: ArrayLike, groups: ArrayLike, rng: np.random.Generator) -> np.ndarray:
    """Permute labels among the samples of each group.

    Parameters
    ----------
    labels, groups : array_like, shape (n,)
        Labels, and the group of each.
    rng : numpy.random.Generator
        Source of the permutation.

    Returns
    -------
    ndarray, shape (n,)
        Every group keeps its labels, in a random order.
    """
    labels = np.asarray(labels)
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    positions = np.argsort(codes, kind="stable")
    shuffled = np.lexsort((rng.random(len(labels)), codes))
    result = np.empty_like(labels)
    result[positions] = labels[shuffled]
    return result


def swap_nulls(
    labels: ArrayLike,
    answers: ArrayLike,
    groups: ArrayLike,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, NullResult]:
    """Null of fixed answers, for every score: labels move between the trials of a group.

    Parameters
    ----------
    labels : array_like of int, shape (n_trials,)
        Truth.
    answers : array_like of int, shape (n_trials, K + 1)
        How often each class was answered in a trial, last how often none was. A trial's windows
        stay together, as their label moves with the trial.
    groups : array_like, shape (n_trials,)
        Within what labels are exchangeable: the session, and the split it was tested in.
    n_permutations : int
        Permutations, at least 1.
    seed : int
        Of the permutations; the same seed permutes the same trials alike, whatever was answered.

    Returns
    -------
    dict of str to NullResult
        By the names of :data:`~eegfast.training.scores.METRICS`, with ``kind="swap"``.
    """
    labels, answers = np.asarray(labels), np.asarray(answers, dtype=np.float64)
    if n_permutations < 1:
        raise ValueError(f"swap_nulls: n_permutations must be at least 1, got {n_permutations}")
    rng = np.random.default_rng(seed)

    def scored(permuted: np.ndarray) -> dict[str, np.ndarray]:
        rows = [(permuted == k) @ answers for k in range(answers.shape[1] - 1)]
        return scores(np.stack(rows, axis=-2))

    observed = scored(labels[None])
    found = []
    for start in range(0, n_permutations, 1000):
        n = min(1000, n_permutations - start)
        found.append(scored(np.stack([permute_within(labels, groups, rng) for _ in range(n)])))
    return {
        name: NullResult(
            "swap", float(observed[name][0]), np.concatenate([part[name] for part in found])
        )
        for name in METRICS
    }


def swap_null(evaluation: Evaluation, n_permutations: int = 10_000, seed: int = 0) -> NullResult:
    """Null of fixed out-of-fold answers (see the module's text), for accuracy per recording.

    Parameters
    ----------
    evaluation : Evaluation
        Answers to judge.
    n_permutations : int
        Permutations, at least 1.
    seed : int
        Of the permutations.

    Returns
    -------
    NullResult
        With ``kind="swap"``.
    """
    answers = np.eye(evaluation.unit_proba.shape[2] + 1)[evaluation.predictions]
    nulls = swap_nulls(evaluation.labels, answers, evaluation.subjects, n_permutations, seed)
    return nulls["accuracy"]


def refit_null(
    evaluation: Evaluation,
    features: ArrayLike,
    make_estimator: Callable[[], object],
    *,
    protocol,
    n_permutations: int = 199,
    n_validation_subjects: int = 0,
    seed: int = 0,
    on_permutation: Callable[[int], None] | None = None,
) -> NullResult:
    """Null of the whole procedure: permute, train and test anew (see the module's text).

    Parameters
    ----------
    evaluation : Evaluation
        What was reached with the true labels; labels, subjects and normalisation come from it.
    features : array_like, shape (n_recordings, windows, n_chans, n_bands)
        The features it was reached on.
    make_estimator, protocol, n_validation_subjects
        As given to :func:`~eegfast.training.cross_validate`.
    n_permutations : int
        Permutations, at least 1.
    seed : int
        Of permutations and training.
    on_permutation : callable, optional
        Called with the number of each finished permutation.

    Returns
    -------
    NullResult
        With ``kind="refit"``.
    """
    folds = prepare_folds(
        features,
        evaluation.labels,
        evaluation.subjects,
        protocol=protocol,
        normalization=evaluation.normalization,
        n_validation_subjects=n_validation_subjects,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    values = []
    for i in range(n_permutations):
        labels = permute_within(evaluation.labels, evaluation.subjects, rng)
        unit_proba, _ = run_folds(folds, labels, make_estimator, seed=seed)
        values.append((unit_proba.mean(1).argmax(1) == labels).mean())
        if on_permutation is not None:
            on_permutation(i)
    return NullResult("refit", evaluation.accuracy, np.asarray(values))
