# SPDX-License-Identifier: BSD-3-Clause
"""From answers to results: scores at two units, overall, by split, session and subject.

A *sample* is what the network takes, a window or a sequence of windows; a *trial* is answered by
the mean probability of its samples. Samples of a trial are not independent, so the trial is the
unit to compare by, and intervals draw subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eegfast.protocols import Samples
from eegfast.training.answers import UNITS, Answers, AnswerTable
from eegfast.training.nulls import swap_nulls
from eegfast.training.runs import Run
from eegfast.training.scores import CLASS_METRICS, METRICS, intervals, scores

FORMAT, VERSION = "eegfast-results", 1


def _scored(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """One table of counts as plain values."""
    found = scores(counts)
    occurs = counts.sum(1)
    return {
        "n": int(occurs.sum()),
        "unanswered": int(counts[:, -1].sum()),
        **{name: float(found[name]) for name in METRICS},
        "classes": {
            str(name): {
                **{metric: float(found[metric][k]) for metric in CLASS_METRICS},
                "n": int(occurs[k]),
            }
            for k, name in enumerate(class_names)
        },
        "confusion": counts[:, :-1].tolist(),
    }


def _spread(parts: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and population standard deviation; parts where a score is undefined are left out."""
    spread = {}
    for name in METRICS:
        values = np.array([part[name] for part in parts])
        values = values[~np.isnan(values)]
        mean, std = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
        spread[name] = {"mean": float(mean), "std": float(std), "n": len(values)}
    return spread


def _nulls(answers: Sequence[Answers], unit: str, n_permutations: int, seed: int) -> dict[str, Any]:
    """Labels move between the trials of a session that were tested in one split."""
    labels, counts, groups = [], [], []
    for i, part in enumerate(answers):
        n_outputs = part.proba.shape[1]
        if unit == "trial":
            part = part.trials()
        trials, trial = part.samples.trials, part.samples.trial
        cells = trial * (n_outputs + 1) + part.answer
        table = np.bincount(cells, minlength=len(trials) * (n_outputs + 1))
        labels.append(trials.label)
        counts.append(table.reshape(len(trials), n_outputs + 1))
        groups += [f"{i}/{session}" for session in trials.groups("session")]
    arrays = (np.concatenate(labels), np.concatenate(counts), groups)
    nulls = swap_nulls(*arrays, n_permutations, seed)
    return {name: null.summary() for name, null in nulls.items() if not np.isnan(null.observed)}


def _checked(answers: Sequence[Answers], class_names: Sequence[str] | None) -> list[str]:
    if not answers:
        raise ValueError("score: there are no answers")
    n_outputs = {part.proba.shape[1] for part in answers}
    if len(n_outputs) > 1:
        raise ValueError(f"score: splits differ in their number of classes: {sorted(n_outputs)}")
    names = [part.split for part in answers]
    if len(set(names)) < len(names):
        raise ValueError(f"score: two splits have one name: {sorted(names)}")
    (n,) = n_outputs
    class_names = [str(k) for k in range(n)] if class_names is None else list(class_names)
    if len(class_names) != n or len(set(class_names)) < n:
        raise ValueError(f"score: expected {n} different class names, got {class_names}")
    return class_names


