# SPDX-License-Identifier: BSD-3-Clause
"""Writing a tree of files: whole ones only, and going on where it was stopped."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eegfast.datasets._synthetic_marker import FORMAT, MARKER, VERSION, read_marker

Progress = Callable[[int, int, str], None]
_MAT_HEADER, _MI_COMPRESSED = 128, 15
_MAT_TEXT = b"MATLAB 5.0 MAT-file, synthetic, written by eegfast"  # SciPy's has the date


@dataclass(frozen=True)
class PlannedFile:
    """A file of a tree, not yet made.

    Parameters
    ----------
    path : str
        Below the root, with slashes.
    n_bytes : int
        About how large it will be.
    write : callable
        Writes the content to a binary stream.
    """

    path: str
    n_bytes: int
    write: Callable[[BinaryIO], object]


def scaled_seconds(seconds: float, scale: float) -> int:
    """A trial's length at a scale: whole seconds, at least 4 (a window of the longest)."""
    return max(4, round(seconds * scale))


def check_scale(scale: float) -> float:
    """The scale as a float, or an error."""
    if not (isinstance(scale, (int, float)) and math.isfinite(scale) and 0 < scale <= 1):
        raise ValueError(f"scale must be above 0 and up to 1, got {scale!r}.")
    return float(scale)


def check_count(name: str, value: int, most: int) -> range:
    """Numbers from 1 to `value`, or an error."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} must be a number from 1 to {most}, got {value!r}.")
    return range(1, value + 1)


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The kinds in the order of `known`, or an error."""
    asked = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in asked if kind not in known]
    if unknown or not asked:
        raise ValueError(f"kinds must be among {', '.join(known)}, got {', '.join(asked) or None}.")
    return tuple(kind for kind in known if kind in asked)


def write_tree(
    root: str | Path,
    dataset: str,
    scale: float,
    seed: int,
    files: Sequence[PlannedFile],
    progress: Progress | None = None,
) -> Path:
    """Write the files that are not there yet, each under its name only when it is whole.

    Parameters
    ----------
    root : path-like
        An empty or new folder, or a synthetic tree of the same `dataset`, `scale` and `seed`.
    dataset : str
        Its name.
    scale, seed : float, int
        What the files were planned with.
    files : sequence of PlannedFile
        From one of `PLANS`.
    progress : callable, optional
        Called as ``progress(files_done, files, path)`` before each file and at the end.

    Returns
    -------
    Path
        The root.

    Raises
    ------
    FileExistsError
        If the folder holds something else, or a synthetic tree of other options.
    OSError
        If the disk is too small.
    """
    root = Path(root)
    options = {"dataset": dataset, "scale": scale, "seed": seed}
    check_folder(root, **options)
    todo = [file for file in files if not (root / file.path).exists()]
    place = next(path for path in (root, *root.absolute().parents) if path.exists())
    needed, free = sum(file.n_bytes for file in todo), shutil.disk_usage(place).free
    if needed > free:
        raise OSError(f"{root}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free.")
    if read_marker(root) is None:
        note = "Synthetic signals in the layout of a data set. Not a recording of anyone."
        marker = {"format": FORMAT, "version": VERSION, **options, "note": note}
        text = json.dumps(marker, indent=1) + "\n"
        _write_whole(root / MARKER, lambda stream: stream.write(text.encode()))
    missing = {file.path for file in todo}
    for done, file in enumerate(files):
        if progress is not None:
            progress(done, len(files), file.path)
        if file.path in missing:
            _write_whole(root / file.path, file.write)
    if progress is not None:
        progress(len(files), len(files), "")
    return root


def check_folder(root: Path, **options: object) -> None:
    """Raise unless the folder is new, empty or a synthetic tree of these options."""
    if not root.exists():
        return
    if not root.is_dir():
        raise FileExistsError(f"{root}: expected a folder, got a file.")
    if not any(path.name != _part(root / MARKER).name for path in root.iterdir()):
        return
    there = read_marker(root)
    if there is None:
        raise FileExistsError(
            f"{root}: expected an empty folder or a synthetic tree, it holds other files."
        )
    for key, value in options.items():
        if there.get(key) != value:
            raise FileExistsError(
                f"{root}: holds a synthetic tree with {key} {there.get(key)!r}, not {value!r}; "
                "choose another folder."
            )


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        with part.open("w+b") as stream:
            write(stream)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_mat(stream: BinaryIO, makers: dict[str, Callable[[], np.ndarray]]) -> None:
    """Write variables to a compressed .mat file (MATLAB 5), each made when it is its turn.

    SciPy writes one variable at a time, uncompressed, and it is compressed here: SciPy's own
    compression has no level, and takes seconds for a trial of SEED where this takes half of one.
    """
    try:
        from scipy.io import savemat
    except ImportError as error:
        raise ImportError("Writing .mat files needs SciPy: pip install 'eegfast[io]'.") from error
    for name, make in makers.items():
        plain = io.BytesIO()
        savemat(plain, {name: make()})
        content = plain.getbuffer()
        if stream.tell() == 0:
            stream.write(_MAT_TEXT.ljust(116) + content[116:_MAT_HEADER])
        element = zlib.compress(content[_MAT_HEADER:], level=1)
        stream.write(struct.pack("<II", _MI_COMPRESSED, len(element)))
        stream.write(element)
