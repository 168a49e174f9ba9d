# SPDX-License-Identifier: BSD-3-Clause
"""A paper's figures beside ours: the plan of a reproduction, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eegfast.training.recipe import Recipe
from eegfast.training.results import Results
from eegfast.training.runs import Run
from eegfast.training.sources import BUNDLED

FORMAT, VERSION = "eegfast-reproduction", 1


def plan_reproduction(
    recipe: Recipe, root: str | Path | None, *, quick: bool = False, settings=()
) -> Recipe:
    """The recipe as it is to be run.

    Parameters
    ----------
    recipe : Recipe
        As the paper has it.
    root : path-like or None
        Where the data is. On ``"bundled"`` the recipe's ``bundled`` overrides apply.
    quick : bool
        Apply the recipe's ``quick`` overrides: few epochs; of a real data set as many subjects and
        sessions as the synthetic one would have.
    settings : iterable of str
        Further overrides, which win.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        If an override does not fit the recipe.
    """
    settings = list(settings)
    bundled = str(root) == BUNDLED
    if bundled:
        recipe = recipe.override(recipe.bundled)
    if quick:
        recipe = recipe.override(recipe.quick.set)
        if bundled:
            recipe = recipe.override(recipe.quick.bundled)
        elif root is not None:
            recipe = recipe.override(_few(recipe))
    return recipe.override(settings)


def _few(recipe: Recipe) -> list[str]:
    counts = {name: recipe.quick.synthetic.get(name) for name in ("subjects", "sessions")}
    return [
        f"data.select.{name}={list(range(1, count + 1))}" for name, count in counts.items() if count
    ]


def write_quick_data(recipe: Recipe, folder: str | Path, progress=None) -> Path:
    """Write the small synthetic layout that a recipe's quick version runs on.

    Parameters
    ----------
    recipe : Recipe
        Its ``data.dataset`` says whose layout, its ``quick.synthetic`` how much of it.
    folder : path-like
        A new or empty folder, or one that this call began to fill.
    progress : callable, optional
        Called as ``progress(files_done, files, path)``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If there is no synthetic layout of the data set, or it has no such arguments.
    FileExistsError
        If the folder holds something else.
    """
    from eegfast.datasets.synthetic import PLANS, write_tree

    name, options = recipe.data.dataset, dict(recipe.quick.synthetic)
    if name not in PLANS:
        raise ValueError(f"quick: data set {name} has no synthetic layout: give --root")
    try:
        files = PLANS[name](**options)
    except TypeError as error:
        raise ValueError(f"quick.synthetic: {name}: {error}") from None
    scale, seed = options.get("scale", 1.0), options.get("seed", 0)
    return write_tree(folder, name, scale, seed, files, progress)


def claims_for(recipe: Recipe, dataset: str) -> list[dict[str, Any]]:
    """The paper's claims on a data set, with the recipe's choice of target."""
    select = recipe.data.select
    return [
        claim
        for claim in recipe.as_dict()["paper"]["claims"]
        if claim["dataset"] == dataset
        and all(select.get(key) == value for key, value in claim["select"].items())
    ]


def figures_of(run: Run, results: Results, per: str) -> dict[str, Any]:
    """What is compared with the paper: scores of one run, as shares of 1.

    Parameters
    ----------
    run : Run
        A run.
    results : Results
        Of it.
    per : {"splits", "sessions", "subjects"}
        What mean and standard deviation are taken over.

    Returns
    -------
    dict
        ``scores``: per metric ``mean``, ``std`` (population) and ``n`` over these, of single
        samples; ``trial``: the same of whole trials; ``interval``: of the accuracy over all
        samples, drawing subjects; ``most_frequent``: accuracy of always answering the most frequent
        class; protocol, leakage, counts, notes on the data.
    """
    about, units = results.as_dict(), results.units
    confusion = np.array(units["sample"]["overall"]["confusion"])
    return {
        "run": about["run"],
        "protocol": {key: run.protocol[key] for key in ("name", "options", "mixes")},
        "leaks": about["leaks"],
        "leakage": about["leakage"],
        "per": per,
        "scores": units["sample"][f"over_{per}"],
        "trial": units["trial"][f"over_{per}"],
        "interval": units["sample"]["intervals"]["accuracy"],
        "most_frequent": float(confusion.sum(1).max() / confusion.sum()),
        "n_splits": about["n_splits"],
        "n_subjects": about["n_subjects"],
        "n_samples": units["sample"]["overall"]["n"],
        "notes": list(run.facts["data"].get("notes", [])),
    }


def reproduction(
    recipe: Recipe,
    dataset: str,
    runs: Mapping[str, dict[str, Any]],
    *,
    quick: bool = False,
    splits: int | None = None,
) -> dict[str, Any]:
    """The paper's figure, ours under its split, ours under an honest one, and what leaks.

    Parameters
    ----------
    recipe : Recipe
        As it was run.
    dataset : str
        Name of the data set it was run on.
    runs : mapping
        Name of each protocol to :func:`figures_of` its run.
    quick : bool
        Whether it was the small version.
    splits : int, optional
        How many splits of each protocol were run at most. Default: all.

    Returns
    -------
    dict
        Plain values for JSON; claims are in percent as papers print them, our scores shares of 1.
    """
    paper = recipe.as_dict()["paper"]
    notes = ["A small version, to see that all of it runs: its figures mean nothing."] * quick
    for run in runs.values():
        notes += [note for note in run["notes"] if note not in notes]
    if splits is not None:
        notes.append(f"Only the first splits of each protocol were run, {splits} at most.")
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe.name,
        "dataset": dataset,
        "select": dict(recipe.data.select),
        "quick": quick,
        "notes": notes,
        "paper": {
            "citation": paper["citation"],
            "claims": claims_for(recipe, dataset),
            "all_claims": paper["claims"],
            "leaks": paper["leaks"],
            "readings": paper["readings"],
        },
        "protocols": dict(runs),
    }
