# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: a recursion whose poles lie at distance d from +-1 amplifies rounding by up to 1/d^2,
which the kernel meets with double where d < 0.03. On white noise float32 then keeps a relative
error of 2e-5 in the variance; on 1/f noise, with little power in the higher bands, 1e-4 in log
units (the goal is 1e-3). In float64 the block form of the reference and the kernel's recursion
differ by their own rounding, under 1e-11."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import float64_leaf, relative_error
from scipy import signal

from eegfast import ops, reference

BANDS = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
LIMIT = {torch.float32: 2e-5, torch.float64: 1e-11}
FRAMINGS = [(100, 100), (100, 30), (60, 90), (1, 1), (64, 64), (130, 1)]


def butterworth(order, sfreq=200, bands=BANDS):
    return np.stack([signal.butter(order, b, "bandpass", fs=sfreq, output="sos") for b in bands])


def plain(sos):
    """The same filters with one zero at DC and one at Nyquist in each section."""
    sections = sos.copy()
    sections[..., 0], sections[..., 1], sections[..., 2] = 1, 0, -1
    sections[:, 0, :3] *= sos[:, :, 0].prod(-1)[:, None]
    return sections


def scipy_truth(x, sos, window, step, ddof=0):
    y = np.stack([signal.sosfilt(s, x.double().numpy()) for s in sos], -1)
    frames = torch.from_numpy(y).unfold(-2, window, step)  # (..., chans, windows, bands, window)
    return frames.var(-1, correction=ddof).transpose(-4 + 1, -4 + 2)


