# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: those of the CPU kernel (tests/ops/test_bandpass_power.py); a half type rounds its
result once, by at most 2**-11 (float16) or 2**-8 (bfloat16)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import relative_error
from scipy import signal

from eegfast import reference

BANDS = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
LIMIT = {
    torch.float32: 2e-5,
    torch.float64: 1e-11,
    torch.float16: 2**-11 + 2e-5,
    torch.bfloat16: 2**-8 + 2e-5,
}


def butterworth(order, sfreq=200, bands=BANDS):
    filters = [signal.butter(order, band, "bandpass", fs=sfreq, output="sos") for band in bands]
    return torch.from_numpy(np.stack(filters))


def check(emulated, x, sos, window, step, ddof=1):
    out = emulated.bandpass_power(emulated.guarded(x), sos, window, step, ddof)
    truth = reference.bandpass_power(x.double(), sos, window, step, ddof)
    assert out.dtype == x.dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= LIMIT[x.dtype]


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("window, step", [(100, 100), (100, 30), (60, 90), (64, 64), (40, 3)])
def test_values(emulated, dtype, window, step):
    check(emulated, (20 * torch.randn(2, 19, 301)).to(dtype), butterworth(3), window, step)


@pytest.mark.parametrize("order", [1, 2, 4, 5, 7, 10])
def test_orders(emulated, order):
    check(emulated, 20 * torch.randn(3, 300), butterworth(order)[1:], 128, 128)


def test_many_bands(emulated):
    bands = [(f, f + 4) for f in range(1, 60, 4)]
    for dtype in (torch.float32, torch.float64):
        check(emulated, torch.randn(33, 250, dtype=dtype), butterworth(2, bands=bands), 100, 50)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [20, 7, 30])
def test_a_bad_sample_stays_in_its_windows_and_channel(emulated, step, bad):
    x = torch.randn(2, 19, 300)
    x[1, 4, 98] = bad
    out = emulated.bandpass_power(x, butterworth(2), 20, step, 0)
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= 98) & (98 < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)


def test_strides_and_empty(emulated):
    base = torch.randn(3, 4, 5, 200)
    for x in (base[:, ::2, 1:], base.transpose(0, 2), base[..., ::2]):
        out = emulated.bandpass_power(x, butterworth(2), 50, 50, 0)
        assert torch.equal(out, emulated.bandpass_power(x.clone(), butterworth(2), 50, 50, 0))
    for shape in ((0, 3, 50), (2, 0, 50), (2, 3, 9)):
        out = emulated.bandpass_power(torch.randn(shape), butterworth(2), 10, 10, 0)
        assert out.numel() == 0


def test_too_many_sections_are_refused(emulated):
    with pytest.raises(RuntimeError, match="eegfast.ops.bandpass_power"):
        emulated.bandpass_power(torch.randn(2, 50), butterworth(11)[:1], 10, 10, 0)


def test_same_bits_in_any_order_of_threads(emulated):
    x, outs = torch.randn(40, 300), []
    for seed in (1, 2):
        emulated.set_seed(seed)
        outs.append(emulated.bandpass_power(x, butterworth(3), 100, 40, 0))
    assert torch.equal(*outs)
