# SPDX-License-Identifier: BSD-3-Clause
"""From a data set to a feature store, over processes: ``eegfast extract --dataset``."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eegfast._processes import over_dask
from eegfast.datasets import Dataset, Recording, TrialFeatures
from eegfast.features._store_layout import (
    group_names,
    identity,
    key_of,
    prepare_store,
    write_group,
    writing,
)
from eegfast.features.batch import Outcome, fingerprint
from eegfast.features.extract import ExtractOptions, extract_features
from eegfast.features.store import FeatureStore, StoredFeatures

__all__ = ["extract_dataset"]

_TURN = threading.Lock()


def extract_dataset(
    dataset: Dataset,
    store: str | Path,
    options: ExtractOptions | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Features of a data set in a feature store, a group for each file.

    A group that holds this very thing already (same content of the file by SHA-256, same trials and
    labels, same options, same eegfast) is left alone; another is computed anew and replaced as a
    whole. Stopped or killed at any point, the same call goes on, and the finished store is the same
    to the byte. Supplied features (`TrialFeatures`) are stored as they are.

    Parameters
    ----------
    dataset : Dataset
        Signals or supplied features.
    store : path-like
        Folder of the store; made if it is not there.
    options : ExtractOptions, optional
        What to compute; not for supplied features.
    workers : int, optional
        Processes, each with one thread, started for this by Dask; 0 or 1: no Dask, all in this
        process. Default: a process per core, at most one per file.
    scheduler : str, optional
        Address of a Dask scheduler whose workers are used instead. They must see the files and the
        store under the same paths and have the same eegfast.
    overwrite : bool, default False
        Compute also what is there.

    Yields
    ------
    Outcome
        For each file when it is ready: ``"done"``, ``"skipped"`` or ``"failed"``; `output` is the
        group's folder. A file that fails does not stop the others. A worker that dies is replaced
        and its file given to another; a file that killed four is ``"failed"``.

    Raises
    ------
    ImportError
        If Zarr is missing, or Dask where it is needed.
    OSError
        If the scheduler cannot be reached or has no workers.
    ValueError
        If options do not fit the data set, or the folder holds something else, or features of
        another data set.

    Notes
    -----
    In a script, processes need the usual ``if __name__ == "__main__":`` around the call.
    """
    options = ExtractOptions() if options is None else options
    if dataset.kind == "features":
        if options != ExtractOptions():
            raise ValueError(
                f"{dataset.name}: supplied features are stored as they are; recipe, bands, window, "
                "step, smooth, resample and picks are for signals"
            )
        options = None
    store = Path(store).resolve()
    prepare_store(store)
    _refuse_another(FeatureStore(store), dataset)
    plan = group_names(dataset)
    jobs = [(dataset, path, store, name, options, overwrite) for path, name in plan.items()]
    alone = len(jobs) <= 1 or (workers is not None and workers <= 1)
    if scheduler is None and alone:
        yield from (store_file(*job) for job in jobs)
    else:
        yield from _over_dask(jobs, workers, scheduler)


def _refuse_another(store: FeatureStore, dataset: Dataset) -> None:
    for name in store.groups:
        try:
            there = store[name].metadata["dataset"]["name"]
        except ValueError:
            continue  # damaged: replaced, or for the reader to complain about
        if there != dataset.name:
            raise ValueError(
                f"{store.path} holds features of {there} ({name}), not of {dataset.name}; "
                "write to another folder"
            )


def _over_dask(jobs: list[tuple], workers: int, scheduler: str | None) -> Iterator[Outcome]:
    for job, outcome, error in over_dask(_store_file_elsewhere, jobs, workers, scheduler):
        _, path, store, name, *_ = job
        if error is None:
            yield outcome
        else:
            yield Outcome(path, store / name, "failed", notes=(_reason(error, path),))


def _store_file_elsewhere(*job) -> Outcome:
    return replace(store_file(*job), error=None)  # not every exception survives the way back


