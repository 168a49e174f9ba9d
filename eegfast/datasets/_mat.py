# SPDX-License-Identifier: BSD-3-Clause
"""Arrays of MATLAB files, one variable at a time: versions 5 to 7 here, 7.3 through h5py.

A version 5 file is a row of elements: 4 bytes of type, 4 bytes of length, the data. A variable is
an element of type 14 (matrix), from version 7 on inside an element of type 15 (zlib). In a matrix
follow, each an element of its own: flags with the class, dimensions, name, values; the values may
be of a smaller type than the class (MATLAB stores whole doubles as int8 where they fit). This
reader knows real numeric matrices; other classes are listed and refused.

Against SciPy, whose zlib it checks in the tests, the gain is libdeflate (package ``deflate``): half
the time for 62 x 45,000 doubles. Without that package the standard library's zlib does it.

Nothing is allocated on the word of a header: an array larger than its compressed bytes can inflate
to, which for deflate is 1032 times their number, is refused, and so is one whose shape is not what
the caller expects.
"""

from __future__ import annotations

import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["MatFile", "open_mat"]

Expected = Sequence["int | None | tuple[int, int | None]"]

MAX_BYTES = 2**31
_MAX_RATIO = 1032
_HEADER_BYTES = 4096

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_STORED[13] = "u8"
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_NUMERIC |= {14: "i8", 15: "u8"}
_OTHER = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function"}
_COMPLEX = 0x800
_HDF5_CLASSES = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def open_mat(path: str | Path) -> MatFile:
    """Open a MATLAB file and list what is in it; no array is read.

    Parameters
    ----------
    path : path-like
        A file of version 5, 6, 7 or 7.3.

    Returns
    -------
    MatFile
        A context manager.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the file is of version 7.3 and h5py is not installed.
    ValueError
        If it is no MATLAB file, is cut off, or its list of variables is damaged.
    """
    path = Path(path)
    with path.open("rb") as stream:
        head = stream.read(520)
    if b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:520]):
        return _HDF5File(path)
    return _ElementFile(path, head)


class MatFile(ABC):
    """An open MATLAB file.

    Attributes
    ----------
    path : Path
        The file.
    variables : dict
        Name to (shape, dtype), in the file's order. The dtype is None for what is not an array of
        real numbers and cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.variables: dict[str, tuple[tuple[int, ...], np.dtype | None]] = {}
        self._bytes_on_disk: dict[str, int] = {}
        self._kinds: dict[str, str] = {}

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _load(self, name: str) -> np.ndarray:
        """An array in MATLAB's shape, whatever its order in memory."""

    def read(self, name: str, expected: Expected | None = None, dtype=None) -> np.ndarray:
        """Read one variable.

        Parameters
        ----------
        name : str
            Its name.
        expected : sequence, optional
            The shape that it should have: for each axis a number, a pair (from, to) with both ends
            included and None for no upper end, or None for any. Checked before anything is inflated
            or allocated.
        dtype : data type, optional
            Type of the result; default the variable's.

        Returns
        -------
        ndarray
            In memory of its own, row by row.

        Raises
        ------
        ValueError
            If there is no such variable, its class or shape is another, or it is damaged. The
            message names file and variable.
        """
        own = self.check(name, expected)
        return self._load(name).astype(dtype or own, order="C")

    def check(self, name: str, expected: Expected | None = None) -> np.dtype:
        """Do the checks of `read`, from the list of variables alone.

        Parameters
        ----------
        name, expected
            As for `read`.

        Returns
        -------
        dtype
            Of the variable.

        Raises
        ------
        ValueError
            As `read` does.
        """
        if name not in self.variables:
            raise ValueError(f"{self.path}: no variable {name}; it holds {self.listed()}.")
        shape, own = self.variables[name]
        if own is None:
            raise self._error(name, f"expected an array of real numbers, got {self._kinds[name]}")
        if expected is not None and not _fits(shape, expected):
            raise self._error(name, f"expected shape {_describe(expected)}, got {_shape(shape)}")
        size = math.prod(shape) * own.itemsize
        if size > min(MAX_BYTES, _MAX_RATIO * self._bytes_on_disk[name] + _HEADER_BYTES):
            raise self._error(
                name,
                f"its header declares {size} bytes, more than {self._bytes_on_disk[name]} bytes in "
                f"the file can hold or than the limit of {MAX_BYTES}",
            )
        return own

    def _error(self, name: str, message: str) -> ValueError:
        return ValueError(f"{self.path}: variable {name}: {message}.")

    def listed(self) -> str:
        """The first names, for messages."""
        names = list(self.variables)
        text = ", ".join(names[:6]) or "none"
        return text if len(names) <= 6 else f"{text} ... ({len(names)} in all)"

    def __enter__(self) -> MatFile:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class _Element(NamedTuple):
    """Where a numeric matrix lies: `start` and `count` bytes of the file, in which, once inflated
    to `size` bytes, the values of type `stored` begin at `values`."""

    start: int
    count: int
    compressed: bool
    size: int
    values: int
    stored: np.dtype


