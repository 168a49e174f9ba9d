# SPDX-License-Identifier: BSD-3-Clause
"""The tables that ``eegfast evaluate`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "kappa": "kappa",
}


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(value: float, low: float, high: float) -> str:
    if math.isnan(low):
        return _number(value)
    return f"{value:.3f}\n[dim]{low:.2f}–{high:.2f}[/]"


def _name(results: Any) -> str:
    name = escape(results.about["run"])
    return f"[red]{name} (leaks)[/]" if results.leaks else name


def overview(results: Sequence[Any]) -> Iterator[Table | str]:
    """What there is to say of the runs: scores, spread, classes, subjects, and what leaks.

    Parameters
    ----------
    results : sequence of Results
        One for each run.

    Yields
    ------
    rich.table.Table or str
        To be printed in turn.
    """
    tables = (_summary, _spread, _nulls, _classes, _subjects)
    yield from filter(None, (table(results) for table in tables))
    for result in results:
        about, units = result.about, result.units
        name = escape(about["run"])
        for sentence in about["leakage"]:
            yield f"[bold red]{name} leaks.[/] [red]{escape(sentence)}[/]"
        if about["recipe_leaks"]:
            yield f"{name}, its recipe on leakage:"
            yield from (f"[yellow]- {escape(sentence)}[/]" for sentence in about["recipe_leaks"])
        if about["unfinished"]:
            n = len(about["unfinished"])
            yield (
                f"[yellow]{name}: {n} of {n + about['n_splits']} fits are not finished and not "
                "counted.[/]"
            )
        silent = units["sample"]["overall"]["unanswered"]
        if silent:
            yield (
                f"[yellow]{name}: {silent} of {units['sample']['overall']['n']} samples got NaN in "
                "place of an answer and count as wrong.[/]"
            )
        if about["n_subjects"] < 2:
            yield f"{name}: no intervals, as they draw subjects and there is one."


def _table(title: str, *texts: str, numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in texts:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _units(results: Sequence[Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the run, what is counted and the scores, for each line of a table."""
    for result in results:
        for unit in ("trial", "sample"):
            found = result.units[unit]
            name = _name(result) if unit == "trial" else ""
            yield name, f"{found['overall']['n']} {unit}s", found


def _summary(results: Sequence[Any]) -> Table:
    level = results[0].about["level"]
    title = f"Scores, {level:.0%} intervals drawing subjects"
    table = _table(title, "run", "of", numbers=list(_SCORES.values()))
    for name, counted, found in _units(results):
        cells = (
            _interval(found["overall"][metric], *found["intervals"][metric]) for metric in _SCORES
        )
        table.add_row(name, counted, *cells)
    return table


def _spread(results: Sequence[Any]) -> Table | None:
    units = list(_units(results))
    kinds = [
        kind
        for kind in ("splits", "sessions", "subjects")
        if any(found[f"over_{kind}"]["accuracy"]["n"] > 1 for _, _, found in units)
    ]
    if not kinds:
        return None
    title = "\nAccuracy, mean ± standard deviation (of the population)"
    table = _table(title, "run", "of", numbers=[f"over {kind}" for kind in kinds])
    for name, counted, found in units:
        spreads = [found[f"over_{kind}"]["accuracy"] for kind in kinds]
        cells = (f"{_number(s['mean'])} ±{_number(s['std'])} [dim]({s['n']})[/]" for s in spreads)
        table.add_row(name, counted, *cells)
    return table


def _nulls(results: Sequence[Any]) -> Table | None:
    units = [row for row in _units(results) if "null" in row[2]]
    if not units:
        return None
    n = units[0][2]["null"]["accuracy"]["n_permutations"]
    title = f"\nAccuracy with labels permuted between a session's trials, {n} times"
    table = _table(title, "run", "of", numbers=["found", "null: mean", "95 % below", "p"])
    for name, counted, found in units:
        null, accuracy = found["null"]["accuracy"], found["overall"]["accuracy"]
        numbers = (_number(value) for value in (accuracy, null["mean"], null["p95"]))
        table.add_row(name, counted, *numbers, f"{null['p_value']:.2g}")
    return table


def _classes(results: Sequence[Any]) -> Table:
    numbers = ["trials", "precision", "recall", "F1"]
    table = _table("\nClasses, by trial", "run", "class", numbers=numbers)
    for result in results:
        for label, found in result.units["trial"]["overall"]["classes"].items():
            numbers = (_number(found[metric]) for metric in ("precision", "recall", "f1"))
            table.add_row(_name(result), escape(label), str(found["n"]), *numbers)
    return table


def _subjects(results: Sequence[Any]) -> Table:
    title = "\nSubjects, accuracy by trial (by sample)"
    table = _table(title, "subject", numbers=[_name(result) for result in results])
    names = {name: None for result in results for name in result.units["trial"]["subjects"]}
    for name in names:
        cells = []
        for result in results:
            trial, sample = (
                result.units[unit]["subjects"].get(name) for unit in ("trial", "sample")
            )
            cells.append(
                "–" if trial is None else f"{trial['accuracy']:.3f} ({sample['accuracy']:.3f})"
            )
        table.add_row(escape(name), *cells)
    return table


def comparison(pairs: Sequence[dict[str, Any]], level: float) -> Iterator[Table | str]:
    """Differences between runs.

    Parameters
    ----------
    pairs : sequence of dict
        As :func:`eegfast.training.compare` returns them, all with the same first run.
    level : float
        Of their intervals.

    Yields
    ------
    rich.table.Table or str
        To be printed in turn.
    """
    first = escape(pairs[0]["first"])
    paired = [pair for pair in pairs if pair["unpaired"] is None]
    title = f"\nTrials, run minus {first}, the same subjects drawn from both ({level:.0%})"
    table = _table(title, "", numbers=[escape(pair["second"]) for pair in paired])
    for metric, label in _SCORES.items():
        table.add_row(label, *(_difference(**pair["differences"][metric]) for pair in paired))
    if paired:
        yield table
    for pair in pairs:
        if pair["unpaired"] is not None:
            yield (
                f"[yellow]{escape(pair['second'])} is not compared with {first}: "
                f"{pair['unpaired']}.[/]"
            )


def _difference(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" + ("" if math.isnan(low) else f" [dim]{low:+.3f} to {high:+.3f}[/]")
