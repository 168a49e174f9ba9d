# SPDX-License-Identifier: BSD-3-Clause
"""What filter_bank_power's kernels are held to where they are called by themselves: ``op`` has its
two functions."""

from __future__ import annotations

import math

import torch
from numerics import relative_error

from eegfast import reference
from eegfast.nn import fir_bank

EXACT = 1e-13


def data(shape, filters, length, dtype=torch.float64):
    return torch.randn(shape).to(dtype), torch.randn(filters, length, dtype=torch.float64)


def gradients_asked_for(op, wanted, n_times, length):
    x, taps = data((2, 3, n_times), 5, length)
    end = length // 2
    out = reference.filter_bank_power(x, taps, end, end)
    grads = [
        None if wanted == other else torch.randn_like(t)
        for other, t in zip(("squares", "total"), out, strict=False)
    ]
    sums = None if wanted in ("x", "nothing") else out[2]
    arguments = (*grads, x, taps, sums, end, end, wanted not in ("taps", "nothing"))
    ours = op.filter_bank_power_backward(*arguments)
    for value, true in zip(ours, reference.filter_bank_power_backward(*arguments), strict=True):
        assert value.shape == true.shape and relative_error(value, true) <= EXACT


def narrow_bands_of_eeg_like_noise(op, shape, bands, length, ends, narrow, dtype, limit):
    """``narrow``: below which part of the power some band's must lie."""
    rows, n_times = shape
    spectrum = torch.fft.rfft(torch.randn(rows, n_times, dtype=torch.float64))
    falling = spectrum / torch.arange(n_times // 2 + 1).clamp(min=1)
    x = 20 * torch.fft.irfft(falling, n=n_times).to(dtype)
    taps = fir_bank(bands, 200, length).double()
    truth = reference.filter_bank_power(x.double(), taps, *ends)[1]
    assert (truth / x.double().square().sum(-1)).min() < narrow
    squares = op.filter_bank_power(x, taps, *ends)[1]
    assert ((squares - truth) / truth).abs().max() <= limit


def no_power_is_not_negative(op, n_times, filters, length):
    x = torch.full((2, 9, n_times), 3e3, dtype=torch.float64) + torch.randn(2, 9, 1)
    taps = torch.randn(filters, length, dtype=torch.float64)
    taps -= taps.mean(1, keepdim=True)
    squares = op.filter_bank_power(x, taps, length - 1, length - 1)[1]
    assert (squares >= 0).all() and squares.max() <= 1e-12 * n_times * 9e6


def bad_sample_stays_in_its_row(op, bad, sample, rows, filters, length):
    x, taps = data((2, rows, 60), filters, length, torch.float32)
    x[1, 4, sample] = bad
    end = length // 2
    out = op.filter_bank_power(x, taps, end, end)
    hit = torch.zeros(out[0].shape, dtype=torch.bool)
    hit[1, :, 4] = True
    assert torch.equal(~out[0].isfinite(), hit) and torch.equal(~out[1].isfinite(), hit)
    ones = [torch.ones_like(out[0])] * 2
    grad, _ = op.filter_bank_power_backward(*ones, x, taps, out[2], end, end, True)
    touched = torch.zeros(x.shape, dtype=torch.bool)
    touched[1, 4] = True
    assert grad[~touched].isfinite().all() and not grad[touched].isfinite().all()


def bad_filter_stays_to_itself(op, rows, dtype):
    x, taps = data((2, rows, 60), 12, 9, dtype)
    taps[5, 3] = math.nan
    total, squares, _ = op.filter_bank_power(x, taps, 4, 4)
    hit = torch.zeros(total.shape, dtype=torch.bool)
    hit[:, 5] = True
    assert torch.equal(total.isnan(), hit) and torch.equal(squares.isnan(), hit)
