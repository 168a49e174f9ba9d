# SPDX-License-Identifier: BSD-3-Clause
"""One recording: the signal and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from eegfast.datasets.montage import find_channel, positions_for

__all__ = ["Recording"]


@dataclass(frozen=True, eq=False)
class Recording:
    """A continuous multi-channel EEG signal.

    Parameters
    ----------
    signal : ndarray, shape (n_chans, n_times)
        Microvolts, float32 or float64; may be a read-only memory map.
    sfreq : float
        Sampling rate in hertz.
    ch_names : list of str
        One different name a channel.
    positions : dict, optional
        Channel name to (x, y, z) in metres in the head frame (x right, y front, z up). Channels
        without a position are absent. Default: looked up by name.
    subject_id, session_id : str, optional
        Whose recording it is, and which visit.
    trial_id : int, optional
        Number of the trial within the session.
    label : int, optional
        Class number, from 0.
    class_names : tuple of str, optional
        Names of the classes; `label` indexes them.
    source : str, optional
        The file it came from.

    Raises
    ------
    TypeError
        If the signal is not floating point.
    ValueError
        If shapes, names, rate, positions or label do not fit together.
    """

    signal: np.ndarray
    sfreq: float
    ch_names: list[str]
    positions: dict[str, tuple[float, float, float]] | None = None
    subject_id: str | None = None
    session_id: str | None = None
    trial_id: int | None = None
    label: int | None = None
    class_names: tuple[str, ...] | None = None
    source: str | None = None

    def __post_init__(self):
        names = [str(name) for name in self.ch_names]
        signal = self.signal if isinstance(self.signal, np.ndarray) else np.asarray(self.signal)
        if signal.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"Recording: signal must be float32 or float64 microvolts, got {signal.dtype}."
            )
        if signal.ndim != 2:
            raise ValueError(
                f"Recording: signal must have shape (n_chans, n_times), got {signal.shape}."
            )
        if len(names) != signal.shape[0]:
            raise ValueError(
                f"Recording: ch_names must name each of the signal's {signal.shape[0]} channels, "
                f"got {len(names)} names."
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"Recording: ch_names must differ, got more than one {', '.join(twice)}."
            )
        sfreq = float(self.sfreq)
        if not (math.isfinite(sfreq) and sfreq > 0):
            raise ValueError(
                f"Recording: sfreq must be a positive number of hertz, got {self.sfreq}."
            )
        positions = positions_for(names) if self.positions is None else dict(self.positions)
        for name, position in positions.items():
            if name not in names:
                raise ValueError(
                    f"Recording: positions holds {name!r}, which is not one of the channels."
                )
            if np.shape(position) != (3,) or not np.isfinite(position).all():
                raise ValueError(
                    f"Recording: the position of {name} must be three finite metres, "
                    f"got {position}."
                )
        classes = None if self.class_names is None else tuple(self.class_names)
        if self.label is not None:
            limit = math.inf if classes is None else len(classes)
            if not 0 <= self.label < limit:
                raise ValueError(
                    f"Recording: label must be a class number from 0 to {limit - 1}, "
                    f"got {self.label}."
                )
        for key, value in (
            ("signal", signal),
            ("sfreq", sfreq),
            ("ch_names", names),
            ("positions", {name: tuple(float(v) for v in xyz) for name, xyz in positions.items()}),
            ("class_names", classes),
        ):
            object.__setattr__(self, key, value)

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return self.signal.shape[0]

    @property
    def n_times(self) -> int:
        """Number of samples a channel."""
        return self.signal.shape[1]

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_times / self.sfreq

    def pick(self, names: Iterable[str]) -> Recording:
        """Some of the channels, in the order asked for.

        Parameters
        ----------
        names : iterable of str
            Channel names. One that is not in `ch_names` letter by letter is matched by electrode,
            so that ``"FP1"`` finds ``"Fp1"`` and ``"T7"`` finds ``"T3"``.

        Returns
        -------
        Recording
            With the names of this recording; its signal is a copy.

        Raises
        ------
        ValueError
            If a name is not there.
        """
        wanted = list(names)
        rows = [find_channel(name, self.ch_names) for name in wanted]
        missing = [name for name, row in zip(wanted, rows, strict=True) if row is None]
        if missing:
            where = "" if self.source is None else f" of {self.source}"
            raise ValueError(
                f"Recording.pick: no channel {', '.join(missing)} among "
                f"{', '.join(self.ch_names)}{where}."
            )
        found = [self.ch_names[row] for row in rows]
        return replace(
            self,
            signal=self.signal[rows],
            ch_names=found,
            positions={name: self.positions[name] for name in found if name in self.positions},
        )

    def resample(self, sfreq: float) -> Recording:
        """The recording at another sampling rate (polyphase filter with anti-aliasing, zero phase).

        Parameters
        ----------
        sfreq : float
            New rate in hertz.

        Returns
        -------
        Recording
            With ``ceil(n_times * sfreq / self.sfreq)`` samples of the same type, in memory; this
            recording itself if the rate is the same.

        Raises
        ------
        ImportError
            If SciPy is not installed.
        ValueError
            If `sfreq` is not positive, or its ratio to the old rate is no fraction of numbers up to
            10000.
        """
        if not (math.isfinite(sfreq) and sfreq > 0):
            raise ValueError(
                f"Recording.resample: sfreq must be a positive number of hertz, got {sfreq}."
            )
        if sfreq == self.sfreq:
            return self
        ratio = (Fraction(sfreq) / Fraction(self.sfreq)).limit_denominator(10_000)
        if ratio.numerator > 10_000 or not math.isclose(self.sfreq * ratio, sfreq, rel_tol=1e-9):
            raise ValueError(
                "Recording.resample: expected rates whose ratio is a fraction of numbers up to "
                f"10000, got {self.sfreq:g} to {sfreq:g} Hz."
            )
        try:
            from scipy.signal import resample_poly
        except ImportError as error:
            raise ImportError("Resampling needs SciPy: pip install 'eegfast[io]'.") from error
        up, down = ratio.numerator, ratio.denominator
        signal = np.empty((self.n_chans, -(-self.n_times * up // down)), self.signal.dtype)
        for row, channel in enumerate(self.signal):
            channel = channel.astype(np.float64)
            # The filter's ripple, 1e-3, would make microvolts of an offset of millivolts.
            offset = np.mean(channel, where=np.isfinite(channel)) if self.n_times else 0.0
            signal[row] = resample_poly(channel - offset, up, down, padtype="line") + offset
        return replace(self, signal=signal, sfreq=float(sfreq))

    def __repr__(self) -> str:
        known = [
            f"{key.removesuffix('_id')} {getattr(self, key)}"
            for key in ("subject_id", "session_id", "trial_id", "label")
            if getattr(self, key) is not None
        ]
        facts = [f"{self.n_chans} channels", f"{self.duration:g} s at {self.sfreq:g} Hz", *known]
        return f"<Recording: {', '.join(facts)}>"
