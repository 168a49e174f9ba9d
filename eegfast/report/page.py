# SPDX-License-Identifier: BSD-3-Clause
"""The HTML page: results through a Jinja2 template, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def environment():
    """The templates, everything escaped and nothing left undefined."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("eegfast.report needs jinja2: pip install 'eegfast[report]'") from error
    environment = Environment(
        loader=PackageLoader("eegfast.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = lambda value: f"{value:.2f}"
    environment.filters["p_value"] = _p_value
    return environment


def _p_value(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}"


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    from eegfast.report import figures

    models = results["models"]
    featured = [models[i] for i in results.get("featured", range(len(models)))]
    chance = results.get("chance")
    made: dict[str, Any] = {
        "subjects": figures.accuracy_per_subject(featured, chance),
        "confusion": figures.confusion_matrices(models, results.get("class_names")),
        "curves": [
            (model, figures.learning_curves(model["histories"], chance))
            for model in models
            if model.get("histories")
        ],
    }
    if any(model.get("nulls") for model in models):
        made["nulls"] = figures.null_curves([m for m in models if m.get("nulls")])
    if results.get("topomaps"):
        made["topomaps"] = figures.topomaps(results["topomaps"])
    if results.get("speed"):
        made["speed"] = figures.speed_bars(results["speed"]["rows"])
    return made


def render(results: Mapping[str, Any]) -> str:
    """The page as text.

    Parameters
    ----------
    results : mapping
        As :func:`~eegfast.report.write_report` takes it.

    Returns
    -------
    str
        A whole HTML document without references to other files.
    """
    defaults = {
        "subtitle": "",
        "shows": [],
        "does_not_show": [],
        "verdict": [],
        "chance": None,
        "topomaps": None,
        "speed": None,
        "notes": [],
        "provenance": {},
        "options": {},
        "dataset": None,
    }
    template = environment().get_template("report.html.j2")
    return template.render({**defaults, **results, "figures": _figures(results)})