def score(
    answers: Sequence[Answers],
    *,
    class_names: Sequence[str] | None = None,
    level: float = 0.95,
    method: str = "percentile",
    n_draws: int = 10_000,
    n_permutations: int = 0,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score the answers of all splits.

    Parameters
    ----------
    answers : sequence of Answers
        One for each split.
    class_names : sequence of str, optional
        By label. Default: their numbers.
    level, method, n_draws : float, str, int
        Of the intervals, see :func:`~eegfast.training.scores.intervals`.
    n_permutations : int
        Of the label null; 0 leaves it out.
    seed : int
        Of draws and permutations.

    Returns
    -------
    dict of str to dict
        For each of the units ``"sample"`` and ``"trial"``:

        ``overall``
            All answers together: ``n``, ``unanswered``, the scores, ``classes`` and ``confusion``
            (truth along the rows).
        ``intervals``
            Of the overall scores: ``{score: [low, high]}``, and ``classes``.
        ``splits``, ``sessions``, ``subjects``
            The same as ``overall`` for each, by name; splits also say ``leaks``.
        ``over_splits``, ``over_sessions``, ``over_subjects``
            ``{score: {mean, std, n}}`` with the population's standard deviation.
        ``null``
            By score, as :meth:`NullResult.summary` gives it, if asked for.

        What is undefined is NaN.

    Raises
    ------
    ValueError
        If there are no answers, or those of the splits do not fit together.

    Examples
    --------
    >>> samples = Samples(["a", "a", "b", "b"], ["1"] * 4, [1, 1, 1, 1], [0, 0, 1, 1])
    >>> proba = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]
    >>> result = score([Answers("all", samples, proba)])
    >>> result["sample"]["overall"]["accuracy"], result["trial"]["overall"]["accuracy"]
    (0.75, 1.0)
    """
    class_names = _checked(answers, class_names)
    result = {}
    for unit in UNITS:
        table = AnswerTable(answers, unit)
        by_subject = table.counts(table.subject)
        drawn = intervals(by_subject, level, method=method, n_draws=n_draws, seed=seed)
        parts = {
            "splits": ([part.split for part in answers], table.counts(table.split)),
            "sessions": (table.sessions, table.counts(table.session)),
            "subjects": (table.subjects, by_subject),
        }
        scored = {
            level_name: {
                str(name): _scored(counts, class_names)
                for name, counts in zip(names, tables, strict=True)
            }
            for level_name, (names, tables) in parts.items()
        }
        for part in answers:
            scored["splits"][part.split]["leaks"] = part.leaks
        result[unit] = {
            "overall": _scored(table.counts()[0], class_names),
            "intervals": {
                **{name: drawn[name].tolist() for name in METRICS},
                "classes": {
                    name: {metric: drawn[metric][k].tolist() for metric in CLASS_METRICS}
                    for k, name in enumerate(class_names)
                },
            },
            **{f"over_{name}": _spread(list(entries.values())) for name, entries in scored.items()},
            **scored,
        }
        if n_permutations:
            result[unit]["null"] = _nulls(answers, unit, n_permutations, seed)
    return result


@dataclass(frozen=True, eq=False)
class Results:
    """Scores of a run, and what they are scores of.

    Attributes
    ----------
    about : dict
        ``run``, ``recipe``, ``model``, ``dataset``, ``protocol`` (names), ``select`` (what of the
        data set), ``protocol_options``, ``leaks`` (bool), ``leakage`` (sentences that say why),
        ``recipe_leaks`` (what the recipe says besides), ``class_names``, ``n_splits``,
        ``unfinished`` (folders of fits that are not finished and not in here), ``n_subjects``,
        ``level``, ``method``, ``n_draws``, ``n_permutations``, ``seed``.
    units : dict
        As :func:`score` returns them.
    answers : list of Answers
        What was scored.
    """

    about: dict[str, Any]
    units: dict[str, dict[str, Any]] = field(repr=False)
    answers: list[Answers] = field(repr=False)

    @property
    def leaks(self) -> bool:
        """Whether any of it leaks."""
        return bool(self.about["leaks"])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON; what is undefined is ``None``."""
        return _plain({"format": FORMAT, "version": VERSION, **self.about, "units": self.units})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def summarise(
    run: Run,
    *,
    level: float = 0.95,
    method: str = "percentile",
    n_draws: int = 10_000,
    n_permutations: int = 0,
    seed: int = 0,
) -> Results:
    """Score a run's finished fits.

    Parameters
    ----------
    run : Run
        The run; only its files are read.
    level, method, n_draws, n_permutations, seed
        As :func:`score` takes them.

    Returns
    -------
    Results

    Raises
    ------
    ValueError
        If no fit is finished, or one's answers are not what they should be: the message names it.
    """
    answers = []
    for fit in run.fits:
        found = fit.predictions()
        columns = (found[name] for name in ("subject_id", "session_id", "trial_id", "label"))
        try:
            answers.append(Answers(fit.name, Samples(*columns), found["proba"], fit.leaks))
        except ValueError as error:
            raise ValueError(f"{fit.path / 'predictions.npz'}: {error}") from None
    if not answers:
        raise ValueError(f"{run.path}: no fit is finished, so there is nothing to score")
    options = {"level": level, "method": method, "n_draws": n_draws, "seed": seed}
    units = score(answers, class_names=run.class_names, n_permutations=n_permutations, **options)
    recipe, protocol = run.recipe.as_dict(), run.protocol
    about = {
        "run": run.path.resolve().name,
        "recipe": recipe["name"],
        "model": recipe["model"]["name"],
        "dataset": recipe["data"]["dataset"],
        "select": recipe["data"]["select"],
        "protocol": protocol["name"],
        "protocol_options": protocol.get("options") or {},
        "leaks": run.leaks,
        "leakage": _leakage(run),
        "recipe_leaks": recipe["paper"]["leaks"],
        "class_names": run.class_names,
        "n_splits": len(answers),
        "unfinished": [fit.path.name for fit in run.unfinished],
        "n_subjects": len(units["trial"]["subjects"]),
        "n_permutations": n_permutations,
        **options,
    }
    return Results(about, units, answers)


def _leakage(run: Run) -> list[str]:
    """Why a run leaks, and how many of its fits do if not all."""
    fits, told = run.fits, {}
    for fit in fits:
        for reason in fit.facts.get("leak_reasons") or ["It does not say why."] * fit.leaks:
            told[str(reason)] = told.get(str(reason), 0) + 1
    if not told and run.leaks:
        told = {str(run.protocol.get("mixes")): len(fits)}
    return [
        reason if n == len(fits) else f"In {n} of {len(fits)} fits: {reason}"
        for reason, n in told.items()
    ]
