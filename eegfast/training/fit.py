# SPDX-License-Identifier: BSD-3-Clause
"""Train a network on arrays and score it, quietly and repeatably."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import ArrayLike
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from eegfast.training.module import ClassificationModule, balanced_class_weights


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained. The defaults are ResAttentioNet's published recipe.

    Parameters
    ----------
    max_epochs : int
        Epochs; all are run unless ``patience`` stops earlier.
    batch_size : int
        Samples per step. A last batch of one sample is left out (BatchNorm cannot use it).
    lr, weight_decay : float
        AdamW.
    label_smoothing : float
        Of the cross-entropy.
    balance_classes : bool
        Weight classes by ``n / (K n_k)`` of the training labels.
    plateau_factor, plateau_patience, min_lr : float, int, float
        ReduceLROnPlateau on the validation loss (on the training loss without a validation side).
    patience : int or None
        Early stopping: epochs without a lower validation loss after which training ends and the
        best epoch's weights are restored. ``None`` keeps the last epoch's weights. Needs a
        validation side.
    feature_offset : float
        Augmentation, not in the published recipe: to every feature of a training sequence a normal
        random number of this standard deviation is added, the same over its windows. It imitates
        another subject's or session's level, which is what a network overfits when recordings are
        few and smooth.
    accelerator : str
        Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``.
    """

    max_epochs: int = 100
    batch_size: int = 32
    lr: float = 5e-5
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    balance_classes: bool = True
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    min_lr: float = 1e-6
    patience: int | None = None
    feature_offset: float = 0.0
    accelerator: str = "auto"


@dataclass
class FitResult:
    """What :func:`fit` returns.

    Attributes
    ----------
    model : torch.nn.Module
        The trained network, in evaluation mode, on the CPU. It is the one given to :func:`fit`.
    history : dict of str to list of float
        See :class:`~eegfast.training.ClassificationModule`.
    stopped_epoch : int
        Epochs that were run.
    best_epoch : int or None
        Epoch (from 1) whose weights were kept; ``None`` without early stopping: the last one's.
    """

    model: nn.Module
    history: dict[str, list[float]] = field(repr=False)
    stopped_epoch: int
    best_epoch: int | None = None


class _KeepBest(Callback):
    """Early stopping in memory: no checkpoint files."""

    def __init__(self, patience: int):
        self.patience = patience
        self.best_loss, self.best_epoch, self.state = float("inf"), 0, None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: ClassificationModule) -> None:
        loss, epoch = module.history["val_loss"][-1], trainer.current_epoch + 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self.state = copy.deepcopy(module.model.state_dict())
        trainer.should_stop = epoch - self.best_epoch >= self.patience


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def _dataset(name: str, x: ArrayLike, y: ArrayLike) -> TensorDataset:
    features = torch.as_tensor(np.array(x, dtype=np.float32))
    labels = torch.as_tensor(np.asarray(y), dtype=torch.long)
    if features.dim() < 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"fit: {name} needs samples (n, ...) and as many labels, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if not torch.isfinite(features).all():
        raise ValueError(f"fit: {name} samples hold NaN or infinite values")
    return TensorDataset(features, labels)


def fit(
    model: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    *,
    n_outputs: int,
    options: TrainingOptions | None = None,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> FitResult:
    """Train a network.

    Parameters
    ----------
    model : torch.nn.Module
        ``(N, ...)`` -> logits. Trained in place.
    x : array_like, shape (n, ...)
        Training samples, made float32.
    y : array_like of int, shape (n,)
        Their classes, ``0..n_outputs - 1``.
    n_outputs : int
        Classes.
    options : TrainingOptions, optional
        Default: the published recipe.
    validation : (x, y), optional
        Samples of *other subjects* than ``x``'s, and never the test side: learning rate and early
        stopping look at them. :func:`~eegfast.training.cross_validate` takes them by subject.
    seed : int
        Of the order of samples and dropout. Weights were drawn when the model was made. Repeating
        a call on the same machine repeats the numbers.

    Returns
    -------
    FitResult
        Model, learning curve, epochs.

    Raises
    ------
    ValueError
        If shapes disagree, samples are not finite, fewer than two samples are given, or
        ``patience`` is set without a validation side.

    Notes
    -----
    No file is written and nothing is printed.
    """
    options = options or TrainingOptions()
    data = _dataset("training", x, y)
    if len(data) < 2:
        raise ValueError("fit: at least 2 training samples are needed")
    if options.patience is not None and validation is None:
        raise ValueError("fit: early stopping needs a validation side, never the test side")
    labels = data.tensors[1]
    weights = balanced_class_weights(labels, n_outputs) if options.balance_classes else None
    module = ClassificationModule(
        model,
        n_outputs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        class_weights=weights,
        plateau_factor=options.plateau_factor,
        plateau_patience=options.plateau_patience,
        min_lr=options.min_lr,
        feature_offset=options.feature_offset,
        monitor="train_loss" if validation is None else "val_loss",
    )
    loader = DataLoader(
        data,
        min(options.batch_size, len(data)),
        shuffle=True,
        drop_last=len(data) % options.batch_size == 1,
        generator=torch.Generator().manual_seed(seed),
    )
    loaders = [loader]
    if validation is not None:
        loaders.append(DataLoader(_dataset("validation", *validation), 1024))
    keep_best = None if options.patience is None else _KeepBest(options.patience)
    with tempfile.TemporaryDirectory() as folder, _quiet(), seeded(seed), _deterministic():
        trainer = pl.Trainer(
            max_epochs=options.max_epochs,
            accelerator=options.accelerator,
            devices=1,
            deterministic=True,
            logger=False,
            callbacks=keep_best,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(module, *loaders)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if keep_best is not None:
        model.load_state_dict(keep_best.state)
    return FitResult(
        model=model.cpu().eval(),
        history=module.history,
        stopped_epoch=len(module.history["train_loss"]),
        best_epoch=None if keep_best is None else keep_best.best_epoch,
    )


def predict_proba(model: nn.Module, x: ArrayLike, batch_size: int = 1024) -> np.ndarray:
    """Class probabilities.

    Parameters
    ----------
    model : torch.nn.Module
        ``(N, ...)`` -> logits; evaluated in evaluation mode, on the device of its parameters.
    x : array_like, shape (n, ...)
        Samples, made float32.
    batch_size : int
        Samples per step.

    Returns
    -------
    ndarray of float64, shape (n, n_outputs)
        Softmax of the logits; rows sum to 1.
    """
    device = next(model.parameters()).device
    samples = torch.as_tensor(np.array(x, dtype=np.float32))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [model(batch.to(device)).double().cpu() for batch in samples.split(batch_size)]
    model.train(was_training)
    return torch.cat(logits).softmax(1).numpy()


def evaluate(model: nn.Module, x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """Scores of a trained network on samples it has not seen.

    Parameters
    ----------
    model : torch.nn.Module
        ``(N, ...)`` -> logits.
    x : array_like, shape (n, ...)
        Samples.
    y : array_like of int, shape (n,)
        Their classes.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``balanced_accuracy``, and ``precision``, ``recall``, ``f1`` weighted by
        class frequency. All between 0 and 1.
    """
    from sklearn.metrics import (
        accuracy_score,
        balanced_accuracy_score,
        precision_recall_fscore_support,
    )

    truth, answer = np.asarray(y), predict_proba(model, x).argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, answer, average="weighted", zero_division=0.0
    )
    return {
        "accuracy": float(accuracy_score(truth, answer)),
        "balanced_accuracy": float(balanced_accuracy_score(truth, answer)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }
