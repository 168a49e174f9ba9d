# SPDX-License-Identifier: BSD-3-Clause
"""Plain nested data to dataclasses and back: every key and type is checked, errors say where."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if a known name is near, else the known names."""
    names = sorted(str(other) for other in known)
    close = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or '(none)'}"


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Name of each field to its type."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def build(cls: type, values: Any, where: str = "") -> Any:
    """Make a dataclass of nested dicts and lists.

    Raises
    ------
    ValueError
        If a key is unknown or missing, or a value is of another type or out of range; the message
        begins with the place, such as ``training.stages.0.lr``.
    """
    here = f"{where}: " if where else ""
    if not isinstance(values, dict):
        raise ValueError(f"{here}expected keys and values, got {_shown(values)}")
    hints = hints_of(cls)
    for key in values:
        if key not in hints:
            place = f"{where}.{key}" if where else key
            raise ValueError(f"{place}: unknown key; {nearest(key, hints)}")
    for field in dataclasses.fields(cls):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise ValueError(f"{here}{field.name} is missing")
    made = {
        key: convert(hints[key], value, f"{where}.{key}" if where else key)
        for key, value in values.items()
    }
    try:
        return cls(**made)
    except ValueError as error:
        raise ValueError(f"{here}{error}") from None


def convert(hint: Any, value: Any, where: str) -> Any:
    """The value as the type that a hint names, or a ValueError that begins with `where`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            if type(None) in arguments:
                return None
            raise ValueError(f"{where}: expected a value, got null")
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return convert(hint, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            listed = ", ".join(map(str, arguments))
            raise ValueError(f"{where}: expected one of {listed}, got {_shown(value)}")
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {_shown(value)}")
        return [convert(arguments[0], entry, f"{where}.{i}") for i, entry in enumerate(value)]
    if hint is dict or origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where}: expected names and values, got {_shown(value)}")
        return {key: plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    return _scalar(hint, value, where)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:  # YAML takes 1e-4 for text
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {_WORDS[kind]}, got {_shown(value)}")


def plain(value: Any, where: str) -> Any:
    """A free value: texts, finite numbers, booleans, null, lists and dicts of them."""
    if isinstance(value, dict):
        return convert(dict, value, where)
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{where}.{i}") for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value}")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"{where}: expected text, numbers, lists or names and values, got {value!r}")


def replaced(tree: Any, path: list[str], value: Any, where: str) -> Any:
    """Nested dicts and lists with one value exchanged; a list's entry goes by its number."""
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, list):
        if not key.isdecimal() or int(key) >= len(tree):
            raise ValueError(f"{where}: {key!r} is no entry of a list of {len(tree)}, from 0")
        return [
            replaced(entry, rest, value, where) if i == int(key) else entry
            for i, entry in enumerate(tree)
        ]
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"{where}: there is nothing below {_shown(tree)} to be set")
    return {**tree, key: replaced(tree.get(key), rest, value, where)}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
