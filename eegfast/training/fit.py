# SPDX-License-Identifier: BSD-3-Clause
"""Train a network on arrays and score it, quietly and repeatably."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from eegfast.training.module import ClassificationModule, balanced_class_weights
from eegfast.training.options import TrainingOptions
from eegfast.training.trainer import KeepBest, run_trainer, seeded

__all__ = ["FitResult", "TrainingOptions", "evaluate", "fit", "predict_proba", "seeded"]


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


def _float32(x: ArrayLike) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x.float()
    return torch.as_tensor(np.array(x, dtype=np.float32))


def _dataset(name: str, x: ArrayLike | tuple[ArrayLike, ...], y: ArrayLike) -> TensorDataset:
    inputs = [_float32(part) for part in (x if isinstance(x, tuple) else (x,))]
    labels = torch.as_tensor(np.asarray(y), dtype=torch.long)
    for part in inputs:
        if part.dim() < 2 or labels.shape != part.shape[:1] or len(labels) == 0:
            raise ValueError(
                f"fit: {name} needs samples (n, ...) and as many labels, "
                f"got {tuple(part.shape)} and {tuple(labels.shape)}"
            )
        if not torch.isfinite(part).all():
            raise ValueError(f"fit: {name} samples hold NaN or infinite values")
    return TensorDataset(*inputs, labels)


def _together(rows: list[tuple[torch.Tensor, ...]]) -> tuple:
    *inputs, labels = (torch.stack(column) for column in zip(*rows, strict=True))
    return tuple(inputs), labels


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
        One or more inputs ``(N, ...)`` -> logits. Trained in place.
    x : array_like, shape (n, ...), or a tuple of them
        Training samples, made float32; a tuple where the network has several inputs.
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
    if (options.patience is not None or options.keeps_best) and validation is None:
        raise ValueError(
            "fit: early stopping needs a validation side, never the test side; "
            "so does keeping the best epoch"
        )
    labels = data.tensors[-1]
    weights = balanced_class_weights(labels, n_outputs) if options.balance_classes else None
    module = ClassificationModule(
        model,
        n_outputs,
        options,
        class_weights=weights,
        monitor="train_loss" if validation is None else "val_loss",
    )
    loader = DataLoader(
        data,
        min(options.batch_size, len(data)),
        shuffle=True,
        drop_last=len(data) % options.batch_size == 1,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=_together,
    )
    loaders = [loader]
    if validation is not None:
        held = _dataset("validation", *validation)
        loaders.append(DataLoader(held, 1024, collate_fn=_together))
    watches = options.keeps_best or options.patience is not None
    keep_best = KeepBest(options.patience, options.best_by) if watches else None
    run_trainer(module, loaders, seed=seed, callbacks=[keep_best] if watches else [])
    if options.keeps_best:
        model.load_state_dict(keep_best.weights)
    return FitResult(
        model=model.cpu().eval(),
        history=module.history,
        stopped_epoch=len(module.history["train_loss"]),
        best_epoch=keep_best.best_epoch if options.keeps_best else None,
    )


def predict_proba(
    model: nn.Module, x: ArrayLike | tuple[ArrayLike, ...], batch_size: int = 1024
) -> np.ndarray:
    """Class probabilities.

    Parameters
    ----------
    model : torch.nn.Module
        One or more inputs ``(N, ...)`` -> logits; evaluated in evaluation mode, on the device of
        its parameters.
    x : array_like, shape (n, ...), or a tuple of them
        Samples, made float32; a tuple where the network has several inputs.
    batch_size : int
        Samples per step.

    Returns
    -------
    ndarray of float64, shape (n, n_outputs)
        Softmax of the logits; rows sum to 1.
    """
    device = next(model.parameters()).device
    inputs = [_float32(part) for part in (x if isinstance(x, tuple) else (x,))]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [
            model(*(batch.to(device) for batch in batches)).double().cpu()
            for batches in zip(*(part.split(batch_size) for part in inputs), strict=True)
        ]
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
