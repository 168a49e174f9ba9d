# SPDX-License-Identifier: BSD-3-Clause
"""An experiment: a recipe on prepared data, one fit per split, in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from eegfast._processes import locked, over_dask
from eegfast.protocols import LeakageWarning, Protocol, Samples, Split, create
from eegfast.training.fitting import FitTask, run_fit
from eegfast.training.record import make_record, open_folder
from eegfast.training.runs import (
    Fit,
    fit_folder,
    write_file,
)
from eegfast.training.stages import model_options, stage_options
from eegfast.training.trainer import join_processes

_INPUTS = ".inputs.safetensors"


@dataclass(frozen=True)
class Progress:
    """What :func:`run_experiment` tells while it works.

    Attributes
    ----------
    split : str
        Name of the split.
    fits_done, n_fits : int
        Finished fits, of all.
    epoch, n_epochs : int
        Epochs of this fit, over its stages; early stopping may leave some out.
    row : dict
        The newest row of the learning curve; empty when a fit has just finished.
    """

    split: str
    fits_done: int
    n_fits: int
    epoch: int
    n_epochs: int
    row: Mapping[str, object]


def run_experiment(
    recipe,
    prepared,
    out: str | os.PathLike,
    *,
    protocol: str = "paper",
    splits: int | Sequence[int] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    accelerator: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a recipe's network on every split of a protocol.

    Killed at any point, the same call goes on and ends with the same weights, to the bit on the
    same machine with the same number of threads. Finished fits are not touched.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    prepared : Prepared
        Inputs, samples and facts of the data set.
    out : path-like
        The run folder; made if missing.
    protocol : str
        ``"paper"`` or ``"honest"``, as the recipe says, or the name of a protocol.
    splits : int or sequence of int, optional
        Only the first so many splits, or these, counted from 0. Default: all.
    workers : int
        Processes that take a fit each, by Dask; 0 or 1: all in this process.
    scheduler : str, optional
        Address of a Dask scheduler whose workers take the fits instead. They must see the run
        folder under the same path and have the same eegfast.
    accelerator : str
        Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``.
    progress : callable, optional
        Given a :class:`Progress` after every epoch and every fit (with several processes: after
        every fit).

    Returns
    -------
    Path
        The run folder, for :class:`~eegfast.training.Run`.

    Raises
    ------
    ValueError
        If the folder holds a run of another recipe, protocol or data (the message says what
        differs) or something else; if recipe and data do not fit; if a fit failed.
    OSError
        If another process is at this run.

    Notes
    -----
    Under ``torchrun`` all processes work on each fit together: every batch is shared among them.
    """
    out = Path(out).resolve()
    rank, world = join_processes()
    if world > 1 and (workers > 1 or scheduler):
        raise ValueError("workers and scheduler do not go with torchrun: it has its own processes")
    settings = recipe.as_dict()
    if protocol in settings["protocols"]:
        settings = recipe.for_protocol(protocol).as_dict()
        section = settings["protocols"][protocol]
        chosen = create(section["name"], **section["options"])
    else:
        chosen = create(protocol)
        settings = {**settings, "protocols": {protocol: {"name": protocol, "options": {}}}}
    settings = json.loads(json.dumps(settings))
    tasks = _tasks(settings, prepared, out, chosen, splits, accelerator)
    record = make_record(settings, prepared, chosen, tasks)
    held = contextlib.nullcontext(True)
    if rank == 0:
        open_folder(out, record, settings)
        held = locked(out / ".lock", wait=False)
    with held as mine:
        if world > 1:
            agreed = [mine]
            dist.broadcast_object_list(agreed)
            mine = agreed[0]
        if not mine:
            raise OSError(f"{out}: another process is at this run")
        n_epochs = sum(stage["epochs"] for stage in settings["training"]["stages"])
        report = _Reporter(tasks, n_epochs, progress if rank == 0 else None)
        left = [task for task in tasks if not Fit(task.folder).finished]
        if left and (scheduler is not None or workers > 1):
            _fan_out(left, prepared, out, min(workers, len(left)), scheduler, report)
        else:
            for task in left:
                run_fit(task, prepared.inputs, prepared.samples, report.epochs_of(task))
                report.finished(task)
    return out