def store_file(
    dataset: Dataset,
    path: Path,
    store: Path,
    name: str,
    options: ExtractOptions | None,
    overwrite: bool = False,
) -> Outcome:
    """Bring the group of one file up to date.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    path : Path
        One of its files.
    store : Path
        Folder of the store, which must be there.
    name : str
        Of the group.
    options : ExtractOptions or None
        What to compute; None for supplied features.
    overwrite : bool, default False
        Compute also what is there.

    Returns
    -------
    Outcome
        Failures are returned, not raised, but for ImportError.
    """
    start = time.perf_counter()

    def outcome(status: str, **more) -> Outcome:
        return Outcome(path, store / name, status, seconds=time.perf_counter() - start, **more)

    try:
        indices = dataset.files[path]
        before = path.stat()
        facts = identity(dataset, [dataset.trials[i] for i in indices], fingerprint(path), options)
        facts["key"] = key_of(facts)
        with writing(store, name):
            found = None if overwrite else _current(store / name, facts["key"])
            if found is not None:
                notes = tuple(found.metadata["notes"])
                return outcome("skipped", shape=found.features.shape, notes=notes)
            values, offsets, about = _features(dataset, indices, options)
            after = path.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ValueError("the file changed while it was read")
            facts["trials"]["trial_start"] = offsets
            write_group(store, name, values, {**dict(sorted(facts.items())), **about})
        return outcome("done", shape=values.shape, notes=tuple(about["notes"]))
    except ImportError:
        raise
    except Exception as error:
        return outcome("failed", notes=(_reason(error, path),), error=error)


def _reason(error: BaseException, path: Path) -> str:
    reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
    if isinstance(error, (ValueError, TypeError, OSError)):
        return reason
    return f"{type(error).__name__}: {reason}"


def _current(place: Path, key: str) -> StoredFeatures | None:
    """The group at `place` if it is whole and has this key, else None."""
    try:
        found = StoredFeatures(place)
    except (FileNotFoundError, ValueError):
        return None
    return found if found.metadata["key"] == key else None


def _features(
    dataset: Dataset, indices: Sequence[int], options: ExtractOptions | None
) -> tuple[np.ndarray, list[int], dict]:
    """Windows of all trials of a file, where each trial begins, and what the values are."""
    parts, offsets, notes, about = [], [0], [], {}
    prefix = rf"^\S*{re.escape(dataset.trials[indices[0]].path.name)}: "
    # Warnings are caught for the process, so files of two threads of a worker take turns.
    with _TURN, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for index, item in zip(indices, dataset.read(indices), strict=True):
            trial = dataset.trials[index]
            who = ("subject_id", "session_id", "trial_id", "label")
            there, wanted = ([getattr(x, name) for name in who] for x in (item, trial))
            if there != wanted:
                raise ValueError(
                    f"expected (subject, session, trial, label) {wanted}, read {there}"
                )
            try:
                values, facts, remarks = _one_trial(item, options)
            except ValueError as error:
                raise ValueError(f"trial {trial.trial_id}: {error}") from error
            for name, value in facts.items():
                if value != about.setdefault(name, value):
                    raise ValueError(
                        f"trial {trial.trial_id}: {name} differs from that of the trials before: "
                        f"{value}, not {about[name]}"
                    )
            warned = [str(w.message) for w in caught if _matters(w)]
            remarks = [*(re.sub(prefix, "", remark) for remark in warned), *remarks]
            caught.clear()
            notes += [f"trial {trial.trial_id}: {remark}" for remark in dict.fromkeys(remarks)]
            parts.append(values)
            offsets.append(offsets[-1] + len(values))
    return np.concatenate(parts), offsets[:-1], {**about, "notes": notes}


def _matters(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, (UserWarning, RuntimeWarning))


def _single(recording: Recording) -> Recording:
    """In float32, time along rows: what is left of a float64 column-major trial to do is small."""
    signal = recording.signal
    if signal.dtype == np.float32 and signal.flags.c_contiguous:
        return recording
    # Converting first and turning then moves half the bytes across columns.
    signal = np.ascontiguousarray(signal.astype(np.float32, copy=False))
    return replace(recording, signal=signal)


def _one_trial(
    item: Recording | TrialFeatures, options: ExtractOptions | None
) -> tuple[np.ndarray, dict, list[str]]:
    if isinstance(item, TrialFeatures):
        supplied = "as supplied by the data set"
        facts = {
            "explain": f"{item.feature}, {supplied}",
            "feature": item.feature,
            "recipe": None,
            "sfreq": None,
            "smoothing": supplied,
            "step": float(item.window),
            "unit": supplied,
            "window": float(item.window),
        }
        values, ch_names, bands, notes = item.values, item.ch_names, item.bands, []
    else:
        recording = item if options.picks is None else item.pick(options.picks)
        features = extract_features(_single(recording), options)
        of_interest = ("explain", "feature", "recipe", "sfreq", "smoothing", "step", "unit")
        facts = {name: features.metadata[name] for name in (*of_interest, "window")}
        values, ch_names, bands = features.values, features.ch_names, features.bands
        notes = features.metadata["notes"]
    if not len(values):
        raise ValueError("there is no window")
    edges = [[float(low), float(high)] for low, high in bands.values()]
    names = {"band_edges": edges, "band_names": list(bands), "ch_names": list(ch_names)}
    return values.astype(np.float32, copy=False), {**names, **facts}, notes
