# SPDX-License-Identifier: BSD-3-Clause
"""BioSemi's .bdf files: single stretches, and triggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eegfast.datasets import _edf
from eegfast.datasets._formats import check_file, ending_of
from eegfast.datasets.readers import _Reader

__all__ = ["BdfFile", "bdf_codes"]


class BdfFile:
    """An open .bdf file; what is not asked for stays on disk.

    Parameters
    ----------
    path : Path
        The file.
    channels : sequence of str
        Channels to read, by name, in the order wanted; where they lie in the file does not matter.

    Attributes
    ----------
    sfreq : float
        Rate in hertz.
    n_times : int
        Samples in the file.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As `read_recording`; every message names the file.
    """

    def __init__(self, path: Path, channels: Sequence[str]):
        check_file(path)
        self._reader = _Reader(path, ending_of(path), list(channels), True, {})
        factors, exclude = self._reader._edf_selection()
        with self._reader._mne_errors():
            self._raw = self._reader._open(exclude)
            kinds = self._raw.get_channel_types()
        self._rows = self._reader._select(list(self._raw.ch_names), kinds, factors)
        self._factors = np.array([factors[row] for row in self._rows])[:, None]
        self.path = path
        self.sfreq = float(self._raw.info["sfreq"])
        self.n_times = int(self._raw.n_times)

    def read(self, start: int, stop: int, what: str) -> np.ndarray:
        """Microvolts, float32 (channels, stop - start); `what` is the stretch's name in errors."""
        if not 0 <= start < stop <= self.n_times:
            raise ValueError(
                f"{self.path}: expected {what} at {start / self.sfreq:g} to "
                f"{stop / self.sfreq:g} s, the file has {self.n_times / self.sfreq:g} s."
            )
        with self._reader._mne_errors():
            volts = self._raw.get_data(self._rows, start=start, stop=stop, verbose="WARNING")
        return (volts * self._factors).astype(np.float32)


def bdf_codes(path: Path) -> np.ndarray:
    """The trigger code, 0 to 255, at each sample of a BDF file.

    A sample has 24 bits, of which the lowest eight are the code; BioSemi's own flags in the others
    are left alone. The signal is the one called Status, or the last if its name is blank.

    Raises
    ------
    ValueError
        If there is no such signal, or the file is no whole number of records long.
    """
    try:
        header = _edf.read_header(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    labels = [signal.label.casefold() for signal in header.signals]
    if "status" in labels:
        row = labels.index("status")
    elif not labels[-1]:
        row = len(labels) - 1
    else:
        raise ValueError(f"{path}: expected a signal Status, got only {', '.join(labels)}.")
    start = 256 * (len(labels) + 1)
    with path.open("rb") as stream:
        stream.seek(256 + 216 * len(labels))
        counts = [int(stream.read(8)) for _ in labels]
    size, record = path.stat().st_size - start, 3 * sum(counts)
    if record <= 0 or size <= 0 or size % record:
        raise ValueError(
            f"{path}: expected records of {record} bytes after a header of {start}, got {size} "
            "bytes: the file is cut off or damaged."
        )
    records = np.memmap(path, np.uint8, "r", offset=start, shape=(size // record, record))
    first = 3 * sum(counts[:row])
    return records[:, first : first + 3 * counts[row] : 3].ravel()
