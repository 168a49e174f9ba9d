# SPDX-License-Identifier: BSD-3-Clause
"""What ``eegfast reproduce`` prints: the paper's figure beside ours, and what leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TITLES = {"paper": "ours, the paper's split", "honest": "ours, honest split"}


def comparison_table(told: dict[str, Any]) -> Iterator[object]:
    """Parts for Rich to print, of what :func:`eegfast.training.reproduction.reproduction` tells."""
    from rich.markup import escape
    from rich.table import Table

    protocols, paper = told["protocols"], told["paper"]
    table = Table(
        title=f"{escape(told['recipe'])} on {escape(told['dataset'])}", title_style="bold"
    )
    table.add_column("")
    table.add_column("the paper's figure", overflow="fold")
    for name, run in protocols.items():
        title = escape(_TITLES.get(name, name))
        leaks = run["leaks"] or (name == "paper" and paper["leaks"])
        table.add_column(f"[red]{title} (leaks)[/]" if leaks else title, justify="right")
    metrics = dict.fromkeys(["accuracy", *(claim["metric"] for claim in paper["claims"])])
    for metric in metrics:
        claims = [_claim(claim) for claim in paper["claims"] if claim["metric"] == metric]
        ours = [_score(run["scores"].get(metric), run["per"]) for run in protocols.values()]
        table.add_row(_words(metric), escape("\n".join(claims)) or "none on this data", *ours)
    trial = [_score(run["trial"].get("accuracy"), run["per"]) for run in protocols.values()]
    table.add_row("accuracy of whole trials", "", *trial)
    table.add_row("95 % interval of the accuracy, by subjects", "", *map(_interval, _of(told)))
    table.add_row("the most frequent class", "", *(_percent(r["most_frequent"]) for r in _of(told)))
    table.add_row("split", "", *(escape(run["protocol"]["name"]) for run in _of(told)))
    table.add_row("fits, subjects", "", *(f"{r['n_splits']}, {r['n_subjects']}" for r in _of(told)))
    yield table
    for note in told["notes"]:
        yield f"[yellow]{escape(note)}[/]"
    for leak in paper["leaks"]:
        yield f"[red]The paper's split leaks:[/] {escape(leak)}"
    for name, run in protocols.items():
        title = escape(_TITLES.get(name, name)).capitalize()
        yield f"[bold]{title}:[/] {escape(run['protocol']['mixes'])}"
        for reason in run["leakage"]:
            if reason != run["protocol"]["mixes"]:
                yield f"[red]{title} leaks:[/] {escape(reason)}"


def _of(told: dict[str, Any]) -> list[dict[str, Any]]:
    return list(told["protocols"].values())


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace(" f1", " F1")


def _claim(claim: dict[str, Any]) -> str:
    std = "" if claim["std"] is None else f" +- {claim['std']:.2f}"
    note = f" ({claim['note']})" if claim["note"] else ""
    return f"{claim['mean']:.2f}{std} %{note}"


def _score(score: dict[str, Any] | None, per: str) -> str:
    if score is None or score["mean"] is None or score["n"] == 0:
        return "-"
    if score["n"] == 1:
        return f"{100 * score['mean']:.2f} %\n1 {per[:-1]}"
    return f"{100 * score['mean']:.2f} +- {100 * score['std']:.2f} %\nover {score['n']} {per}"


def _interval(run: dict[str, Any]) -> str:
    low, high = run["interval"]
    if run["n_subjects"] < 2 or low is None or low != low:
        return "-"
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
