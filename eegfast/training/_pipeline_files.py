# SPDX-License-Identifier: BSD-3-Clause
"""Pipelines as folders, written whole and read without trust; pipelines of a run's fits."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eegfast._version import __version__
from eegfast.models import from_pretrained
from eegfast.protocols import make_normalization
from eegfast.training.builders import InputsBuilder
from eegfast.training.normalizations import read_normalization, write_normalization
from eegfast.training.pipeline import Pipeline
from eegfast.training.runs import Fit, Run, read_json, write_json

FORMAT, VERSION = "eegfast-pipeline", 1
FILE, MODEL = "pipeline.json", "model.safetensors"
_MOST_BYTES = 2**20
_MOST_CHANNELS = 4096
_MOST_CLASSES = 1000
_MOST_VALUES = 2**26  # of signal behind one answer: a minute of 1000 channels at 1 kHz


def save(pipeline: Pipeline, folder: str | os.PathLike) -> Path:
    """See :meth:`Pipeline.save`."""
    folder = Path(folder)
    if folder.exists() and not (folder / FILE).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise ValueError(f"{folder}: exists, and is no pipeline")
    names = {part.name for part in pipeline.normalization}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "eegfast": __version__,
        "class_names": list(pipeline.class_names),
        "ch_names": list(pipeline.ch_names),
        "sfreq": pipeline.sfreq,
        "band": None if pipeline.band is None else list(pipeline.band),
        "notch": pipeline.notch,
        "inputs": {"name": pipeline.inputs.name, "options": dict(pipeline.inputs.options)},
        "normalization": names.pop() if names else "none",
        "about": dict(pipeline.about),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    part.mkdir()
    try:
        pipeline.model.save_pretrained(part / MODEL)
        write_normalization(part, pipeline.normalization)
        write_json(part / FILE, about)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def load(folder: str | os.PathLike) -> Pipeline:
    """See :meth:`Pipeline.load`."""
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no pipeline, it has no {FILE}")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: at most {_MOST_BYTES} bytes expected")
    try:
        content = read_json(path)
        _check(content)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    model = from_pretrained(folder / MODEL)
    normalization = read_normalization(folder, content["normalization"])
    inputs = InputsBuilder(content["inputs"]["name"], content["inputs"]["options"])
    try:
        return Pipeline(
            model,
            inputs,
            content["sfreq"],
            content["ch_names"],
            content["class_names"],
            normalization,
            content["band"],
            content["notch"],
            content["about"],
        )
    except Exception as error:  # the parts are sound each by itself, but do not fit together
        raise ValueError(f"{folder}: its parts do not fit together: {error}") from None


def pipeline_of_fit(run: Run, fit: Fit) -> Pipeline:
    """See :meth:`Pipeline.from_run`."""
    recipe, facts = run.recipe.as_dict(), run.facts
    data, found = recipe["data"], facts.get("data", {})
    kind = found.get("kind") or data.get("kind")
    if kind == "features":
        raise ValueError(
            f"{run.path}: it was trained on features that {data['dataset']} supplies; recordings "
            "cannot be turned into the very same. Train on signals to predict"
        )
    about = {
        "recipe": recipe["name"],
        "dataset": found.get("dataset") or data["dataset"],
        "kind": kind,
        "protocol": str(run.protocol.get("name", "")),
        "split": fit.name,
        "leaks": fit.leaks,
        "leak_reasons": [str(reason) for reason in fit.facts.get("leak_reasons", ())],
        "synthetic": found.get("synthetic") is not None,
        "trained": facts.get("created"),
    }
    name = (recipe.get("normalization") or {}).get("name", "none")
    inputs = found.get("inputs") or {"name": data["inputs"], "options": data.get("options") or {}}
    return Pipeline(
        fit.model(),
        InputsBuilder(inputs["name"], inputs["options"]),
        facts["sfreq"],
        facts["ch_names"],
        facts["class_names"],
        read_normalization(fit.pipeline_path, name),
        about=about,
    )


def _check(content: Mapping[str, Any]) -> None:
    """Refuse what :func:`save` does not write."""
    if content.get("format") != FORMAT:
        raise ValueError("not a pipeline of eegfast")
    if content.get("version") != VERSION:
        raise ValueError(
            f"a pipeline of version {content.get('version')!r}, this eegfast reads {VERSION}"
        )
    kinds = {
        "eegfast": str,
        "class_names": list,
        "ch_names": list,
        "sfreq": (int, float),
        "band": (list, type(None)),
        "notch": (int, float, type(None)),
        "inputs": dict,
        "normalization": str,
        "about": dict,
    }
    if set(content) != {"format", "version", *kinds}:
        raise ValueError(f"expected the entries {', '.join(['format', 'version', *kinds])}")
    for name, kind in kinds.items():
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise ValueError(f"{name} is of the wrong kind: {content[name]!r:.80}")
    _check_values(content)
    for name, most in (("class_names", _MOST_CLASSES), ("ch_names", _MOST_CHANNELS)):
        names = content[name]
        if not names or len(names) > most or len(set(map(str, names))) < len(names):
            raise ValueError(f"{name} must be 1 to {most} different names")
        for text in names:
            if not (isinstance(text, str) and text.isprintable() and 0 < len(text) <= 100):
                raise ValueError(f"{name} holds {text!r:.80}, which is no name")
    sfreq, band, inputs = content["sfreq"], content["band"], content["inputs"]
    if not 0 < sfreq <= 1e6:
        raise ValueError(f"sfreq must be a positive number of hertz up to 1e6, got {sfreq}")
    if band is not None and [type(edge) for edge in band] not in ([float] * 2, [int] * 2):
        raise ValueError(f"band must be two numbers, got {band!r:.80}")
    if set(inputs) != {"name", "options"} or not isinstance(inputs["options"], dict):
        raise ValueError("inputs must have a name and options")
    builder = InputsBuilder(inputs["name"], inputs["options"])
    for name, most in (("n_windows", 10_000), ("n_steps", 10_000), ("n_fft", 2**20), ("size", 512)):
        value = builder.options.get(name)
        for count in value if isinstance(value, list) else [value]:
            if count is not None and not (isinstance(count, int) and 1 <= count <= most):
                raise ValueError(f"inputs: {name} must be 1 to {most}, got {value!r:.80}")
    for name in ("window", "step"):
        value = builder.options.get(name)
        if value is not None and not (_is_number(value) and value > 0):
            raise ValueError(f"inputs: {name} must be seconds above 0, got {value!r:.80}")
    if (builder.row_seconds or 0) * sfreq * len(content["ch_names"]) > _MOST_VALUES:
        raise ValueError(f"inputs: a row of {builder.row_seconds:g} s is too long")
    make_normalization(content["normalization"])


def _check_values(value: object) -> None:
    """Refuse numbers that are not finite or huge."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_values(part)
    elif _is_number(value) and not abs(value) <= 1e9:
        raise ValueError(f"numbers up to 1e9 expected, got {value!r:.80}")


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (isinstance(value, int) or not math.isnan(value))
    )