class _Reporter:
    def __init__(self, tasks: Sequence[FitTask], n_epochs: int, progress):
        self.n_fits, self.n_epochs, self.progress = len(tasks), n_epochs, progress
        self.done = 0
        for task in tasks:
            if Fit(task.folder).finished:
                self.finished(task)

    def finished(self, task: FitTask) -> None:
        self.done += 1
        self._tell(task, self.n_epochs, {})

    def epochs_of(self, task: FitTask) -> Callable[[dict], None]:
        stages = task.training["stages"]
        before = dict.fromkeys((str(stage["name"]) for stage in stages), 0)
        total = 0
        for stage in stages:
            before[str(stage["name"])] = total
            total += stage["epochs"]
        return lambda row: self._tell(task, before[row["stage"]] + row["epoch"], row)

    def _tell(self, task: FitTask, epoch: int, row: Mapping) -> None:
        if self.progress is not None:
            self.progress(
                Progress(task.split.name, self.done, self.n_fits, epoch, self.n_epochs, row)
            )


def _tasks(
    settings, prepared, out: Path, protocol: Protocol, splits, accelerator: str
) -> list[FitTask]:
    training, samples = settings["training"], prepared.samples
    for stage in training["stages"]:
        stage_options(training, stage)  # complain before anything is computed
    names = [str(stage["name"]) for stage in training["stages"]]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"training: stages need names of their own, got {names}")
    lengths = {len(x) for x in prepared.inputs} | {len(samples.label)}
    if len(lengths) != 1:
        raise ValueError(f"inputs and samples must be of one length, got {sorted(lengths)}")
    network = settings["model"]
    name = network["name"]
    options = model_options(
        name,
        network.get("options") or {},
        prepared.inputs,
        prepared.class_names,
        prepared.ch_names,
        prepared.sfreq,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)  # it is written into the run
        everything = list(protocol.splits(samples))
    validation = training.get("validation") or {}
    seed = int(settings.get("seed") or 0)
    tasks = []
    for number in _chosen(splits, len(everything)):
        split = everything[number]
        split, leaks = _with_validation(split, validation, samples, protocol)
        tasks.append(
            FitTask(
                folder=out / "fits" / fit_folder(number, split.name),
                split=split,
                leaks=leaks,
                seed=seed + number,
                network=name,
                network_options=options,
                training=training,
                normalization=(settings.get("normalization") or {}).get("name", "none"),
                n_outputs=len(prepared.class_names),
                accelerator=accelerator,
            )
        )
    return tasks


def _chosen(splits: int | Sequence[int] | None, n: int) -> list[int]:
    chosen = range(n) if splits is None else range(splits) if isinstance(splits, int) else splits
    chosen = sorted({int(number) for number in chosen if not isinstance(splits, int) or number < n})
    if not chosen or chosen[0] < 0 or chosen[-1] >= n:
        raise ValueError(f"splits must be of 0..{n - 1}, got {splits!r}")
    return chosen


def _with_validation(
    split: Split, validation: Mapping, samples: Samples, protocol: Protocol
) -> tuple[Split, tuple[str, ...]]:
    """The split with the validation side that the recipe wants, and why it leaks."""
    level = validation.get("level") or "none"
    leaks = [protocol.mixes] if split.leaks else []
    if level == "none":
        split = replace(split, validation=None)
    elif level == "test":
        split = replace(split, validation=split.test)
        leaks.append(
            "The validation side is the test side: whatever looks at it (learning rate, early "
            "stopping, the epoch that is kept) was chosen on the samples that are scored."
        )
    elif split.validation is None:
        groups = samples.groups(level)
        n, seed = int(validation.get("n") or 1), int(validation.get("seed") or 0)
        try:
            split = split.hold_out(groups, n, seed)
        except ValueError as error:
            raise ValueError(f"validation: {split.name}: {error}") from None
    return split, tuple(leaks)


def _fan_out(tasks, prepared, out: Path, workers: int, scheduler, report: _Reporter) -> None:
    """Give each worker a fit at a time. They map one file of the samples, which they share."""
    from safetensors.torch import save_file

    path = out / _INPUTS
    tensors = {str(i): x.contiguous() for i, x in enumerate(prepared.inputs)}
    write_file(path, lambda part: save_file(tensors, part), sync=False)
    jobs = [(task, path, prepared.samples) for task in tasks]
    failed = []
    try:
        for (task, *_), _, error in over_dask(_fit_elsewhere, jobs, workers, scheduler):
            if error is None:
                report.finished(task)
            else:
                failed.append(f"{task.split.name}: {error or type(error).__name__}")
    finally:
        path.unlink(missing_ok=True)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(tasks)} fits failed, the others are done: "
            + "; ".join(failed[:3])
        )


def _fit_elsewhere(task: FitTask, path: Path, samples: Samples) -> None:
    run_fit(task, _mapped(path, path.stat().st_mtime_ns), samples)


@lru_cache(maxsize=1)
def _mapped(path: Path, _: int) -> tuple[Tensor, ...]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return tuple(file.get_tensor(str(i)) for i in range(len(file.keys())))
