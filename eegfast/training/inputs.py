# SPDX-License-Identifier: BSD-3-Clause
"""From a data set to a network's inputs, as a recipe says: trial by trial, kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eegfast import __version__
from eegfast._processes import locked
from eegfast.datasets import Dataset, Recording, TrialFeatures
from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.features.batch import fingerprint
from eegfast.features.inputs import count_windows
from eegfast.features.store import FeatureStore
from eegfast.protocols import Samples
from eegfast.training._inputs_cache import check_room, read_entry, write_entry
from eegfast.training._plain import nearest
from eegfast.training.builders import InputsBuilder, known_options
from eegfast.training.recipe import Recipe
from eegfast.training.recipe_sections import Data
from eegfast.training.sources import open_source

__all__ = ["Prepared", "prepare"]

Progress = Callable[[int, int, str], None]
_SEQUENCES = "resattentionet"


@dataclass(frozen=True, eq=False)
class Prepared:
    """All samples of an experiment.

    Attributes
    ----------
    inputs : tuple of Tensor
        The network's inputs, float32, on the CPU, first axis samples. From a cache they are mapped
        files: only what is read is in memory.
    samples : Samples
        Whose each sample is, and its class.
    class_names : list of str
        Names of the classes, by label.
    ch_names : list of str
        Names of the channels.
    sfreq : float
        Sampling rate in hertz of the signals they were made of; of supplied features, windows per
        second.
    facts : dict
        What they are and come from, as JSON holds it: ``dataset``, ``kind``, ``root``, ``key``
        (SHA-256 of all they depend on), ``n_files``, ``n_trials``, ``n_samples``, ``n_subjects``,
        ``missing``, ``synthetic`` (scale of invented data, else None), ``inputs`` (``name`` and
        ``options`` of the builder, resolved), ``notes``.
    """

    inputs: tuple[Tensor, ...]
    samples: Samples
    class_names: list[str]
    ch_names: list[str]
    sfreq: float
    facts: dict[str, Any]

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(x.shape)) for x in self.inputs)
        return f"<Prepared {self.facts['dataset']}: {shapes}; {self.samples!r}>"


def prepare(
    recipe: Recipe,
    root: str | Path | Dataset | FeatureStore | None = None,
    *,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Make a recipe's inputs of a data set.

    Parameters
    ----------
    recipe : Recipe
        Whose ``data`` says what to do. What a protocol changes in it must be in it:
        ``recipe.for_protocol("paper")``.
    root : path-like, Dataset, FeatureStore or None
        The data set's folder as downloaded (for ``byo``: the table of trials); a feature store, for
        networks that take features; either of them opened; ``"bundled"`` for the recordings that
        come with the package (data set ``eegmat``). None: ``data.root``.
    cache : path-like, optional
        Folder in which inputs are kept by what they depend on: content of the files, labels,
        recipe, version. Made if missing. None keeps them in memory only.
    progress : callable, optional
        Called as ``progress(trials_done, trials, text)``.

    Returns
    -------
    Prepared

    Raises
    ------
    FileNotFoundError, ValueError
        If the data set is not there or damaged, or the recipe does not fit it. The message names
        the trial, or the key of the recipe.
    MemoryError, OSError
        If they would not fit into memory, or onto the cache's disk; said after the first trial.

    Notes
    -----
    Each trial is turned into inputs by itself, so nothing of one trial is in another's samples.
    Normalisation by the training side belongs to the fit.
    """
    data = recipe.data
    _check_options(data)
    source = open_source(data, root)
    if not source.trials:
        raise ValueError(f"{source.root}: no trial of {source.name} in it")
    in_files = all(path.exists() for path in source.files)
    key = _key(data, source) if in_files else None
    work = _Work(data, source, key, progress)
    if cache is None or key is None:
        parts = list(work.parts(None))
        inputs = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        return work.prepared(inputs, work.about())
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / key[:32]
    entry = read_entry(folder)
    if entry is None:
        with locked(cache / f".lock-{folder.name}"):
            entry = read_entry(folder)
            if entry is None:
                if folder.exists():  # damaged
                    shutil.rmtree(folder)
                write_entry(folder, work.parts(cache), work.about)
                entry = read_entry(folder)
    if entry is None:
        raise OSError(f"{folder}: what was just written there cannot be read")
    return work.prepared(*entry)


