# SPDX-License-Identifier: BSD-3-Clause
"""Pickles of arrays, read without running any code that they ask for.

This is no unpickler with a filter in front of it. It is a small machine of its own that knows the
opcodes that arrays, containers and scalars need; what a pickle calls "a function" is one of nine
names here, and what stands behind each name is written below. All other opcodes (instances,
`BUILD` on anything but an array or a type, persistent ids, the extension registry, buffers out of
band) end in an error, and so does every other name.
"""

from __future__ import annotations

import codecs
import math
import mmap
import re
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np

__all__ = ["load_arrays"]

_NUMPY = {
    f"{core}.{rest}": rest
    for core in ("numpy.core", "numpy._core")
    for rest in (
        "multiarray._reconstruct",
        "multiarray.scalar",
        "numeric._frombuffer",
    )
}
_BUILTINS = {
    f"{module}.{name}": name
    for module in ("builtins", "__builtin__")
    for name in (
        "bytes",
        "bytearray",
        "set",
        "frozenset",
        "complex",
    )
}
_GLOBALS = {
    **_NUMPY,
    **_BUILTINS,
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|\?|O8?|O4")
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_MOST_OPCODES = 1_000_000
_MOST_LEVELS = 50
_MOST_KEYS = 10_000
_MOST_DIMENSIONS = 32
_LONG_BYTES = 65_536
_NUMBER_BYTES = 255
_SPARE_BYTES = 2**20


class _Refused(Exception):
    """Why a pickle is not read."""


class _Mark:
    """Where the items of a container begin on the stack."""


class _Name:
    """What one of the admitted names puts on the stack."""

    def __init__(self, name: str):
        self.name = name


class _Type:
    """A dtype, which the pickle gives in two steps."""

    def __init__(self, code: str):
        self.code, self.order = code, "|"

    @property
    def is_object(self) -> bool:
        return self.code.startswith("O")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order.replace("|", "=") + self.code)


class _EmptyArray:
    """An array that waits for its content, and the memo keys under which it is known."""

    def __init__(self):
        self.keys: list[int] = []


def load_arrays(source: str | Path | bytes, name: str | None = None):
    """What a pickle of NumPy arrays, scalars and plain containers holds.

    Parameters
    ----------
    source : path-like or bytes
        A file, or the pickle itself; protocols 0 to 5.
    name : str, optional
        What errors call it; default the path.

    Returns
    -------
    object
        None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, NumPy
        scalars, and read-only arrays of numbers, truth values or again such objects. Strings of
        Python 2 are text by Latin-1, or bytes from 64 KiB on. From a file, arrays and bytes of that
        size are not read: they are a view (a memoryview for bytes) of the mapped file, which must
        not be changed meanwhile.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the pickle asks for anything else, which the message names; if it is cut off or
        malformed; or if it claims or builds more than a file of its size can mean.
    """
    if isinstance(source, bytes):
        return _load(source, name or "pickle")
    path = Path(source)
    name = name or str(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{name}: expected a pickle, the file is empty (0 bytes).")
    with path.open("rb") as stream:
        return _load(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), name)


def _load(data: bytes | mmap.mmap, name: str):
    try:
        return _Machine(data).run()
    except _Refused as why:
        raise ValueError(f"{name}: {why}.") from None
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{name}: its pickle is damaged ({type(error).__name__}).") from error


