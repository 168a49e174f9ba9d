# SPDX-License-Identifier: BSD-3-Clause
"""What the names that a pickle of arrays may ask for make here; see `_pickles`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

import numpy as np

_NUMPY = {
    f"{core}.{rest}": rest
    for core in ("numpy.core", "numpy._core")
    for rest in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_BUILTINS = {
    f"{module}.{name}": name
    for module in ("builtins", "__builtin__")
    for name in ("bytes", "bytearray", "set", "frozenset", "complex")
}
GLOBALS = {
    **_NUMPY,
    **_BUILTINS,
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|\?|O8?|O4")
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_MOST_LEVELS = 50
_MOST_KEYS = 10_000
_MOST_DIMENSIONS = 32
_SPARE_BYTES = 2**20


class Refused(Exception):
    """Why a pickle is not read."""


class Name:
    """What one of the admitted names puts on the stack."""

    def __init__(self, name: str):
        self.name = name


class Type:
    """A dtype, which the pickle gives in two steps."""

    def __init__(self, code: str):
        self.code, self.order = code, "|"

    @property
    def is_object(self) -> bool:
        return self.code.startswith("O")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order.replace("|", "=") + self.code)


class EmptyArray:
    """An array that waits for its content, and the memo keys under which it is known."""

    def __init__(self):
        self.keys: list[int] = []


class Values:
    """Makes what a pickle of `size` bytes asks for, within bounds that follow from its size."""

    def __init__(self, size: int):
        self.size = size
        self.spare = 4 * size + _SPARE_BYTES

    def spend(self, count: int) -> None:
        """Count memory that the pickle has made beyond its own bytes."""
        self.spare -= count
        if self.spare < 0:
            raise Refused(f"its pickle of {self.size} bytes builds several times its own size")

    def encode(self, text: str, encoding: str = "latin1"):
        """How bytes are written by Python 3 for Python 2."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise Refused("expected arrays, its pickle asks for _codecs.encode in another encoding")
        self.spend(len(text))
        return text.encode("latin-1")

    def bytes_of(self, content=b"", encoding: str = "latin-1") -> bytes:
        if isinstance(content, str):
            return self.encode(content, encoding)
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise Refused(f"expected bytes of bytes, got {type(content).__name__}")
        self.spend(len(content))
        return bytes(content)

    def set_of(self, items=()) -> set:
        if not isinstance(items, (list, tuple, set)):
            raise Refused(f"expected a set of a list, got {type(items).__name__}")
        self.spend(64 * len(items))
        return set(keys_of(list(items)))

    def complex_of(self, real, imaginary) -> complex:
        if not all(isinstance(part, (int, float)) for part in (real, imaginary)):
            raise Refused("expected a complex number of two numbers")
        return complex(real, imaginary)

    def type_of(self, code, *_) -> Type:
        code = code.decode("latin-1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise Refused(f"expected arrays of numbers, got the type {str(code)[:80]!r}")
        return Type(code)

    def empty_array(self, kind, *_) -> EmptyArray:
        if not isinstance(kind, Name) or kind.name != "ndarray":
            raise Refused("expected a plain array, its pickle asks for a subclass")
        return EmptyArray()

    def from_buffer(self, content, kind, shape, order) -> np.ndarray:
        if order not in ("C", "F"):
            raise Refused(f"its pickle is damaged: an array in the order {str(order)[:20]!r}")
        return self.array(content, kind, shape, order)

    def scalar(self, kind, content):
        if isinstance(kind, Type) and kind.is_object:
            raise Refused("expected a number, got a scalar of type object")
        return self.array(content, kind, (), "C")[()]

    def array(self, content, kind, shape, order: str) -> np.ndarray:
        if not isinstance(kind, Type):
            raise Refused("its pickle is damaged: an array has no type")
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MOST_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
        ):
            raise Refused(f"its pickle is damaged: an array of shape {str(shape)[:80]}")
        size = math.prod(shape)
        if kind.is_object:
            if not isinstance(content, list) or len(content) != size:
                raise Refused(f"its pickle is damaged: an array of {size} objects lacks some")
            self.spend(8 * size)
            array = np.empty(size, object)
            for i, value in enumerate(content):
                array[i] = value
        else:
            if isinstance(content, str):
                content = self.encode(content)
            if not isinstance(content, (bytes, bytearray, memoryview)):
                raise Refused("its pickle is damaged: an array has no content")
            if len(content) != size * kind.dtype.itemsize:
                raise Refused(
                    f"its pickle is damaged: an array of shape {shape} and type {kind.dtype} has "
                    f"{len(content)} bytes, expected {size * kind.dtype.itemsize}"
                )
            array = np.frombuffer(content, kind.dtype) if size else np.empty(0, kind.dtype)
            if kind.dtype == bool:
                self.spend(size)
                array = array.view(np.uint8) != 0
        array = array.reshape(shape, order=order)
        array.flags.writeable = False
        return array


def keys_of(keys: list, already: Collection = ()) -> list:
    """Keys whose hashes cannot recurse, and too few for equal hashes to take long."""
    for key in keys:
        if not isinstance(key, (*_SCALARS, np.generic)):
            raise Refused(f"expected words or numbers as keys, got {type(key).__name__}")
    if len(keys) + len(already) > _MOST_KEYS:
        raise Refused(f"expected up to {_MOST_KEYS} keys, got more")
    return keys


def checked(result):
    """The result, if all of it is plain; level by level, each object once."""
    level, seen = [result], set()
    for _ in range(_MOST_LEVELS):
        below: list = []
        for value in level:
            if isinstance(value, (*_SCALARS, memoryview, bytearray, np.generic)):
                continue
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, (list, tuple)):
                below += value
            elif isinstance(value, np.ndarray):
                below += value.ravel().tolist() if value.dtype == object else ()
            elif not isinstance(value, (set, frozenset)):
                raise Refused("expected arrays and plain containers, its pickle leaves a name")
        if not below:
            return result
        level = below
    raise Refused(f"expected arrays, its pickle nests deeper than {_MOST_LEVELS} levels")


CALLS = {
    "multiarray._reconstruct": Values.empty_array,
    "multiarray.scalar": Values.scalar,
    "numeric._frombuffer": Values.from_buffer,
    "dtype": Values.type_of,
    "encode": Values.encode,
    "bytes": Values.bytes_of,
    "bytearray": lambda m, *arguments: bytearray(m.bytes_of(*arguments)),
    "set": Values.set_of,
    "frozenset": lambda m, *arguments: frozenset(m.set_of(*arguments)),
    "complex": Values.complex_of,
}
