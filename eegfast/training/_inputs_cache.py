# SPDX-License-Identifier: BSD-3-Clause
"""Prepared inputs on disk: a folder per key, written as a whole, mapped when it is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

FORMAT, VERSION = "eegfast-inputs", 1
_HEADER = 512  # of each file: the shape is known only at its end


class TensorFile:
    """A safetensors file of one float32 tensor that grows along its first axis.

    Parameters
    ----------
    path : Path
        The file, replaced.
    """

    def __init__(self, path: Path):
        self._stream = path.open("wb")
        self._stream.write(b" " * _HEADER)
        self._rows, self._shape = 0, None

    def append(self, rows: Tensor) -> None:
        """Write rows of one shape behind the others."""
        shape = tuple(rows.shape[1:])
        if self._shape not in (None, shape):
            raise ValueError(f"a trial's samples have shape {shape}, others {self._shape}")
        self._shape = shape
        self._rows += len(rows)
        self._stream.write(memoryview(rows.contiguous().numpy()).cast("B"))

    def close(self) -> None:
        """Write the header; without it the file is none."""
        shape = [self._rows, *(self._shape or ())]
        about = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * prod(shape)]}
        header = json.dumps({"x": about}).encode()
        size = _HEADER - 8
        self._stream.seek(0)
        self._stream.write(size.to_bytes(8, "little") + header.ljust(size))
        self.abandon()

    def abandon(self) -> None:
        """Close it without a header."""
        self._stream.close()


def write_entry(folder: Path, parts: Iterable[Sequence[Tensor]], about) -> None:
    """Write an entry: the tensors of each part behind those of the parts before.

    Parameters
    ----------
    folder : Path
        Of the entry; there is none yet.
    parts : iterable of sequence of Tensor
        Float32, one of the network's inputs each.
    about : callable
        Called at the end, returns what is kept beside them as JSON.
    """
    new = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    streams: list[TensorFile] = []
    try:
        for tensors in parts:
            if not streams:
                streams = [TensorFile(new / f"{i}.safetensors") for i in range(len(tensors))]
            for stream, rows in zip(streams, tensors, strict=True):
                stream.append(rows)
        for stream in streams:
            stream.close()
        content = {"format": FORMAT, "version": VERSION, "n_inputs": len(streams), **about()}
        (new / "about.json").write_text(json.dumps(content), encoding="utf-8")
        os.replace(new, folder)
    finally:
        for stream in streams:
            stream.abandon()
        shutil.rmtree(new, ignore_errors=True)


def read_entry(folder: Path) -> tuple[tuple[Tensor, ...], dict] | None:
    """An entry's tensors, mapped, and what is kept beside them; None if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if (about["format"], about["version"]) != (FORMAT, VERSION):
            return None
        inputs = []
        for i in range(int(about["n_inputs"])):
            with safe_open(folder / f"{i}.safetensors", "pt") as file:
                inputs.append(file.get_tensor("x"))
        rows = {len(x) for x in inputs}
        if rows != {sum(about["windows"])} or any(x.dtype != torch.float32 for x in inputs):
            return None
        return tuple(inputs), about
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def free_memory() -> int | None:
    """Bytes of memory that are to be had, or None if the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def check_room(needed: int, place: Path | None) -> None:
    """Raise a MemoryError, or an OSError for a disk, if there is less room than needed.

    Parameters
    ----------
    needed : int
        Bytes, about.
    place : Path or None
        An existing folder on the disk; None: memory.
    """
    hint = "take fewer subjects (data.select.subjects) or a larger data.options.step"
    if place is not None:
        free = shutil.disk_usage(place).free
        if needed > free:
            raise OSError(
                f"{place}: the inputs need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
                f"free; {hint}"
            )
        return
    free = free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"the inputs need about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            f"give a cache folder, from which they are mapped, or {hint}"
        )
