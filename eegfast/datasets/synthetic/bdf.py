# SPDX-License-Identifier: BSD-3-Clause
"""BioSemi BDF: 24 bits a sample, records of one second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import BinaryIO

import numpy as np

__all__ = ["MICROVOLTS_PER_COUNT", "bdf_bytes", "write_bdf"]

# The amplifier's range, and what follows for a step from the header's four limits.
_PHYSICAL, _DIGITAL = (-262144, 262143), (-8388608, 8388607)
MICROVOLTS_PER_COUNT = (_PHYSICAL[1] - _PHYSICAL[0]) / (_DIGITAL[1] - _DIGITAL[0])
_OFFSET = _PHYSICAL[0] - _DIGITAL[0] * MICROVOLTS_PER_COUNT


def bdf_bytes(n_chans: int, sfreq: int, n_records: int) -> int:
    """Size of a file."""
    return 256 * (n_chans + 1) + 3 * n_chans * sfreq * n_records


def write_bdf(
    stream: BinaryIO,
    ch_names: Sequence[str],
    sfreq: int,
    n_records: int,
    records: Iterable[tuple[np.ndarray, np.ndarray]],
    start: datetime,
) -> None:
    """Write a recording, second by second.

    Parameters
    ----------
    stream : binary file
        Where to.
    ch_names : sequence of str
        The last is ``"Status"``.
    sfreq : int
        Rate in hertz.
    n_records : int
        Seconds in all.
    records : iterable of (ndarray, ndarray)
        Microvolts (n_chans - 1, sfreq) and the Status channel's integers (sfreq,) of each second.
    start : datetime
        When the recording began.

    Raises
    ------
    ValueError
        If there are not `n_records` records.
    """
    n_chans = len(ch_names)
    fields = [
        (ch_names, 16),
        (["Active Electrode"] * (n_chans - 1) + ["Triggers and Status"], 80),
        (["uV"] * (n_chans - 1) + ["Boolean"], 8),
        ([_PHYSICAL[0]] * (n_chans - 1) + [_DIGITAL[0]], 8),
        ([_PHYSICAL[1]] * (n_chans - 1) + [_DIGITAL[1]], 8),
        ([_DIGITAL[0]] * n_chans, 8),
        ([_DIGITAL[1]] * n_chans, 8),
        (["HP: DC; LP: 113 Hz"] * (n_chans - 1) + ["No filtering"], 80),
        ([sfreq] * n_chans, 8),
        (["Reserved"] * n_chans, 32),
    ]
    stream.write(b"\xffBIOSEMI")
    for value, width in (
        ("", 80),
        ("", 80),
        (f"{start:%d.%m.%y}", 8),
        (f"{start:%H.%M.%S}", 8),
        (256 * (n_chans + 1), 8),
        ("24BIT", 44),
        (n_records, 8),
        (1, 8),
        (n_chans, 4),
    ):
        stream.write(_text(value, width))
    for values, width in fields:
        stream.write(b"".join(_text(value, width) for value in values))
    written = 0
    for microvolts, status in records:
        counts = np.rint((microvolts - _OFFSET) / MICROVOLTS_PER_COUNT)
        counts = np.vstack([np.clip(counts, *_DIGITAL).astype("<i4"), status.astype("<i4")])
        stream.write(np.ascontiguousarray(counts.view(np.uint8).reshape(*counts.shape, 4)[..., :3]))
        written += 1
    if written != n_records:
        raise ValueError(f"write_bdf: expected {n_records} records, got {written}.")


def _text(value: object, width: int) -> bytes:
    return str(value).ljust(width)[:width].encode("ascii")
