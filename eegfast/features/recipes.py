# SPDX-License-Identifier: BSD-3-Clause
"""What each differential-entropy recipe is: its original, its constants, its default bands.

To add a recipe, add an entry to ``SPECS``: a :class:`Spectral` one needs no further code, a
:class:`Filtered` one needs its way of running the filter in ``differential_entropy.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Bands = Mapping[str, tuple[float, float]]

DEFAULT_BANDS: dict[str, tuple[float, float]] = {
    "delta": (1, 4),
    "theta": (4, 8),
    "alpha": (8, 14),
    "beta": (14, 31),
    "gamma": (31, 50),
}

_SEED_VII_BANDS = {**DEFAULT_BANDS, "gamma": (31, 49)}
_TORCHEEG_BANDS = {name: _SEED_VII_BANDS[name] for name in ("theta", "alpha", "beta", "gamma")}
_LIBEER_BANDS = {
    "delta": (0.5, 4),
    "theta": (4, 8),
    "alpha": (8, 14),
    "beta": (14, 30),
    "gamma": (30, 50),
}


@dataclass(frozen=True)
class Spectral:
    """``log2(100 P)``, P the mean squared magnitude of an unnormalised, tapered DFT over a band."""

    summary: str
    origin: str
    bands: Bands
    taper: str
    n_fft: int | None  # None: the sampling rate
    feature_unit: str = "log2(uV^2)"


@dataclass(frozen=True)
class Filtered:
    """``0.5 log(2 pi e V)``, V the variance of a Butterworth band-passed signal over a window."""

    summary: str
    origin: str
    bands: Bands
    order: int
    run: str  # "restarted", "both ways" or "continuous"
    ddof: int
    feature_unit: str

    @property
    def base(self) -> str:
        """Base of the logarithm, as written in formulas."""
        return "ln" if self.feature_unit.startswith("nats") else "log2"


SPECS: dict[str, Spectral | Filtered] = {
    "bcmi": Spectral(
        summary="SEED-VII's script: symmetric Hann, 256-point DFT, log2(100 PSD)",
        origin="SEED-VII feature script (BCMI laboratory), get_de_feature",
        bands=_SEED_VII_BANDS,
        taper="hann",
        n_fft=256,
    ),
    "matlab": Spectral(
        summary="SEED's MATLAB: hanning(L), 256-point DFT, log2(100 PSD)",
        origin="STFT.m of SEED (ziyujia/Signal-feature-extraction_DE-and-PSD)",
        bands=DEFAULT_BANDS,
        taper="hanning",
        n_fft=256,
    ),
    "torcheeg": Filtered(
        summary="torcheeg BandDifferentialEntropy: Butterworth restarted in each window, in bits",
        origin="torcheeg.transforms.BandDifferentialEntropy",
        bands=_TORCHEEG_BANDS,
        order=5,
        run="restarted",
        ddof=0,
        feature_unit="bits re 1 uV",
    ),
    "torcheeg_v1": Spectral(
        summary="torcheeg BandDifferentialEntropyV1: as bcmi, DFT as long as the sampling rate",
        origin="torcheeg.transforms.BandDifferentialEntropyV1",
        bands=_TORCHEEG_BANDS,
        taper="hann",
        n_fft=None,
    ),
    "libeer": Filtered(
        summary="LibEER de: Butterworth forward and backward over the whole recording, in bits",
        origin="XJTU-EEG/LibEER data_utils/preprocess.py, de_extraction",
        bands=_LIBEER_BANDS,
        order=3,
        run="both ways",
        ddof=1,
        feature_unit="bits re 1 uV",
    ),
    "clean": Filtered(
        summary="eegfast's own: causal Butterworth, never restarted, Gaussian entropy in nats",
        origin="eegfast",
        bands=DEFAULT_BANDS,
        order=3,
        run="continuous",
        ddof=0,
        feature_unit="nats re 1 uV",
    ),
}

RECIPES: dict[str, str] = {name: spec.summary for name, spec in SPECS.items()}


def check_bands(bands: Bands, sfreq: float) -> dict[str, tuple[float, float]]:
    """Return ``bands`` as a dict of float pairs, or say which band is impossible and why."""
    if not isinstance(bands, Mapping):
        raise TypeError(
            "bands must be a dict of name -> (low, high) in Hz, such as {'alpha': (8, 14)}, "
            f"got {type(bands).__name__}"
        )
    if not bands:
        raise ValueError("bands must name at least one band, got an empty dict")
    checked = {}
    for name, edges in bands.items():
        try:
            lo, hi = (float(edge) for edge in edges)
        except (TypeError, ValueError):
            raise ValueError(f"band {name!r} must be (low, high) in Hz, got {edges!r}") from None
        if not 0 < lo < hi:
            raise ValueError(f"band {name!r} must have 0 < low < high, got ({lo:g}, {hi:g}) Hz")
        if hi > sfreq / 2:
            raise ValueError(
                f"band {name!r} ({lo:g}-{hi:g} Hz) reaches above {sfreq / 2:g} Hz, half the "
                f"sampling rate of {sfreq:g} Hz: lower its upper edge with bands="
            )
        checked[str(name)] = (lo, hi)
    return checked
