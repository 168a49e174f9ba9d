# SPDX-License-Identifier: BSD-3-Clause
"""Sums behind a bank of band-passes, against every way torch has to filter or to avoid it."""

from __future__ import annotations

import pytest
import torch
from harness import pink_noise, relative_error
from torch.nn import functional as F

from eegfast import ops
from eegfast.nn import fir_bank

SFREQ, LENGTH = 200, 41
HAMNET = [(f, f + 2) for f in range(40, 76, 2)]
WIDE = [(4 * k + 1, 4 * k + 5) for k in range(8)]

# HAMNet's batch behind its spatial filters; trials of DEAP; SEED's electrodes, fewer filters. With
# milliseconds predicted from vector operations, one per cycle at 1.9 GHz on both of two cores.
SHAPES = {
    "fb_hamnet": ((100, 16, 200), HAMNET),
    "fb_deap": ((4, 32, 8064), HAMNET),
    "fb_seed": ((8, 62, 2000), WIDE),
}
PREDICTED_MS = {"fb_hamnet": (1.1, 3.6), "fb_deap": (1.4, 4.7), "fb_seed": (1.7, 5.0)}
GOAL = (1, 1)  # ahead of every torch formulation


def next_fast(n: int) -> int:
    """The next length whose only prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def as_sums(y):
    """(batch, filters, rows, n_times) to total and squares."""
    return y.sum(-1), y.square().sum(-1)


def conv2d(x, taps):
    return as_sums(F.conv2d(x.unsqueeze(1), taps[:, None, None], padding="same"))


def conv2d_channels_last(x, taps):
    weight = taps[:, None, None].contiguous(memory_format=torch.channels_last)
    rows = x.unsqueeze(1).contiguous(memory_format=torch.channels_last)
    return as_sums(F.conv2d(rows, weight, padding="same"))


def conv1d(x, taps):
    y = F.conv1d(x.reshape(-1, 1, x.shape[-1]), taps[:, None], padding="same")
    return as_sums(y.unflatten(0, x.shape[:2]).transpose(1, 2))


def fourier(x, taps):
    half = LENGTH // 2
    n = next_fast(x.shape[-1] + LENGTH - 1)
    spectrum = torch.fft.rfft(x, n=n).unsqueeze(1) * torch.fft.rfft(taps.flip(1), n=n)[:, None]
    return as_sums(torch.fft.irfft(spectrum, n=n)[..., half : half + x.shape[-1]])


def matrix_product(x, taps):
    frames = F.pad(x, (LENGTH // 2, LENGTH // 2)).unfold(-1, LENGTH, 1)
    return as_sums((frames @ taps.T).permute(0, 3, 1, 2))


def lag_sums_fourier(rows):
    """sum_t x[t] x[t - d], d < LENGTH, by one transform there and one back."""
    n = next_fast(rows.shape[-1] + LENGTH - 1)
    spectrum = torch.fft.rfft(rows, n=n)
    energy = spectrum.real.square() + spectrum.imag.square()
    return torch.fft.irfft(energy, n=n)[:, :LENGTH]


def lag_sums_blocks(rows):
    """The same by matrix products: blocks of samples against what follows them, and diagonals."""
    width = 2 * LENGTH
    blocks = -(-rows.shape[-1] // LENGTH)
    padded = F.pad(rows, (0, (blocks + 1) * LENGTH - rows.shape[-1]))
    frames = padded.unfold(-1, width, LENGTH)  # (rows, blocks, width)
    products = (frames[..., :LENGTH].mT @ frames).flatten(1)
    return F.pad(products, (0, LENGTH)).unflatten(1, (LENGTH, width + 1))[..., :LENGTH].sum(1)


def lag_sums_shifts(rows):
    """The same lag by lag: what a compiler makes one loop of."""
    later = F.pad(rows, (0, LENGTH - 1))
    n = rows.shape[-1]
    return torch.stack([(rows * later[:, d : d + n]).sum(-1) for d in range(LENGTH)], 1)


def autocorrelation(x, taps, lag_sums):
    """Our own formulation, in float64 as it must be: the full power less that of the ends."""
    half = LENGTH // 2
    rows, taps = x.double().flatten(0, 1), taps.double()
    c = (taps.unsqueeze(1) @ F.pad(taps, (0, LENGTH - 1)).unfold(1, LENGTH, 1).mT).squeeze(1)
    c = torch.cat([c[:, :1], 2 * c[:, 1:]], 1)
    squares = lag_sums(rows) @ c.T
    total = rows.sum(-1, keepdim=True) * taps.sum(1)
    for samples, ending in ((rows[:, :half], taps.flip(1)), (rows.flip(1)[:, :half], taps)):
        toeplitz = F.pad(ending[:, :half].flip(1), (0, half - 1)).unfold(1, half, 1).flip(1)
        y = (samples @ toeplitz.flatten(0, 1).T).unflatten(1, (-1, half))
        total = total - y.sum(-1)
        squares = squares - y.square().sum(-1)
    return tuple(s.float().unflatten(0, x.shape[:2]).transpose(1, 2) for s in (total, squares))


def autocorrelation_fourier(x, taps):
    return autocorrelation(x, taps, lag_sums_fourier)


def autocorrelation_blocks(x, taps):
    return autocorrelation(x, taps, lag_sums_blocks)


def autocorrelation_shifts(x, taps):
    return autocorrelation(x, taps, lag_sums_shifts)


RIVALS = {
    "eager": conv2d,
    "eager channels_last": conv2d_channels_last,
    "eager conv1d": conv1d,
    "eager FFT": fourier,
    "eager matrix product": matrix_product,
    "eager autocorrelation FFT": autocorrelation_fourier,
    "eager autocorrelation blocks": autocorrelation_blocks,
}
COMPILED = {
    "compile": conv2d,
    "compile conv1d": conv1d,
    "compile autocorrelation FFT": autocorrelation_fourier,
    "compile autocorrelation blocks": autocorrelation_blocks,
    "compile autocorrelation shifts": autocorrelation_shifts,
}


def rivals(bench):
    return {**RIVALS, **{name: bench.compile(f) for name, f in COMPILED.items()}}


def inputs(name):
    shape, bands = SHAPES[name]
    x = pink_noise(*shape, generator=torch.Generator().manual_seed(0))
    return x, fir_bank(bands, SFREQ, LENGTH).float()


def error_of(truth):
    """Of the power relative per element, of the total relative to its norm: the worse of both."""
    total, squares = truth

    def error(value):
        worst = ((value[1].double() - squares) / squares).abs().max()
        return max(float(worst), relative_error(value[0], total))

    return error


def filtered_in_float64(x, taps):
    totals, powers = zip(*(conv2d(trial[None].double(), taps.double()) for trial in x), strict=True)
    return torch.cat(totals), torch.cat(powers)


@pytest.mark.parametrize("name", SHAPES)
def bench_forward(bench, name):
    x, taps = inputs(name)
    truth = filtered_in_float64(x, taps)
    with torch.inference_mode():
        bench.compare(
            f"filter_bank_power {name}",
            f"{tuple(x.shape)} {len(taps)} x {LENGTH}",
            lambda: ops.filter_bank_power(x, taps),
            {k: (lambda f=f: f(x, taps)) if f else None for k, f in rivals(bench).items()},
            error_of(truth),
            error_limit=1e-6,
            rival_error_limit=1e-2,
            predicted_ms=PREDICTED_MS[name][0],
            goal=GOAL,
        )


@pytest.mark.parametrize("name", SHAPES)
def bench_forward_backward(bench, name):
    x, taps = inputs(name)
    grads = [torch.randn(x.shape[0], len(taps), x.shape[1]) for _ in range(2)]
    x.requires_grad_(), taps.requires_grad_()

    def both(function):
        return lambda: torch.autograd.grad(function(x, taps), (x, taps), grads)

    exact = [t.detach().double().requires_grad_() for t in (x, taps)]
    out = conv1d(*exact)
    truth = torch.autograd.grad(out, exact, [g.double() for g in grads])
    bench.compare(
        f"filter_bank_power {name} fwd+bwd",
        f"{tuple(x.shape)} {len(taps)} x {LENGTH}",
        both(ops.filter_bank_power),
        {k: both(f) if f else None for k, f in rivals(bench).items()},
        lambda value: max(relative_error(v, t) for v, t in zip(value, truth, strict=True)),
        error_limit=2e-6,
        rival_error_limit=1e-2,
        predicted_ms=PREDICTED_MS[name][1],
        goal=GOAL,
    )
