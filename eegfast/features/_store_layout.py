# SPDX-License-Identifier: BSD-3-Clause
"""How a feature store lies on disk: names, the key, groups written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from eegfast import __version__
from eegfast._processes import locked
from eegfast.datasets import Dataset, Trial
from eegfast.features.extract import ExtractOptions

FORMAT = "eegfast-store"
LAYOUT = 1
COLUMNS = ("trial_start", "subject_id", "session_id", "trial_id", "label", "key")
IDENTITY = ("class_names", "dataset", "eegfast", "layout", "options", "source")

_CHUNK_BYTES = 2**21
_TEMPORARY, _OLD, _LOCK = ".new-", ".old-", ".lock-"


def require_zarr():
    """The zarr module, version 3."""
    try:
        import zarr

        if int(zarr.__version__.partition(".")[0]) >= 3:
            return zarr
    except ImportError:
        pass
    raise ImportError(
        "The feature store needs Zarr 3 (Python 3.11 or newer): pip install 'eegfast[store]'."
    )


def group_names(dataset: Dataset) -> dict[Path, str]:
    """Name the group of each file: by session, by subject, or by the first trial in it.

    ``sub-01_ses-1`` where a file holds (a part of) one session, ``sub-01`` where it holds several;
    ``sub-01_ses-1_trial-1`` where it holds several subjects, or other files have the same name.
    """
    trials = {path: [dataset.trials[i] for i in found] for path, found in dataset.files.items()}
    short = {path: _short_name(found) for path, found in trials.items()}
    count = Counter(short.values())
    return {
        path: name if name is not None and count[name] == 1 else _trial_name(trials[path][0])
        for path, name in short.items()
    }


def _short_name(trials: Sequence[Trial]) -> str | None:
    subjects = {trial.subject_id for trial in trials}
    sessions = {trial.session_id for trial in trials}
    if len(subjects) > 1:
        return None
    return _name(trials[0].subject_id, *(sessions if len(sessions) == 1 else ()))


def _trial_name(trial: Trial) -> str:
    return f"{_name(trial.subject_id, trial.session_id)}_trial-{trial.trial_id}"


def _name(subject: str, *session: str) -> str:
    return "_".join(
        [f"sub-{quote(subject, safe='')}", *(f"ses-{quote(s, safe='')}" for s in session)]
    )


def identity(
    dataset: Dataset, trials: Sequence[Trial], source: dict, options: ExtractOptions | None
) -> dict:
    """All that the features of a file depend on, as JSON holds it; `key_of` hashes it.

    What the data set's reader was told counts through its attributes: all that JSON can hold, lists
    and dicts by their hash.
    """
    told = {}
    for name, value in sorted(vars(dataset).items()):
        if name in ("name", "kind", "root", "trials", "missing"):
            continue
        try:
            text = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError):
            continue
        plain = isinstance(value, str | int | float | None)
        told[name] = value if plain else hashlib.sha256(text.encode()).hexdigest()
    return {
        "class_names": [str(name) for name in dataset.class_names],
        "dataset": {"name": dataset.name, "kind": dataset.kind, "told": told},
        "eegfast": __version__,
        "layout": LAYOUT,
        "options": None if options is None else options.as_dict(),
        "source": source,
        "trials": {
            "subject_id": [trial.subject_id for trial in trials],
            "session_id": [trial.session_id for trial in trials],
            "trial_id": [int(trial.trial_id) for trial in trials],
            "label": [int(trial.label) for trial in trials],
            "key": [str(trial.key) for trial in trials],
        },
    }


def key_of(facts: dict) -> str:
    """SHA-256 of the part of a group's attributes that `identity` made."""
    said = {name: facts[name] for name in IDENTITY}
    said["trials"] = {k: facts["trials"][k] for k in COLUMNS if k != "trial_start"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def prepare_store(store: Path) -> None:
    """Make a folder a store, if it is none yet, and remove what killed runs left in it.

    Raises
    ------
    ValueError
        If it is a file, or a folder of something else.
    """
    zarr = require_zarr()
    if store.exists() and not store.is_dir():
        raise ValueError(f"{store}: expected a folder for the feature store, got a file.")
    store.mkdir(parents=True, exist_ok=True)
    strange = [p.name for p in store.iterdir() if not p.name.startswith((_TEMPORARY, _OLD, _LOCK))]
    if strange and not (store / "zarr.json").exists():
        raise ValueError(
            f"{store}: expected a feature store or an empty folder, it holds {min(strange)}."
        )
    _sweep(store)
    if not strange:
        with writing(store, "zarr.json"):
            temporary = store / f"{_TEMPORARY}zarr.json"
            zarr.create_group(
                temporary, attributes={"format": FORMAT, "layout": LAYOUT}, zarr_format=3
            )
            os.replace(temporary / "zarr.json", store / "zarr.json")


@contextmanager
def writing(store: Path, name: str) -> Iterator[None]:
    """Hold the right to write the group `name`; wait for another process that has it."""
    with locked(store / (_LOCK + name)):
        _remove_leftovers(store, name)
        try:
            yield
        finally:
            _remove_leftovers(store, name)


def write_group(store: Path, name: str, values: np.ndarray, attributes: dict) -> None:
    """Write a group beside its place and move it there; call it under `writing`.

    Killed at any point, it leaves the old group, the new one, or none, and folders that the next
    `prepare_store` removes. No byte depends on who wrote when.
    """
    zarr = require_zarr()
    from zarr.codecs import Crc32cCodec

    temporary, old, place = store / (_TEMPORARY + name), store / (_OLD + name), store / name
    group = zarr.create_group(temporary, attributes=attributes, zarr_format=3)
    group.create_array(
        "features",
        data=np.ascontiguousarray(values, dtype=np.float32),
        chunks=(chunk_windows(values.shape), *values.shape[1:]),
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    for folder, _, files in os.walk(temporary):
        for file in files:
            _sync(os.path.join(folder, file))
        _sync(folder)
    if place.exists():
        os.replace(place, old)
    os.replace(temporary, place)
    _sync(store)


def chunk_windows(shape: tuple[int, ...]) -> int:
    """Windows per chunk: chunks of about 2 MiB, as even as can be, for the last is padded."""
    windows, per_window = shape[0], 4 * shape[1] * shape[2]
    chunks = max(1, round(windows * per_window / _CHUNK_BYTES))
    return max(1, -(-windows // chunks))


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(store: Path, name: str) -> None:
    for prefix in (_TEMPORARY, _OLD):
        shutil.rmtree(store / (prefix + name), ignore_errors=True)


def _sweep(store: Path) -> None:
    """Remove what no living process is writing."""
    for path in sorted(store.iterdir()):
        for prefix in (_TEMPORARY, _OLD, _LOCK):
            if path.name.startswith(prefix):
                name = path.name.removeprefix(prefix)
                with locked(store / (_LOCK + name), wait=False) as mine:
                    if mine:
                        _remove_leftovers(store, name)
