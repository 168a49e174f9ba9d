# SPDX-License-Identifier: BSD-3-Clause
"""Pickles of arrays as Python 2 wrote them: Python 3 cannot, its bytes are another type."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
_FLOAT64 = (
    b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def write_pickle2(
    stream: BinaryIO, arrays: dict[str, tuple[tuple[int, ...], Iterable[np.ndarray]]]
) -> None:
    """A dict of float64 arrays in protocol 2, its keys and data in Python 2's ``str``.

    `arrays` gives for each key a shape and the pieces, in C order, that fill it.
    """
    stream.write(b"\x80\x02}(")
    for key, (shape, pieces) in arrays.items():
        stream.write(b"U" + bytes([len(key)]) + key.encode("ascii"))
        dimensions = b"".join(b"J" + struct.pack("<i", n) for n in shape)
        stream.write(_ARRAY + b"(K\x01(" + dimensions + b"t" + _FLOAT64 + b"\x89T")
        stream.write(struct.pack("<i", 8 * int(np.prod(shape))))
        for piece in pieces:
            stream.write(np.ascontiguousarray(piece, "<f8"))
        stream.write(b"tb")
    stream.write(b"u.")
