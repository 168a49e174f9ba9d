# SPDX-License-Identifier: BSD-3-Clause
"""From a recording to its features, with options as `eegfast extract` has them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from eegfast.datasets import Recording
from eegfast.features.differential_entropy import DifferentialEntropy
from eegfast.features.files import Features
from eegfast.features.recipes import RECIPES, check_bands
from eegfast.features.smoothing import LDSSmoother, moving_average

__all__ = ["SMOOTHERS", "ExtractOptions", "extract_features", "parse_bands", "smoother_named"]

SMOOTHERS: dict[str, str] = {
    "none": "features as they are",
    "lds": "Kalman filter and RTS smoother over the whole recording (uses later windows)",
    "lds-causal": "Kalman filter that starts at the first window (uses no later window)",
    "ma": "centred moving average over 5 windows",
}
"""Ways of smoothing along the windows, with a line on each."""

_CHUNK_VALUES = 2**26
_SEED_SFREQ = 200.0


@dataclass(frozen=True)
class ExtractOptions:
    """What to compute.

    Parameters
    ----------
    recipe : str, default "bcmi"
        One of `eegfast.features.RECIPES`.
    bands : dict, optional
        Band name to (low, high) in hertz; default the recipe's.
    window, step : float
        Seconds; `step` defaults to `window`.
    smooth : str, default "none"
        One of `SMOOTHERS`.
    resample : float, optional
        Rate in hertz to bring the recording to first.
    picks : tuple of str, optional
        Channels; default all scalp EEG channels.

    Raises
    ------
    ValueError
        If a value is impossible whatever the recording.
    """

    recipe: str = "bcmi"
    bands: dict[str, tuple[float, float]] | None = None
    window: float = 1.0
    step: float | None = None
    smooth: str = "none"
    resample: float | None = None
    picks: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if self.smooth not in SMOOTHERS:
            raise ValueError(f"smooth must be one of {', '.join(SMOOTHERS)}, got {self.smooth!r}")
        for name in ("window", "step", "resample"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value}")
        if self.bands is not None:
            object.__setattr__(self, "bands", check_bands(self.bands, math.inf))
        if self.picks is not None:
            object.__setattr__(self, "picks", tuple(self.picks))

    def as_dict(self) -> dict:
        """The options as JSON can hold them, defaults filled in."""
        return {
            "recipe": self.recipe,
            "bands": None if self.bands is None else {k: list(v) for k, v in self.bands.items()},
            "window": float(self.window),
            "step": float(self.window if self.step is None else self.step),
            "smooth": self.smooth,
            "resample": None if self.resample is None else float(self.resample),
            "picks": None if self.picks is None else list(self.picks),
        }


def parse_bands(text: str) -> dict[str, tuple[float, float]]:
    """Read bands as typed on a command line.

    Parameters
    ----------
    text : str
        ``name:low-high`` in hertz, separated by commas: ``"theta:4-8,alpha:8-14"``.

    Returns
    -------
    dict
        Band name to (low, high), in the order given.

    Raises
    ------
    ValueError
        If a part does not read so, or a name comes twice.
    """
    bands: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^:,\s]+)\s*:\s*([\d.]+)\s*-\s*([\d.]+)\s*", part)
        try:
            name, low, high = match[1], float(match[2]), float(match[3])
        except (TypeError, ValueError):
            raise ValueError(
                "bands must read name:low-high,... such as theta:4-8,alpha:8-14, "
                f"got {part.strip()!r}"
            ) from None
        if name in bands:
            raise ValueError(f"bands must have different names, got {name!r} twice")
        bands[name] = (low, high)
    return check_bands(bands, math.inf)


def extract_features(recording: Recording, options: ExtractOptions) -> Features:
    """Features of one recording.

    Parameters
    ----------
    recording : Recording
        Signal in microvolts.
    options : ExtractOptions
        What to compute. Its `picks` are for the reader; here all channels are used.

    Returns
    -------
    Features
        `metadata` says what was computed; it has no entries on the source file.

    Raises
    ------
    ValueError
        If the recording does not allow it: too short, rate impossible for the recipe, band above
        half the rate.
    """
    original_sfreq = recording.sfreq
    if options.resample is not None:
        recording = recording.resample(options.resample)
    de = _recipe(recording.sfreq, options)
    rows = max(1, _CHUNK_VALUES // max(1, recording.n_times))
    with torch.inference_mode():
        # Every recipe treats channels alone, so a long recording goes through in groups of them.
        parts = [
            de(_tensor(recording.signal[start : start + rows]))
            for start in range(0, recording.n_chans, rows)
        ]
        values = _smooth(torch.cat(parts, dim=-2), options.smooth).float().numpy()
    metadata = {
        "feature": "differential entropy",
        "unit": de.feature_unit,
        "recipe": de.recipe,
        "explain": de.explain(),
        "smoothing": f"{options.smooth}: {SMOOTHERS[options.smooth]}",
        "window": de.window,
        "step": de.step,
        "sfreq": recording.sfreq,
        "original_sfreq": original_sfreq,
        "subject_id": recording.subject_id,
        "session_id": recording.session_id,
        "trial_id": recording.trial_id,
        "label": recording.label,
        "class_names": recording.class_names,
        "options": options.as_dict(),
        "notes": _notes(values, recording.ch_names),
    }
    return Features(
        values=values,
        times=np.arange(values.shape[0]) * (de.step_samples / recording.sfreq),
        ch_names=recording.ch_names,
        bands=de.bands,
        positions=recording.positions,
        metadata=metadata,
    )


def _tensor(signal: np.ndarray) -> torch.Tensor:
    """The signal as it lies in memory; a copy if it is read-only, which torch does not know."""
    return torch.from_numpy(signal if signal.flags.writeable else signal.copy())


def _recipe(sfreq: float, options: ExtractOptions) -> DifferentialEntropy:
    def build(rate: float) -> DifferentialEntropy:
        return DifferentialEntropy(
            rate, options.recipe, options.bands, options.window, options.step
        )

    try:
        return build(sfreq)
    except ValueError as error:
        try:
            build(_SEED_SFREQ)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; `eegfast extract` has --resample {_SEED_SFREQ:g}") from error


def smoother_named(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The smoother that one of `SMOOTHERS` names; None for ``"none"``.

    Parameters
    ----------
    name : str
        One of `SMOOTHERS`.

    Returns
    -------
    callable or None
        From features (..., windows, n_chans, bands) to the same shape.

    Raises
    ------
    ValueError
        If there is no smoother of that name.
    """
    match name:
        case "none":
            return None
        case "lds":
            return LDSSmoother()
        case "lds-causal":
            return LDSSmoother(causal=True, prior="first")
        case "ma":
            return moving_average
    raise ValueError(f"smooth must be one of {', '.join(SMOOTHERS)}, got {name!r}")


