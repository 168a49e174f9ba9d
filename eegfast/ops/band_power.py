# SPDX-License-Identifier: BSD-3-Clause
"""Band power of short, tapered Fourier transforms."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import (
    check_positive,
    check_signal,
    n_windows,
    register,
    register_autograd,
)

TAPERS = ("hann", "hanning", "hamming", "boxcar")


def _fake(x, taper, window, step, n_fft, bins, gain, log2):
    windows = n_windows(x.shape[-1], window, step)
    return x.new_empty((*x.shape[:-2], windows, x.shape[-2], len(bins) // 2))


def _fake_backward(grad, x, taper, window, step, n_fft, bins, gain, log2):
    return x.new_empty(x.shape)


_op = register("band_power", reference.band_power, _fake)
_backward_op = register("band_power_backward", reference.band_power_backward, _fake_backward)


def _setup_context(ctx, inputs, output):
    x, taper, *ctx.rest = inputs
    ctx.save_for_backward(x, taper)


def _backward(ctx, grad):
    grad_x = _backward_op(grad, *ctx.saved_tensors, *ctx.rest)
    return (grad_x, *(None,) * 7)


register_autograd("band_power", _setup_context, _backward)


def _make_taper(name: str, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    i = torch.arange(window, dtype=torch.float64)
    if name == "boxcar" or (window == 1 and name != "hanning"):
        values = torch.ones(window, dtype=torch.float64)
    elif name == "hanning":
        values = 0.5 - 0.5 * torch.cos(2 * math.pi * (i + 1) / (window + 1))
    else:
        offset = 0.5 if name == "hann" else 0.54
        values = offset - (1 - offset) * torch.cos(2 * math.pi * i / (window - 1))
    return values.to(dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _kept_taper(name: str, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not be saved for a later backward.
    with torch.inference_mode(False):
        return _make_taper(name, window, dtype, device)


def _taper(name: str, window: int, like: Tensor) -> Tensor:
    """Return the named taper, kept from call to call unless ``like`` is traced or fake."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    eager = not torch.compiler.is_compiling() and type(like) in (Tensor, torch.nn.Parameter)
    return (_kept_taper if eager else _make_taper)(name, window, dtype, like.device)


def band_bins(
    bands: Mapping[str, tuple[float, float]] | Sequence[tuple[float, float]],
    sfreq: float,
    n_fft: int,
    rule: str = "bcmi",
) -> list[tuple[int, int]]:
    """Turn band edges in hertz into half-open ranges of DFT bins.

    Parameters
    ----------
    bands : dict of str to (float, float), or sequence of (float, float)
        Lower and upper edge of each band in Hz.
    sfreq : float
        Sampling rate in Hz.
    n_fft : int
        Length of the transform.
    rule : {"bcmi", "half_open"}
        ``"bcmi"``: bins ``s - 1`` to ``e - 1`` inclusive with ``s = floor(lo / sfreq * n_fft)`` and
        ``e = floor(hi / sfreq * n_fft)``, the rule of SEED's scripts, off by one and one bin shared
        by neighbours. ``"half_open"``: the bins whose frequency lies in ``[lo, hi)``.

    Returns
    -------
    list of (int, int)
        ``(start, stop)`` of each band.

    Raises
    ------
    ValueError
        If a band is malformed, holds no bin, begins below the first bin of the rule, or ends above
        the Nyquist frequency.
    """
    edges = list(bands.values()) if isinstance(bands, Mapping) else list(bands)
    names = list(bands) if isinstance(bands, Mapping) else [str(i) for i in range(len(edges))]
    if rule not in ("bcmi", "half_open"):
        raise ValueError(f"band_bins: rule must be 'bcmi' or 'half_open', got {rule!r}")
    if not sfreq > 0:
        raise ValueError(f"band_bins: sfreq must be > 0 Hz, got {sfreq!r}")
    check_positive("band_bins", "n_fft", n_fft)
    ranges = []
    for name, (lo, hi) in zip(names, edges, strict=True):
        if not 0 <= lo < hi:
            raise ValueError(f"band_bins: band {name!r} must have 0 <= lo < hi, got ({lo}, {hi})")
        if rule == "bcmi":
            start, stop = math.floor(lo / sfreq * n_fft) - 1, math.floor(hi / sfreq * n_fft)
            if start < 0:
                raise ValueError(
                    f"band_bins: band {name!r} ({lo}-{hi} Hz) begins below the first bin of a "
                    f"{n_fft}-point transform at {sfreq:g} Hz (bins are {sfreq / n_fft:.3g} Hz "
                    "apart), where the bcmi rule takes bin -1; use a longer n_fft or a lower "
                    "sampling rate"
                )
        else:
            start, stop = math.ceil(lo * n_fft / sfreq), math.ceil(hi * n_fft / sfreq)
        if stop <= start:
            raise ValueError(
                f"band_bins: band {name!r} ({lo}-{hi} Hz) holds no bin of a {n_fft}-point "
                f"transform at {sfreq:g} Hz"
            )
        if stop > n_fft // 2 + 1:
            raise ValueError(
                f"band_bins: band {name!r} ({lo}-{hi} Hz) ends above the Nyquist frequency "
                f"{sfreq / 2:g} Hz"
            )
        ranges.append((start, stop))
    return ranges


