# SPDX-License-Identifier: BSD-3-Clause
"""Runs side by side: one HTML page, and its figures as files on request."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eegfast.report.files import _write
from eegfast.report.page import environment

UNITS = {"sample": "samples", "trial": "trials"}
SCORES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "kappa": "Cohen's κ",
}
MOST_CLAIMS = 4


def write_comparison(
    comparison: Mapping[str, Any],
    path: str | Path,
    *,
    figures: str | Path | None = None,
    format: str = "png",
) -> list[Path]:
    """Write a page that compares runs.

    Parameters
    ----------
    comparison : mapping
        ``title`` : str
        ``subtitle`` : str, optional
        ``notes`` : list of str, optional
            Sentences for the top of the page: what the data is and is not.
        ``unit`` : {"sample", "trial"}, optional
            What is counted in the figures; default samples.
        ``runs`` : list of dict
            At least one, with different ``label``:

            ``label`` : str
            ``role`` : {"paper", "honest", ""}
                Which column of the summary it belongs to.
            ``results`` : dict
                :meth:`eegfast.training.Results.as_dict`.
            ``protocol`` : dict
                A protocol's ``describe()``.
            ``paper`` : dict
                ``citation``, ``claims`` (list of ``dataset``, ``metric``, ``mean``, ``std``,
                ``note``, ``select``; in percent), ``readings``, ``leaks``.
            ``select`` : dict, optional
                What of the data set was used; claims about something else are marked.
            ``histories`` : list of dict
                Learning curve per fit.
            ``explained`` : dict
                What :mod:`eegfast.training.explain` returns, and ``fit``, whose it is.
            ``missing`` : list of str
                What cannot be shown, and why.
            ``recipe`` : str
                The recipe's text.
            ``provenance`` : dict of str to value
    path : path-like
        The page; a file of that name is replaced. Its folder is made if missing.
    figures : path-like, optional
        Folder for the figures as files, made if missing.
    format : {"png", "pdf", "svg"}
        Of those files.

    Returns
    -------
    list of Path
        What was written, the page first.

    Raises
    ------
    ValueError
        If there is no run, two have one label, or the format is none of these.
    ImportError
        If jinja2, matplotlib or mne is not installed.

    Notes
    -----
    The page loads nothing from anywhere, has no scripts, and everything in it is escaped.
    """
    from eegfast.report.sections import sections
    from eegfast.report.style import FORMATS

    runs = comparison.get("runs") or []
    labels = [run["label"] for run in runs]
    if not runs or len(set(labels)) < len(labels):
        raise ValueError(f"write_comparison: expected runs with different labels, got {labels}")
    if format not in FORMATS:
        raise ValueError(
            f"write_comparison: format must be one of {', '.join(FORMATS)}, got {format!r}"
        )
    unit = comparison.get("unit") or "sample"
    if unit not in UNITS:
        raise ValueError(f"write_comparison: unit must be one of {', '.join(UNITS)}, got {unit!r}")
    shown = sections(runs, unit)
    template = environment().get_template("runs.html.j2")
    html = template.render(
        title=comparison["title"],
        subtitle=comparison.get("subtitle", ""),
        notes=comparison.get("notes", []),
        summary=summary(runs, unit),
        scores=[score_row(run) for run in runs],
        score_names=SCORES,
        unit=UNITS[unit],
        runs=runs,
        sections=shown,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [_write(path, html)]
    if figures is not None:
        folder = Path(figures)
        folder.mkdir(parents=True, exist_ok=True)
        drawings = [figure for section in shown for figure in section["figures"]]
        for number, figure in enumerate(drawings, 1):
            name = f"{number:02d}-{slug(figure['name'])}.{format}"
            written.append(figure["drawing"].save(folder / name))
    return written


def slug(name: str) -> str:
    """A name as part of a file name: small letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60].rstrip("-") or "figure"


def percent(share: float | None) -> str:
    """A share as percent with one decimal; a dash where there is none."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.1f}"


def _same(a: object, b: object) -> bool:
    return slug(str(a)).replace("-", "") == slug(str(b)).replace("-", "")


def _claims(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """The paper's figures as texts; those of the run's own data set if there are any."""
    claims = run["paper"].get("claims") or []
    dataset, select = run["results"]["dataset"], run.get("select") or {}
    own = [
        claim
        for claim in claims
        if _same(claim["dataset"], dataset)
        and (claim.get("select") or {}).items() <= select.items()
    ]
    texts = []
    for claim in (own or claims)[:MOST_CLAIMS]:
        std = claim.get("std")
        metric = str(claim["metric"])
        about = [] if metric == "accuracy" else [metric.replace("_", " ")]
        if not own:
            chosen = " ".join(map(str, (claim.get("select") or {}).values()))
            about.append(f"{claim['dataset']} {chosen}".strip() + ": other data than ours")
        if claim.get("note"):
            about.append(str(claim["note"]))
        texts.append(
            {
                "figure": f"{claim['mean']:.2f}" + ("" if std is None else f" ± {std:.2f}"),
                "about": "; ".join(about),
            }
        )
    return texts


def _cell(run: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """One figure of ours: the accuracy, its spread, and what the split mixes."""
    results = run["results"]
    found = results["units"][unit]
    low, high = found["intervals"]["accuracy"]
    spread = found["over_splits"]["accuracy"]
    lines = []
    if low is not None and high is not None:
        lines.append(f"{100 * results['level']:g} % interval {percent(low)}–{percent(high)}")
    if spread["n"] > 1:
        lines.append(
            f"mean of {spread['n']} splits {percent(spread['mean'])} ± {percent(spread['std'])}"
        )
    return {
        "label": run["label"],
        "protocol": results["protocol"],
        "figure": percent(found["overall"]["accuracy"]),
        "lines": lines,
        "leaks": results["leaks"],
        "unfinished": len(results["unfinished"]),
        "n_splits": results["n_splits"],
    }


def summary(runs: Sequence[Mapping[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Rows of the first table: runs of one recipe on one data set beside its paper's figures."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        results = run["results"]
        row = rows.setdefault(
            (results["recipe"], results["dataset"]),
            {
                "name": results["recipe"],
                "dataset": results["dataset"],
                "model": results["model"],
                "claims": _claims(run),
                "citation": run["paper"].get("citation"),
                "paper_leaks": bool(run["paper"].get("leaks")),
                "cells": {"paper": [], "honest": [], "": []},
            },
        )
        row["cells"][run["role"]].append(_cell(run, unit))
    return list(rows.values())


def _null(null: Mapping[str, Any] | None) -> str:
    return "" if null is None else f"p = {null['p_value']:.2g}"


def score_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the second table: all scores at both units."""
    results = run["results"]
    units = {}
    for unit in UNITS:
        overall = results["units"][unit]["overall"]
        units[UNITS[unit]] = {
            "n": overall["n"],
            "unanswered": overall["unanswered"],
            "scores": [
                percent(overall[name])
                if name != "kappa"
                else "–"
                if overall[name] is None
                else f"{overall[name]:.3f}"
                for name in SCORES
            ],
            "nulls": [_null(results["units"][unit].get("null", {}).get(name)) for name in SCORES],
        }
    return {"run": run, "results": results, "units": units}
