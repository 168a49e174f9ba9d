# SPDX-License-Identifier: BSD-3-Clause
"""Scores of counted answers, their intervals by drawing subjects, and their label permutations.

Every score here is a function of a table of counts: truth along the rows, answers along the
columns ``0..K-1``, and a last column for samples that got no answer. So a bootstrap that draws
subjects adds up the tables of the drawn ones, and ten thousand tables are scored at once. The
definitions are scikit-learn's; what is undefined is NaN:

* the recall of a class that does not occur, the F1 and precision of one that neither occurs nor is
  answered; means over classes leave them out;
* kappa where truth and answers are all one class.

The precision of a class that occurs but is never answered is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "kappa")
CLASS_METRICS = ("precision", "recall", "f1")
METHODS = ("percentile", "bca")


def answers_of(proba: ArrayLike) -> np.ndarray:
    """Class of the largest probability; ``K`` where one is NaN or infinite, which is no answer.

    Parameters
    ----------
    proba : array_like, shape (n, K)
        Probabilities.

    Returns
    -------
    ndarray of int, shape (n,)
        ``0..K``. Of equal probabilities the first.
    """
    proba = np.asarray(proba)
    return np.where(np.isfinite(proba).all(1), proba.argmax(1), proba.shape[1])


def count_answers(
    labels: ArrayLike, answers: ArrayLike, n_outputs: int, groups: ArrayLike | None = None
) -> np.ndarray:
    """Count answers by truth, in each group.

    Parameters
    ----------
    labels : array_like of int, shape (n,)
        Truth, ``0..K-1``.
    answers : array_like of int, shape (n,)
        ``0..K``, where ``K`` is no answer.
    n_outputs : int
        ``K``.
    groups : array_like of int, shape (n,), optional
        Group of each sample, from 0. Default: all in one.

    Returns
    -------
    ndarray of int, shape (n_groups, K, K + 1)
        Truth along the rows.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    groups = np.zeros(len(labels), int) if groups is None else np.asarray(groups)
    shape = (int(groups.max(initial=0)) + 1, n_outputs, n_outputs + 1)
    cells = np.ravel_multi_index((groups, labels, answers), shape)
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return np.where(defined, values, 0).sum(-1) / defined.sum(-1)


def scores(counts: ArrayLike) -> dict[str, np.ndarray]:
    """Score tables of counts.

    Parameters
    ----------
    counts : array_like, shape (..., K, K) or (..., K, K + 1)
        Truth along the rows; a last column counts samples without an answer, which are wrong.

    Returns
    -------
    dict of str to ndarray
        :data:`METRICS`, each of shape (...), and :data:`CLASS_METRICS`, each (..., K).
    """
    counts = np.asarray(counts, dtype=np.float64)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    occurs = counts.sum(-1)
    answered = counts.sum(-2)[..., : counts.shape[-2]]
    n = occurs.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / occurs
        precision = np.where((answered == 0) & (occurs > 0), 0.0, right / answered)
        f1 = 2 * right / (occurs + answered)
        accuracy = right.sum(-1) / n
        by_chance = (occurs * answered).sum(-1) / n**2
        return {
            "accuracy": accuracy,
            "balanced_accuracy": _mean_of_defined(recall),
            "macro_f1": _mean_of_defined(f1),
            "weighted_f1": np.where(occurs > 0, f1 * occurs, 0).sum(-1) / n,
            "kappa": (accuracy - by_chance) / (1 - by_chance),
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }


def drawn_tables(counts: ArrayLike, n_draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Tables of counts of samples of subjects, drawn with replacement.

    Parameters
    ----------
    counts : array_like, shape (n_subjects, K, L)
        One table for each subject.
    n_draws : int
        How many times as many subjects as there are are drawn.
    seed : int
        The same seed draws the same subjects, whatever the counts are.

    Returns
    -------
    ndarray, shape (n_draws, K, L)
        Sums over the drawn subjects.
    """
    counts = np.asarray(counts, dtype=np.float64)
    n = len(counts)
    draws = np.random.default_rng(seed).integers(n, size=(n_draws, n))
    cells = draws + n * np.arange(n_draws)[:, None]
    times = np.bincount(cells.ravel(), minlength=n * n_draws).reshape(n_draws, n)
    return (times.astype(np.float64) @ counts.reshape(n, -1)).reshape(n_draws, *counts.shape[1:])


def _bca_levels(drawn: np.ndarray, observed: float, left_out: np.ndarray, levels: np.ndarray):
    """Levels of the quantiles that correct for bias and skew; as they are without any spread."""
    from scipy.special import ndtr, ndtri

    below = (np.mean(drawn < observed) + np.mean(drawn <= observed)) / 2
    gaps = left_out.mean() - left_out
    spread = np.sum(gaps**2)
    if not 0 < below < 1 or not spread > 0:
        return levels
    bias, skew = ndtri(below), np.sum(gaps**3) / (6 * spread**1.5)
    z = bias + ndtri(levels)
    return ndtr(bias + z / (1 - skew * z))


def intervals(
    counts: ArrayLike,
    level: float = 0.95,
    *,
    method: str = "percentile",
    n_draws: int = 10_000,
    seed: int = 0,
    minus: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """Bootstrap intervals of all scores, drawing subjects.

    They say how far a score depends on who was recorded. They do not cover what another training
    run or another deal of the splits would change, and with few subjects they are too narrow.

    Parameters
    ----------
    counts : array_like, shape (n_subjects, K, L)
        One table for each subject.
    level : float
        Between 0 and 1.
    method : {"percentile", "bca"}
        BCa corrects for bias and skew; where a score does not vary it is the percentile interval.
    n_draws, seed
        See :func:`drawn_tables`.
    minus : array_like, shape (n_subjects, K, L), optional
        Tables of another model on the same subjects: intervals are then of the difference, and each
        draw takes the same subjects from both.

    Returns
    -------
    dict of str to ndarray
        Low and high on the last axis, (2,) or (K, 2). NaN with one subject, or where the score is
        undefined. Draws in which it is undefined are left out.

    Raises
    ------
    ValueError
        If the level or method is none.
    """
    if not 0 < level < 1:
        raise ValueError(f"intervals: level must be between 0 and 1, got {level}")
    if method not in METHODS:
        raise ValueError(f"intervals: method must be one of {', '.join(METHODS)}, got {method!r}")
    tables = [np.asarray(counts, dtype=np.float64)]
    if minus is not None:
        tables.append(np.asarray(minus, dtype=np.float64))

    def scored(of) -> dict[str, np.ndarray]:
        first, *others = (scores(of(table)) for table in tables)
        return {name: value - sum(o[name] for o in others) for name, value in first.items()}

    drawn = scored(lambda table: drawn_tables(table, n_draws, seed))
    observed = scored(lambda table: table.sum(0))
    left_out = scored(lambda table: table.sum(0) - table)
    levels = np.array([(1 - level) / 2, (1 + level) / 2])
    result = {}
    for name, value in observed.items():
        result[name] = np.full((*value.shape, 2), np.nan)
        if len(tables[0]) < 2:
            continue
        for cell in np.ndindex(value.shape):
            draws = drawn[name][(slice(None), *cell)]
            draws = draws[~np.isnan(draws)]
            if np.isnan(value[cell]) or not len(draws):
                continue
            at = levels
            if method == "bca":
                others = left_out[name][(slice(None), *cell)]
                at = _bca_levels(draws, value[cell], others[~np.isnan(others)], levels)
            result[name][cell] = np.quantile(draws, at)
    return result
