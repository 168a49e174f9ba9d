# SPDX-License-Identifier: BSD-3-Clause
"""Synthetic EEG for testing software. Nothing in it is a claim about brains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eegfast.datasets.montage import positions_for

__all__ = ["BANDS", "EFFECTS", "SyntheticEEG"]

BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 14.0),
    "beta": (14.0, 31.0),
    "gamma": (31.0, 50.0),
}
"""The bands of SEED's features, in hertz."""

_REGIONS: dict[str, tuple[str, ...]] = {
    "temporal": ("T7", "T8"),
    "right temporal": ("T8",),
    "prefrontal": ("FPZ",),
    "left frontal": ("F3",),
    "midline frontal": ("FZ",),
    "central": ("CZ",),
    "parietal": ("PZ",),
    "occipital": ("OZ",),
}

EFFECTS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "positive": (("beta", "temporal", 2.5), ("gamma", "temporal", 3.0)),
    "neutral": (("alpha", "parietal", 2.5),),
    "negative": (("alpha", "parietal", 1.0), ("theta", "midline frontal", 2.5)),
    "happy": (("beta", "temporal", 2.5), ("gamma", "temporal", 3.0)),
    "sad": (("alpha", "parietal", 1.0), ("theta", "midline frontal", 2.5)),
    "fear": (("gamma", "prefrontal", 3.0), ("beta", "central", 1.5)),
    "disgust": (("beta", "left frontal", 2.5), ("alpha", "occipital", -2.0)),
    "anger": (("gamma", "right temporal", 2.5), ("theta", "central", 2.0)),
    "surprise": (("delta", "central", 2.5), ("alpha", "parietal", -2.0)),
    "low valence, low arousal": (("alpha", "parietal", 2.5), ("theta", "midline frontal", 2.0)),
    "low valence, high arousal": (("theta", "midline frontal", 2.0), ("beta", "central", 2.5)),
    "high valence, low arousal": (("alpha", "parietal", 2.5), ("beta", "temporal", 2.0)),
    "high valence, high arousal": (("beta", "temporal", 2.0), ("beta", "central", 2.5)),
}
"""Per class: band, region and decibels. The first three are after what the papers on SEED report,
the others are made up; all are inventions that give a classifier something to find."""

_UP_TO = 75.0  # hertz, where SEED's preprocessed recordings end
_RMS = 12.0  # microvolts, of the average subject's background
_REGION_WIDTH = 0.045  # metres


@dataclass(frozen=True)
class _Subject:
    mixing: np.ndarray  # (C, C): white noise to the background's correlations
    gain_db: np.ndarray  # (C,)
    slope: float
    alpha_hz: float
    alpha_power: np.ndarray  # (C,)
    effect_db: np.ndarray  # (classes, C, bands)


@dataclass(frozen=True)
class _Session:
    band_db: np.ndarray  # (C, bands)
    drift: np.ndarray  # (C, waves): relative change of amplitude
    phase: np.ndarray  # (waves,)


