# SPDX-License-Identifier: BSD-3-Clause
"""Pickles of arrays, read without running any code that they ask for.

This is no unpickler with a filter in front of it. It is a small machine of its own that knows the
opcodes that arrays, containers and scalars need; what a pickle calls "a function" is one of eleven
names, and what they do here is written out in `_pickle_values`. All other opcodes (instances,
`BUILD` on anything but an array or a type, persistent ids, the extension registry, buffers out of
band) end in an error, and so does every other name.
"""

from __future__ import annotations

import codecs
import mmap
import struct
from pathlib import Path

from eegfast.datasets._pickle_values import (
    CALLS,
    GLOBALS,
    EmptyArray,
    Name,
    Refused,
    Type,
    Values,
    checked,
    keys_of,
)

__all__ = ["load_arrays"]

_MOST_OPCODES = 1_000_000
_LONG_BYTES = 65_536
_NUMBER_BYTES = 255


class _Mark:
    """Where the items of a container begin on the stack."""


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
    except Refused as why:
        raise ValueError(f"{name}: {why}.") from None
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{name}: its pickle is damaged ({type(error).__name__}).") from error


class _Machine(Values):
    def __init__(self, data: bytes | mmap.mmap):
        self.data, self.view = data, memoryview(data)
        self.at = 0
        self.stack: list = []
        self.memo: dict = {}
        super().__init__(len(data))

    def run(self):
        for _ in range(_MOST_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                if len(self.stack) != 1:
                    raise Refused("its pickle is damaged: not one value at its end")
                return checked(self.stack[0])
            step = _STEPS.get(opcode)
            if step is None:
                what = _REFUSED_OPCODES.get(opcode, f"the unknown opcode {opcode!r}")
                raise Refused(
                    f"expected arrays and plain containers, its pickle asks for {what} "
                    f"at byte {self.at - 1}"
                )
            step(self)
        raise Refused(f"expected arrays, its pickle has more than {_MOST_OPCODES} steps")

    # Reading

    def take(self, count: int) -> bytes:
        """The next bytes, copied; for short ones."""
        return bytes(self.span(count))

    def span(self, count: int) -> memoryview:
        """The next bytes, in place."""
        left = len(self.data) - self.at
        if count > left:
            raise Refused(
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
            raise Refused(f"its pickle is damaged: bytes of length {count}")
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
            raise Refused("its pickle is cut off or damaged: a line has no end")
        line = self.take(end - self.at)
        self.at += 1
        return line.removesuffix(b"\r")

    def numeral(self) -> bytes:
        line = self.line()
        if len(line) > _NUMBER_BYTES:
            raise Refused(f"its pickle is damaged: a number of {len(line)} digits")
        return line

    # The stack

    def push(self, value) -> None:
        self.stack.append(value)

    def pop(self):
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise Refused("its pickle is damaged: a value is missing")
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise Refused("its pickle is damaged: a container has no beginning")

    def top(self, kind: type):
        value = self.stack[-1] if self.stack else None
        if type(value) is not kind:
            raise Refused(f"its pickle is damaged: expected a {kind.__name__} to be filled")
        return value

    def remember(self, key: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[key] = value
        if isinstance(value, EmptyArray):
            value.keys.append(key)

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise Refused(f"its pickle is damaged: it refers to value {key}, which is not there")
        self.push(self.memo[key])

    # Values

    def protocol(self, number: int) -> None:
        if number > 5:
            raise Refused(f"expected a pickle of protocol 0 to 5, got {number}")

    def text_line(self) -> None:
        line = self.line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise Refused("its pickle is damaged: a text has no quotes")
        content = codecs.escape_decode(line[1:-1])[0]
        self.push(content if len(content) >= _LONG_BYTES else content.decode("latin-1"))

    def integer_line(self) -> None:
        line = self.numeral().removesuffix(b"L")
        self.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def integer(self, code: str) -> None:
        count = self.number(code)
        if not 0 <= count <= _NUMBER_BYTES:
            raise Refused(f"its pickle is damaged: a number of {count} bytes")
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
            raise Refused("its pickle is damaged: a key has no value")
        target.update(zip(keys_of(items[::2], target), items[1::2], strict=True))

    def add_items(self, items: list) -> None:
        self.top(set).update(keys_of(items, self.top(set)))

    def last_two(self) -> list:
        value = self.pop()
        return [self.pop(), value]

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    # Names and what they do

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in GLOBALS:
            raise Refused(
                f"expected arrays and plain containers, its pickle asks for {full[:200]!r}; "
                "nothing was run"
            )
        self.push(Name(GLOBALS[full]))

    def instance(self, module: str, name: str) -> None:
        self.name(module, name)
        raise Refused(f"expected arrays, its pickle asks for an instance of {module}.{name}")

    def stack_name(self) -> None:
        module, name = self.last_two()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("its pickle is damaged: a name is no text")
        self.name(module, name)

    def call(self) -> None:
        function, arguments = self.last_two()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused("expected arrays and plain containers, its pickle calls a value")
        made = CALLS.get(function.name)
        if made is None:
            raise Refused(f"expected arrays, its pickle calls {function.name}")
        self.push(made(self, *arguments))

    def build(self) -> None:
        target, state = self.last_two()
        if not isinstance(state, tuple):
            raise Refused("expected arrays, its pickle sets the state of something else")
        if isinstance(target, Type):
            if len(state) < 2 or state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
                raise Refused("its pickle is damaged: a type has no byte order")
            if any(part is not None for part in state[2:5]):
                raise Refused("expected arrays of numbers, got a structured type")
            order = state[1]
            target.order = order.decode() if isinstance(order, bytes) else order
            self.push(target)
        elif isinstance(target, EmptyArray):
            shape, kind, fortran, content = state[-4:]
            array = self.array(content, kind, shape, "F" if fortran else "C")
            self.memo.update(dict.fromkeys(target.keys, array))
            self.push(array)
        else:
            raise Refused("expected arrays, its pickle sets the state of something else")


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
    b"\x91": lambda m: m.push(frozenset(keys_of(m.pop_to_mark()))),
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
