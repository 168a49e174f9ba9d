# SPDX-License-Identifier: BSD-3-Clause
"""One factory for all networks: ``create("resattentionet", n_outputs=3)``."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

_FACTORIES: dict[str, type[nn.Module]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator that makes a network available to :func:`create`.

    Parameters
    ----------
    name : str
        Name of the network; compared without regard to case.

    Returns
    -------
    callable
        The decorator. It returns the class unchanged.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    key = name.lower()

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        if key in _FACTORIES:
            raise ValueError(f"register: a model named {name!r} exists already")
        _FACTORIES[key] = cls
        return cls

    return add


def names() -> list[str]:
    """Names that :func:`create` knows, sorted.

    Returns
    -------
    list of str
        The registered names.
    """
    return sorted(_FACTORIES)


def name_of(cls: type[nn.Module]) -> str:
    """Name under which a class was registered."""
    return next(name for name, factory in _FACTORIES.items() if factory is cls)


def model_class(name: str) -> type[nn.Module]:
    """Class of a network by name; case does not matter.

    Raises
    ------
    ValueError
        If no network has that name.
    """
    try:
        return _FACTORIES[name.lower()]
    except KeyError:
        raise ValueError(f"create: no model named {name!r}; known: {', '.join(names())}") from None


def create(name: str, **kwargs) -> nn.Module:
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of :func:`names`; case does not matter.
    **kwargs
        Passed to the network's constructor.

    Returns
    -------
    torch.nn.Module
        The network, in training mode, with freshly drawn weights.

    Raises
    ------
    ValueError
        If no network has that name.
    """
    return model_class(name)(**kwargs)
