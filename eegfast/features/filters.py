# SPDX-License-Identifier: BSD-3-Clause
"""Butterworth band-pass filters: design, and the filtered signals that no operator stores.

Two ways to run the same filter:

* second-order sections (``sosfilt``, ``filtfilt``): accurate, in blocks of matrix products;
* the polynomials ``b, a`` that SciPy's ``lfilter`` takes (``lfilter_ba``, ``filtfilt_ba``): the
  original libraries' arithmetic, rounding included. Products of five nearly equal poles lose most
  digits of a float64, see ``docs/features.md``.

All are differentiable and take any leading dimensions; the last one is time.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

_BLOCK = 128


def butterworth_bandpass(lo: float, hi: float, sfreq: float, order: int) -> np.ndarray:
    """Design a Butterworth band-pass filter as second-order sections.

    The filter of ``scipy.signal.butter(order, (lo, hi), "bandpass", fs=sfreq)``, its zeros shared
    out so that each section has one at 0 Hz and one at the Nyquist frequency.

    Parameters
    ----------
    lo, hi : float
        Edges in Hz where the power gain is one half.
    sfreq : float
        Sampling rate in Hz.
    order : int
        Order of the low-pass prototype; the band-pass has ``2 * order`` poles.

    Returns
    -------
    ndarray of float64, shape (order, 6)
        Rows ``b0 b1 b2 a0 a1 a2``: ``(g, 0, -g, 1, a1, a2)`` first, with the whole gain, then
        ``(1, 0, -1, 1, a1, a2)``.
    """
    if not 0 < lo < hi < sfreq / 2:
        raise ValueError(
            f"a band-pass at {sfreq:g} Hz needs 0 < low < high < {sfreq / 2:g} Hz, "
            f"got ({lo:g}, {hi:g})"
        )
    # Analogue edges that the bilinear transform s = (z - 1) / (z + 1) maps to lo and hi.
    w_lo, w_hi = np.tan(np.pi * lo / sfreq), np.tan(np.pi * hi / sfreq)
    width = w_hi - w_lo

    def bandpass_poles(pole: complex) -> tuple[complex, complex]:
        half = width * pole / 2
        root = np.sqrt(half * half - w_lo * w_hi + 0j)
        return half + root, half - root

    upper = np.exp(1j * np.pi * (2 * np.arange(order // 2) + order + 1) / (2 * order))
    pairs = [(s, np.conj(s)) for pole in upper for s in bandpass_poles(pole)]
    if order % 2:
        pairs.append(bandpass_poles(-1))  # conjugates, or both real where the band is wide
    sos = np.tile([1.0, 0.0, -1.0, 1.0, 0.0, 0.0], (order, 1))
    gain = 1.0
    for section, (s, t) in zip(sos, pairs, strict=True):
        z1, z2 = (1 + s) / (1 - s), (1 + t) / (1 - t)
        section[4:] = -(z1 + z2).real, (z1 * z2).real
        gain *= width / ((1 - s) * (1 - t)).real
    sos[0, :3] *= gain
    return sos


@functools.lru_cache(maxsize=64)
def _block_matrices(sos: tuple[tuple[float, ...], ...]) -> tuple[np.ndarray, ...]:
    """Matrices that take a cascade through a block of samples x from the state s.

    ``y = observe s + respond x`` and ``s' = move s + drive x``: run the recurrence itself once, on
    each unit state and on an impulse.
    """
    n = 2 * len(sos)
    state, sample = np.eye(n, n + 1), np.eye(1, n + 1, n)[0]
    outputs, states = [], []
    for _ in range(_BLOCK):
        after = state.copy()
        for i, (b0, b1, b2, _, a1, a2) in enumerate(sos):
            y = b0 * sample + state[2 * i]
            after[2 * i] = b1 * sample - a1 * y + state[2 * i + 1]
            after[2 * i + 1] = b2 * sample - a2 * y
            sample = y
        outputs.append(sample)
        states.append(after)
        state, sample = after, np.zeros(n + 1)
    outputs, states = np.stack(outputs), np.stack(states)
    lag = np.subtract.outer(np.arange(_BLOCK), np.arange(_BLOCK))
    respond = np.where(lag >= 0, outputs[np.maximum(lag, 0), n], 0.0)
    return outputs[:, :n], respond, states[-1, :, :n], states[::-1, :, n].T.copy()


def sosfilt(x: Tensor, sos: np.ndarray) -> Tensor:
    """Run a cascade of second-order sections over ``x``, causally, from a zero state.

    Parameters
    ----------
    x : Tensor, shape (..., n_times)
        Signal.
    sos : ndarray, shape (n_sections, 6)
        Sections, a0 = 1.

    Returns
    -------
    Tensor, shape (..., n_times)
        Filtered signal, computed in the dtype of ``x``. About ``2 n_times * 128`` multiplications
        per channel, in products of 128 samples each.
    """
    matrices = _block_matrices(tuple(map(tuple, sos)))
    observe, respond, move, drive = (
        torch.tensor(matrix, dtype=x.dtype, device=x.device).T for matrix in matrices
    )
    n_times = x.shape[-1]
    blocks = torch.nn.functional.pad(x, (0, -n_times % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    driven = blocks @ drive  # (..., n_blocks, 2 n_sections)
    state, states = torch.zeros_like(driven[..., 0, :]), []
    for i in range(blocks.shape[-2]):
        states.append(state)
        state = state @ move + driven[..., i, :]
    y = blocks @ respond + torch.stack(states, -2) @ observe
    return y.flatten(-2)[..., :n_times]


def _odd_extension(x: Tensor, pad: int) -> Tensor:
    """Extend ``x`` at both ends by its point reflection, as SciPy's ``filtfilt`` does."""
    before = 2 * x[..., :1] - x[..., 1 : pad + 1].flip(-1)
    after = 2 * x[..., -1:] - x[..., -pad - 1 : -1].flip(-1)
    return torch.cat([before, x, after], -1)


