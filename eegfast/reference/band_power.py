# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.band_power`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _pairs(bins: Sequence[int]) -> list[tuple[int, int]]:
    """``bins`` is flat: start and stop of the first band, then of the second, and so on."""
    return list(zip(bins[::2], bins[1::2], strict=True))


def _spectrum(x: Tensor, taper: Tensor, window: int, step: int, n_fft: int) -> Tensor:
    used = min(window, n_fft)
    frames = x.unfold(-1, window, step)[..., :used]  # (..., n_chans, windows, used)
    return torch.fft.rfft(frames * taper[:used], n=n_fft)


def _band_means(spectrum: Tensor, bins: Sequence[int]) -> Tensor:
    energy = spectrum.real.square() + spectrum.imag.square()
    return torch.stack([energy[..., a:b].mean(-1) for a, b in _pairs(bins)], -1)


def band_power(
    x: Tensor,
    taper: Tensor,
    window: int,
    step: int,
    n_fft: int,
    bins: Sequence[int],
    gain: float,
    log2: bool,
) -> Tensor:
    if x.numel() == 0 or x.shape[-1] < window or not bins:
        windows = max(0, (x.shape[-1] - window) // step + 1)
        return x.new_zeros((*x.shape[:-2], windows, x.shape[-2], len(bins) // 2))
    power = gain * _band_means(_spectrum(x, taper, window, step, n_fft), bins)
    power = power.transpose(-3, -2).contiguous()
    return torch.log2(power) if log2 else power


def band_power_backward(
    grad: Tensor,
    x: Tensor,
    taper: Tensor,
    window: int,
    step: int,
    n_fft: int,
    bins: Sequence[int],
    gain: float,
    log2: bool,
) -> Tensor:
    if x.numel() == 0 or x.shape[-1] < window or not bins:
        return torch.zeros_like(x)
    spectrum = _spectrum(x, taper, window, step, n_fft)
    grad = grad.transpose(-3, -2)  # (..., n_chans, windows, bands)
    if log2:
        grad = grad / (math.log(2) * _band_means(spectrum, bins))
    else:
        grad = grad * gain
    weight = torch.zeros_like(spectrum.real)  # of each bin's energy
    for band, (a, b) in enumerate(_pairs(bins)):
        weight[..., a:b] += grad[..., band, None] / (b - a)
    # irfft counts every bin twice but the first and, for even lengths, the last.
    weight[..., 0] *= 2
    if n_fft % 2 == 0:
        weight[..., -1] *= 2
    used = min(window, n_fft)
    frames = x.new_zeros((*spectrum.shape[:-1], window))
    frames[..., :used] = n_fft * torch.fft.irfft(weight * spectrum, n=n_fft)[..., :used]
    frames[..., :used] *= taper[:used]
    return torch.ops.aten.unfold_backward(frames, x.shape, x.dim() - 1, window, step)
