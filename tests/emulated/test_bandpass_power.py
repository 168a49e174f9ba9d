# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: those of the CPU kernel (tests/ops/test_bandpass_power.py), which hold for signals
cut into spans too: the states that spans start in are found in double. A half type rounds its
result once, by at most 2**-11 (float16) or 2**-8 (bfloat16); so does a gradient."""

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


def plain(sos):
    """The same filters with one zero at DC and one at Nyquist in each section."""
    sections = sos.clone()
    sections[..., 0], sections[..., 1], sections[..., 2] = 1, 0, -1
    sections[:, 0, :3] *= sos[:, :, 0].prod(-1)[:, None]
    return sections


def check(emulated, x, sos, window, step, ddof=1):
    options = (sos, window, step, ddof)
    out = emulated.bandpass_power(emulated.guarded(x), *options)
    truth = reference.bandpass_power(x.double(), *options)
    assert out.dtype == x.dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= LIMIT[x.dtype]
    grad = torch.randn(truth.shape).to(x.dtype)
    out = emulated.bandpass_power_backward(emulated.guarded(grad), emulated.guarded(x), *options)
    truth = reference.bandpass_power_backward(grad.double(), x.double(), *options)
    assert out.dtype == x.dtype and out.shape == x.shape
    assert relative_error(out, truth) <= LIMIT[x.dtype]


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("window, step", [(100, 100), (100, 30), (60, 90), (64, 64), (40, 3)])
def test_values(emulated, dtype, window, step):
    check(emulated, (20 * torch.randn(2, 19, 301)).to(dtype), butterworth(3), window, step)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("window, step", [(100, 100), (100, 30), (60, 90), (37, 3), (1, 1)])
def test_a_long_signal_is_cut_into_spans(emulated, dtype, window, step):
    """Few chains, many windows; at 400 Hz two of the bands are computed in double."""
    x = (20 * torch.randn(2, 3, 1500)).to(dtype)
    sos = plain(butterworth(3, sfreq=400))
    if window > 1:
        return check(emulated, x, sos, window, step)
    out = emulated.bandpass_power(x, sos, window, step, 0)
    assert float(out.abs().max()) <= (1e-4 if dtype != torch.float64 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window, step", [(100, 100), (100, 50), (60, 90)])
def test_spans_longer_than_what_a_filter_remembers(emulated, dtype, window, step):
    x = 20 * torch.randn(2, 4000, dtype=dtype)
    x[0, :] += 5000
    sos = butterworth(2, bands=[(5, 95), (20, 90), (14, 31), (30, 70)])
    check(emulated, x, sos, window, step)


@pytest.mark.parametrize("order", [1, 2, 4, 5, 7, 10])
def test_orders(emulated, order):
    for sos in (butterworth(order)[1:], plain(butterworth(order)[1:])):
        check(emulated, 20 * torch.randn(3, 300), sos, 128, 128)
    check(emulated, 20 * torch.randn(2, 1300), butterworth(order)[2:4], 64, 48)


def test_many_bands(emulated):
    """More than share a launch; some in double, which take a turn of their own."""
    bands = [(f, f + 4) for f in range(1, 60, 4)]
    for dtype in LIMIT:
        x = torch.randn(33, 250).to(dtype)
        check(emulated, x, butterworth(2, sfreq=300, bands=bands), 100, 50)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step, at", [(20, 98), (7, 98), (30, 98), (30, 118), (20, 999)])
@pytest.mark.parametrize("n_times", [300, 1500])
def test_a_bad_sample_stays_in_its_windows_and_channel(emulated, n_times, step, at, bad):
    if at >= n_times:
        return
    x, sos = torch.randn(2, 9, n_times), butterworth(2)
    x[1, 4, at] = bad
    out = emulated.bandpass_power(x, sos, 20, step, 0)
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= at) & (at < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)
    truth = reference.bandpass_power(x.double(), sos, 20, step, 0)
    assert relative_error(out[~hit], truth[~hit]) <= LIMIT[torch.float32]

    grad = torch.randn(out.shape)
    grad_x = emulated.bandpass_power_backward(grad, x, sos, 20, step, 0)
    inside = torch.zeros(x.shape, dtype=torch.bool)
    for window in torch.nonzero(hit[1, :, 4, 0]).flatten():
        inside[1, 4, window * step : window * step + 20] = True
    assert not (~grad_x.isfinite() & ~inside).any()
    truth = reference.bandpass_power_backward(grad.double(), x.double(), sos, 20, step, 0)
    assert relative_error(grad_x[~inside], truth[~inside]) <= LIMIT[torch.float32]


def test_strides_and_empty(emulated):
    base = torch.randn(3, 4, 5, 200)
    for x in (base[:, ::2, 1:], base.transpose(0, 2), base[..., ::2]):
        out = emulated.bandpass_power(x, butterworth(2), 50, 50, 0)
        assert torch.equal(out, emulated.bandpass_power(x.contiguous(), butterworth(2), 50, 50, 0))
        grad = torch.randn(2, *out.shape).movedim(0, -1)[..., 0]
        grad_x = emulated.bandpass_power_backward(grad, x, butterworth(2), 50, 50, 0)
        flat = [t.contiguous() for t in (grad, x)]
        assert torch.equal(
            grad_x, emulated.bandpass_power_backward(*flat, butterworth(2), 50, 50, 0)
        )
    for shape in ((0, 3, 50), (2, 0, 50), (2, 3, 9)):
        x = torch.randn(shape)
        out = emulated.bandpass_power(x, butterworth(2), 10, 10, 0)
        assert out.numel() == 0
        grad_x = emulated.bandpass_power_backward(out, x, butterworth(2), 10, 10, 0)
        assert grad_x.shape == shape and not grad_x.any()


def test_single_element(emulated):
    sos, x = butterworth(1), torch.randn(1, 1)
    assert emulated.bandpass_power(x, sos, 1, 1, 0).abs().max() <= 1e-7
    grad_x = emulated.bandpass_power_backward(torch.ones(1, 1, 5), x, sos, 1, 1, 0)
    assert grad_x.shape == x.shape and grad_x.abs().max() <= 1e-7


def test_too_many_sections_are_refused(emulated):
    x, sos = torch.randn(2, 50), butterworth(11)[:1]
    with pytest.raises(RuntimeError, match="eegfast.ops.bandpass_power"):
        emulated.bandpass_power(x, sos, 10, 10, 0)
    with pytest.raises(RuntimeError, match="eegfast.ops.bandpass_power"):
        emulated.bandpass_power_backward(torch.randn(5, 2, 1), x, sos, 10, 10, 0)


@pytest.mark.parametrize("shape", [(40, 300), (3, 1500)])
def test_same_bits_in_any_order_of_threads(emulated, shape):
    x, outs = torch.randn(shape), []
    for seed in (1, 2):
        emulated.set_seed(seed)
        out = emulated.bandpass_power(x, butterworth(3), 100, 40, 0)
        outs.append((out, emulated.bandpass_power_backward(out, x, butterworth(3), 100, 40, 0)))
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