def filtfilt(x: Tensor, sos: np.ndarray, pad: int) -> Tensor:
    """Filter forward and backward, so that no phase shift remains and the gain is squared.

    As ``scipy.signal.filtfilt`` for a filter that blocks constants: starting each pass in the state
    of a signal that always had its first value is then the same as subtracting that value.

    Parameters
    ----------
    x : Tensor, shape (..., n_times)
        Signal, more than ``pad`` samples.
    sos : ndarray, shape (n_sections, 6)
        Sections with a zero at 0 Hz.
    pad : int
        Samples of odd extension at each end.

    Returns
    -------
    Tensor, shape (..., n_times)
    """
    y = _odd_extension(x, pad)
    for _ in range(2):
        y = sosfilt(y - y[..., :1], sos).flip(-1)
    return y[..., pad:-pad]


def butterworth_ba(lo: float, hi: float, sfreq: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Design the same filter as SciPy's polynomials ``b, a``, which must match to the last bit."""
    try:
        from scipy.signal import butter
    except ImportError as error:
        raise ImportError(
            "arithmetic='original' designs its filters with SciPy: pip install 'eegfast[io]'"
        ) from error
    return butter(order, [lo / (0.5 * sfreq), hi / (0.5 * sfreq)], btype="band")


def lfilter_ba(x: Tensor, b: np.ndarray, a: np.ndarray, state: np.ndarray | None = None) -> Tensor:
    """Run ``scipy.signal.lfilter(b, a, x)`` with the same operations in the same order.

    One step of a Python loop per sample: fast over many short signals, slow over one long signal.

    Parameters
    ----------
    x : Tensor, shape (..., n_times)
        Signal.
    b, a : ndarray, shape (n,)
        Polynomials, ``a[0] == 1``.
    state : ndarray, shape (n - 1,), optional
        Initial state per unit of the first sample (``scipy.signal.lfilter_zi``). Default: zero.

    Returns
    -------
    Tensor, shape (..., n_times)
    """
    column = (-1, *(1,) * (x.dim() - 1))
    b, a = (torch.as_tensor(v, dtype=x.dtype, device=x.device).view(column) for v in (b, a))
    last = torch.zeros_like(x[..., 0]).unsqueeze(0)
    if state is None:
        z = last.expand(len(b) - 1, *last.shape[1:])
    else:
        z = torch.as_tensor(state, dtype=x.dtype, device=x.device).view(column) * x[..., 0]
    filtered = []
    for sample in x.movedim(-1, 0).contiguous():
        y = z[0] + b[0] * sample
        z = torch.cat([z[1:], last]) + b[1:] * sample - a[1:] * y
        filtered.append(y)
    return torch.stack(filtered, -1)


def filtfilt_ba(x: Tensor, b: np.ndarray, a: np.ndarray, pad: int) -> Tensor:
    """Run ``scipy.signal.filtfilt(b, a, x)`` with the same operations in the same order."""
    from scipy.signal import lfilter_zi

    state = lfilter_zi(b, a)
    y = _odd_extension(x, pad)
    for _ in range(2):
        y = lfilter_ba(y, b, a, state).flip(-1)
    return y[..., pad:-pad]
