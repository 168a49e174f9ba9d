# SPDX-License-Identifier: BSD-3-Clause
"""One fit of an experiment, from its split to its folder; killed at any point, it goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from eegfast._processes import locked
from eegfast.models.base import Network
from eegfast.protocols import Samples, Split, make_normalization
from eegfast.training.data import ResidentLoader
from eegfast.training.fit import predict_proba
from eegfast.training.module import ClassificationModule, balanced_class_weights
from eegfast.training.normalizations import write_normalization
from eegfast.training.runs import Fit, write_history, write_json, write_predictions
from eegfast.training.stages import (
    Checkpoints,
    derive,
    frozen,
    load_checkpoint,
    next_network,
    stage_network,
    stage_options,
)
from eegfast.training.trainer import KeepBest, join_processes, run_trainer, seeded

_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True)
class FitTask:
    """What a process needs for a fit, besides the data.

    Attributes
    ----------
    folder : Path
        Of the fit.
    split : Split
        With the validation side to be used.
    leaks : tuple of str
        Why figures of this fit are too good, in plain sentences; empty if they are not.
    seed : int
        Of weights, order, dropout.
    network, network_options : str, dict
        Name and arguments.
    training : dict
        The recipe's section.
    normalization : str
        Name.
    n_outputs : int
        Classes.
    accelerator : str
        Lightning's.
    """

    folder: Path
    split: Split
    leaks: tuple[str, ...]
    seed: int
    network: str
    network_options: Mapping
    training: Mapping
    normalization: str
    n_outputs: int
    accelerator: str = "auto"


def run_fit(
    task: FitTask,
    inputs: Sequence[Tensor],
    samples: Samples,
    on_epoch: Callable[[dict], None] | None = None,
) -> None:
    """Bring a fit to its end, from wherever it is.

    Parameters
    ----------
    task : FitTask
        Which.
    inputs : sequence of Tensor
        All samples of the experiment, on the CPU.
    samples : Samples
        Whose they are.
    on_epoch : callable, optional
        Given each new row of the learning curve.

    Raises
    ------
    ValueError
        If data, network and recipe do not fit; the message names the split.
    """
    rank, world = join_processes()
    task.folder.mkdir(parents=True, exist_ok=True)
    held = locked(task.folder / ".lock") if rank == 0 else contextlib.nullcontext()
    with held:
        done = [Fit(task.folder).finished]
        if world > 1:
            dist.broadcast_object_list(done)  # and nobody goes on before the lock is there
        if done[0]:
            return
        if rank == 0:
            for part in task.folder.rglob(".*.part*"):  # of a process that was killed
                part.unlink(missing_ok=True)
        try:
            _fit(task, inputs, samples, on_epoch, rank, world)
        except ValueError as error:
            raise ValueError(f"{task.split.name}: {error}") from error
        if world > 1:
            dist.barrier()


def _fit(task, inputs, samples, on_epoch, rank: int, world: int) -> None:
    data, normalizations = _normalised(task, inputs, samples)
    labels = samples.label[data.rows]
    network, rows, best_epoch = _train(task, data, labels, on_epoch, rank, world)
    if rank != 0:
        return
    device = data.inputs[0].device
    proba = predict_proba(network.to(device), tuple(x[data.test] for x in data.inputs))
    test = task.split.test
    folder = task.folder
    network.cpu().save_pretrained(folder / "model.safetensors")
    write_normalization(folder / "pipeline", normalizations)
    write_predictions(
        folder / "predictions.npz",
        proba=proba,
        label=samples.label[test],
        subject_id=samples.subject_id[test],
        session_id=samples.session_id[test],
        trial_id=samples.trial_id[test],
        sample=test,
    )
    write_history(folder / "history.csv", rows)
    validation = task.split.validation
    facts = {
        "split": task.split.name,
        "leaks": bool(task.leaks),
        "leak_reasons": list(task.leaks),
        "n_train": len(task.split.train),
        "n_validation": 0 if validation is None else len(validation),
        "n_test": len(test),
        "epochs": len(rows),
        "best_epoch": best_epoch,
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "data_seconds": round(sum(row["data_seconds"] for row in rows), 3),
        "seed": task.seed,
        "processes": world,
    }
    write_json(folder / "done.json", facts)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


@dataclass
class _Data:
    """The samples of a fit, normalised: all inputs, and the rows of each side in them."""

    rows: np.ndarray
    inputs: tuple[Tensor, ...]
    train: Tensor
    test: Tensor
    validation: Tensor | None


def _normalised(task: FitTask, inputs: Sequence[Tensor], samples: Samples):
    """Samples of a fit, scaled by what its training side says, where the training is to be."""
    split = task.split
    sides = [split.train, split.test, *([] if split.validation is None else [split.validation])]
    rows = np.unique(np.concatenate(sides))
    normalizations = [make_normalization(task.normalization) for _ in inputs]
    if normalizations[0].transductive:  # it depends on all recordings of a subject
        rows = np.flatnonzero(np.isin(samples.subject_id, samples.subject_id[rows]))
    place = np.full(len(samples.label), -1)
    place[rows] = np.arange(len(rows))
    subjects = samples.subject_id
    parts = []
    for x, normalization in zip(inputs, normalizations, strict=True):
        if task.normalization == "none":
            part = x[torch.from_numpy(rows)].float()
        else:
            values = x.numpy()
            normalization.fit(values[split.train], subjects[split.train])
            part = normalization.transform(values[rows], subjects[rows])
            part = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
        if not torch.isfinite(part).all():
            raise ValueError("samples hold NaN or infinite values")
        parts.append(part)
    device = _device(task.accelerator, sum(part.nbytes for part in parts))
    train, test, validation = (
        None if side is None else torch.from_numpy(place[side]).to(device)
        for side in (split.train, split.test, split.validation)
    )
    moved = tuple(part.to(device) for part in parts)
    return _Data(rows, moved, train, test, validation), normalizations


def _device(accelerator: str, n_bytes: int) -> torch.device:
    """Where the samples lie: on the GPU that trains, if they fit beside network and gradients."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    free, _ = torch.cuda.mem_get_info(device)
    return device if n_bytes < _SHARE_OF_FREE_MEMORY * free else torch.device("cpu")


