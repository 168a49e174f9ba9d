# SPDX-License-Identifier: BSD-3-Clause
"""Differential entropy by short Fourier transforms, against every way torch has to compute it."""

from __future__ import annotations

import math

import pytest
import torch
from harness import absolute_error, pink_noise, relative_error

from eegfast import ops

BANDS = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
SFREQ = 200

SHAPES = {
    "de_seed_trial": ((1, 62, 48_000), 200, 256),
    "de_seed_batch": ((8, 62, 48_000), 200, 256),
    "de_win4s": ((1, 62, 48_000), 800, 1024),
    "de_online": ((32, 62, 200), 200, 256),
    "de_online_1": ((1, 62, 200), 200, 256),
}
GRADIENT_SHAPES = ["de_seed_trial", "de_online"]


def contenders(window: int, n_fft: int, dtype: torch.dtype, device: str = "cpu"):
    """Return ours, the natural formulation, and the few bins needed as one matrix product."""
    bins = ops.band_bins(BANDS, SFREQ, n_fft)
    low, high = bins[0][0], bins[-1][1]
    t = torch.arange(window, dtype=torch.float64)
    taper64 = 0.5 - 0.5 * torch.cos(2 * math.pi * t / (window - 1))
    angle = -2 * math.pi * torch.outer(t, torch.arange(low, high, dtype=torch.float64)) / n_fft
    taper = taper64.to(device, dtype)
    dft = (taper64[:, None] * torch.cat([angle.cos(), angle.sin()], 1)).to(device, dtype)
    mean = torch.zeros(high - low, len(bins), dtype=dtype, device=device)
    for band, (a, b) in enumerate(bins):
        mean[a - low : b - low, band] = 1 / (b - a)

    def ours(x):
        return ops.band_power(x, window=window, n_fft=n_fft, bins=bins, gain=100.0, log2=True)

    def natural(x):
        spectrum = torch.fft.rfft(x.unfold(-1, window, window) * taper, n=n_fft)
        energy = spectrum.abs().square()
        power = torch.stack([energy[..., a:b].mean(-1) for a, b in bins], -1)
        return torch.log2(100 * power).transpose(-3, -2).contiguous()

    def matrix_product(x):
        real, imag = (x.unfold(-1, window, window) @ dft).chunk(2, -1)
        power = (real.square() + imag.square()) @ mean
        return torch.log2(100 * power).transpose(-3, -2).contiguous()

    return ours, natural, matrix_product


@pytest.mark.parametrize("name", SHAPES)
def bench_forward(bench, name):
    shape, window, n_fft = SHAPES[name]
    x = pink_noise(*shape, generator=torch.Generator().manual_seed(0))
    truth = contenders(window, n_fft, torch.float64)[1](x.double())
    ours, natural, matrix_product = contenders(window, n_fft, torch.float32)
    compiled = {
        "compile": bench.compile(natural),
        "compile matrix product": bench.compile(matrix_product),
    }
    rivals = {"eager": natural, "eager matrix product": matrix_product, **compiled}
    with torch.inference_mode():
        bench.compare(
            f"band_power {name}",
            f"{shape} W{window} n{n_fft}",
            lambda: ours(x),
            {k: (lambda f=f: f(x)) if f else None for k, f in rivals.items()},
            lambda value: absolute_error(value, truth),
            error_limit=1e-4,
            rival_error_limit=1e-2,
            goal=(8, 3.7),
        )


@pytest.mark.parametrize("name", GRADIENT_SHAPES)
def bench_forward_backward(bench, name):
    shape, window, n_fft = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = pink_noise(*shape, generator=generator).requires_grad_()
    exact = x.detach().double().requires_grad_()
    out = contenders(window, n_fft, torch.float64)[1](exact)
    grad = torch.randn(out.shape, generator=generator)
    (truth,) = torch.autograd.grad(out, exact, grad.double())
    ours, natural, matrix_product = contenders(window, n_fft, torch.float32)
    rivals = {
        "eager": natural,
        "eager matrix product": matrix_product,
        "compile": bench.compile(natural),
        "compile matrix product": bench.compile(matrix_product),
    }

    def both(function):
        return lambda: torch.autograd.grad(function(x), x, grad)[0]

    bench.compare(
        f"band_power {name} fwd+bwd",
        f"{shape} W{window} n{n_fft}",
        both(ours),
        {k: both(f) if f else None for k, f in rivals.items()},
        lambda value: relative_error(value, truth),
        error_limit=2e-6,
        goal=(12, 3.5),
    )
