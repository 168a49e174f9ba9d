# SPDX-License-Identifier: BSD-3-Clause
"""Which files can be read, and which files belong to one recording."""

from __future__ import annotations

import re
from pathlib import Path

READABLE: dict[str, str] = {
    ".edf": "EDF",
    ".bdf": "BDF",
    ".set": "EEGLAB",
    ".fif": "FIF",
    ".fif.gz": "FIF",
    ".vhdr": "BrainVision",
    ".cnt": "Neuroscan CNT",
    ".npy": "NumPy",
}
"""File name endings that `read_recording` knows, with the name of the format."""

_COMPANIONS = {".vmrk": ".vhdr", ".eeg": ".vhdr", ".dat": ".vhdr", ".fdt": ".set"}


def ending_of(path: Path) -> str:
    """The ending of `path` as `READABLE` has it.

    Raises
    ------
    ValueError
        If it is not there.
    """
    name = path.name.lower()
    for ending in sorted(READABLE, key=len, reverse=True):
        if name.endswith(ending):
            return ending
    header = _COMPANIONS.get(path.suffix.lower())
    hint = f" It belongs to a {header} file: give that one." if header else ""
    raise ValueError(
        f"{path}: expected a file ending in {', '.join(READABLE)}, "
        f"got {path.suffix or 'none'!r}.{hint}"
    )


def check_file(path: Path) -> None:
    """Raise unless `path` is a file with something in it and a known ending."""
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder.")
    ending = ending_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: expected {READABLE[ending]} data, the file is empty (0 bytes).")


def files_of(path: str | Path) -> list[Path]:
    """All files that hold the signal of a recording.

    Parameters
    ----------
    path : path-like
        The file that `read_recording` is given.

    Returns
    -------
    list of Path
        That file first; then the ``.fdt`` of a ``.set``, the data of a ``.vhdr``, the further parts
        of a split FIF, as far as they exist.
    """
    path = Path(path)
    found = [path]
    match ending_of(path):
        case ".vhdr":
            text = path.read_bytes().decode("latin-1")
            entry = re.search(r"^DataFile\s*=\s*(.+?)\s*$", text, re.MULTILINE)
            found += [path.parent / entry[1].replace("$b", path.stem)] if entry else []
        case ".set":
            found += [path.with_suffix(".fdt")]
        case ".fif":
            stem = re.escape(path.stem)
            bids = stem.replace(r"split\-01", r"split\-\d+")
            parts = re.compile(rf"(?:{stem}-\d+|{bids})\.fif")
            found += sorted(p for p in path.parent.iterdir() if parts.fullmatch(p.name))
    return [file for file in dict.fromkeys(found) if file.is_file()]
