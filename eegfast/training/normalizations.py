# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of fitted normalisations in a file: what a fit writes and a pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eegfast.protocols import make_normalization
from eegfast.training.runs import write_file, write_json

NAME = "normalization.safetensors"


def write_normalization(folder: Path, normalizations: Sequence) -> None:
    """Write numbers, one set per input of the network, and what they are; nothing if there are
    none.

    Parameters
    ----------
    folder : Path
        Gets ``normalization.safetensors`` and ``normalization.json``.
    normalizations : sequence
        Fitted normalisations of one kind, one for each input.
    """
    from safetensors.numpy import save_file

    arrays = {
        f"{number}.{key.rstrip('_')}": np.ascontiguousarray(value)
        for number, normalization in enumerate(normalizations)
        for key, value in vars(normalization).items()
        if isinstance(value, np.ndarray)
    }
    if not arrays:
        return
    about = {
        "name": normalizations[0].name,
        "inputs": len(normalizations),
        "transductive": normalizations[0].transductive,
        "statement": normalizations[0].statement,
    }
    metadata = {"eegfast": json.dumps(about)}
    write_file(folder / NAME, lambda part: save_file(arrays, part, metadata))
    write_json(folder / "normalization.json", about)


def read_normalization(folder: Path, name: str) -> tuple:
    """Read what :func:`write_normalization` wrote.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        One of :data:`eegfast.protocols.normalization.NORMALIZATIONS`.

    Returns
    -------
    tuple
        A fitted normalisation for each input; a single one if it has no numbers; none for
        ``"none"``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the numbers are missing or make no sense; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if name == "none":
        return ()
    path = folder / NAME
    if not path.is_file():
        if not make_normalization(name).transductive:
            raise FileNotFoundError(f"{path}: no such file, but {name} has numbers")
        return (make_normalization(name),)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    n_inputs = len(arrays) // 2
    expected = {f"{number}.{key}" for number in range(n_inputs) for key in ("mean", "std")}
    if set(arrays) != expected or not n_inputs:
        raise ValueError(
            f"{path}: expected 0.mean, 0.std and so on for each input, got "
            f"{', '.join(sorted(arrays)[:6])}"
        )
    found = []
    for number in range(n_inputs):
        mean, std = arrays[f"{number}.mean"], arrays[f"{number}.std"]
        sound = mean.dtype.kind == "f" and np.isfinite(mean).all() and np.isfinite(std).all()
        if not sound or mean.shape != std.shape or mean.ndim != 2 or not (std > 0).all():
            raise ValueError(f"{path}: means and positive deviations of one 2-D shape expected")
        normalization = make_normalization(name)
        normalization.mean_, normalization.std_ = mean, std
        found.append(normalization)
    return tuple(found)
