# SPDX-License-Identifier: BSD-3-Clause
"""The Lightning module of every classifier here: loss, optimizer, scores, learning curve."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from eegfast.training.options import TrainingOptions


def balanced_class_weights(labels: torch.Tensor, n_outputs: int) -> torch.Tensor:
    """Weights ``n / (K * n_k)`` of the classes.

    Parameters
    ----------
    labels : torch.Tensor of int, shape (n,)
        Training labels in ``0..n_outputs - 1``.
    n_outputs : int
        Classes the network can answer.

    Returns
    -------
    torch.Tensor, shape (n_outputs,)
        ``K`` counts the classes that occur; one that does not occur gets weight 0.

    Raises
    ------
    ValueError
        If there is no label, or one is out of range.
    """
    if labels.numel() == 0 or labels.min() < 0 or labels.max() >= n_outputs:
        raise ValueError(f"balanced_class_weights: labels must be in 0..{n_outputs - 1}")
    counts = torch.bincount(labels, minlength=n_outputs)
    present = counts > 0
    weights = labels.numel() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


class ClassificationModule(pl.LightningModule):
    """Cross-entropy training of a network that returns logits.

    Parameters
    ----------
    model : torch.nn.Module
        One or more inputs ``(N, ...)`` -> logits ``(N, n_outputs)``.
    n_outputs : int
        Classes.
    options : TrainingOptions, optional
        Optimizer, schedule, loss, augmentation. Default: the published recipe.
    class_weights : torch.Tensor or None, shape (n_outputs,)
        Of the cross-entropy.
    monitor : {"val_loss", "train_loss"}
        The loss that the plateau is judged by. ``"train_loss"`` where there is no validation side.

    Attributes
    ----------
    history : dict of str to list of float
        Per epoch: ``train_loss``, ``train_accuracy``, ``lr`` and, with a validation side,
        ``val_loss``, ``val_accuracy``. Training figures are means over the epoch's batches, taken
        while the weights change and with dropout on.

    Notes
    -----
    Batches are ``(x, y)``, where ``x`` is a tensor or a tuple of them, the network's inputs. Of
    several processes each takes a share of a batch; gradients and figures are those of the whole
    batch, class weights and shares of unlike size included.
    """

    def __init__(
        self,
        model: nn.Module,
        n_outputs: int,
        options: TrainingOptions | None = None,
        *,
        class_weights: torch.Tensor | None = None,
        monitor: str = "val_loss",
    ):
        super().__init__()
        self.model = model
        self.options = options or TrainingOptions()
        self.monitor = monitor
        self.loss = nn.CrossEntropyLoss(class_weights, label_smoothing=self.options.label_smoothing)
        sides = ("train", "val")
        self.mean_loss = nn.ModuleDict({f"{side}_side": MeanMetric() for side in sides})
        self.accuracy = nn.ModuleDict(
            {
                f"{side}_side": MulticlassAccuracy(n_outputs, average="micro", validate_args=False)
                for side in sides
            }
        )
        self.history: dict[str, list[float]] = {}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(*inputs)

    def _shared_loss(self, logits: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Loss whose mean over the processes is that of the whole batch, and its weight."""
        if not (dist.is_initialized() and dist.get_world_size() > 1):
            return self.loss(logits, y), len(y)
        weights = self.loss.weight
        share = len(y) if weights is None else weights[y].sum()
        totals = torch.tensor([float(share), len(y)], dtype=torch.float64, device=y.device)
        dist.all_reduce(totals)
        loss = nn.functional.cross_entropy(
            logits, y, weights, reduction="sum", label_smoothing=self.loss.label_smoothing
        )
        world = dist.get_world_size()
        return loss * (world / totals[0]).to(loss.dtype), float(totals[1]) / world

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        inputs, y = _split(batch)
        if self.options.feature_offset:
            offset = self.options.feature_offset
            inputs = tuple(x + offset * torch.randn_like(x[:, :1]) for x in inputs)
        if self.options.noise:
            inputs = tuple(x + self.options.noise * torch.randn_like(x) for x in inputs)
        logits = self(*inputs)
        loss, weight = self._shared_loss(logits, y)
        self._count("train", loss, weight, logits, y)
        return loss

    def validation_step(self, batch, batch_idx: int) -> None:
        inputs, y = _split(batch)
        logits = self(*inputs)
        self._count("val", self.loss(logits, y), len(y), logits, y)

    def _count(self, side: str, loss, weight: float, logits, y) -> None:
        self.mean_loss[f"{side}_side"].update(loss.detach(), weight)
        self.accuracy[f"{side}_side"].update(logits.detach(), y)

    def _end_epoch(self, side: str) -> None:
        for kind, metrics in (("loss", self.mean_loss), ("accuracy", self.accuracy)):
            metric = metrics[f"{side}_side"]
            value = metric.compute()
            metric.reset()
            self.history.setdefault(f"{side}_{kind}", []).append(float(value))
            self.log(f"{side}_{kind}", value)

    def on_validation_epoch_end(self) -> None:
        self._end_epoch("val")

    def on_train_epoch_start(self) -> None:
        self.history.setdefault("lr", []).append(self.optimizers().param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        self._end_epoch("train")

    def configure_optimizers(self):
        options = self.options
        optimizer = _optimizer(self.model, options)
        if options.schedule == "none":
            return optimizer
        schedulers = torch.optim.lr_scheduler
        if options.schedule == "plateau":
            scheduler = schedulers.ReduceLROnPlateau(
                optimizer,
                factor=options.plateau_factor,
                patience=options.plateau_patience,
                min_lr=options.min_lr,
            )
        elif options.schedule == "steps":
            scheduler = schedulers.MultiStepLR(
                optimizer, list(options.milestones), options.step_factor
            )
        else:
            scheduler = schedulers.CosineAnnealingLR(
                optimizer, options.max_epochs, eta_min=options.min_lr
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor},
        }


def _split(batch) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    x, y = batch
    return (tuple(x) if isinstance(x, (tuple, list)) else (x,)), y


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    if options.l2:
        if not hasattr(model, "parameter_groups"):
            raise ValueError(
                f"l2: {type(model).__name__} does not say which of its weights are penalised "
                "(parameter_groups); use weight_decay"
            )
        groups = model.parameter_groups(options.l2)
    else:
        groups = [{"params": list(model.parameters())}]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    # A fused optimizer unscales gradients by itself, behind the back of whoever clips them.
    fused = not (options.gradient_clip and options.precision.endswith("-mixed"))
    common = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": fused}
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(groups, betas=tuple(options.betas), **common)
