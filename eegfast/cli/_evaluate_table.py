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
    "weighted_f1": "weighted F1",
    "kappa": "kappa",
}


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(value: float, low: float, high: float) -> str:
    return _number(value) if math.isnan(low) else f"{value:.3f} [dim]{low:.3f}–{high:.3f}[/]"


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
    level = results[0].about["level"]
    yield _summary(results, level)
    yield _classes(results)
    yield _subjects(results)
    for result in results:
        about, units = result.about, result.units
        name = escape(about["run"])
        for sentence in about["leakage"]:
            yield f"[bold red]{name} leaks.[/] [red]{escape(sentence)}[/]"
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


def _summary(results: Sequence[Any], level: float) -> Table:
    nulls = any("null" in result.units["trial"] for result in results)
    table = Table(
        title=f"Scores, {level:.0%} intervals drawing subjects",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("")
    for result in results:
        for unit in ("trial", "sample"):
            n = result.units[unit]["overall"]["n"]
            table.add_column(f"{_name(result)}\n[not bold]{n} {unit}s[/]", justify="right")
    columns = [result.units[unit] for result in results for unit in ("trial", "sample")]
    for metric, label in _SCORES.items():
        table.add_row(
            label,
            *(
                _interval(found["overall"][metric], *found["intervals"][metric])
                for found in columns
            ),
        )
    for groups in ("splits", "sessions", "subjects"):
        spreads = [found[f"over_{groups}"]["accuracy"] for found in columns]
        if all(spread["n"] < 2 for spread in spreads):
            continue
        table.add_row(
            f"accuracy over {groups}",
            *(f"{s['mean']:.3f} ± {s['std']:.3f} [dim]of {s['n']}[/]" for s in spreads),
        )
    if nulls:
        found_nulls = [found.get("null", {}).get("accuracy") for found in columns]
        table.add_row(
            "accuracy, labels permuted",
            *("–" if null is None else f"{null['mean']:.3f}" for null in found_nulls),
        )
        table.add_row(
            "p", *("–" if null is None else f"{null['p_value']:.2g}" for null in found_nulls)
        )
    return table


def _classes(results: Sequence[Any]) -> Table:
    table = Table(title="\nClasses, by trial", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("run", "class"):
        table.add_column(column, overflow="fold")
    for column in ("trials", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for result in results:
        for label, found in result.units["trial"]["overall"]["classes"].items():
            numbers = (_number(found[metric]) for metric in ("precision", "recall", "f1"))
            table.add_row(_name(result), escape(label), str(found["n"]), *numbers)
    return table


def _subjects(results: Sequence[Any]) -> Table:
    table = Table(
        title="\nSubjects, accuracy by trial (by sample)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("subject", overflow="fold")
    for result in results:
        table.add_column(_name(result), justify="right")
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
    table = Table(
        title=f"\nTrials, run minus {first}, the same subjects drawn from both ({level:.0%})",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("")
    for pair in pairs:
        if pair["unpaired"] is None:
            table.add_column(escape(pair["second"]), justify="right")
    for metric, label in _SCORES.items():
        found = [pair["differences"][metric] for pair in pairs if pair["differences"]]
        table.add_row(label, *(_difference(**difference) for difference in found))
    if len(table.columns) > 1:
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
