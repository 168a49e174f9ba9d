# SPDX-License-Identifier: BSD-3-Clause
"""Differential entropy per window, channel and band, by named recipe."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from eegfast.features import filters
from eegfast.features.explain import explain
from eegfast.features.recipes import SPECS, Bands, Filtered, Spectral, check_bands
from eegfast.ops import band_bins, band_power, bandpass_power

UNITS = {"uV": 1.0, "V": 1e6}
_VOLTS_SUSPECTED = 1e-3  # uV RMS


def samples(name: str, seconds: float, sfreq: float) -> int:
    """Convert a duration to samples; refuse one that is not a whole number of them."""
    exact = float(seconds) * sfreq
    if not (math.isfinite(exact) and exact > 0):
        raise ValueError(f"{name} must be a positive number of seconds, got {seconds!r}")
    samples = round(exact)
    if samples == 0 or abs(exact - samples) > 1e-6 * samples:
        below, above = max(1, math.floor(exact)), max(1, math.ceil(exact))
        raise ValueError(
            f"{name}={seconds!r} s is {exact:.6g} samples at {sfreq:g} Hz, not a whole number: "
            f"give {name}={below}/{sfreq:g} or {name}={above}/{sfreq:g}, or resample the recording"
        )
    return samples


class DifferentialEntropy(nn.Module):
    """Differential entropy (DE) of EEG per window, channel and frequency band.

    "DE" names at least six different features. A recipe picks one, and :meth:`explain` says what it
    does at this rate, with these windows and bands. ``docs/features.md`` has the formulas and how
    far the recipes differ on real EEG.

    Parameters
    ----------
    sfreq : float
        Sampling rate of the signals in Hz.
    recipe : {"bcmi", "matlab", "torcheeg", "torcheeg_v1", "libeer", "clean"}
        Which DE. :data:`eegfast.features.RECIPES` describes each in a line.
    bands : dict of str to (float, float), optional
        Name to lower and upper edge in Hz. Default: the bands that the recipe's original has
        (``bcmi``: gamma ends at 49 Hz; ``torcheeg``, ``torcheeg_v1``: no delta; ``libeer``: delta
        begins at 0.5 Hz), and :data:`eegfast.features.DEFAULT_BANDS` for ``matlab`` and ``clean``.
    window : float
        Window length in seconds, a whole number of samples.
    step : float, optional
        Seconds from one window's start to the next. Default: ``window`` (no overlap).
    unit : {"uV", "V"}
        Unit of the signals. Volts are multiplied by 1e6: every recipe is in microvolts.
    n_fft : int, optional
        Transform length of the spectral recipes. Default: 256 (``bcmi``, ``matlab``), ``sfreq``
        (``torcheeg_v1``). Shorter than the window, it cuts each window, as the originals do.
    arithmetic : {"stable", "original"}
        How ``torcheeg`` and ``libeer`` run their filter. ``"stable"``: second-order sections,
        accurate and fast. ``"original"``: SciPy's ``b, a`` recursion, operation by operation,
        rounding errors included, in float64, sample by sample in Python: slow, but it equals the
        original to the last bits even where that has lost most of its digits (``torcheeg`` below
        8 Hz). Needs SciPy.

    Attributes
    ----------
    bands : dict
        Bands in use.
    band_names : list of str
        Their names, the order of the last output axis.
    feature_unit : str
        Unit of the output, such as ``"log2(uV^2)"``.
    window_samples, step_samples : int
        Window and step in samples.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came; among them a recipe that is impossible
        at this rate, such as ``bcmi`` with a band that begins below its first DFT bin.

    Notes
    -----
    Input ``(..., n_chans, n_times)``, output ``(..., windows, n_chans, bands)`` with
    ``windows = (n_times - window) // step + 1``; samples after the last whole window are not used.
    ``libeer`` has one window less where ``step != window``, as its original. A recording too short
    for one window is a ``ValueError``.

    A flat channel has ``-inf``, as in every original: there is no epsilon.

    Signals whose RMS is under 1e-3 "uV" are probably volts: they warn, once per module. CPU signals
    are looked at in every call until then, others in the first call only.

    Examples
    --------
    >>> de = DifferentialEntropy(sfreq=200, recipe="bcmi", window=4.0)
    >>> de(20 * torch.randn(62, 48_000)).shape             # four minutes in microvolts
    torch.Size([60, 62, 5])
    >>> print(de.explain())                                # doctest: +SKIP

    References
    ----------
    Duan, Zhu and Lu, "Differential entropy feature for EEG-based emotion classification", NER 2013.
    """

    def __init__(
        self,
        sfreq: float,
        recipe: str = "bcmi",
        bands: Bands | None = None,
        window: float = 1.0,
        step: float | None = None,
        unit: str = "uV",
        *,
        n_fft: int | None = None,
        arithmetic: str = "stable",
    ):
        super().__init__()
        if recipe not in SPECS:
            raise ValueError(f"recipe must be one of {', '.join(SPECS)}, got {recipe!r}")
        if unit not in UNITS:
            raise ValueError(f"unit must be 'uV' or 'V', got {unit!r}")
        self.sfreq = float(sfreq)
        if not (math.isfinite(self.sfreq) and self.sfreq > 0):
            raise ValueError(f"sfreq must be a positive number of Hz, got {sfreq!r}")
        self.spec = SPECS[recipe]
        self.recipe, self.unit, self.arithmetic = recipe, unit, arithmetic
        self.window = float(window)
        self.step = self.window if step is None else float(step)
        self.window_samples = samples("window", self.window, self.sfreq)
        self.step_samples = samples("step", self.step, self.sfreq)
        if self.window_samples < 2:
            raise ValueError(f"window must hold at least 2 samples, got {window!r} s")
        self.bands = check_bands(self.spec.bands if bands is None else bands, self.sfreq)
        self.band_names = list(self.bands)
        self.feature_unit = self.spec.feature_unit
        if isinstance(self.spec, Spectral):
            self._set_up_transform(n_fft)
        else:
            self._set_up_filters(n_fft)
        self._looked_at_scale = self._warned = False

    def _set_up_transform(self, n_fft: int | None) -> None:
        if self.arithmetic != "stable":
            raise ValueError(
                "arithmetic='original' is for the recipes 'torcheeg' and 'libeer', "
                f"got recipe={self.recipe!r}"
            )
        n_fft = n_fft or self.spec.n_fft or self.sfreq
        if n_fft != int(n_fft) or n_fft < 2:
            raise ValueError(
                f"recipe {self.recipe!r} needs a whole number of DFT points, got {n_fft:g}"
                + ("" if self.spec.n_fft else " (the sampling rate): give n_fft=")
            )
        self.n_fft = int(n_fft)
        for name, (lo, hi) in self.bands.items():
            if lo / self.sfreq * self.n_fft < 1:
                resample = (
                    f"resample to at most {lo * self.n_fft:g} Hz, " if self.spec.n_fft else ""
                )
                raise ValueError(
                    f"recipe {self.recipe!r} is impossible for band {name!r} ({lo:g}-{hi:g} Hz) at "
                    f"{self.sfreq:g} Hz: it starts one DFT bin below the band, and bins of "
                    f"{self.sfreq:g} / {self.n_fft} = {self.sfreq / self.n_fft:.4g} Hz put that "
                    f"below bin 0. To mend it, {resample}raise the band's lower edge, use "
                    f"recipe='clean', or give n_fft={math.ceil(self.sfreq / lo)} or more (then no "
                    "longer the original's)"
                )
        self.bins = band_bins(self.bands, self.sfreq, self.n_fft, rule="bcmi")

    def _set_up_filters(self, n_fft: int | None) -> None:
        if n_fft is not None:
            raise ValueError(f"n_fft is for spectral recipes; {self.recipe!r} has no transform")
        edges = self.bands.values()
        self.sos = np.stack(
            [filters.butterworth_bandpass(*band, self.sfreq, self.spec.order) for band in edges]
        )
        if self.arithmetic == "original" and self.spec.run != "continuous":
            self.ba = [filters.butterworth_ba(*band, self.sfreq, self.spec.order) for band in edges]
        elif self.arithmetic != "stable":
            raise ValueError(
                "arithmetic must be 'stable', or 'original' with the recipes 'torcheeg' and "
                f"'libeer', got {self.arithmetic!r} with recipe={self.recipe!r}"
            )
        self.pad = 3 * (2 * self.spec.order + 1)  # SciPy's default for filtfilt

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features.

        Parameters
        ----------
        x : Tensor, shape (..., n_chans, n_times)
            Signals in ``unit``, float32 or float64.

        Returns
        -------
        Tensor, shape (..., windows, n_chans, bands)
            DE in ``feature_unit``.
        """
        self._check(x)
        if self.unit != "uV":
            x = x * UNITS[self.unit]
        self._warn_if_volts(x)
        if isinstance(self.spec, Spectral):
            return band_power(
                x,
                window=self.window_samples,
                step=self.step_samples,
                n_fft=self.n_fft,
                taper=self.spec.taper,
                bins=self.bins,
                gain=100.0,
                log2=True,
            )
        log = torch.log2 if self.spec.base == "log2" else torch.log
        return 0.5 * log(2 * math.pi * math.e * self._variance(x))

    def n_windows(self, n_times: int) -> int:
        """Return how many windows ``n_times`` samples give."""
        left = n_times - self.window_samples
        last = isinstance(self.spec, Filtered) and self.spec.run == "both ways"
        dropped = last and self.step_samples != self.window_samples
        return 0 if left < 0 else left // self.step_samples + (0 if dropped else 1)

    def explain(self) -> str:
        """Return what this module computes: formula, windows, taper or filter, bins, units."""
        return explain(self)

    def extra_repr(self) -> str:
        bands = ", ".join(self.band_names)
        return (
            f"sfreq={self.sfreq:g}, recipe={self.recipe!r}, bands=[{bands}], "
            f"window={self.window:g}, step={self.step:g}, unit={self.unit!r}"
        )

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a torch.Tensor, got {type(x).__name__} (torch.from_numpy wraps arrays)"
            )
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point in {self.unit}, got {x.dtype}")
        if x.dim() < 2:
            raise ValueError(f"x must be (..., n_chans, n_times), got shape {tuple(x.shape)}")
        n_times = x.shape[-1]
        if self.n_windows(n_times) == 0:
            raise ValueError(
                f"the recording has {n_times} samples ({n_times / self.sfreq:g} s), too few for "
                f"one window of {self.window_samples} samples ({self.window:g} s)"
                + (" and the one that 'libeer' drops" if n_times >= self.window_samples else "")
            )

    def _warn_if_volts(self, x: Tensor) -> None:
        if self._warned or torch.compiler.is_compiling():
            return
        if x.numel() == 0 or (self._looked_at_scale and x.device.type != "cpu"):
            return
        self._looked_at_scale = True
        some = x.detach()[..., :: 1 + x.numel() // 65_536]
        rms = float(some.float().square().mean().sqrt())
        if 0 < rms < _VOLTS_SUSPECTED:
            self._warned = True
            warnings.warn(
                f"the signal's RMS is {rms:.2g} uV, too small for EEG: is it in volts? "
                f"Then use unit='V' (now {self.unit!r})",
                stacklevel=5,
            )

    def _variance(self, x: Tensor) -> Tensor:
        if self.spec.run == "continuous":
            return self._variance_continuous(x)
        if self.spec.run == "restarted":
            return self._variance_restarted(x)
        return self._variance_both_ways(x)

    def _variance_continuous(self, x: Tensor) -> Tensor:
        # Begin settled on the first value: an offset then leaves no transient.
        first = x[..., :1]
        x = x - torch.where(torch.isfinite(first), first, 0.0)
        return bandpass_power(
            x, self.sos, window=self.window_samples, step=self.step_samples, ddof=self.spec.ddof
        )

    def _variance_restarted(self, x: Tensor) -> Tensor:
        windows = x.unfold(-1, self.window_samples, self.step_samples)
        if self.arithmetic == "original":
            exact = windows.double()  # SciPy's filters and sums are float64 whatever comes in
            filtered = (filters.lfilter_ba(exact, b, a) for b, a in self.ba)
            variance = torch.stack([y.var(-1, correction=self.spec.ddof) for y in filtered], -1)
            variance = variance.to(x.dtype)
        else:
            # To the operator each window is a channel of one window.
            variance = bandpass_power(
                windows, self.sos, window=self.window_samples, ddof=self.spec.ddof
            ).squeeze(-3)
        return variance.transpose(-3, -2)

    def _variance_both_ways(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= self.pad:
            raise ValueError(
                f"recipe 'libeer' extends the recording by {self.pad} samples at each end and "
                f"needs more than that, got {x.shape[-1]}"
            )
        exact = x.double()  # at 1 Hz the filter's state needs more digits than float32 has
        variances = []
        for band in range(len(self.bands)):
            if self.arithmetic == "original":
                filtered = filters.filtfilt_ba(exact, *self.ba[band], self.pad)
            else:
                filtered = filters.filtfilt(exact, self.sos[band], self.pad)
            windows = filtered.unfold(-1, self.window_samples, self.step_samples)
            windows = windows[..., : self.n_windows(x.shape[-1]), :]
            variances.append(windows.var(-1, correction=self.spec.ddof))
        return torch.stack(variances, -1).transpose(-3, -2).to(x.dtype)


def differential_entropy(
    x: Tensor,
    sfreq: float,
    recipe: str = "bcmi",
    bands: Bands | None = None,
    window: float = 1.0,
    step: float | None = None,
    unit: str = "uV",
    *,
    n_fft: int | None = None,
    arithmetic: str = "stable",
) -> Tensor:
    """Differential entropy per window, channel and band, as a function.

    Parameters
    ----------
    x : Tensor, shape (..., n_chans, n_times)
        Signals in ``unit``, float32 or float64.
    sfreq, recipe, bands, window, step, unit, n_fft, arithmetic
        As for :class:`DifferentialEntropy`.

    Returns
    -------
    Tensor, shape (..., windows, n_chans, bands)
        DE in the recipe's unit.

    Raises
    ------
    TypeError, ValueError
        As :class:`DifferentialEntropy`.
    """
    module = DifferentialEntropy(
        sfreq, recipe, bands, window, step, unit, n_fft=n_fft, arithmetic=arithmetic
    )
    return module(x)