def band_power(
    x: Tensor,
    *,
    window: int,
    bins: Sequence[tuple[int, int]],
    step: int | None = None,
    n_fft: int | None = None,
    taper: str | Tensor = "hann",
    gain: float = 1.0,
    log2: bool = False,
) -> Tensor:
    """Mean squared magnitude per band of each window's tapered Fourier transform.

    For window w and band [a, b)::

        X_w[k] = sum_i taper[i] x[w step + i] exp(-2 pi j i k / n_fft),   i < min(window, n_fft)
        out    = gain mean_{a <= k < b} |X_w[k]|^2          (its log2 with log2=True)

    Parameters
    ----------
    x : Tensor, shape (..., n_chans, n_times)
        Signal, float32 or float64, any strides.
    window : int
        Window length in samples.
    bins : sequence of (int, int)
        Half-open range of DFT bins of each band, each within 0 to ``n_fft // 2 + 1``;
        :func:`band_bins` makes them from hertz.
    step : int, optional
        Samples from one window's start to the next. Default: ``window``.
    n_fft : int, optional
        Transform length. Longer than the window, it pads with zeros; shorter, only the window's
        first ``n_fft`` samples count (as in SEED's scripts). Default: ``window``.
    taper : {"hann", "hanning", "hamming", "boxcar"} or Tensor, shape (window,)
        ``"hann"`` and ``"hamming"`` are symmetric (``window - 1`` in the cosine), ``"hanning"`` is
        MATLAB's (``window + 1``, no zero end points). A tensor is a constant: it gets no gradient.
    gain : float
        Factor on the power.
    log2 : bool
        Return ``log2(gain * power)``; no power gives ``-inf``.

    Returns
    -------
    Tensor, shape (..., windows, n_chans, bands)
        ``windows = (n_times - window) // step + 1``, or 0 for signals shorter than a window.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Notes
    -----
    A NaN or Inf stays in the windows and the channel that hold it. There is no second derivative.

    Examples
    --------
    >>> x = torch.randn(62, 48_000)                       # four minutes at 200 Hz
    >>> bins = band_bins([(1, 4), (4, 8), (8, 14)], sfreq=200, n_fft=256)
    >>> band_power(x, window=200, n_fft=256, bins=bins).shape
    torch.Size([240, 62, 3])
    """
    check_signal("band_power", "x", x, 2, "(..., n_chans, n_times)")
    window = check_positive("band_power", "window", window)
    step = window if step is None else check_positive("band_power", "step", step)
    n_fft = window if n_fft is None else check_positive("band_power", "n_fft", n_fft)
    if isinstance(taper, str):
        if taper not in TAPERS:
            raise ValueError(
                f"eegfast.ops.band_power: taper must be one of {TAPERS}, got {taper!r}"
            )
        taper = _taper(taper, window, x)
    elif not isinstance(taper, Tensor):
        raise TypeError(
            "eegfast.ops.band_power: taper must be a name or a torch.Tensor, got "
            f"{type(taper).__name__}"
        )
    elif taper.shape != (window,):
        raise ValueError(
            f"eegfast.ops.band_power: taper must have shape ({window},), got {tuple(taper.shape)}"
        )
    else:
        # Kernels of half types compute in float32, and take the taper so.
        dtype = torch.promote_types(x.dtype, torch.float32)
        taper = taper.to(device=x.device, dtype=dtype).detach()
    flat = []
    for start, stop in bins:
        if not 0 <= start < stop <= n_fft // 2 + 1:
            raise ValueError(
                "eegfast.ops.band_power: bins must be (start, stop) with 0 <= start < stop <= "
                f"{n_fft // 2 + 1}, got ({start}, {stop})"
            )
        flat += (int(start), int(stop))
    return _op(x, taper, window, step, n_fft, flat, gain, log2)