class _Work:
    """The trials of a source, one after the other, and what came out."""

    def __init__(self, data: Data, source: Dataset, key: str | None, progress: Progress | None):
        self.data, self.source, self.key, self.progress = data, source, key, progress
        self.windows: list[int] = []
        self.channels: tuple[list[str], float] | None = None
        self.options = dict(data.options)

    def parts(self, place: Path | None) -> Iterator[tuple[Tensor, ...]]:
        """Inputs of each trial; `place` is where they will be kept, for the check of room."""
        shortest = self.options.get("n_windows") == "shortest"
        made = [] if shortest else None
        for number, inputs in enumerate(self._trials()):
            if number == 0:
                size = sum(4 * x.numel() for x in inputs) * len(self.source)
                check_room(size if place is not None else 2 * size, place)
            if shortest:
                made.append(inputs)
            else:
                self.windows.append(len(inputs[0]))
                yield inputs
        if shortest:
            n_windows = min(x.shape[1] for (x,) in made)
            self.options["n_windows"] = n_windows
            for (x,) in made:
                self.windows.append(len(x))
                yield (x[:, :n_windows],)

    def _trials(self) -> Iterator[tuple[Tensor, ...]]:
        n = len(self.source)
        for number, item in enumerate(self.source):
            trial = self.source.trials[number]
            name = f"{self.source.name}, subject {trial.subject_id}, session {trial.session_id}"
            name = f"{name}, trial {trial.trial_id}"
            if self.progress is not None:
                self.progress(number, n, name)
            try:
                item = self._reduced(item)
                inputs = _inputs_of(item, self.data.inputs, self.options)
                for x in inputs:
                    if not torch.isfinite(x).all():
                        raise ValueError(
                            "its inputs hold NaN or infinite values: a channel is flat for a while "
                            "(cut it off by data.seconds, leave it out by data.picks, or take "
                            "recipe clean)"
                        )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            yield tuple(x.float().cpu() for x in inputs)
        if self.progress is not None:
            self.progress(n, n, "")

    def _reduced(self, item: Recording | TrialFeatures) -> Recording | TrialFeatures:
        """A trial cut, reduced and resampled as the recipe says; all must be alike then."""
        data = self.data
        if isinstance(item, Recording):
            if data.seconds is not None:
                length = round(data.seconds * item.sfreq)
                if item.n_times < length:
                    raise ValueError(
                        f"it has {item.duration:g} s, data.seconds wants {data.seconds:g} s"
                    )
                item = replace(item, signal=item.signal[:, :length])
            item = item if data.picks is None else item.pick(data.picks)
            item = item if data.sfreq is None else item.resample(data.sfreq)
            about = item.ch_names, item.sfreq
        else:
            for name in ("seconds", "picks", "sfreq"):
                if getattr(data, name) is not None:
                    raise ValueError(f"data.{name} is for signals, these are features")
            about = item.ch_names, 1 / item.window
        self.channels = self.channels or about
        if about != self.channels:
            names, sfreq = self.channels
            raise ValueError(
                f"it has {len(about[0])} channels at {about[1]:g} Hz, the trials before "
                f"{len(names)} at {sfreq:g} Hz or others of that number; data.picks and data.sfreq "
                "make them alike"
            )
        return item

    def about(self) -> dict[str, Any]:
        """What is kept beside the inputs."""
        ch_names, sfreq = self.channels
        return {
            "windows": self.windows,
            "ch_names": ch_names,
            "sfreq": sfreq,
            "options": self.options,
        }

    def prepared(self, inputs: tuple[Tensor, ...], about: dict[str, Any]) -> Prepared:
        """The result, of inputs just made or read."""
        source, data = self.source, self.data
        samples = Samples.from_trials(source, np.asarray(about["windows"], dtype=np.int64))
        facts = {
            "dataset": source.name,
            "kind": source.kind,
            "root": str(source.root),
            "select": data.select,
            "key": self.key,
            "n_files": len(source.files),
            "n_subjects": len(source.subjects),
            "n_trials": len(source),
            "n_samples": len(samples),
            "missing": list(source.missing),
            "synthetic": synthetic_scale(source.root),
            "seconds_of_trial": data.seconds,
            "picks": data.picks,
            "inputs": {"name": data.inputs, "options": about["options"]},
            "notes": _notes(source, data, about["options"], samples),
        }
        facts = json.loads(json.dumps(facts))
        names = [str(name) for name in source.class_names]
        return Prepared(
            inputs, samples, names, list(about["ch_names"]), float(about["sfreq"]), facts
        )