class _Machine:
    def __init__(self, data: bytes | mmap.mmap):
        self.data, self.view = data, memoryview(data)
        self.at = 0
        self.stack: list = []
        self.memo: dict = {}
        self.spare = 4 * len(data) + _SPARE_BYTES

    def run(self):
        for _ in range(_MOST_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                if len(self.stack) != 1:
                    raise _Refused("its pickle is damaged: not one value at its end")
                return _checked(self.stack[0])
            step = _STEPS.get(opcode)
            if step is None:
                what = _REFUSED_OPCODES.get(opcode, f"the unknown opcode {opcode!r}")
                raise _Refused(
                    f"expected arrays and plain containers, its pickle asks for {what} "
                    f"at byte {self.at - 1}"
                )
            step(self)
        raise _Refused(f"expected arrays, its pickle has more than {_MOST_OPCODES} steps")

    # Reading

    def take(self, count: int) -> bytes:
        """The next bytes, copied; for short ones."""
        return bytes(self.span(count))

    def span(self, count: int) -> memoryview:
        """The next bytes, in place."""
        left = len(self.data) - self.at
        if count > left:
            raise _Refused(
                f"its pickle is cut off or damaged: expected {count} bytes at byte {self.at}, "
                f"there are {left}"
            )
        self.at += count
        return self.view[self.at - count : self.at]

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def content(self, code: str) -> bytes | memoryview:
        """Bytes behind their length; long ones of a file stay where they are."""
        count = self.number(code)
        if count < 0:
            raise _Refused(f"its pickle is damaged: bytes of length {count}")
        if count >= _LONG_BYTES and not isinstance(self.data, bytes):
            return self.span(count)
        return self.take(count)

    def old_string(self, code: str) -> str | bytes | memoryview:
        """A string of Python 2: text, or an array's content if it is too long to be a word."""
        content = self.content(code)
        return content if len(content) >= _LONG_BYTES else content.decode("latin-1")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _Refused("its pickle is cut off or damaged: a line has no end")
        line = self.take(end - self.at)
        self.at += 1
        return line.removesuffix(b"\r")

    def numeral(self) -> bytes:
        line = self.line()
        if len(line) > _NUMBER_BYTES:
            raise _Refused(f"its pickle is damaged: a number of {len(line)} digits")
        return line

    def spend(self, count: int) -> None:
        """Count memory that the pickle has made beyond its own bytes."""
        self.spare -= count
        if self.spare < 0:
            raise _Refused(
                f"its pickle of {len(self.data)} bytes builds several times its own size"
            )

    # The stack

    def push(self, value) -> None:
        self.stack.append(value)

    def pop(self):
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise _Refused("its pickle is damaged: a value is missing")
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise _Refused("its pickle is damaged: a container has no beginning")

    def top(self, kind: type):
        value = self.stack[-1] if self.stack else None
        if type(value) is not kind:
            raise _Refused(f"its pickle is damaged: expected a {kind.__name__} to be filled")
        return value

    def remember(self, key: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[key] = value
        if isinstance(value, _EmptyArray):
            value.keys.append(key)

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise _Refused(f"its pickle is damaged: it refers to value {key}, which is not there")
        self.push(self.memo[key])

    # Values

    def protocol(self, number: int) -> None:
        if number > 5:
            raise _Refused(f"expected a pickle of protocol 0 to 5, got {number}")

    def text_line(self) -> None:
        line = self.line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise _Refused("its pickle is damaged: a text has no quotes")
        content = codecs.escape_decode(line[1:-1])[0]
        self.push(content if len(content) >= _LONG_BYTES else content.decode("latin-1"))

    def integer_line(self) -> None:
        line = self.numeral().removesuffix(b"L")
        self.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def integer(self, code: str) -> None:
        count = self.number(code)
        if not 0 <= count <= _NUMBER_BYTES:
            raise _Refused(f"its pickle is damaged: a number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, code: str) -> None:
        self.push(codecs.decode(self.span(self.number(code)), "utf-8", "surrogatepass"))

    def append(self, items: list) -> None:
        self.top(list).extend(items)

    def dict_of(self, items: list) -> None:
        self.push({})
        self.set_items(items)

    def set_items(self, items: list) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise _Refused("its pickle is damaged: a key has no value")
        target.update(zip(_keys(items[::2], target), items[1::2], strict=True))

    def add_items(self, items: list) -> None:
        self.top(set).update(_keys(items, self.top(set)))

    def last_two(self) -> list:
        value = self.pop()
        return [self.pop(), value]

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    # Names and what they do

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _GLOBALS:
            raise _Refused(
                f"expected arrays and plain containers, its pickle asks for {full[:200]!r}; "
                "nothing was run"
            )
        self.push(_Name(_GLOBALS[full]))

    def instance(self, module: str, name: str) -> None:
        self.name(module, name)
        raise _Refused(f"expected arrays, its pickle asks for an instance of {module}.{name}")

    def stack_name(self) -> None:
        module, name = self.last_two()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Refused("its pickle is damaged: a name is no text")
        self.name(module, name)

    def call(self) -> None:
        function, arguments = self.last_two()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _Refused("expected arrays and plain containers, its pickle calls a value")
        made = _CALLS.get(function.name)
        if made is None:
            raise _Refused(f"expected arrays, its pickle calls {function.name}")
        self.push(made(self, *arguments))

    def encode(self, text: str, encoding: str = "latin1"):
        """How bytes are written by Python 3 for Python 2."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused(
                "expected arrays, its pickle asks for _codecs.encode in another encoding"
            )
        self.spend(len(text))
        return text.encode("latin-1")

    def bytes_of(self, content=b"", encoding: str = "latin-1") -> bytes:
        if isinstance(content, str):
            return self.encode(content, encoding)
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise _Refused(f"expected bytes of bytes, got {type(content).__name__}")
        self.spend(len(content))
        return bytes(content)

    def set_of(self, items=()) -> set:
        if not isinstance(items, (list, tuple, set)):
            raise _Refused(f"expected a set of a list, got {type(items).__name__}")
        self.spend(64 * len(items))
        return set(_keys(list(items)))

    def complex_of(self, real, imaginary) -> complex:
        if not all(isinstance(part, (int, float)) for part in (real, imaginary)):
            raise _Refused("expected a complex number of two numbers")
        return complex(real, imaginary)

    def type_of(self, code, *_) -> _Type:
        code = code.decode("latin-1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _Refused(f"expected arrays of numbers, got the type {str(code)[:80]!r}")
        return _Type(code)

    def empty_array(self, kind, *_) -> _EmptyArray:
        if not isinstance(kind, _Name) or kind.name != "ndarray":
            raise _Refused("expected a plain array, its pickle asks for a subclass")
        return _EmptyArray()

    def from_buffer(self, content, kind, shape, order) -> np.ndarray:
        if order not in ("C", "F"):
            raise _Refused(f"its pickle is damaged: an array in the order {str(order)[:20]!r}")
        return self.array(content, kind, shape, order)

    def scalar(self, kind, content):
        if isinstance(kind, _Type) and kind.is_object:
            raise _Refused("expected a number, got a scalar of type object")
        return self.array(content, kind, (), "C")[()]

    def array(self, content, kind, shape, order: str) -> np.ndarray:
        if not isinstance(kind, _Type):
            raise _Refused("its pickle is damaged: an array has no type")
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MOST_DIMENSIONS
            or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
        ):
            raise _Refused(f"its pickle is damaged: an array of shape {str(shape)[:80]}")
        size = math.prod(shape)
        if kind.is_object:
            if not isinstance(content, list) or len(content) != size:
                raise _Refused(f"its pickle is damaged: an array of {size} objects lacks some")
            self.spend(8 * size)
            array = np.empty(size, object)
            for i, value in enumerate(content):
                array[i] = value
        else:
            if isinstance(content, str):
                content = self.encode(content)
            if not isinstance(content, (bytes, bytearray, memoryview)):
                raise _Refused("its pickle is damaged: an array has no content")
            if len(content) != size * kind.dtype.itemsize:
                raise _Refused(
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

    def build(self) -> None:
        target, state = self.last_two()
        if not isinstance(state, tuple):
            raise _Refused("expected arrays, its pickle sets the state of something else")
        if isinstance(target, _Type):
            if len(state) < 2 or state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
                raise _Refused("its pickle is damaged: a type has no byte order")
            if any(part is not None for part in state[2:5]):
                raise _Refused("expected arrays of numbers, got a structured type")
            order = state[1]
            target.order = order.decode() if isinstance(order, bytes) else order
            self.push(target)
        elif isinstance(target, _EmptyArray):
            shape, kind, fortran, content = state[-4:]
            array = self.array(content, kind, shape, "F" if fortran else "C")
            self.memo.update(dict.fromkeys(target.keys, array))
            self.push(array)
        else:
            raise _Refused("expected arrays, its pickle sets the state of something else")


def _keys(keys: list, already: Collection = ()) -> list:
    """Keys whose hashes cannot recurse, and too few for equal hashes to take long."""
    for key in keys:
        if not isinstance(key, (*_SCALARS, np.generic)):
            raise _Refused(f"expected words or numbers as keys, got {type(key).__name__}")
    if len(keys) + len(already) > _MOST_KEYS:
        raise _Refused(f"expected up to {_MOST_KEYS} keys, got more")
    return keys


def _checked(result):
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
                raise _Refused("expected arrays and plain containers, its pickle leaves a name")
        if not below:
            return result
        level = below
    raise _Refused(f"expected arrays, its pickle nests deeper than {_MOST_LEVELS} levels")


_CALLS = {
    "multiarray._reconstruct": _Machine.empty_array,
    "multiarray.scalar": _Machine.scalar,
    "numeric._frombuffer": _Machine.from_buffer,
    "dtype": _Machine.type_of,
    "encode": _Machine.encode,
    "bytes": _Machine.bytes_of,
    "bytearray": lambda m, *arguments: bytearray(m.bytes_of(*arguments)),
    "set": _Machine.set_of,
    "frozenset": lambda m, *arguments: frozenset(m.set_of(*arguments)),
    "complex": _Machine.complex_of,
}

_STEPS = {
    # Nothing to build: protocol and frames only help a reader along.
    b"\x80": lambda m: m.protocol(m.number("B")),
    b"\x95": lambda m: m.number("Q"),
    # Scalars
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.integer_line,
    b"L": _Machine.integer_line,
    b"J": lambda m: m.push(m.number("i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"\x8a": lambda m: m.integer("B"),
    b"\x8b": lambda m: m.integer("i"),
    b"F": lambda m: m.push(float(m.numeral())),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # Bytes and text
    b"S": _Machine.text_line,
    b"T": lambda m: m.push(m.old_string("i")),
    b"U": lambda m: m.push(m.old_string("B")),
    b"B": lambda m: m.push(m.content("I")),
    b"C": lambda m: m.push(m.content("B")),
    b"\x8e": lambda m: m.push(m.content("Q")),
    b"\x96": lambda m: m.push(m.content("Q")),
    b"V": lambda m: m.push(codecs.decode(m.line(), "raw-unicode-escape")),
    b"X": lambda m: m.text("I"),
    b"\x8c": lambda m: m.text("B"),
    b"\x8d": lambda m: m.text("Q"),
    # Containers
    b"(": lambda m: m.push(_Mark()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(set()),
    b"l": lambda m: m.push(m.pop_to_mark()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"\x91": lambda m: m.push(frozenset(_keys(m.pop_to_mark()))),
    b"d": lambda m: m.dict_of(m.pop_to_mark()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items(m.last_two()),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"\x90": lambda m: m.add_items(m.pop_to_mark()),
    # The stack and the memo
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"p": lambda m: m.remember(int(m.numeral())),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(int(m.numeral())),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("I")),
    # Names and what they do
    b"c": lambda m: m.name(m.line().decode("latin-1"), m.line().decode("latin-1")),
    b"\x93": _Machine.stack_name,
    b"i": lambda m: m.instance(m.line().decode("latin-1"), m.line().decode("latin-1")),
    b"R": _Machine.call,
    b"b": _Machine.build,
}

_REFUSED_OPCODES = {
    b"P": "a persistent id",
    b"Q": "a persistent id",
    b"o": "an instance of a class (OBJ)",
    b"\x81": "an instance of a class (NEWOBJ)",
    b"\x92": "an instance of a class (NEWOBJ_EX)",
    b"\x82": "the extension registry",
    b"\x83": "the extension registry",
    b"\x84": "the extension registry",
    b"\x97": "a buffer out of band",
    b"\x98": "a buffer out of band",
}
