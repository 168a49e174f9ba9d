# SPDX-License-Identifier: BSD-3-Clause
"""Lightning's Trainer as everything here runs it: quiet, repeatable, one process or several."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from eegfast.training.module import ClassificationModule


class KeepBest(Callback):
    """The best epoch's weights in memory, and early stopping.

    Parameters
    ----------
    patience : int or None
        Epochs without a lower validation loss after which training ends.
    best_by : {"val_loss", "val_accuracy"}
        What tells the best epoch; of equals the first.
    """

    def __init__(self, patience: int | None, best_by: str = "val_loss"):
        self.patience, self.best_by = patience, best_by
        self.epoch = self.waited = self.best_epoch = 0
        self.best = self.lowest = float("inf")
        self.weights: dict[str, torch.Tensor] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        self.epoch += 1
        value = module.history[self.best_by][-1]
        value = value if self.best_by == "val_loss" else -value
        if value < self.best:
            self.best, self.best_epoch = value, self.epoch
            self.weights = copy.deepcopy(module.model.state_dict())
        loss = module.history["val_loss"][-1]
        self.waited = 0 if loss < self.lowest else self.waited + 1
        self.lowest = min(loss, self.lowest)
        if self.patience is not None:
            trainer.should_stop = self.waited >= self.patience

    def state_dict(self) -> dict:
        names = ("epoch", "waited", "best_epoch", "best", "lowest", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's log lines and its advice about workers, and nothing else."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a fixed seed inside, and leave torch's generators as they were.

    Parameters
    ----------
    seed : int
        Seed of the CPU's and every CUDA device's generator.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _settings_restored() -> Iterator[None]:
    """Lightning sets what stays set: determinism, and SIGINT ignored after Ctrl-C."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if on_interrupt is not None:
            signal.signal(signal.SIGINT, on_interrupt)


def join_processes() -> tuple[int, int]:
    """Rank and number of the processes that train together; (0, 1) for one alone.

    Raises
    ------
    ValueError
        If the environment has a ``WORLD_SIZE`` without the rest of what ``torchrun`` sets.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1:
        return 0, 1
    needed = "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={world} in the environment announces {world} processes, but "
            f"{', '.join(missing)} is not set: start with torchrun, or unset WORLD_SIZE"
        )
    if not dist.is_initialized():
        dist.init_process_group()
    return dist.get_rank(), world


def run_trainer(
    module: ClassificationModule,
    loaders: Sequence,
    *,
    seed: int,
    epochs: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a module in place.

    Parameters
    ----------
    module : ClassificationModule
        Network and options.
    loaders : sequence
        Training batches and, optionally, validation batches.
    seed : int
        Of dropout and augmentation.
    epochs : int, optional
        Epochs to run; default: all of the options'.
    callbacks : sequence of Callback
        Run in their order.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C.
    ValueError
        If the options do not fit the network or the machine.
    """
    options = module.options
    _, world = join_processes()
    if options.sync_batchnorm:
        _check_sync_batchnorm(module.model)
    several = {}
    if world > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        several = {
            "strategy": "ddp_find_unused_parameters_true",
            "devices": local,
            "num_nodes": world // local,
            "plugins": [TorchElasticEnvironment()],  # else found by torchrun's own variables only
            "sync_batchnorm": options.sync_batchnorm,
        }
    on_gpu = options.accelerator in ("gpu", "cuda") or (
        options.accelerator == "auto" and torch.cuda.is_available()
    )
    settings = {
        "max_epochs": options.max_epochs if epochs is None else epochs,
        "accelerator": options.accelerator,
        "devices": 1,
        "deterministic": "warn" if on_gpu else True,  # some pooling has no other gradient there
        "precision": options.precision,
        "gradient_clip_val": options.gradient_clip,
        "logger": False,
        "callbacks": list(callbacks),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        **several,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        seeded(seed),
        _settings_restored(),
    ):
        trainer = pl.Trainer(**settings, default_root_dir=folder)
        try:
            trainer.fit(module, *loaders)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt


def _check_sync_batchnorm(model: torch.nn.Module) -> None:
    if not torch.cuda.is_available():
        raise ValueError("sync_batchnorm: torch has it on GPUs only, and there is none")
    fused = {"FilterBankPower", "MobileUnit3d"} & {type(m).__name__ for m in model.modules()}
    if fused:
        raise ValueError(
            f"sync_batchnorm: {', '.join(sorted(fused))} normalises inside a fused operator, by "
            "the statistics of the process's own share of the batch"
        )