def _check_options(data: Data) -> None:
    """Options must be the builder's, plain ones: they are kept and applied elsewhere too."""
    known = known_options(data.inputs)
    for key in data.options:
        if key not in known:
            raise ValueError(f"data.options.{key}: unknown key; {nearest(key, known)}")
    if "statistics" in known:
        statistics = data.options.get("statistics", known["statistics"])
        if statistics not in ("trial", None):
            raise ValueError(
                f"data.options.statistics must be trial or null, got {statistics!r}: trials are "
                "prepared one by one; for numbers of the training side take normalization "
                "channel_zscore"
            )


def _inputs_of(item: Recording | TrialFeatures, name: str, options: dict) -> tuple[Tensor, ...]:
    """Inputs of one trial. Sequences get as many windows as ``n_windows`` says; ``shortest``: all
    that there are."""
    if isinstance(item, TrialFeatures):
        return (_sequence(item, name, options),)
    signal = torch.from_numpy(np.array(item.signal, dtype=np.float32))
    if name == _SEQUENCES and options.get("n_windows") == "shortest":
        window, step = options.get("window", 4.0), options.get("step")
        count = count_windows(name, signal, item.sfreq, window, window if step is None else step)[2]
        options = {**options, "n_windows": count}
    with torch.inference_mode():
        return tuple(InputsBuilder(name, options)(signal, item.sfreq, item.ch_names))


def _sequence(item: TrialFeatures, name: str, options: dict) -> Tensor:
    """Supplied features as one sequence, cut or filled up with zeros."""
    if name != _SEQUENCES:
        raise ValueError(f"data.inputs {name} is made of signals, these are features")
    window = options.get("window", 4.0)
    if item.window != window:
        raise ValueError(
            f"its features {item.feature} have windows of {item.window:g} s, data.options.window "
            f"is {window:g} s"
        )
    values = torch.from_numpy(np.array(item.values, dtype=np.float32))
    n_windows = options.get("n_windows", 60)
    if n_windows != "shortest":
        values = torch.nn.functional.pad(values, (0, 0, 0, 0, 0, n_windows - len(values)))
    return values.unsqueeze(0)


def _notes(source: Dataset, data: Data, options: dict, samples: Samples) -> list[str]:
    """Remarks that belong beside every figure."""
    notes = []
    if synthetic_scale(source.root) is not None:
        notes.append("The signals are invented: figures say nothing about emotion or a method.")
    if source.name == "eegmat":
        notes.append("Rest against mental arithmetic: no emotion, one recording of each a subject.")
        if data.seconds is None or data.seconds > 58:
            notes.append(
                "Rest recordings end in zeros, which tell the label: take data.seconds=58."
            )
    if source.kind == "features":
        notes.append("Supplied features, taken as they are.")
    if data.inputs == _SEQUENCES and data.options.get("n_windows") != "shortest":
        notes.append(
            "Sequences are cut or filled up with zeros; where trials differ in length, the zeros "
            "tell the clip."
        )
    return notes


def _key(data: Data, source: Dataset) -> str:
    """SHA-256 of all that the inputs depend on; every file is read."""
    told = {"options": data.options, "inputs": data.inputs, "seconds": data.seconds}
    told |= {"picks": data.picks, "sfreq": data.sfreq, "name": source.name, "kind": source.kind}
    files: list[Any] = [path.name if path.is_dir() else fingerprint(path) for path in source.files]
    paths = list(source.files)
    trials = [
        [t.subject_id, t.session_id, t.trial_id, t.label, paths.index(t.path), str(t.key)]
        for t in source.trials
    ]
    reader = {}
    for name, value in vars(source).items():
        if name not in ("root", "trials", "missing"):
            try:
                reader[name] = json.dumps(value, sort_keys=True)
            except (TypeError, ValueError):  # no plain value
                continue
    facts = {"data": told, "files": files, "trials": trials, "reader": reader}
    text = json.dumps({**facts, "eegfast": __version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
