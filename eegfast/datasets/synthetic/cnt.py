# SPDX-License-Identifier: BSD-3-Clause
"""Neuroscan CNT, version 3, with samples of 32 bits: what SEED's raw files are."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import BinaryIO

import numpy as np

__all__ = ["MICROVOLTS_PER_COUNT", "cnt_bytes", "write_cnt"]

MICROVOLTS_PER_COUNT = 0.03125
_HEADER, _CHANNEL, _EVENT = 900, 75, 19


def cnt_bytes(n_chans: int, n_times: int, n_events: int) -> int:
    """Size of a file."""
    return _HEADER + n_chans * (_CHANNEL + 4 * n_times) + 9 + _EVENT * n_events


def write_cnt(
    stream: BinaryIO,
    ch_names: Sequence[str],
    sfreq: int,
    n_times: int,
    blocks: Iterable[np.ndarray],
    events: Sequence[tuple[int, int]] = (),
    start: datetime | None = None,
) -> None:
    """Write a recording, block by block.

    Parameters
    ----------
    stream : binary file
        Where to.
    ch_names : sequence of str
        Up to nine letters each.
    sfreq : int
        Rate in hertz.
    n_times : int
        Samples of all blocks together.
    blocks : iterable of ndarray, shape (n_chans, any)
        Microvolts, in order of time; rounded to steps of `MICROVOLTS_PER_COUNT`.
    events : sequence of (int, int)
        Sample and code of each event (of type 2).
    start : datetime, optional
        When the recording began.

    Raises
    ------
    ValueError
        If the file would have 2 GiB or more, where the format's numbers end, or the blocks do not
        hold `n_times` samples.
    """
    n_chans = len(ch_names)
    if cnt_bytes(n_chans, n_times, len(events)) >= 2**31:
        raise ValueError(f"write_cnt: expected less than 2 GiB, got {n_chans} x {n_times} samples.")
    data_at = _HEADER + _CHANNEL * n_chans
    frame = 4 * n_chans
    header = bytearray(data_at)
    header[:12] = b"Version 3.0\0"
    if start is not None:
        header[225:235] = start.strftime("%m/%d/%y").encode().ljust(10, b"\0")
        header[235:247] = start.strftime("%H:%M:%S").encode().ljust(12, b"\0")
    struct.pack_into("<H", header, 370, n_chans)
    struct.pack_into("<H", header, 376, sfreq)
    struct.pack_into("<i", header, 864, n_times)
    struct.pack_into("<i", header, 886, data_at + frame * n_times)
    struct.pack_into("<f", header, 890, n_times / sfreq)
    for number, name in enumerate(ch_names):
        at = _HEADER + _CHANNEL * number
        header[at : at + 10] = name.encode("ascii").ljust(10, b"\0")
        struct.pack_into("<f", header, at + 59, 204.8 * MICROVOLTS_PER_COUNT)
        struct.pack_into("<f", header, at + 71, 1.0)
    stream.write(header)
    written = 0
    for block in blocks:
        counts = np.rint(block / MICROVOLTS_PER_COUNT).astype("<i4")
        stream.write(np.ascontiguousarray(counts.T))
        written += counts.shape[1]
    if written != n_times:
        raise ValueError(f"write_cnt: expected blocks of {n_times} samples, got {written}.")
    stream.write(struct.pack("<Bii", 2, _EVENT * len(events), 0))
    for sample, code in events:
        # Readers take one sample off.
        offset = data_at + (sample + 1) * frame
        stream.write(struct.pack("<HBclhhfccc", code, 0, b"\0", offset, 0, 0, 0.0, *[b"\0"] * 3))
