# SPDX-License-Identifier: BSD-3-Clause
"""The stages of a recipe: options of each, the network of each, and checkpoints between epochs."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from eegfast.models import create
from eegfast.models.base import Network
from eegfast.models.registry import model_class
from eegfast.training.module import ClassificationModule
from eegfast.training.options import TrainingOptions
from eegfast.training.runs import write_file, write_history
from eegfast.training.trainer import KeepBest, seeded

CHECKPOINT = "last.pt"
_CHECKPOINT_VERSION = 1
_SCHEDULES = {  # keys of a recipe's schedule, as TrainingOptions has them
    "plateau": {
        "factor": "plateau_factor",
        "patience": "plateau_patience",
        "min_lr": "min_lr",
    },
    "steps": {"milestones": "milestones", "factor": "step_factor"},
    "cosine": {"min_lr": "min_lr"},
}


def stage_options(training: Mapping, stage: Mapping, accelerator: str = "auto") -> TrainingOptions:
    """Options of one stage of a recipe's ``training`` section.

    Parameters
    ----------
    training : mapping
        The section.
    stage : mapping
        One of its ``stages``.
    accelerator : str
        Lightning's.

    Returns
    -------
    TrainingOptions

    Raises
    ------
    ValueError
        If a value is out of range or a name is not known; the message names the stage.
    """
    schedule = {"name": "none", **(stage.get("schedule") or {})}
    names = _SCHEDULES.get(schedule["name"], {})
    values = {
        "max_epochs": stage["epochs"],
        "batch_size": stage["batch_size"],
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "balance_classes": False,
        "schedule": schedule["name"],
        "accelerator": accelerator,
        **{name if name != "name" else "optimizer": v for name, v in stage["optimizer"].items()},
        **{ours: schedule[name] for name, ours in names.items() if name in schedule},
        **(training.get("loss") or {}),
        **(training.get("augmentation") or {}),
    }
    for name in ("betas", "milestones"):
        if name in values:
            values[name] = tuple(values[name])
    for name in (
        "selection",
        "patience",
        "gradient_clip",
        "precision",
        "best_by",
        "sync_batchnorm",
    ):
        if training.get(name) is not None:
            values[name] = training[name]
    try:
        return TrainingOptions(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"training: stage {stage['name']!r}: {error}") from None


def model_options(
    name: str, options: Mapping, inputs: Sequence[Tensor], class_names, ch_names, sfreq: float
) -> dict:
    """Options of a network, those the recipe leaves open taken from the data.

    Parameters
    ----------
    name : str
        Name of the network.
    options : mapping
        The recipe's, which are kept as they are.
    inputs : sequence of Tensor
        The network's inputs, first axis samples.
    class_names, ch_names : sequence of str
        Classes and channels of the data.
    sfreq : float
        Sampling rate of the data.

    Returns
    -------
    dict
        Arguments of the network's constructor.
    """
    first = inputs[0]
    facts = {"n_outputs": len(class_names), "n_chans": len(ch_names), "sfreq": sfreq}
    if first.dim() == 3:  # signals
        facts |= {"n_times": first.shape[2], "ch_names": list(ch_names)}
    elif first.dim() == 4:  # sequences of windows
        facts |= {"n_windows": first.shape[1], "n_bands": first.shape[3]}
    elif first.dim() == 5:  # stacks of maps
        facts |= {"n_bands": first.shape[2], "grid": first.shape[3]}
        if len(inputs) > 1:
            facts["n_steps"] = inputs[1].shape[2]
    known = inspect.signature(model_class(name)).parameters
    return {**{k: v for k, v in facts.items() if k in known}, **options}


def next_network(network: Network, name: str, changes: Mapping) -> Network:
    """The network of the next stage, starting from the weights of this one.

    Parameters
    ----------
    network : Network
        As trained so far.
    name : str
        Its name.
    changes : mapping
        The stage's ``model``: options that differ. A network that has a method of the name of its
        ``stage`` option, as HAMNet has ``finetune``, makes its successor by it. Otherwise weights
        of the same name and shape are taken over.

    Returns
    -------
    Network
        The same one, if nothing changes.
    """
    changes = {key: v for key, v in changes.items() if network.config.get(key, changes) != v}
    if not changes:
        return network
    method = getattr(network, str(changes.get("stage")), None)
    if callable(method):
        return method(**{key: value for key, value in changes.items() if key != "stage"})
    successor = create(name, **{**network.config, **changes})
    old = network.state_dict()
    kept = {
        k: old[k] for k, v in successor.state_dict().items() if k in old and old[k].shape == v.shape
    }
    successor.load_state_dict(kept, strict=False)
    return successor


def stage_network(name: str, options: Mapping, stages: Sequence[Mapping], seed: int) -> Network:
    """The network of the last of these stages, with fresh weights.

    Parameters
    ----------
    name : str
        Name of the network.
    options : mapping
        Its options.
    stages : sequence of mapping
        Stages up to the one wanted.
    seed : int
        Of the weights.

    Returns
    -------
    Network
    """
    with seeded(derive(seed, 0)):
        network = create(name, **{**options, **(stages[0].get("model") or {})})
    for number, stage in enumerate(stages[1:], 1):
        with seeded(derive(seed, number)):
            network = next_network(network, name, stage.get("model") or {})
    return network


def frozen(network: Network, names: Sequence[str]) -> list[torch.nn.Parameter]:
    """Freeze the parameters below these names, such as ``"filter_bank.conv"``.

    Returns
    -------
    list of Parameter
        Those that were trainable before.

    Raises
    ------
    ValueError
        If nothing is of that name.
    """
    stopped = []
    for name in names:
        found = [p for n, p in network.named_parameters() if n == name or n.startswith(f"{name}.")]
        if not found:
            parts = ", ".join(part for part, _ in network.named_children())
            raise ValueError(
                f"freeze: {type(network).__name__} has no parameter below {name!r}; "
                f"its parts: {parts}"
            )
        stopped += [p for p in found if p.requires_grad]
    for parameter in stopped:
        parameter.requires_grad_(False)
    return stopped


def derive(*numbers: int) -> int:
    """A seed from several numbers: the same ones give the same, others an unrelated one."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Checkpoints(Callback):
    """State of a fit after every epoch, so that it can go on as if nothing had happened.

    Random numbers of an epoch depend on seed, stage, epoch and process only, hence no generator's
    state is kept. What is: stage and epoch, weights, optimizer, schedule, gradient scale, the best
    epoch's weights, learning curve.

    Parameters
    ----------
    folder : Path
        Of the fit.
    stage : int
        Number of the stage.
    stage_name : str
        For the learning curve.
    seed, rank : int
        Of the fit, and of the process. Rank 0 writes.
    order : torch.Generator
        Of the order of samples.
    rows : list of dict
        Learning curve so far; it grows.
    keep_best : KeepBest or None
        Whose state is kept too.
    resumed : dict or None
        A checkpoint of this stage.
    on_epoch : callable, optional
        Given each new row of the learning curve.
    logger : Lightning logger, optional
        Given each new row's figures too.
    """

    def __init__(
        self,
        folder: Path,
        stage: int,
        stage_name: str,
        *,
        seed: int,
        rank: int,
        order: torch.Generator,
        rows: list[dict],
        keep_best: KeepBest | None,
        resumed: Mapping | None = None,
        on_epoch: Callable[[dict], None] | None = None,
        logger=None,
    ):
        self.logger = logger
        self.folder, self.stage, self.stage_name = folder, stage, stage_name
        self.seed, self.rank, self.order = seed, rank, order
        self.rows, self.keep_best, self.resumed = rows, keep_best, resumed
        self.on_epoch = on_epoch
        self.epoch = resumed["epoch"] if resumed else 0
        self._open = False

    def on_train_start(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        if self.resumed is None:
            return
        trainer.optimizers[0].load_state_dict(self.resumed["optimizer"])
        for config in trainer.lr_scheduler_configs:
            config.scheduler.load_state_dict(self.resumed["schedule"])
        if self.resumed["precision"]:
            trainer.precision_plugin.load_state_dict(self.resumed["precision"])

    def on_train_epoch_start(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        # Lightning moves schedules after all hooks of an epoch's end: an epoch closes here.
        self._close(trainer, module)
        torch.manual_seed(derive(self.seed, self.stage, self.epoch, self.rank, 1))
        self.order.manual_seed(derive(self.seed, self.stage, self.epoch))
        self._open, self._waited = True, 0.0
        self._began = self._last = time.perf_counter()

    def on_train_batch_start(self, *_) -> None:
        self._waited += time.perf_counter() - self._last

    def on_train_batch_end(self, *_) -> None:
        self._last = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        self._close(trainer, module)

    def _close(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        if not self._open:
            return
        self._open = False
        self.epoch += 1
        row = {"stage": self.stage_name, "epoch": self.epoch}
        row |= {name: values[-1] for name, values in sorted(module.history.items())}
        row["seconds"] = round(time.perf_counter() - self._began, 6)
        row["data_seconds"] = round(self._waited, 6)
        self.rows.append(row)
        if self.rank == 0:
            self._save(trainer, module)
            if self.logger is not None:  # steps are epochs over all stages, resumed or not
                figures = {name: v for name, v in row.items() if isinstance(v, float)}
                self.logger.log_metrics(figures, step=len(self.rows))
            if self.on_epoch is not None:
                self.on_epoch(row)

    def _save(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        state = {
            "version": _CHECKPOINT_VERSION,
            "stage": self.stage,
            "epoch": self.epoch,
            "stopped": bool(trainer.should_stop),
            "network": module.model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": schedules[0] if schedules else {},
            "precision": trainer.precision_plugin.state_dict(),
            "keep_best": self.keep_best.state_dict() if self.keep_best else {},
            "rows": self.rows,
        }
        # Enough that a kill leaves this one or the one before; power may fail once an epoch.
        save = lambda part: torch.save(state, part)  # noqa: E731
        write_file(self.folder / "checkpoints" / CHECKPOINT, save, sync=False)
        write_history(self.folder / "history.csv", self.rows, sync=False)


def load_checkpoint(folder: Path) -> dict | None:
    """Checkpoint of a fit, or None if there is none, or one that cannot be read (said aloud)."""
    path = folder / "checkpoints" / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] != _CHECKPOINT_VERSION:
            raise ValueError(f"of version {state['version']!r}")
        return state
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"{path}: cannot be read, the fit begins anew: {reason}", RuntimeWarning, stacklevel=2
        )
        return None
