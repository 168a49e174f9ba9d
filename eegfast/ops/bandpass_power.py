# SPDX-License-Identifier: BSD-3-Clause
"""Variance per window behind a bank of recursive band-pass filters."""

from __future__ import annotations

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


def _fake(x, sos, window, step, ddof):
    windows = n_windows(x.shape[-1], window, step)
    return x.new_empty((*x.shape[:-2], windows, x.shape[-2], sos.shape[0]))


def _fake_backward(grad, x, sos, window, step, ddof):
    return x.new_empty(x.shape)


_op = register("bandpass_power", reference.bandpass_power, _fake)
_backward_op = register(
    "bandpass_power_backward", reference.bandpass_power_backward, _fake_backward
)


def _setup_context(ctx, inputs, output):
    x, sos, *ctx.rest = inputs
    ctx.save_for_backward(x, sos)


def _backward(ctx, grad):
    return (_backward_op(grad, *ctx.saved_tensors, *ctx.rest), *(None,) * 4)


register_autograd("bandpass_power", _setup_context, _backward)


def bandpass_power(
    x: Tensor, sos, *, window: int, step: int | None = None, ddof: int = 0
) -> Tensor:
    """Variance per window of each band-passed copy of a signal.

    Each band's filter is a cascade of second-order sections, run causally over all of ``n_times``
    from a zero state, never restarted at a window. The filtered copies are not stored.

    Parameters
    ----------
    x : Tensor, shape (..., n_chans, n_times)
        Signal, float32 or float64, any strides.
    sos : array_like, shape (bands, n_sections, 6)
        Second-order sections ``b0 b1 b2 a0 a1 a2`` as SciPy designs them. A constant: no gradient.
        Sections with zeros at DC and Nyquist, ``(g, 0, -g)``, run fastest.
    window, step : int
        Window length and distance in samples. ``step`` defaults to ``window``.
    ddof : int
        The variance divides by ``window - ddof``.

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
    The first windows hold the filter's transient. A NaN or Inf makes the windows that contain it
    NaN; the filter of that channel then restarts from zero at the next window edge. There is no
    second derivative.
    """
    check_signal("bandpass_power", "x", x, 2, "(..., n_chans, n_times)")
    window = check_positive("bandpass_power", "window", window)
    step = window if step is None else check_positive("bandpass_power", "step", step)
    sos = torch.as_tensor(sos, dtype=torch.float64, device="cpu").detach()
    if sos.dim() != 3 or sos.shape[-1] != 6:
        raise ValueError(
            "eegfast.ops.bandpass_power: sos must be (bands, n_sections, 6), "
            f"got {tuple(sos.shape)}"
        )
    if not bool((sos[..., 3] != 0).all()) or not bool(torch.isfinite(sos).all()):
        raise ValueError("eegfast.ops.bandpass_power: sos must be finite with a0 != 0")
    if not 0 <= ddof < window:
        raise ValueError(
            f"eegfast.ops.bandpass_power: ddof must be within 0 to {window - 1}, got {ddof!r}"
        )
    return _op(x, sos / sos[..., 3:4], window, step, int(ddof))
