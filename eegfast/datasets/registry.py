# SPDX-License-Identifier: BSD-3-Clause
"""Data sets by name, as ``eegfast extract --dataset`` takes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from eegfast.datasets.dataset import Dataset

__all__ = ["DATASETS", "dataset_names", "open_dataset", "parse_options"]

DATASETS: dict[str, str] = {
    "seed": "eegfast.datasets.seed:SEED",
    "seed-iv": "eegfast.datasets.seed_iv:SEEDIV",
    "seed-v": "eegfast.datasets.seed_v:SEEDV",
    "seed-vii": "eegfast.datasets.seed_vii:SEEDVII",
    "deap": "eegfast.datasets.deap:DEAP",
    "byo": "eegfast.datasets.byo:BYO",
}
"""Name of each data set, and ``module:class`` of its reader. Add your own to open it by name."""


def dataset_names() -> list[str]:
    """Names that `open_dataset` takes: those of `DATASETS` whose module is there."""
    return [name for name, where in DATASETS.items() if find_spec(where.partition(":")[0])]


def open_dataset(name: str, root: str | Path, **options) -> Dataset:
    """Open a data set by its name.

    Parameters
    ----------
    name : str
        One of `dataset_names`; upper case and underscores are the same to it.
    root : path-like
        The folder as downloaded.
    **options
        For the data set's class, such as ``kind="features"``. None leaves the class its default.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If there is no data set of that name, it has no such option, or the folder does not hold it.
    FileNotFoundError
        If there is no such folder.
    """
    known = dataset_names()
    plain = name.lower().replace("_", "-")
    if plain not in known:
        raise ValueError(f"dataset must be one of {', '.join(known) or '(none)'}, got {name!r}")
    root = Path(root).resolve()
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder.")
    module, _, cls = DATASETS[plain].partition(":")
    dataset = getattr(import_module(module), cls)
    chosen = {key: value for key, value in options.items() if value is not None}
    # The first argument is the root.
    has = list(inspect.signature(dataset).parameters)[1:]
    unknown = [key for key in chosen if key not in has]
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(has)}")
    return dataset(root, **chosen)


def parse_options(pairs: Iterable[str]) -> dict[str, object]:
    """Options of a data set as a command line has them.

    Parameters
    ----------
    pairs : iterable of str
        ``"NAME=VALUE"``. Numbers become numbers; a comma makes a list.

    Returns
    -------
    dict
        For :func:`open_dataset`.

    Raises
    ------
    ValueError
        If an entry has no name or no value.

    Examples
    --------
    >>> parse_options(["feature=de_LDS", "subjects=1,2", "threshold=4.5"])
    {'feature': 'de_LDS', 'subjects': [1, 2], 'threshold': 4.5}
    """
    options = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value:
            raise ValueError(f"an option must be NAME=VALUE, got {pair!r}")
        values = [_number(part) for part in value.split(",") if part]
        options[name] = values if "," in value else values[0]
    return options


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
