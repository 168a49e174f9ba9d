# SPDX-License-Identifier: BSD-3-Clause
"""One reader for the file formats of EEG amplifiers and toolboxes, over MNE-Python."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eegfast.datasets import _edf, _sizes
from eegfast.datasets._channels import display_names, positions_in, select
from eegfast.datasets._formats import READABLE, check_file, ending_of
from eegfast.datasets.recording import Recording

__all__ = ["read_recording"]

MEMMAP_BYTES = 2**29
_BLOCK_VALUES = 2**22
# MNE's remarks on things that do not touch the signal or are settled here.
_NOISE = re.compile(
    r"coordinate information|positions of|channel locations|set_montage|meas(?:urement)? date|"
    r"naming conventions|Could not determine channel type|will be set as EEG|patient information|"
    r"[Ff]ilter|Fiducial|cutoff frequency|[Aa]nnotation|Estimated head radius|multiple events|"
    r"Complex objects|event information|encountered in divide"
)


def read_recording(
    path: str | Path,
    *,
    picks: Sequence[str] | None = None,
    exclude_non_eeg: bool = True,
    memmap: bool | None = None,
    sfreq: float | None = None,
    ch_names: Sequence[str] | None = None,
    reader_options: dict | None = None,
) -> Recording:
    """Read one file.

    Reads EDF, BDF, EEGLAB ``.set`` (v5 and HDF5), FIF, BrainVision ``.vhdr`` and Neuroscan ``.cnt``
    through MNE (extra ``io``), block by block into float32 microvolts, and ``.npy`` arrays as a
    memory map.

    Parameters
    ----------
    path : path-like
        The file; its ending (one of `eegfast.datasets.READABLE`) says the format.
    picks : sequence of str, optional
        Exactly these channels in this order, by the file's name (``"EEG Fp1"``), the cleaned name
        (``"Fp1"``) or the electrode (``"FP1"``, ``"T7"`` for ``"T3"``). They must be voltages.
    exclude_non_eeg : bool, default True
        Leave out what is not scalp EEG: other types (stimulus, EOG, misc ...), names that say so
        (ECG, HEO, EXG1, GSR, Status ...), ears and mastoids (A1, A2, M1, M2, A2-A1). False keeps
        every channel measured in volts.
    memmap : bool, optional
        True: the signal lives in an unnamed temporary file that goes away with it. False: in
        memory. None: in a file from 512 MiB on. An ``.npy`` file is always mapped itself,
        read-only.
    sfreq, ch_names : float, sequence of str
        For ``.npy`` only, which knows neither: rate in hertz and a name for each row. The array has
        shape ``(n_chans, n_times)``, float32 or float64, microvolts; no channel of it is excluded
        by name.
    reader_options : dict, optional
        Further options of MNE's reader, such as ``{"data_format": "int32"}`` for a ``.cnt`` file or
        ``{"encoding": "latin1"}`` for EDF.

    Returns
    -------
    Recording
        `signal` float32 (for ``.npy`` as stored); `positions` from a FIF file, else by electrode
        name, else from the file; `source` the path.

    Warns
    -----
    UserWarning
        Epoched ``.set`` files are joined end to end; EDF+D files are read without their gaps; EDF
        signals with a blank unit are taken for microvolts; whatever MNE says about damaged or
        incomplete files.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If MNE is not installed.
    ValueError
        If the ending is unknown, or the file is empty, damaged, or has no channel or sample to
        give. The error names the file; MNE's own error is its cause.
    """
    path = Path(path)
    check_file(path)
    ending = ending_of(path)
    if ending == ".npy":
        return _read_npy(path, picks, sfreq, ch_names)
    if sfreq is not None or ch_names is not None:
        raise ValueError(
            f"{path}: sfreq and ch_names are for .npy files; a {READABLE[ending]} file has its own."
        )
    return _Reader(path, ending, picks, exclude_non_eeg, reader_options or {}).read(memmap)


def _read_npy(path: Path, picks, sfreq, ch_names) -> Recording:
    if sfreq is None or ch_names is None:
        raise ValueError(
            f"{path}: expected sfreq= and ch_names= as well, since an .npy file holds neither."
        )
    try:
        signal = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{path}: could not be read as NumPy: {_one_line(error)}") from error
    try:
        recording = Recording(signal, sfreq, list(ch_names), source=str(path))
        return recording if picks is None else recording.pick(picks)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


class _Reader:
    """Reads one file; every error it lets out names the file."""

    def __init__(self, path: Path, ending: str, picks, exclude_non_eeg: bool, options: dict):
        self.path, self.ending, self.format = path, ending, READABLE[ending]
        self.picks, self.exclude_non_eeg, self.options = picks, exclude_non_eeg, options

    def read(self, memmap: bool | None) -> Recording:
        factors = exclude = None
        if self.ending in (".edf", ".bdf"):
            factors, exclude = self._edf_selection()
        with self._mne_errors():
            raw = self._open(exclude)
            names = list(raw.ch_names)
            if factors is None:
                volts = (_is_volts(channel) for channel in raw.info["chs"])
                factors = [1e6 if volt else None for volt in volts]
            kinds = raw.get_channel_types()
        if len(factors) != len(names):
            raise self._error(f"expected {len(factors)} signals as in its header, got {len(names)}")
        rows = self._select(names, kinds, factors)
        if raw.n_times == 0:
            raise self._error("expected samples, it holds none")
        with self._mne_errors():
            signal = self._signal(raw, rows, [factors[row] for row in rows], memmap)
        kept = display_names([names[row] for row in rows])
        positions = positions_in(raw.info, rows, kept, in_head_frame=self.format == "FIF")
        return Recording(signal, raw.info["sfreq"], kept, positions, source=str(self.path))

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message} ({self.format}).")

    @contextmanager
    def _mne_errors(self) -> Iterator[None]:
        """Name the file in whatever MNE raises, and in those of its warnings that matter."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            except (ImportError, MemoryError):
                raise
            except Exception as error:
                raise ValueError(
                    f"{self.path}: could not be read as {self.format}: {_one_line(error)}"
                ) from error
        heard = [w for w in caught if issubclass(w.category, (UserWarning, RuntimeWarning))]
        for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in heard):
            if not _NOISE.search(text):
                self._warn(text)

    def _edf_selection(self) -> tuple[list[float | None], list[str]]:
        """Factor to microvolts for each signal that will be opened, and the labels not to open.

        MNE brings all signals it opens to the highest rate, so signals of no use are not opened at
        all.
        """
        try:
            header = _edf.read_header(self.path)
        except ValueError as error:
            raise self._error(str(error)) from error
        signals = header.signals
        labels = [signal.label for signal in signals]
        rows = self._select(
            labels, ["eeg"] * len(labels), [signal.microvolts for signal in signals]
        )
        chosen = [signals[row] for row in rows]
        rates = sorted({signal.sfreq for signal in chosen})
        if len(rates) > 1:
            got = ", ".join(f"{rate:g}" for rate in rates)
            raise self._error(f"expected channels of one rate, got {got} Hz; choose with picks")
        if header.discontinuous:
            self._warn(
                "a discontinuous recording (EDF+D/BDF+D); pieces are read as if there were no gaps"
            )
        blank = [signal.label for signal in chosen if not signal.unit]
        if blank:
            self._warn(f"no unit is given for {', '.join(blank)}; taken for microvolts")
        keep = {signal.label for signal in chosen}
        factors = [signal.microvolts for signal in signals if signal.label in keep]
        return factors, [label for label in labels if label not in keep]

    def _warn(self, message: str) -> None:
        message = message.removeprefix(f"{self.path}: ").rstrip(".")
        warnings.warn(f"{self.path}: {message}.", UserWarning, stacklevel=5)

    def _open(self, exclude: list[str] | None):
        mne = _import_mne()
        options = {"verbose": "WARNING", **self.options}
        match self.ending:
            case ".edf":
                return mne.io.read_raw_edf(self.path, exclude=exclude, **options)
            case ".bdf":
                return mne.io.read_raw_bdf(self.path, exclude=exclude, **options)
            case ".vhdr":
                return self._open_brainvision(mne, options)
            case ".cnt":
                return self._open_cnt(mne, options)
            case ".set":
                return self._open_set(mne, options)
        return mne.io.read_raw_fif(self.path, **options)

    def _open_cnt(self, mne, options: dict):
        with self.path.open("rb") as stream:
            if stream.read(4) in (b"RIFF", b"RF64"):
                return mne.io.read_raw_ant(self.path, **options)
        try:
            return mne.io.read_raw_cnt(self.path, **options)
        except Exception as error:
            fault = _sizes.cnt_fault(self.path)
            if fault is None:
                raise
            raise ValueError(fault) from error

    def _open_brainvision(self, mne, options: dict):
        raw = mne.io.read_raw_brainvision(self.path, **options)
        fault = _sizes.brainvision_fault(self.path, Path(raw.filenames[0]))
        if fault is not None:
            message, usable = fault
            if not usable:
                raise ValueError(message)
            self._warn(message)
        return raw

    def _open_set(self, mne, options: dict):
        try:
            return mne.io.read_raw_eeglab(self.path, **options)
        except TypeError as error:
            if "number of trials" not in str(error):
                raise
        epochs = mne.io.read_epochs_eeglab(self.path, **options)
        n_epochs, n_chans, length = epochs.get_data(copy=False).shape
        self._warn(
            f"{n_epochs} epochs of {length / epochs.info['sfreq']:g} s joined end to end; "
            "a window that crosses a joint mixes two epochs"
        )
        joined = np.moveaxis(epochs.get_data(copy=False), 0, 1).reshape(n_chans, n_epochs * length)
        return mne.io.RawArray(joined, epochs.info, verbose="WARNING")

    def _select(self, names: list[str], kinds: list[str], factors: list[float | None]) -> list[int]:
        try:
            return select(names, kinds, factors, self.picks, self.exclude_non_eeg)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _signal(
        self, raw, rows: list[int], factors: list[float], memmap: bool | None
    ) -> np.ndarray:
        shape = (len(rows), int(raw.n_times))
        if memmap is None:
            memmap = 4 * shape[0] * shape[1] >= MEMMAP_BYTES
        if memmap:
            with tempfile.TemporaryFile() as stream:
                signal = np.memmap(stream, np.float32, "w+", shape=shape)
        else:
            signal = np.empty(shape, np.float32)
        scale = np.array(factors)[:, None]
        step = max(1, _BLOCK_VALUES // len(raw.ch_names))
        for start in range(0, shape[1], step):
            stop = min(start + step, shape[1])
            block = raw.get_data(picks=rows, start=start, stop=stop, verbose="WARNING")
            signal[:, start:stop] = block * scale
        return signal


def _import_mne():
    try:
        import mne
    except ImportError as error:
        raise ImportError(
            "Reading EEG files needs MNE-Python: pip install 'eegfast[io]'."
        ) from error
    return mne


def _is_volts(channel: dict) -> bool:
    from mne.io.constants import FIFF

    return channel["unit"] == FIFF.FIFF_UNIT_V


def _one_line(error: Exception) -> str:
    """The gist of an exception that may be many lines long."""
    text = str(error).rsplit("Error: ", 1)[-1].split("\n\nWARNING")[0]
    text = " ".join(text.split()) or type(error).__name__
    if not isinstance(error, (ValueError, RuntimeError, TypeError, OSError)):
        text = f"MNE stopped with {type(error).__name__}: {text}"
    return text if len(text) <= 240 else text[:237] + "..."
