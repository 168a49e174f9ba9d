# SPDX-License-Identifier: BSD-3-Clause
"""What the readers of downloaded data sets share: where their files are, and whose."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_files", "one_file_each"]


def find_files(
    dataset: str, root: str | Path, kind: str | None, places: dict[str, list[tuple[str, str, str]]]
) -> tuple[str, Path, dict[Path, re.Match]]:
    """The folder that holds a form of a data set, and those of its files that belong to it.

    Parameters
    ----------
    dataset : str
        What errors call it.
    root : path-like
        The folder itself, the data set's folder above it, or one above that.
    kind : str or None
        The form; None for the first of `places` that is there.
    places : dict
        For each form, the preferred first: a folder's name, a file's name in words, and the
        pattern (regular expression, any case) of its whole name.

    Returns
    -------
    kind : str
    folder : Path
    files : dict of Path to re.Match
        In the order of their names.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If there is no such form, or two folders hold it.
    """
    root = Path(root)
    if kind is not None and kind not in places:
        raise ValueError(f"{dataset}: kind must be one of {', '.join(places)}, got {kind!r}.")
    if not root.is_dir():
        raise FileNotFoundError(f"{dataset}: there is no folder {root}.")
    wanted = [(k, *place) for k in ([kind] if kind else places) for place in places[k]]
    kind_of = {name: k for k, given in places.items() for name, *_ in given}
    below = [child for child in sorted(root.iterdir()) if child.is_dir()]
    for found_kind, name, _, pattern in wanted:
        found = {}
        own = [root] if kind_of.get(root.name, found_kind) == found_kind else []
        for folder in dict.fromkeys([*own, root / name, *(child / name for child in below)]):
            files = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                match = re.fullmatch(pattern, path.name, re.IGNORECASE)
                if match and path.is_file():
                    files[path] = match
            if files:
                found[folder] = files
        if len(found) > 1:
            raise ValueError(
                f"{dataset}: expected one folder with {found_kind} files below {root}, got "
                f"{' and '.join(map(str, found))}: give one of them."
            )
        if found:
            return found_kind, *found.popitem()
    looked = ", ".join(f"{name}/{file}" for _, name, file, _ in wanted)
    raise FileNotFoundError(f"{dataset}: nothing to read in {root}; looked for {looked}.")


def one_file_each(dataset: str, files: Iterable[tuple[tuple, Path]]) -> dict[tuple, Path]:
    """Subject (and session) to file, in order.

    Raises
    ------
    ValueError
        If two files say that they are the same.
    """
    words = "subject", "session"
    found: dict[tuple, Path] = {}
    for key, path in files:
        if key in found:
            raise ValueError(
                f"{dataset}: expected one file for "
                f"{', '.join(f'{word} {one}' for word, one in zip(words, key, strict=False))}, got "
                f"{found[key].name} and {path.name} in {path.parent}."
            )
        found[key] = path
    return dict(sorted(found.items()))
