# SPDX-License-Identifier: BSD-3-Clause
"""The sections of a recipe, each a dataclass that checks its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from eegfast.training._plain import nearest

INPUTS = ("ldm-eeg", "sst-emotionnet", "hamnet", "scalingnet", "resattentionet")
"""Names of the builders of :mod:`eegfast.features`, as ``data.inputs`` takes them."""


def _check(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{expected}, got {got!r}")


@dataclass(frozen=True)
class Claim:
    """A figure of the paper's.

    ``mean`` and ``std`` are in percent, as papers print them. ``select`` says for which of the
    recipe's ``data.select`` it holds, such as ``{target: arousal}``; empty: for all.
    """

    dataset: str
    metric: str
    mean: float
    std: float | None = None
    note: str = ""
    select: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """Who published what; what we had to guess (`readings`); what its split leaks (`leaks`);
    what its mean and standard deviation are taken over (`per`)."""

    citation: str = ""
    claims: list[Claim] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    per: Literal["splits", "sessions", "subjects"] = "splits"


@dataclass(frozen=True)
class Data:
    """Which data set, and how a trial becomes what the network takes.

    ``select`` goes to the data set's reader (``subjects``, ``sessions``, ``target`` ...);
    ``inputs`` names the builder, ``options`` are its arguments. Before that a trial is cut to its
    first ``seconds``, reduced to ``picks`` and brought to ``sfreq``, where these are given.
    """

    dataset: str
    inputs: Literal[INPUTS]
    kind: str | None = None
    root: str | None = None
    select: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    picks: list[str] | None = None
    sfreq: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("seconds", "sfreq"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"{name} must be above 0", value)


@dataclass(frozen=True)
class Model:
    """A network of :func:`eegfast.models.create`. What depends on the data may be left out."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        from eegfast.models import names

        if self.name not in names():
            raise ValueError(f"name: no model named {self.name!r}; {nearest(self.name, names())}")


@dataclass(frozen=True)
class Normalization:
    """One of :data:`eegfast.protocols.normalization.NORMALIZATIONS`, by name."""

    name: str = "none"

    def __post_init__(self):
        from eegfast.protocols.normalization import NORMALIZATIONS

        if self.name not in NORMALIZATIONS:
            hint = nearest(self.name, NORMALIZATIONS)
            raise ValueError(f"name: no normalization named {self.name!r}; {hint}")


@dataclass(frozen=True)
class Validation:
    """Who validates: ``n`` groups of `level` taken out of the training side.

    ``"none"``: nobody. ``"test"``: the test side itself, as some papers have it; the fit then
    leaks. A protocol that has a validation side of its own keeps it.
    """

    level: Literal["subject", "session", "trial", "none", "test"] = "none"
    n: int = 1
    seed: int = 0

    def __post_init__(self):
        _check(self.n >= 1, "n must be at least 1", self.n)


@dataclass(frozen=True)
class ProtocolChoice:
    """A protocol of :func:`eegfast.protocols.create`, and what differs under it.

    ``validation``, ``normalization`` and ``data`` (builder options), where given, take the place of
    ``training.validation``, ``normalization`` and single ``data.options``.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    validation: Validation | None = None
    normalization: Normalization | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.create()

    def create(self):
        """Make the protocol."""
        from eegfast.protocols import create, names

        if self.name not in names():
            raise ValueError(
                f"name: no protocol named {self.name!r}; {nearest(self.name, names())}"
            )
        return create(self.name, **self.options)


@dataclass(frozen=True)
class Optimizer:
    """``weight_decay`` is for all weights, ``l2`` for those that the network's
    ``parameter_groups`` names. ``betas`` are Adam's, ``momentum`` SGD's."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    l2: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    momentum: float = 0.9

    def __post_init__(self):
        _check(self.lr > 0, "lr must be above 0", self.lr)
        _check(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)
        _check(self.l2 >= 0, "l2 must not be negative", self.l2)
        fits = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _check(fits, "betas must be two numbers from 0 to below 1", self.betas)
        _check(0 <= self.momentum < 1, "momentum must be from 0 to below 1", self.momentum)


@dataclass(frozen=True)
class Schedule:
    """Of the learning rate.

    ``"steps"`` multiplies it by `factor` after each of `milestones` (epochs), ``"plateau"`` after
    `patience` epochs without a lower loss, down to `min_lr`, where ``"cosine"`` ends.
    """

    name: Literal["none", "steps", "plateau", "cosine"] = "none"
    milestones: list[int] = field(default_factory=list)
    factor: float = 0.5
    patience: int = 5
    min_lr: float = 0.0

    def __post_init__(self):
        fits = all(a < b for a, b in zip([0, *self.milestones], self.milestones, strict=False))
        _check(fits, "milestones must be rising epochs from 1", self.milestones)
        _check(0 < self.factor < 1, "factor must be between 0 and 1", self.factor)
        _check(self.patience >= 0, "patience must not be negative", self.patience)
        _check(self.min_lr >= 0, "min_lr must not be negative", self.min_lr)


@dataclass(frozen=True)
class Stage:
    """A round of training. ``model`` holds options that differ from the recipe's model, such as
    ``{stage: pretrain}``; ``freeze`` names parameters, or modules, that do not learn."""

    name: str
    epochs: int
    batch_size: int = 32
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    model: dict[str, Any] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)

    def __post_init__(self):
        _check(self.epochs >= 1, "epochs must be at least 1", self.epochs)
        _check(self.batch_size >= 1, "batch_size must be at least 1", self.batch_size)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy; ``balance_classes`` weights them by ``n / (K n_k)`` of the training side."""

    label_smoothing: float = 0.0
    balance_classes: bool = False

    def __post_init__(self):
        fits = 0 <= self.label_smoothing < 1
        _check(fits, "label_smoothing must be from 0 to below 1", self.label_smoothing)


@dataclass(frozen=True)
class Training:
    """How the network is trained, stage after stage.

    ``selection`` keeps the last epoch's weights or the best one's by ``best_by``; ``patience``
    stops a stage after that many epochs without a lower validation loss. ``augmentation`` has
    ``feature_offset`` and ``noise``, both standard deviations. ``sync_batchnorm``: several
    processes on GPUs take batch statistics together.
    """

    stages: list[Stage]
    loss: Loss = field(default_factory=Loss)
    validation: Validation = field(default_factory=Validation)
    selection: Literal["last", "best"] = "last"
    best_by: Literal["val_loss", "val_accuracy"] = "val_loss"
    patience: int | None = None
    gradient_clip: float | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    sync_batchnorm: bool = False
    augmentation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        _check(bool(names), "stages must have an entry", names)
        _check(len(set(names)) == len(names), "stages must have different names", names)
        _check(self.patience is None or self.patience >= 1, "patience must be >= 1", self.patience)
        clip = self.gradient_clip
        _check(clip is None or clip > 0, "gradient_clip must be above 0", clip)
        for name, value in self.augmentation.items():
            known = ("feature_offset", "noise")
            if name not in known:
                raise ValueError(f"augmentation.{name}: unknown key; {nearest(name, known)}")
            fits = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
            _check(fits, f"augmentation.{name} must be a number from 0", value)


@dataclass(frozen=True)
class Quick:
    """The small version: arguments of the synthetic layout that is written for it, and overrides
    (``set``) that make it small; ``bundled``: further ones, on the bundled recordings."""

    synthetic: dict[str, Any] = field(default_factory=dict)
    set: list[str] = field(default_factory=list)
    bundled: list[str] = field(default_factory=list)