class _ElementFile(MatFile):
    """Versions 5 to 7."""

    def __init__(self, path: Path, head: bytes):
        super().__init__(path)
        if len(head) < 128 or head[126:128] not in (b"IM", b"MI"):
            raise ValueError(f"{path}: expected a MATLAB file of version 5 to 7.3, it is none.")
        self._order = "<" if head[126:128] == b"IM" else ">"
        self._elements: dict[str, _Element] = {}
        self._stream = path.open("rb")
        try:
            self._list()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def _list(self) -> None:
        end = self._stream.seek(0, 2)
        start = 128
        while start < end:
            self._stream.seek(start)
            kind, count = self._two(self._stream.read(8), 0, start)
            start += 8
            if count == 0 or start + count > end:
                raise ValueError(
                    f"{self.path}: is cut off or damaged: expected {count} bytes from byte {start} "
                    f"on, after {self.listed()}; the file ends at {end}."
                )
            self._add(kind, start, count)
            start += count

    def _add(self, kind: int, start: int, count: int) -> None:
        raw = self._stream.read(min(count, _HEADER_BYTES))
        if kind == _COMPRESSED:
            try:
                raw = zlib.decompressobj().decompress(raw, _HEADER_BYTES)
            except zlib.error as error:
                raise self._damaged(start) from error
            kind, size = self._two(raw, 0, start)
            size, at, compressed = size + 8, 8, True
        else:
            size, at, compressed = count, 0, False
        if kind != _MATRIX:
            raise self._damaged(start)
        _, flags, at = self._element(raw, at, start)
        (flags,) = struct.unpack_from(self._order + "I", flags.ljust(4, b"\0"))
        number, is_complex = flags & 0xFF, flags & _COMPLEX
        if number not in _NUMERIC and number not in _OTHER:
            return
        stored, sizes, at = self._element(raw, at, start)
        if stored != 5 or not 8 <= len(sizes) <= 128 or len(sizes) % 4:
            raise self._damaged(start)
        shape = struct.unpack(f"{self._order}{len(sizes) // 4}i", sizes)
        _, text, at = self._element(raw, at, start)
        name = text.decode("latin-1").rstrip("\0")
        if not name:
            return
        if name in self.variables or min(shape) < 0:
            raise self._damaged(start)
        self._bytes_on_disk[name] = count
        if number in _OTHER or is_complex:
            self.variables[name] = shape, None
            self._kinds[name] = f"a {_OTHER[number]}" if number in _OTHER else "complex numbers"
            return
        kind, length, at = self._tag(raw, at, start)
        stored = np.dtype(self._order + _STORED.get(kind, "V1"))
        values = math.prod(shape) * stored.itemsize
        if kind not in _STORED or length != values or not at + length <= size <= at + length + 7:
            raise self._damaged(start)
        self.variables[name] = shape, np.dtype(_NUMERIC[number])
        self._elements[name] = _Element(start, count, compressed, size, at, stored)

    def _two(self, raw: bytes, at: int, start: int) -> tuple[int, int]:
        if at + 8 > len(raw):
            raise self._damaged(start)
        return struct.unpack_from(self._order + "II", raw, at)

    def _tag(self, raw: bytes, at: int, start: int) -> tuple[int, int, int]:
        """Type and length of the element at a place, and where its data is."""
        kind, count = self._two(raw, at, start)
        if kind >> 16:  # up to 4 bytes, in the tag itself
            return kind & 0xFFFF, kind >> 16, at + 4
        return kind, count, at + 8

    def _element(self, raw: bytes, at: int, start: int) -> tuple[int, bytes, int]:
        """Type and data of a short element, and where the next one is."""
        kind, count, data = self._tag(raw, at, start)
        if data + count > len(raw):
            raise self._damaged(start)
        return (
            kind,
            raw[data : data + count],
            at + 8 if data == at + 4 else data + -(-count // 8) * 8,
        )

    def _damaged(self, start: int) -> ValueError:
        return ValueError(
            f"{self.path}: the variable at byte {start}, after {self.listed()}, is damaged."
        )

    def _load(self, name: str) -> np.ndarray:
        element = self._elements[name]
        shape, _ = self.variables[name]
        self._stream.seek(element.start)
        raw = self._stream.read(element.count)
        if element.compressed:
            try:
                raw = _inflate(raw, element.size)
            except ValueError as error:
                raise self._error(name, f"is damaged: {error}") from error
        values = np.frombuffer(raw, element.stored, math.prod(shape), element.values)
        return values.reshape(shape[::-1]).T


def _inflate(data: bytes, size: int) -> bytes | bytearray:
    """Inflate zlib data that must come to just `size` bytes and have the right checksum."""
    try:
        import deflate
    except ImportError:
        inflater = zlib.decompressobj()
        try:
            values = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        whole = inflater.eof
    else:
        try:
            values = deflate.zlib_decompress(data, size)
        except deflate.DeflateError as error:
            raise ValueError(
                f"its data is cut off, fails its checksum or is more than {size} bytes"
            ) from error
        whole = True
    if not whole or len(values) != size:
        raise ValueError(f"expected {size} bytes of data")
    return values


class _HDF5File(MatFile):
    """Version 7.3, which is HDF5 with the axes in reverse."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            import h5py
        except ImportError as error:
            raise ImportError(
                f"{path} is a MATLAB 7.3 file and needs h5py: pip install 'eegfast[io]'."
            ) from error
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(f"{path}: is cut off or damaged (MATLAB 7.3): {error}.") from error
        try:
            self._list(h5py)
        except Exception as error:
            self.close()
            raise ValueError(f"{path}: is damaged (MATLAB 7.3): {error}.") from error

    def close(self) -> None:
        self._file.close()

    def _list(self, h5py) -> None:
        for name in self._file:
            if name.startswith("#"):
                continue
            if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
                self._refuse(name, "a link to elsewhere")
                continue
            item = self._file[name]
            kind = item.attrs.get("MATLAB_class", b"double")
            kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
            if not isinstance(item, h5py.Dataset):
                self._refuse(name, f"a {'sparse' if 'MATLAB_sparse' in item.attrs else kind}")
            elif item.dtype.kind not in "iuf" or item.is_virtual or item.external:
                self._refuse(name, f"{kind} as {item.dtype}")
            elif kind not in _HDF5_CLASSES or item.shape is None:
                self._refuse(name, f"a {kind}")
            else:
                own = item.dtype.newbyteorder("=")
                self.variables[name] = item.shape[::-1], own
                self._bytes_on_disk[name] = item.id.get_storage_size()

    def _refuse(self, name: str, kind: str) -> None:
        self.variables[name] = (), None
        self._kinds[name] = kind

    def _load(self, name: str) -> np.ndarray:
        try:
            return self._file[name][()].T
        except Exception as error:
            raise self._error(name, f"is damaged: {error}") from error


def _fits(shape: tuple[int, ...], expected: Expected) -> bool:
    return len(shape) == len(expected) and all(
        low <= size <= (math.inf if high is None else high)
        for size, (low, high) in zip(shape, map(_range, expected), strict=True)
    )


def _range(axis: int | None | tuple[int, int | None]) -> tuple[int, int | None]:
    if axis is None:
        return 0, None
    return (axis, axis) if isinstance(axis, int) else axis


def _describe(expected: Expected) -> str:
    def text(axis):
        low, high = _range(axis)
        if high is None:
            return f"{low} or more" if low else "any"
        return str(low) if low == high else f"{low} to {high}"

    return f"({', '.join(text(axis) for axis in expected)})"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
