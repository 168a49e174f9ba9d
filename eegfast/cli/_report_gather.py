# SPDX-License-Identifier: BSD-3-Clause
"""From run folders to what :func:`eegfast.report.write_comparison` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from eegfast.training import explain
from eegfast.training.results import summarise
from eegfast.training.runs import Run

PER_CLASS = 64
NOTES = {
    "eegmat": "The bundled recordings are rest against mental arithmetic: nothing here is about "
    "emotion.",
}
UNTOLD = ("cache", "key", "notes", "path", "root", "seconds")  # of the data's facts
ROLE_WORDS = {"paper": "the paper's split", "honest": "an honest split"}


def gather(
    runs: Sequence[Run],
    *,
    unit: str = "sample",
    fit: str | None = None,
    prepare: Callable[[Run], Any] | None = None,
    on_run: Callable[[str], None] | None = None,
    n_permutations: int = 0,
) -> dict[str, Any]:
    """Score runs and compute what their figures show.

    Parameters
    ----------
    runs : sequence of Run
        What to compare.
    unit : {"sample", "trial"}
        What the figures count.
    fit : str, optional
        Name or folder of the fit whose network is looked into. Default: the first.
    prepare : callable, optional
        Gives the prepared data of a run. Without it, what needs data is named as missing.
    on_run : callable, optional
        Called with the label of each run before it is read.
    n_permutations : int
        Of the label null; 0 leaves it out.

    Returns
    -------
    dict
        The comparison.

    Raises
    ------
    ValueError
        If a run has no finished fit, or none of them has the asked-for fit.
    """
    labels = _labels(runs)
    entries = []
    for run, label in zip(runs, labels, strict=True):
        if on_run is not None:
            on_run(label)
        entries.append(_entry(run, label, fit, prepare, n_permutations))
    if fit is not None and not any(entry["explained"].get("fit") for entry in entries):
        raise ValueError(f"--fit {fit}: no run has a finished fit of this name")
    names = list(dict.fromkeys(entry["results"]["recipe"] for entry in entries))
    datasets = list(dict.fromkeys(entry["results"]["dataset"] for entry in entries))
    notes = [NOTES[name] for name in map(str.lower, datasets) if name in NOTES]
    if any(run.facts["data"].get("synthetic") for run in runs):
        notes.insert(0, "Some of the data are synthetic: their figures say nothing about EEG.")
    return {
        "title": ", ".join(names),
        "subtitle": f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} on {', '.join(datasets)}",
        "notes": notes,
        "unit": unit,
        "runs": entries,
    }


def role_of(run: Run) -> str:
    """``"paper"`` or ``"honest"``, which the run's recipe calls its protocol, or nothing."""
    (*_, role) = run.recipe.protocols
    return role if role in ROLE_WORDS else ""


def _labels(runs: Sequence[Run]) -> list[str]:
    """Recipe and split; the folder too where that is not enough to tell runs apart."""
    labels = []
    for run in runs:
        words = ROLE_WORDS.get(role_of(run), run.protocol["name"])
        labels.append(f"{run.recipe.as_dict()['name']}, {words}")
    if len(set(labels)) < len(labels):
        labels = [
            f"{label} ({run.path.resolve().name})" for run, label in zip(runs, labels, strict=True)
        ]
    if len(set(labels)) < len(labels):
        labels = [f"{i}. {label}" for i, label in enumerate(labels, 1)]
    return labels


def _entry(
    run: Run,
    label: str,
    fit: str | None,
    prepare: Callable[[Run], Any] | None,
    n_permutations: int,
) -> dict[str, Any]:
    results = summarise(run, n_permutations=n_permutations).as_dict()
    recipe = run.recipe.as_dict()
    explained, missing = _explained(run, fit, prepare)
    return {
        "label": label,
        "role": role_of(run),
        "results": results,
        "protocol": run.protocol,
        "paper": recipe["paper"],
        "select": recipe["data"].get("select") or {},
        "histories": [each.history() for each in run.fits],
        "explained": explained,
        "missing": missing,
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "provenance": _provenance(run),
    }


def _explained(
    run: Run, name: str | None, prepare: Callable[[Run], Any] | None
) -> tuple[dict[str, Any], list[str]]:
    fits = [each for each in run.fits if name in (None, each.name, each.path.name)]
    if not fits:
        return {}, [f"it has no finished fit {name}"]
    fit = fits[0]
    network = fit.model()
    ch_names = run.facts["ch_names"]
    found: dict[str, Any] = {"fit": fit.name, **explain.learned(network, ch_names)}
    if prepare is None:
        return found, ["what the network makes of data (give --root, the data's folder)"]
    prepared = prepare(run)
    predictions = fit.predictions()
    picked = explain.pick_per_class(predictions["label"], PER_CLASS)
    index, labels = predictions["sample"][picked], predictions["label"][picked]
    known = prepared.samples.label
    if index.max() >= len(known) or (known[index] != labels).any():
        raise ValueError(f"{run.path}: the data given are not those of this run")
    inputs = tuple(tensor[index] for tensor in prepared.inputs)
    bands = _bands(run)
    maps = explain.topographies(
        inputs, labels, run.class_names, ch_names, run.facts.get("sfreq"), bands=bands
    )
    missing = []
    if maps is None:
        missing.append("scalp maps: fewer than four channels are electrodes with known places")
    else:
        found["topographies"] = maps
    inputs = explain.normalised(
        run.recipe.as_dict()["normalization"]["name"],
        fit.pipeline_path,
        prepared.inputs,
        prepared.samples.subject_id,
        index,
    )
    found |= explain.seen(network, inputs, labels, run.class_names, bands=bands)
    return found, missing


def _bands(run: Run) -> list[str] | None:
    bands = (run.recipe.as_dict()["data"].get("options") or {}).get("bands")
    return [str(band) for band in bands] if isinstance(bands, Mapping) else None


def _provenance(run: Run) -> dict[str, str]:
    facts = run.facts
    protocol = run.protocol
    seconds = sum(fit.facts.get("seconds") or 0 for fit in run.fits)
    shown = {
        "Run": run.path.resolve().name,
        "Made": facts.get("created"),
        "Command": facts.get("command"),
        "Seed": facts.get("seed"),
        "Protocol": {"name": protocol["name"], **(protocol.get("options") or {})},
        "Protocol's source": protocol.get("citation"),
        "Data": {
            name: value
            for name, value in facts["data"].items()
            if name not in UNTOLD and value not in (None, [], {})
        },
        "About the data": facts["data"].get("notes"),
        "SHA-256 of the samples": facts.get("content"),
        "Training": f"{len(run.fits)} fits in {_duration(seconds)}",
        "Software": facts.get("software"),
        "Machine": facts.get("machine"),
    }
    return {name: _text(value) for name, value in shown.items() if value not in (None, [], {}, "")}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