class SyntheticEEG:
    """Trials of EEG that never was, each made from its numbers alone.

    A 1/f background with an alpha peak, correlated between neighbouring electrodes; band power that
    depends on the class at some electrodes (`EFFECTS`); subjects that differ in topography, alpha
    frequency, strength of the class's effect and an effect of their own; sessions that differ and
    drift slowly; now and then a blink. **All of this is invented to test software**: no figure
    computed on it says anything about emotion or about a method.

    Parameters
    ----------
    ch_names : sequence of str
        Electrodes, each with a position in `eegfast.datasets.positions_for`.
    class_names : sequence of str
        Keys of `EFFECTS`; a label is an index into it.
    n_trials : int
        Trials per session, over which the drift runs.
    seed : int, default 0
        Another seed is another world with other subjects.
    blinks : bool, default True
        Add blinks over the forehead, one in about 7 s.

    Raises
    ------
    ValueError
        If an electrode has no position, a class no effect, or the seed is negative.

    Examples
    --------
    >>> from eegfast.datasets import SEED_CHANNELS
    >>> eeg = SyntheticEEG(SEED_CHANNELS, ("negative", "neutral", "positive"), n_trials=15)
    >>> eeg.trial(subject=1, session=1, trial=3, label=0, seconds=20, sfreq=200).shape
    (62, 4001)
    """

    def __init__(
        self,
        ch_names: Sequence[str],
        class_names: Sequence[str],
        n_trials: int,
        seed: int = 0,
        blinks: bool = True,
    ):
        self.ch_names, self.class_names = list(ch_names), tuple(class_names)
        self.n_trials, self.seed, self.blinks = n_trials, seed, blinks
        found = positions_for(self.ch_names)
        lost = [name for name in self.ch_names if name not in found]
        if lost:
            raise ValueError(f"SyntheticEEG: expected electrodes with a position, got {lost}.")
        unknown = [name for name in self.class_names if name not in EFFECTS]
        if unknown:
            raise ValueError(
                f"SyntheticEEG: class_names must be among {[*EFFECTS]}, got {unknown}."
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"SyntheticEEG: seed must be a number of 0 or more, got {seed!r}.")
        self._places = np.array([found[name] for name in self.ch_names])
        self._distances = np.linalg.norm(self._places[:, None] - self._places[None], axis=-1)
        self._smooth = self._correlating(0.06)
        self._forehead = self._near("FPZ", 0.035)
        effects = np.zeros((len(self.class_names), len(self.ch_names), len(BANDS)))
        for label, name in enumerate(self.class_names):
            for band, region, decibels in EFFECTS[name]:
                weight = np.max([self._near(place) for place in _REGIONS[region]], axis=0)
                effects[label, :, [*BANDS].index(band)] += decibels * weight
        self._effects = effects
        self._subject = lru_cache(64)(self._make_subject)
        self._session = lru_cache(64)(self._make_session)

    def trial(
        self,
        subject: int,
        session: int,
        trial: int,
        label: int | None,
        seconds: int,
        sfreq: float,
        band: tuple[float, float] = (0.0, _UP_TO),
    ) -> np.ndarray:
        """One trial; the same numbers give the same signal, whatever was made before.

        Parameters
        ----------
        subject, session, trial : int
            From 1. They choose the signal.
        label : int or None
            Index into `class_names`; None is rest.
        seconds : int
            Length.
        sfreq : float
            Rate in hertz. Twice the rate has every second sample in common, for rates of 150 Hz
            and more.
        band : (float, float)
            The background's lowest and highest frequency; its upper end is 75 Hz at most.

        Returns
        -------
        ndarray, shape (n_chans, round(seconds * sfreq) + 1)
            float32 microvolts, within 150 except for a rare peak. The sample of the end is in.

        Raises
        ------
        ValueError
            If there is no class of that label, or `seconds` is no whole number from 1.
        """
        if label is not None and not 0 <= label < len(self.class_names):
            raise ValueError(
                f"SyntheticEEG.trial: label must be from 0 to {len(self.class_names) - 1}, "
                f"got {label}."
            )
        if seconds != int(seconds) or seconds < 1:
            raise ValueError(f"SyntheticEEG.trial: seconds must be whole, got {seconds}.")
        traits, visit = self._subject(subject), self._session(subject, session)
        rng = self._rng(3, subject, session, trial)
        period = _smooth_number(seconds + 1)
        freqs = np.arange(1, int(_UP_TO * period) + 1) / period
        band_db = traits.gain_db[:, None] + visit.band_db + self._maps(rng, len(BANDS))
        if label is not None:
            band_db = band_db + traits.effect_db[label]
        shape = (len(self.ch_names), len(freqs))
        noise = rng.standard_normal((2, *shape), dtype=np.float32)
        times, heights = _blinks(rng, period) if self.blinks else ((), ())
        spectrum = traits.mixing.astype(np.float32) @ (noise[0] + np.complex64(1j) * noise[1])
        amplitude = np.sqrt(self._power(traits, freqs) / (4 * period)).astype(np.float32)
        inside = (freqs >= band[0]) & (freqs <= min(band[1], _UP_TO)) & (freqs < sfreq / 2)
        amplitude *= inside
        amplitude *= _by_frequency(10 ** (band_db / 20), freqs)
        spectrum *= amplitude
        n_period, n_times = round(period * sfreq), round(seconds * sfreq) + 1
        bins = np.zeros((shape[0], n_period // 2 + 1), np.complex64)
        stop = min(bins.shape[1], len(freqs) + 1)
        bins[:, 1:stop] = spectrum[:, : stop - 1] * n_period
        signal = np.fft.irfft(bins, n_period, axis=-1)[:, :n_times].astype(np.float32)
        waves = np.arange(1, len(visit.phase) + 1)[:, None]
        through = (trial - 1 + np.arange(n_times) / (n_times - 1)) / self.n_trials
        drift = np.cos(np.pi * waves * through + visit.phase[:, None]).astype(np.float32)
        signal *= 1 + visit.drift.astype(np.float32) @ drift
        self._add_blinks(signal, sfreq, times, heights)
        return signal

    def _rng(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *numbers])

    def _correlating(self, length: float) -> np.ndarray:
        """Turn white noise into noise whose correlation falls with distance (unit variance)."""
        correlation = np.exp(-0.5 * (self._distances / length) ** 2)
        correlation = 0.92 * correlation + 0.08 * np.eye(len(correlation))
        return np.linalg.cholesky(correlation)

    def _maps(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random maps over the scalp, (C, count), smooth, of unit variance."""
        return self._smooth @ rng.standard_normal((len(self.ch_names), count))

    def _near(self, place: str, width: float = _REGION_WIDTH) -> np.ndarray:
        distances = np.linalg.norm(self._places - positions_for([place])[place], axis=-1)
        return np.exp(-0.5 * (distances / width) ** 2)

    def _make_subject(self, subject: int) -> _Subject:
        rng = self._rng(1, subject)
        n_chans, n_classes = len(self.ch_names), len(self.class_names)
        strength = rng.uniform(0.6, 1.3)
        own = self._maps(rng, n_classes * len(BANDS)).reshape(n_chans, n_classes, -1)
        alpha = self._near("POZ", 0.06) * 10 ** (rng.normal(0.0, 2.0) / 10)
        return _Subject(
            mixing=self._correlating(rng.uniform(0.045, 0.07)),
            gain_db=np.clip(rng.normal(0, 0.7) + 1.5 * self._maps(rng, 1)[:, 0], -4, 3),
            slope=rng.uniform(1.1, 1.5),
            alpha_hz=rng.uniform(9.0, 11.5),
            alpha_power=0.1 * alpha,
            effect_db=strength * self._effects + 0.8 * own.transpose(1, 0, 2),
        )

    def _make_session(self, subject: int, session: int) -> _Session:
        rng = self._rng(2, subject, session)
        return _Session(
            band_db=0.6 * self._maps(rng, len(BANDS)),
            drift=0.05 * self._maps(rng, 3),
            phase=rng.uniform(0, 2 * np.pi, 3),
        )

    def _power(self, traits: _Subject, freqs: np.ndarray) -> np.ndarray:
        """Power density in square microvolts per hertz, (C, F)."""
        background = 1 / (0.5 + freqs) ** traits.slope * freqs**2 / (freqs**2 + 0.25)
        peak = np.exp(-0.5 * ((freqs - traits.alpha_hz) / 1.1) ** 2)
        background *= _RMS**2 / np.sum(background * freqs[0])
        return background + _RMS**2 * traits.alpha_power[:, None] * peak

    def _add_blinks(self, signal: np.ndarray, sfreq: float, times, heights) -> None:
        for middle, height in zip(times, heights, strict=True):
            start, stop = (max(0, round((middle + side) * sfreq)) for side in (-0.4, 0.4))
            t = np.arange(start, min(stop, signal.shape[1])) / sfreq
            shape = height * np.exp(-0.5 * ((t - middle) / 0.08) ** 2)
            signal[:, start : start + len(t)] += self._forehead[:, None] * shape


def _blinks(rng: np.random.Generator, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle in seconds, and height in microvolts, of the blinks of a trial."""
    count = math.ceil(period / 2)
    times = np.cumsum(2 + rng.exponential(5.0, count))
    heights = rng.uniform(40, 75, count)
    return times[times < period], heights[times < period]


def _by_frequency(values: np.ndarray, freqs: np.ndarray) -> np.ndarray:
    """Spread one value a band (C, bands) over frequencies; outside counts the nearest band."""
    edges = [high for _, high in list(BANDS.values())[:-1]]
    return values.astype(np.float32)[:, np.searchsorted(edges, freqs, side="right")]


def _smooth_number(least: int) -> int:
    """The next number that has no factor above 5: quick transforms at every usual rate."""
    number = least
    while True:
        rest = number
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return number
        number += 1
