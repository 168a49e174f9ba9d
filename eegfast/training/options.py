# SPDX-License-Identifier: BSD-3-Clause
"""How a network is trained, as one set of plain values."""

from __future__ import annotations

from dataclasses import dataclass

_CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("plateau", "steps", "cosine", "none"),
    "selection": ("best", "last", None),
    "best_by": ("val_loss", "val_accuracy"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
}


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
        Of the optimizer.
    label_smoothing : float
        Of the cross-entropy.
    balance_classes : bool
        Weight classes by ``n / (K n_k)`` of the training labels.
    plateau_factor, plateau_patience, min_lr : float, int, float
        Schedule ``"plateau"``: the rate is multiplied by the factor after that many epochs without
        a lower validation loss (training loss without a validation side), down to ``min_lr``.
        ``min_lr`` is also where ``"cosine"`` ends.
    patience : int or None
        Early stopping: epochs without a better validation side after which training ends. Needs a
        validation side.
    feature_offset : float
        Augmentation, not in the published recipe: to every feature of a training sequence a normal
        random number of this standard deviation is added, the same over its windows. It imitates
        another subject's or session's level, which is what a network overfits when recordings are
        few and smooth.
    accelerator : str
        Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``.
    optimizer : {"adamw", "adam", "sgd"}
        Which.
    betas : (float, float)
        Of Adam and AdamW.
    momentum : float
        Of SGD.
    l2 : float
        Penalty on those weights that the network's ``parameter_groups(l2)`` names; 0 for none.
    schedule : {"plateau", "steps", "cosine", "none"}
        Of the learning rate, once per epoch.
    milestones, step_factor : tuple of int, float
        Schedule ``"steps"``: after each of these numbers of epochs the rate is multiplied.
    selection : {"best", "last"} or None
        Whose weights are kept: the best epoch's by ``best_by``, which needs a validation side, or
        the last epoch's. None: the best's if ``patience`` is set.
    best_by : {"val_loss", "val_accuracy"}
        What tells the best epoch, and what ``patience`` watches is always the loss.
    gradient_clip : float or None
        Largest norm of the gradient.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        Lightning's.
    noise : float
        Augmentation: standard deviation of normal noise on every value of a training batch.
    sync_batchnorm : bool
        With several processes on GPUs: batch statistics of all of them together.

    Raises
    ------
    ValueError
        If a value is none of the choices or out of range.
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
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    l2: float = 0.0
    schedule: str = "plateau"
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    selection: str | None = None
    best_by: str = "val_loss"
    gradient_clip: float | None = None
    precision: str = "32-true"
    noise: float = 0.0
    sync_batchnorm: bool = False

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(str(choice) for choice in choices if choice)
                raise ValueError(f"TrainingOptions: {name} must be one of {known}, got {value!r}")
        for name in ("max_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TrainingOptions: {name} must be at least 1, got {getattr(self, name)!r}"
                )

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch's weights are kept."""
        return self.selection == "best" or (self.selection is None and self.patience is not None)
