# SPDX-License-Identifier: BSD-3-Clause
"""Stretches of Neuroscan .cnt files, the raw form of SEED's family; nothing else is read."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from eegfast.datasets import _sizes
from eegfast.datasets._checks import check_microvolts
from eegfast.datasets.montage import SEED_CHANNELS, find_channel

__all__ = ["CntFile"]


class CntFile:
    """The 62 channels of SEED's cap in a .cnt file, found by name and in SEED's order.

    The file has M1, M2, VEO and HEO among them. MNE (extra ``io``) opens it without loading it.

    Parameters
    ----------
    path : path-like
        The file.
    sfreq : float
        The rate that it should have, in hertz.

    Attributes
    ----------
    n_times : int
        Samples in the file.
    triggers : list of int
        Samples at which there is a trigger, in order.

    Raises
    ------
    ImportError
        If MNE is not installed.
    ValueError
        If the file is damaged, its rate is another, or a channel is not in it.
    """

    def __init__(self, path: str | Path, sfreq: float = 1000.0):
        try:
            import mne
        except ImportError as error:
            raise ImportError(
                "Reading .cnt files needs MNE-Python: pip install 'eegfast[io]'."
            ) from error
        self.path = Path(path)
        fault = _sizes.cnt_fault(self.path)
        # From 2 GiB on the header does not tell the width of a sample; in SEED's files it is 4.
        data_format = "int32" if self.path.stat().st_size >= 2**31 else "auto"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about annotations, dates, positions
                self._raw = mne.io.read_raw_cnt(
                    self.path, data_format=data_format, preload=False, verbose="ERROR"
                )
        except Exception as error:
            raise ValueError(
                f"{self.path}: could not be read as Neuroscan: {fault or error}."
            ) from error
        if fault is not None:
            raise ValueError(f"{self.path}: could not be read as Neuroscan: {fault}.")
        if self._raw.info["sfreq"] != sfreq:
            raise ValueError(
                f"{self.path}: expected {sfreq:g} Hz, got {self._raw.info['sfreq']:g} Hz."
            )
        rows = [find_channel(name, self._raw.ch_names) for name in SEED_CHANNELS]
        absent = [name for name, row in zip(SEED_CHANNELS, rows, strict=True) if row is None]
        if absent:
            raise ValueError(
                f"{self.path}: expected SEED's 62 channels, there is no {', '.join(absent)}."
            )
        self._rows: list[int] = rows
        self.n_times: int = int(self._raw.n_times)
        self.triggers: list[int] = [round(t * sfreq) for t in self._raw.annotations.onset]

    def read(self, start: int, stop: int, what: str) -> np.ndarray:
        """Read samples `start` up to `stop`, without the latter.

        Parameters
        ----------
        start, stop : int
            Samples from the beginning of the file.
        what : str
            What lies there, for messages, such as ``"trial 3"``.

        Returns
        -------
        ndarray, shape (62, stop - start)
            float32 microvolts.

        Raises
        ------
        ValueError
            If the file ends before, or what it holds there is no EEG.
        """
        if not 0 <= start < stop <= self.n_times:
            raise ValueError(
                f"{self.path}: {what}: expected samples {start} to {stop}, "
                f"the file has {self.n_times}."
            )
        try:
            volts = self._raw.get_data(self._rows, start, stop, verbose="ERROR")
        except Exception as error:
            raise ValueError(f"{self.path}: {what}: could not be read: {error}.") from error
        volts *= 1e6
        signal = volts.astype(np.float32)
        check_microvolts(f"{self.path}: {what}", signal)
        return signal

    def __enter__(self) -> CntFile:
        return self

    def __exit__(self, *exception) -> None:
        self._raw.close()
