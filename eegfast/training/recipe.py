# SPDX-License-Identifier: BSD-3-Clause
"""A recipe: everything about an experiment that is not the data itself, as a readable YAML file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from eegfast.training._plain import build, nearest, replaced
from eegfast.training.recipe_sections import (
    Data,
    Model,
    Normalization,
    Paper,
    ProtocolChoice,
    Quick,
    Training,
)

__all__ = ["Recipe", "load_recipe", "recipe_names"]

_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Recipe:
    """An experiment as validated, plain, nested data. Immutable; read :func:`load_recipe`.

    Attributes
    ----------
    name : str
        Of the recipe.
    paper, data, model, protocols, normalization, training, seed
        Its sections, see :mod:`eegfast.training.recipe_sections`; ``protocols`` maps ``"paper"``,
        ``"honest"`` or names of your own to a protocol.
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
        if not made:
            raise ValueError("protocols must have an entry, got none")
        object.__setattr__(self, "protocols", made)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

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