def _train(
    task: FitTask, data: _Data, labels: np.ndarray, on_epoch, rank: int, world: int
) -> tuple[Network, list[dict], int | None]:
    """Run the stages that are left; network, learning curve, best epoch of the last stage."""
    stages = task.training["stages"]
    state = load_checkpoint(task.folder)
    first = state["stage"] if state else 0
    rows = list(state["rows"]) if state else []
    y = torch.from_numpy(labels)
    train_labels = y[data.train.cpu()]
    network = stage_network(task.network, task.network_options, stages[: first + 1], task.seed)
    best_epoch, logger = None, _logger(task.folder) if rank == 0 else None
    for number in range(first, len(stages)):
        stage, resumed = stages[number], state if number == first else None
        options = stage_options(task.training, stage, task.accelerator)
        if number > first:
            with seeded(derive(task.seed, number)):
                network = next_network(network, task.network, stage.get("model") or {})
        if resumed:
            network.load_state_dict(resumed["network"])
        stopped = frozen(network, stage.get("freeze") or ())
        watched = data.validation is not None
        if not watched and (options.keeps_best or options.patience is not None):
            raise ValueError("early stopping and the best epoch need a validation side")
        keep_best = KeepBest(options.patience, options.best_by) if watched else None
        if resumed and keep_best:
            keep_best.load_state_dict(resumed["keep_best"])
        weights = None
        if options.balance_classes:
            weights = balanced_class_weights(train_labels, task.n_outputs)
        module = ClassificationModule(
            network.train(),
            task.n_outputs,
            options,
            class_weights=weights,
            monitor="val_loss" if watched else "train_loss",
        )
        order = torch.Generator()
        loader = ResidentLoader(
            data.inputs,
            y,
            options.batch_size,
            shuffle=True,
            generator=order,
            drop_last=_too_few(len(data.train), options.batch_size, world),
            indices=data.train.cpu(),
            share=(rank, world),
        )
        loaders = [loader]
        if watched:
            held = data.validation.cpu()
            loaders.append(ResidentLoader(data.inputs, y, 1024, indices=held))
        checkpoints = Checkpoints(
            task.folder,
            number,
            str(stage["name"]),
            seed=task.seed,
            rank=rank,
            order=order,
            rows=rows,
            keep_best=keep_best,
            resumed=resumed,
            on_epoch=on_epoch,
            logger=logger,
        )
        left = options.max_epochs - (resumed["epoch"] if resumed else 0)
        if left > 0 and not (resumed and resumed["stopped"]):
            run_trainer(
                module,
                loaders,
                seed=derive(task.seed, number, 2),
                epochs=left,
                callbacks=[*([keep_best] if keep_best else []), checkpoints],
            )
        network = module.model.cpu()
        for parameter in stopped:
            parameter.requires_grad_(True)
        best_epoch = None
        if options.keeps_best:
            network.load_state_dict(keep_best.weights)
            best_epoch = keep_best.best_epoch
    if logger is not None:
        logger.finalize("success")
    return network.eval(), rows, best_epoch


def _too_few(n: int, batch_size: int, world: int) -> bool:
    """Whether BatchNorm cannot use the last batch: a process would have one sample, or none."""
    return n > batch_size and 0 < n % batch_size < 2 * world


def _logger(folder: Path):
    """TensorBoard's, where it is installed; the learning curve is in history.csv anyway."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from lightning.pytorch.loggers import TensorBoardLogger

    run = folder.parent.parent
    return TensorBoardLogger(run, name="tensorboard", version=folder.name)