def _smooth(values: torch.Tensor, how: str) -> torch.Tensor:
    """Smooth (windows, n_chans, bands) along the windows; a gap of non-finite windows stays one,
    and ends a stretch."""
    smoother = smoother_named(how)
    if smoother is None:
        return values
    finite = torch.isfinite(values).flatten(1)
    if finite.all():
        return smoother(values)
    smoothed = values.flatten(1).clone()
    patterns, pattern_of = torch.unique(finite, dim=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        series = pattern_of == number
        edges = torch.diff(pattern.int(), prepend=torch.zeros(1).int(), append=torch.zeros(1).int())
        for start, stop in zip((edges == 1).nonzero(), (edges == -1).nonzero(), strict=True):
            stretch = smoothed[start:stop, series]
            smoothed[start:stop, series] = smoother(stretch.unsqueeze(-1)).squeeze(-1)
    return smoothed.view_as(values)


def _notes(values: np.ndarray, ch_names: list[str]) -> list[str]:
    broken = ~np.isfinite(values)
    if not broken.any():
        return []
    names = [name for name, bad in zip(ch_names, broken.any(axis=(0, 2)), strict=True) if bad]
    return [
        f"{broken.sum()} of {values.size} values, in {broken.any(axis=(1, 2)).sum()} windows, are "
        "not finite (flat or missing signal): "
        f"{', '.join(names[:8])}{' ...' if names[8:] else ''}"
    ]
