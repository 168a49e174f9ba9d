# SPDX-License-Identifier: BSD-3-Clause
"""The demo's tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table


def _p_value(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def _summary(results: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{results['title']} Subjects never seen in training",
        caption=(
            "Right: share of recordings, pooled; units: of single windows or sequences.\n"
            f"Chance {results['chance']:.2f}. Null: labels permuted within subjects; with "
            "smoothed regression\nthe training is repeated too, so p is at least 1 / (1 + "
            f"{min(null['n_permutations'] for m in results['models'] for null in m['nulls'])})."
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("Model", no_wrap=True)
    for name in ("Right", "95 %\ninterval", "Units", "Null\n(95 % <)", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in results["models"]:
        null = model["nulls"][0]
        low, high = model["interval"]
        table.add_row(
            f"{model['name']}\n{model['features']}, {model['normalization']}",
            f"{model['accuracy']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{model['unit_accuracy']:.2f}",
            f"{null['mean']:.2f} ({null['p95']:.2f})",
            _p_value(null["p_value"]),
        )
    return table


def _subjects(results: Mapping[str, Any]) -> Table:
    models = [results["models"][i] for i in results["featured"]]
    table = Table(
        title="Accuracy per subject",
        caption="units right (recordings right)",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("Subject")
    for model in models:
        table.add_column(f"{model['name']}\n{model['normalization']}", justify="right")
    for subject in models[0]["subjects"]:
        rows = [model["subjects"][subject] for model in models]
        table.add_row(
            subject, *(f"{row['unit_accuracy']:.2f} ({row['accuracy']:.1f})" for row in rows)
        )
    table.add_section()
    table.add_row(
        "mean", *(f"{model['unit_accuracy']:.2f} ({model['accuracy']:.2f})" for model in models)
    )
    return table


def results_table(results: Mapping[str, Any]) -> Group:
    """Both tables: per subject, and all models against chance and null.

    Parameters
    ----------
    results : mapping
        As the demo hands it to :func:`eegfast.report.write_report`.

    Returns
    -------
    rich.console.Group
        To be printed by a console.
    """
    return Group(_subjects(results), "", _summary(results))