@pytest.mark.parametrize("window, step", FRAMINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scipy(isa, dtype, window, step):
    x = 20 * torch.randn(2, 19, 301, dtype=dtype)
    for sos in (butterworth(3), plain(butterworth(3))):
        out = ops.bandpass_power(x, sos, window=window, step=step)
        if window == 1:
            assert float(out.abs().max()) <= (1e-4 if dtype == torch.float32 else 1e-12)
            continue
        assert relative_error(out, scipy_truth(x, sos, window, step)) <= LIMIT[dtype]


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("sfreq", [128, 1000])
def test_orders_and_rates(isa, order, sfreq):
    x = 20 * torch.randn(5, 700)
    for sos in (butterworth(order, sfreq), plain(butterworth(order, sfreq))):
        out = ops.bandpass_power(x, sos, window=128, ddof=1)
        truth = scipy_truth(x, sos, 128, 128, ddof=1)
        assert float((0.5 * (out / truth).log()).abs().max()) <= 1e-4


def test_many_bands(isa):
    bands = [(f, f + 4) for f in range(4, 60, 4)]
    x = torch.randn(3, 300, dtype=torch.float64)
    sos = butterworth(2, bands=bands)
    out = ops.bandpass_power(x, sos, window=100)
    assert relative_error(out, scipy_truth(x, sos, 100, 100)) <= LIMIT[torch.float64]


def test_a_long_recording_with_an_offset_keeps_its_digits(isa):
    x = 20 * torch.randn(3, 60_000) + 5_000
    sos = plain(butterworth(3))
    out = ops.bandpass_power(x, sos, window=200)[50:]
    truth = scipy_truth(x, sos, 200, 200)[50:]
    assert float((0.5 * (out / truth).log()).abs().max()) <= 1e-3


@pytest.mark.parametrize("window, step", [(100, 100), (100, 30), (60, 90), (130, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(isa, dtype, window, step):
    x = 20 * torch.randn(2, 19, 301, dtype=dtype)
    for sos in (butterworth(3), plain(butterworth(5))):
        exact, leaf = float64_leaf(x), x.clone().requires_grad_()
        truth = reference.bandpass_power(exact, torch.from_numpy(sos), window, step, 1)
        grad = torch.randn_like(truth)
        truth.backward(grad)
        ops.bandpass_power(leaf, sos, window=window, step=step, ddof=1).backward(grad.to(dtype))
        assert relative_error(leaf.grad, exact.grad) <= LIMIT[dtype]


def test_written_out_backward_of_the_reference():
    x = torch.randn(3, 151, dtype=torch.float64)
    sos = torch.from_numpy(butterworth(2))
    leaf = float64_leaf(x)
    out = reference.bandpass_power(leaf, sos, 40, 15, 0)
    grad = torch.randn_like(out)
    (truth,) = torch.autograd.grad(out, leaf, grad)
    written = reference.bandpass_power_backward(grad, x, sos, 40, 15, 0)
    assert relative_error(written, truth) <= 1e-12


@pytest.mark.parametrize("step, at", [(20, 98), (7, 98), (30, 98), (30, 118)])  # 118: in a gap
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_stays_in_its_windows_and_channel(isa, step, at, bad):
    x = torch.randn(2, 19, 300)
    x[1, 4, at] = bad
    x.requires_grad_()
    out = ops.bandpass_power(x, butterworth(2), window=20, step=step)
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= at) & (at < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)
    out.sum().backward()
    bad_gradient = ~x.grad.isfinite()
    inside = torch.zeros_like(bad_gradient)
    for window in torch.nonzero(hit[1, :, 4, 0]).flatten():
        inside[1, 4, window * step : window * step + 20] = True
    assert not (bad_gradient & ~inside).any()


def test_reference_keeps_a_bad_sample_apart_too():
    x = torch.randn(3, 300, dtype=torch.float64)
    x[1, 118] = math.nan
    sos = torch.from_numpy(butterworth(2))
    out = reference.bandpass_power(x, sos, 20, 7, 0)
    assert torch.equal(out.isfinite(), ops.bandpass_power(x, sos, window=20, step=7).isfinite())


def test_strides_and_leading_dimensions(isa):
    base = torch.randn(3, 4, 5, 300, dtype=torch.float64)
    sos = butterworth(2)
    for x in (base, base[0, 0], base[:, ::2, 1:], base.transpose(0, 2), base[..., ::2]):
        out = ops.bandpass_power(x, sos, window=50)
        assert out.shape == (*x.shape[:-2], x.shape[-1] // 50, x.shape[-2], 5)
        assert torch.equal(out, ops.bandpass_power(x.contiguous(), sos, window=50))


def test_empty_inputs(isa):
    for shape, windows in (((0, 3, 50), 5), ((2, 0, 50), 5), ((2, 3, 9), 0)):
        x = torch.randn(shape, requires_grad=True)
        out = ops.bandpass_power(x, butterworth(2), window=10)
        assert out.shape == (shape[0], windows, shape[1], 5)
        out.sum().backward()
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_gradcheck(isa):
    x = torch.randn(2, 3, 45, dtype=torch.float64, requires_grad=True)
    for sos in (butterworth(2)[:2], plain(butterworth(3))[2:]):
        for step in (10, 4, 13):
            assert torch.autograd.gradcheck(
                lambda x, s=sos, step=step: ops.bandpass_power(x, s, window=10, step=step), x
            )


def test_opcheck():
    x = torch.randn(2, 3, 40, requires_grad=True)
    sos = torch.from_numpy(butterworth(2))
    torch.library.opcheck(torch.ops.eegfast.bandpass_power.default, (x, sos, 10, 5, 0))
    grad = torch.randn(2, 7, 3, 5)
    torch.library.opcheck(
        torch.ops.eegfast.bandpass_power_backward.default, (grad, x.detach(), sos, 10, 5, 0)
    )


def test_same_bits_again_and_on_any_number_of_threads(isa):
    x = torch.randn(3, 62, 2000, requires_grad=True)
    sos = plain(butterworth(3))

    def run():
        out = ops.bandpass_power(x, sos, window=200, step=150)
        return out.detach(), torch.autograd.grad(out.sum(), x)[0]

    threads = torch.get_num_threads()
    first = run()
    torch.set_num_threads(1)
    second = run()
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "sos, options, message",
    [
        (np.zeros((2, 6)), {}, "sos must be"),
        (np.zeros((1, 2, 6)), {}, "a0 != 0"),
        (np.full((1, 2, 6), np.nan), {}, "finite"),
        (None, dict(window=0), "window must be"),
        (None, dict(ddof=10), "ddof must be within 0 to 9"),
    ],
)
def test_bad_arguments_are_named(sos, options, message):
    sos = butterworth(2) if sos is None else sos
    with pytest.raises(ValueError, match=message):
        ops.bandpass_power(torch.randn(2, 50), sos, **{"window": 10, **options})


def test_a0_is_divided_out():
    sos = butterworth(2)
    x = torch.randn(2, 50, dtype=torch.float64)
    scaled = ops.bandpass_power(x, 2 * sos, window=10)
    torch.testing.assert_close(scaled, ops.bandpass_power(x, sos, window=10))
