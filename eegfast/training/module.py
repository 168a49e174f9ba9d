# SPDX-License-Identifier: BSD-3-Clause
"""The Lightning module of every classifier here: loss, optimizer, scores, learning curve."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy


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
        ``(N, ...)`` -> logits ``(N, n_outputs)``.
    n_outputs : int
        Classes.
    lr, weight_decay : float
        AdamW.
    label_smoothing : float
        Of the cross-entropy.
    class_weights : torch.Tensor or None, shape (n_outputs,)
        Of the cross-entropy.
    plateau_factor, plateau_patience, min_lr : float, int, float
        ReduceLROnPlateau: the rate is multiplied by the factor after that many epochs without a
        lower loss.
    feature_offset : float
        Augmentation of training batches ``(N, windows, ...)``: a normal random number of this
        standard deviation is added to every feature, the same over a sequence's windows.
    monitor : {"val_loss", "train_loss"}
        The loss that the plateau is judged by. ``"train_loss"`` where there is no validation side.

    Attributes
    ----------
    history : dict of str to list of float
        Per epoch: ``train_loss``, ``train_accuracy``, ``lr`` and, with a validation side,
        ``val_loss``, ``val_accuracy``. Training figures are means over the epoch's batches, taken
        while the weights change and with dropout on.
    """

    def __init__(
        self,
        model: nn.Module,
        n_outputs: int,
        *,
        lr: float = 5e-5,
        weight_decay: float = 1e-4,
        label_smoothing: float = 0.1,
        class_weights: torch.Tensor | None = None,
        plateau_factor: float = 0.5,
        plateau_patience: int = 5,
        min_lr: float = 1e-6,
        feature_offset: float = 0.0,
        monitor: str = "val_loss",
    ):
        super().__init__()
        self.model = model
        self.lr, self.weight_decay = lr, weight_decay
        self.plateau = {"factor": plateau_factor, "patience": plateau_patience, "min_lr": min_lr}
        self.feature_offset = feature_offset
        self.monitor = monitor
        self.loss = nn.CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)
        sides = ("train", "val")
        self.mean_loss = nn.ModuleDict({f"{side}_side": MeanMetric() for side in sides})
        self.accuracy = nn.ModuleDict(
            {
                f"{side}_side": MulticlassAccuracy(n_outputs, average="micro", validate_args=False)
                for side in sides
            }
        )
        self.history: dict[str, list[float]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)

    def _step(self, batch: tuple[torch.Tensor, torch.Tensor], side: str) -> torch.Tensor:
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        self.mean_loss[f"{side}_side"].update(loss.detach(), len(y))
        self.accuracy[f"{side}_side"].update(logits.detach(), y)
        return loss

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        x, y = batch
        if self.feature_offset:
            x = x + self.feature_offset * torch.randn_like(x[:, :1])
        return self._step((x, y), "train")

    def validation_step(self, batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def _end_epoch(self, side: str) -> None:
        for kind, metrics in (("loss", self.mean_loss), ("accuracy", self.accuracy)):
            metric = metrics[f"{side}_side"]
            value = metric.compute()
            metric.reset()
            self.history.setdefault(f"{side}_{kind}", []).append(float(value))
            self.log(f"{side}_{kind}", value)

    def on_validation_epoch_end(self) -> None:
        self._end_epoch("val")

    def on_train_epoch_end(self) -> None:
        self.history.setdefault("lr", []).append(self.optimizers().param_groups[0]["lr"])
        self._end_epoch("train")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **self.plateau)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor},
        }
