# SPDX-License-Identifier: BSD-3-Clause
"""Entries of zip files (``.npz``, ``.xlsx``) that are not trusted: bounded, and no code is run."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from xml.parsers import expat

import numpy as np

from eegfast.datasets._pickles import load_arrays

__all__ = ["read_npz_object", "read_sheet"]

_MOST_ENTRIES = 1000
_NPZ_BYTES = 2**26
_XLSX_BYTES = 2**23
_MOST_CELLS = 100_000
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


def _entry(path: Path, name: str, limit: int, optional: bool = False) -> bytes | None:
    """The content of one entry, which may hold `limit` bytes, whatever the archive says."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > _MOST_ENTRIES:
                raise ValueError(f"{path}: expected a few entries, the archive has {len(names)}.")
            if name not in names:
                if optional:
                    return None
                raise ValueError(
                    f"{path}: expected an entry {name}, got {', '.join(names[:20]) or 'none'}."
                )
            with archive.open(name) as stream:
                content = stream.read(limit + 1)
    except FileNotFoundError:
        raise
    except _FAULTS as error:
        raise ValueError(f"{path}: the archive is damaged: {error}.") from error
    if len(content) > limit:
        raise ValueError(f"{path}: expected up to {limit} bytes in {name}, it holds more.")
    return content


def read_npz_object(path: Path, name: str):
    """What an entry of an ``.npz`` file holds as one pickled object, or as the bytes of a pickle.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The array's name. It has no dimension, and is of type object or bytes.

    Returns
    -------
    object
        As `eegfast.datasets._pickles.load_arrays`; a pickle inside the pickle is opened too.

    Raises
    ------
    ValueError
        If the archive is damaged or lacks the entry, the entry is larger than 64 MiB or of another
        shape or type, or a pickle asks for more than arrays.
    """
    where = f"{path}: {name}"
    content = _entry(path, f"{name}.npy", _NPZ_BYTES)
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
    except Exception as error:  # NumPy parses the header as Python's literals, with all its errors
        raise ValueError(f"{where}: expected an array of NumPy's, its header is none.") from error
    if shape != () or dtype.kind not in "OS":
        raise ValueError(f"{where}: expected one pickled object, got {dtype} of shape {shape}.")
    value = content[stream.tell() :]
    if dtype.kind == "O":
        value = load_arrays(value, where)
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value.item()
    return load_arrays(value, where) if isinstance(value, bytes) else value


def read_sheet(path: Path) -> list[list[str]]:
    """The texts in the first sheet of an ``.xlsx`` file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of list of str
        Rows of cells, without formatting; cells left out by the file are empty texts.

    Raises
    ------
    ValueError
        If it is no such file, is damaged, is larger than 8 MiB or 100,000 cells, or its XML
        declares a document type, through which XML can grow without bound or name other files.
    """
    strings = _entry(path, "xl/sharedStrings.xml", _XLSX_BYTES, optional=True)
    shared = _SharedStrings(path, strings).texts if strings else []
    return _Sheet(path, _entry(path, "xl/worksheets/sheet1.xml", _XLSX_BYTES), shared).rows


class _Xml:
    """Walks through an XML text without a document type; names come without their namespace."""

    def __init__(self, path: Path, content: bytes):
        self.path = path
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = lambda name, attributes: self.start(
            name.rpartition(" ")[2], attributes
        )
        parser.EndElementHandler = lambda name: self.end(name.rpartition(" ")[2])
        parser.CharacterDataHandler = self.characters
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise ValueError(f"{path}: its XML is damaged: {error}.") from error

    def _doctype(self, *_) -> None:
        raise ValueError(f"{self.path}: expected a spreadsheet, its XML declares a document type.")

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...

    def characters(self, text: str) -> None: ...


class _SharedStrings(_Xml):
    """Texts that cells refer to by number; phonetic hints (rPh) are no part of them."""

    def __init__(self, path: Path, content: bytes):
        self.texts: list[str] = []
        self._parts: list[str] = []
        self._reading, self._hint = False, False
        super().__init__(path, content)

    def start(self, name, attributes):
        self._hint |= name == "rPh"
        self._reading = name == "t" and not self._hint

    def end(self, name):
        self._hint &= name != "rPh"
        self._reading = False
        if name == "si":
            self.texts.append("".join(self._parts))
            self._parts = []

    def characters(self, text):
        if self._reading:
            self._parts.append(text)


class _Sheet(_Xml):
    """Rows of cells."""

    def __init__(self, path: Path, content: bytes, shared: list[str]):
        self.rows: list[list[str]] = []
        self._shared, self._cells = shared, 0
        self._parts: list[str] = []
        self._kind, self._reading = "", False
        super().__init__(path, content)

    def start(self, name, attributes):
        if name == "row":
            self._grow(self.rows, attributes.get("r"), list)
        elif name == "c" and self.rows:
            letters = attributes.get("r", "").rstrip("0123456789")
            column = 0
            for letter in letters[:4].upper():
                column = 26 * column + ord(letter) - 64
            self._grow(self.rows[-1], str(column) if letters else None, str)
            self._kind, self._parts = attributes.get("t", "n"), []
        self._reading = name in ("v", "t")

    def _grow(self, items: list, number: str | None, empty: type) -> None:
        """Add an item, at the place that the file gives it, counted from 1."""
        place = _number(number or "")
        new = 1 if place is None else place - len(items)
        self._cells += max(new, 0)
        if new < 1 or self._cells > _MOST_CELLS:
            raise ValueError(f"{self.path}: expected rows and columns in order, a few thousand.")
        items.extend(empty() for _ in range(new))

    def characters(self, text):
        if self._reading:
            self._parts.append(text)

    def end(self, name):
        self._reading = False
        if name == "c" and self.rows and self.rows[-1]:
            text = "".join(self._parts).strip()
            if self._kind == "s":
                number = _number(text)
                if number is None or number >= len(self._shared):
                    raise ValueError(f"{self.path}: a cell refers to text {text[:20]!r}.")
                text = self._shared[number]
            self.rows[-1][-1] = text


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None
