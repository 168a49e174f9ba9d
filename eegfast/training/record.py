# SPDX-License-Identifier: BSD-3-Clause
"""``run.json`` of an experiment, and whether a run folder is of this very experiment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eegfast._version import __version__
from eegfast.protocols import Protocol, Samples, Split
from eegfast.training.fitting import FitTask
from eegfast.training.runs import FORMAT, VERSION, read_json, write_file, write_json

_VOLATILE = ("root", "cache", "path", "seconds")  # of the data's facts: they may differ


def make_record(settings, prepared, protocol: Protocol, tasks: Sequence[FitTask]) -> dict:
    """``run.json``: what a later call is held against, and where it all happened."""
    import lightning

    fits = [
        {"folder": task.folder.name, "split": task.split.name, "digest": _digest(task.split)}
        for task in tasks
    ]
    record = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": protocol.describe(),
        "data": dict(prepared.facts),
        "class_names": list(prepared.class_names),
        "ch_names": list(prepared.ch_names),
        "sfreq": float(prepared.sfreq),
        "model": {"name": tasks[0].network, "options": dict(tasks[0].network_options)},
        "content": _content(prepared.inputs, prepared.samples),
        "fits": fits,
        "software": {
            "eegfast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": int(settings.get("seed") or 0),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return json.loads(json.dumps(record, default=_plain))


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _digest(split: Split) -> str:
    sides = (split.train, split.test, split.validation)
    text = hashlib.sha256()
    for side in sides:
        text.update(b"-" if side is None else np.ascontiguousarray(side, np.int64).tobytes() + b"|")
    return text.hexdigest()[:16]


def _content(inputs: Sequence[Tensor], samples: Samples) -> str:
    """SHA-256 of all that is trained on."""
    text = hashlib.sha256()
    for x in inputs:
        text.update(f"{tuple(x.shape)}{x.dtype}".encode())
        text.update(memoryview(x.contiguous().numpy()).cast("B"))
    for column in (samples.subject_id, samples.session_id, samples.trial_id, samples.label):
        text.update(json.dumps(column.tolist()).encode())
    return text.hexdigest()


def open_folder(out: Path, record: Mapping, settings: Mapping) -> None:
    """Make the run folder, or see that it is of this very run."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a folder expected, this is a file")
    import yaml

    if (out / "run.json").is_file():
        before = read_json(out / "run.json")
        recipe = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
        names = ("protocol", "model", "data", "class_names", "ch_names", "sfreq", "content", "fits")
        there = {"recipe": recipe} | {name: before.get(name) for name in names}
        here = {"recipe": settings} | {name: record[name] for name in names}
        differences = list(_differences(there, here))
        if differences:
            more = f" (and {len(differences) - 4} more)" if len(differences) > 4 else ""
            raise ValueError(
                f"{out} holds a run that differs: {'; '.join(differences[:4])}{more}. Write to "
                "another folder, or remove this one"
            )
        return
    if out.exists():
        known = ("recipe.yaml", ".lock")
        other = sorted(
            p.name for p in out.iterdir() if p.name not in known and ".part" not in p.name
        )
        if other:
            raise ValueError(f"{out}: not a run, and not empty: {', '.join(other[:3])}")
    out.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_file(out / "recipe.yaml", lambda part: part.write_text(text, encoding="utf-8"))
    write_json(out / "run.json", record)


def _differences(there, here, path: str = "") -> Iterator[str]:
    """What differs, leaf by leaf, such as ``"recipe.seed is 0 there and 1 here"``."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            if not (path.endswith("data") and key in _VOLATILE):
                name = f"{path}.{key}" if path else str(key)
                yield from _differences(there.get(key), here.get(key), name)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, pair in enumerate(zip(there, here, strict=True)):
            yield from _differences(*pair, f"{path}.{number}")
    elif there != here:
        shown = (
            f"{len(value)} entries" if isinstance(value, (list, dict)) else repr(value)
            for value in (there, here)
        )
        yield "{} is {} there and {} here".format(path, *shown)
