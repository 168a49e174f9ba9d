# SPDX-License-Identifier: BSD-3-Clause
"""A recipe: everything about an experiment that is not the data itself, as a readable YAML file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from eegfast.training._plain import build, nearest, replaced

__all__ = [
    "Claim",
    "Data",
    "Loss",
    "Model",
    "Normalization",
    "Optimizer",
    "Paper",
    "ProtocolChoice",
    "Quick",
    "Recipe",
    "Schedule",
    "Stage",
    "Training",
    "Validation",
    "load_recipe",
    "recipe_names",
]

INPUTS = ("ldm-eeg", "sst-emotionnet", "hamnet", "scalingnet", "resattentionet")
"""Names of the builders of :mod:`eegfast.features`, as ``data.inputs`` takes them."""

_MOST_BYTES = 2**20


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


@dataclass(frozen=True)
class Recipe:
    """An experiment as validated, plain, nested data. Immutable; read :func:`load_recipe`.

    Attributes
    ----------
    name : str
        Of the recipe.
    paper, data, model, protocols, normalization, training, seed
        Its sections, see the classes of this module; ``protocols`` maps ``"paper"``, ``"honest"``
        or names of your own to :class:`ProtocolChoice`.
    quick, bundled
        Overrides for a small version, and for the bundled recordings.

    Examples
    --------
    >>> recipe = load_recipe("hamnet").override(["training.stages.0.epochs=3", "seed=1"])
    >>> [(stage.name, stage.epochs) for stage in recipe.training.stages]
    [('pretrain', 3), ('finetune', 600)]
    """

    name: str
    data: Data
    model: Model
    protocols: dict[str, Any]
    training: Training
    paper: Paper = field(default_factory=Paper)
    normalization: Normalization = field(default_factory=Normalization)
    seed: int = 0
    quick: Quick = field(default_factory=Quick)
    bundled: list[str] = field(default_factory=list)

    def __post_init__(self):
        made = {
            name: choice
            if isinstance(choice, ProtocolChoice)
            else build(ProtocolChoice, choice, f"protocols.{name}")
            for name, choice in self.protocols.items()
        }
        _check(bool(made), "protocols must have an entry", made)
        object.__setattr__(self, "protocols", made)
        _check(self.seed >= 0, "seed must not be negative", self.seed)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """Make a recipe of what :meth:`as_dict` returns.

        Parameters
        ----------
        values : dict
            Nested plain data.
        source : str
            Where it is from, for errors.

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            If a key is unknown (the nearest known one is named), a value of the wrong type or out
            of range, or something is missing.
        """
        try:
            return build(cls, values)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Nested dicts, lists, texts, numbers, booleans and None, all keys present."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """Text that :func:`load_recipe` reads back as the same recipe."""
        import yaml

        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=100)

    def save(self, path: str | os.PathLike) -> Path:
        """Write it as YAML, as a whole or not at all; the file of that name is replaced."""
        from eegfast.training.runs import write_file

        return write_file(path, lambda part: part.write_text(self.to_yaml(), encoding="utf-8"))

    def override(self, settings: Iterable[str]) -> Recipe:
        """A recipe in which some values are others.

        Parameters
        ----------
        settings : iterable of str
            ``"training.stages.0.epochs=3"``: keys with dots between them, entries of lists by their
            number from 0; the value is read as YAML and must be of the field's type.

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            If there is no such key, or the value does not fit it.
        """
        import yaml

        recipe = self
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals or not all(key.split(".")):
                raise ValueError(f"override: expected KEY=VALUE, got {setting!r}")
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                raise ValueError(f"override {setting!r}: {text!r} is not YAML") from None
            source = f"override {setting!r}"
            tree = replaced(recipe.as_dict(), key.split("."), value, source)
            recipe = Recipe.from_dict(tree, source)
        return recipe

    def for_protocol(self, name: str) -> Recipe:
        """The recipe as it is under one of its protocols.

        What the protocol says about validation, normalisation and inputs is put in its place, and
        the other protocols are left out; doing it twice changes nothing.

        Parameters
        ----------
        name : str
            A key of ``protocols``.

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            If it has no such protocol.
        """
        if name not in self.protocols:
            raise ValueError(f"{self.name}: no protocol {name!r}; {nearest(name, self.protocols)}")
        choice = self.protocols[name]
        training = self.training
        if choice.validation is not None:
            training = dataclasses.replace(training, validation=choice.validation)
        return dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, options={**self.data.options, **choice.data}),
            normalization=choice.normalization or self.normalization,
            training=training,
            protocols={name: ProtocolChoice(choice.name, choice.options)},
        )


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    folder = files("eegfast.training") / "recipes"
    return sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str | os.PathLike) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    name_or_path : str or path-like
        One of :func:`recipe_names`, or a YAML file.

    Returns
    -------
    Recipe

    Raises
    ------
    FileNotFoundError
        If it is no name and there is no such file.
    ValueError
        If the file is no recipe; the message names the file and the key. Nothing in it is run.
    """
    import yaml

    text = str(name_or_path)
    if text in recipe_names():
        path = files("eegfast.training") / "recipes" / f"{text}.yaml"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file, and no recipe of that name; {nearest(text, recipe_names())}"
            )
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path}: a recipe has at most {_MOST_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("an alias (*name) is not taken")  # a few of them can fill the memory
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a recipe in YAML: {problem}") from None
    return Recipe.from_dict(values, str(path))
