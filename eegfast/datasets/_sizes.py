# SPDX-License-Identifier: BSD-3-Clause
"""Whether a file's data is as long as its header promises, for the formats where MNE does not check
it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

_CNT_HEADER, _CNT_CHANNEL = 900, 75
_BRAINVISION_BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}


def cnt_fault(path: Path) -> str | None:
    """What is wrong with the sizes in a Neuroscan header, if anything is.

    The width of a sample (2 or 4 bytes) is stored nowhere; it follows from the place of the event
    table. Nothing is said about files of 2 GiB and more, whose header numbers have wrapped around,
    or when the number of samples is absent.
    """
    with path.open("rb") as stream:
        header = stream.read(_CNT_HEADER)
    if len(header) < _CNT_HEADER:
        return f"expected a header of {_CNT_HEADER} bytes, the file has {len(header)}"
    size = path.stat().st_size
    (n_chans,) = struct.unpack_from("<H", header, 370)
    (n_times,) = struct.unpack_from("<i", header, 864)
    (event_table,) = struct.unpack_from("<i", header, 886)
    if n_chans == 0:
        return "expected channels, its header gives none"
    if size >= 2**31 or n_times <= 0:
        return None
    if event_table > size:
        return f"expected an event table at byte {event_table}, the file ends at {size}"
    data = event_table - _CNT_HEADER - _CNT_CHANNEL * n_chans
    if data not in (2 * n_times * n_chans, 4 * n_times * n_chans):
        return (
            f"expected 2 or 4 bytes for each of the {n_times} samples of {n_chans} channels in its "
            f"header, got {data} bytes for all of them ({data / (n_times * n_chans):.3g} each): "
            "header or data is damaged"
        )
    return None


def brainvision_fault(path: Path, data_path: Path) -> tuple[str, bool] | None:
    """What is wrong with the length of a BrainVision data file, and whether the samples can be
    trusted nevertheless.

    Channel after channel (VECTORIZED), every channel moves if samples are missing; sample after
    sample (MULTIPLEXED), only the end is lost.
    """
    text = path.read_bytes().decode("latin-1")

    def entry(key: str) -> str | None:
        match = re.search(rf"^{key}\s*=\s*(\S+)", text, re.MULTILINE)
        return match and match[1]

    n_chans, n_times = entry("NumberOfChannels"), entry("DataPoints")
    width = _BRAINVISION_BYTES.get((entry("BinaryFormat") or "").upper())
    if width is None or not (n_chans or "").isdigit() or not data_path.is_file():
        return None
    frame = width * int(n_chans)
    size = data_path.stat().st_size
    if (n_times or "").isdigit():
        fits, expected = (
            size == frame * int(n_times),
            f"{frame * int(n_times)} bytes ({n_times} samples)",
        )
    else:
        fits, expected = size % frame == 0, f"a multiple of {frame} bytes"
    if fits:
        return None
    message = f"expected {expected} in {data_path.name}, got {size} bytes"
    return message, (entry("DataOrientation") or "").upper() != "VECTORIZED"
