# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: the states of a section are a rotated and damped copy of those before, so rounding
errors are damped too and add up over what a filter remembers, some hundred samples: under 1e-5 even
where the poles lie at 0.006 from 1, a tenth of that for the usual bands. Not 2e-5, what the other
kernels are allowed for these bands, so that a loss of digits is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import BANDS
from cases import resonators as unscaled
from numerics import relative_error
from scipy import signal

from eegfast import reference

LIMIT = {torch.float32: 5e-6, torch.float64: 1e-11, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def ours(kernels):
    return kernels("bandpass_power")


@pytest.fixture
def spans(ours, monkeypatch):
    """Cut time into that many spans."""

    def cut(spans):
        kept = ours.configs
        monkeypatch.setattr(ours, "configs", lambda *args: kept(*args) | dict(spans=spans))

    return cut


def butterworth(order, sfreq=200, bands=BANDS):
    filters = [signal.butter(order, band, "bandpass", fs=sfreq, output="sos") for band in bands]
    return torch.from_numpy(np.stack(filters))


def resonators(*args, **options):
    sos = unscaled(*args, **options)
    return sos / sos[..., 3:4]


def check(ours, x, sos, window, step, ddof=1, limit=None):
    options = (sos, window, step, ddof)
    limit = limit or LIMIT[x.dtype]
    out = ours.bandpass_power(x, *options)
    truth = reference.bandpass_power(x.double(), *options)
    assert out.dtype == x.dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= limit
    grad = torch.randn(truth.shape).to(x.dtype)
    out = ours.bandpass_power_backward(grad, x, *options)
    truth = reference.bandpass_power_backward(grad.double(), x.double(), *options)
    assert out.dtype == x.dtype and out.shape == x.shape
    assert relative_error(out, truth) <= limit


# A window is one slot, is some, reaches over many; gaps; rests of blocks, nothing but rests.
FRAMINGS = [(64, 64), (50, 50), (40, 20), (37, 16), (60, 90), (9, 2)]


@pytest.mark.parametrize("window, step", FRAMINGS)
def test_spans(ours, spans, window, step):
    spans(3)
    x = 20 * torch.randn(2, 5 * step + window + 1) + 100
    check(ours, x, resonators(BANDS[1:4], 2), window, step)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_spans_of_other_types(ours, spans, dtype):
    spans(2)
    check(ours, torch.randn(2, 1, 150).to(dtype), resonators(BANDS, 3, plain=False), 40, 30)


@pytest.mark.parametrize("order", [1, 4, 10])
def test_orders(ours, spans, order):
    spans(2)
    check(ours, 20 * torch.randn(1, 100), butterworth(order)[2:4], 48, 48)


def test_narrow_bands_keep_their_digits(ours):
    sos = butterworth(3, sfreq=1000, bands=BANDS[:2])
    check(ours, 20 * torch.randn(2, 600) + 50, sos, 200, 200, limit=1e-5)


def test_many_bands(ours):
    bands = [(f, f + 2) for f in range(4, 41)]
    check(ours, torch.randn(4, 40), resonators(bands, 1), 20, 20)
    check(ours, torch.randn(2, 3, 40), resonators(bands[:1], 1), 20, 20)


def test_many_programs(ours, monkeypatch):
    kept = ours.configs
    few = dict(LANES=32, num_warps=1)
    monkeypatch.setattr(ours, "configs", lambda *args: kept(*args) | few)
    check(ours, torch.randn(3, 5, 40), resonators(BANDS, 1), 20, 10)


def test_configurations(ours):
    """Spans where chains are few, none where they are many; lanes for all bands of a row."""
    assert ours.configs(64 * 62, 5, 240, 200)["spans"] == 1
    assert ours.configs(62, 5, 240, 200)["spans"] == 64
    assert ours.configs(62, 5, 1, 200)["spans"] == 1
    for rows, bands in ((1, 1), (7, 5), (1, 200), (1000, 5)):
        config = ours.configs(rows, bands, 10, 10)
        assert bands <= config["LANES"] == 32 * config["num_warps"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step, at, count", [(20, 59, 1), (7, 58, 2), (30, 58, 2), (30, 39, 1)])
def test_a_bad_sample_stays_in_its_windows_and_channel(ours, spans, bad, step, at, count):
    """Where step is 30, sample 58 lies in a gap."""
    spans(count)
    x, sos = torch.randn(2, 110), resonators(BANDS[2:], 2)
    x[1, at] = bad
    out = ours.bandpass_power(x, sos, 20, step, 0)
    starts = torch.arange(len(out)) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[(starts <= at) & (at < starts + 20), 1] = True
    assert torch.equal(~out.isfinite(), hit)
    truth = reference.bandpass_power(x.double(), sos, 20, step, 0)
    assert relative_error(out[~hit], truth[~hit]) <= LIMIT[torch.float32]

    grad = torch.randn(out.shape)
    grad_x = ours.bandpass_power_backward(grad, x, sos, 20, step, 0)
    inside = torch.zeros(x.shape, dtype=torch.bool)
    for window in torch.nonzero(hit[:, 1, 0]).flatten():
        inside[1, window * step : window * step + 20] = True
    assert not (~grad_x.isfinite() & ~inside).any()
    truth = reference.bandpass_power_backward(grad.double(), x.double(), sos, 20, step, 0)
    assert relative_error(grad_x[~inside], truth[~inside]) <= LIMIT[torch.float32]


def test_strides(ours):
    base = torch.randn(2, 3, 4, 82)
    sos = resonators(BANDS, 1)
    for x in (
        base[:, ::2, 1:],
        base.transpose(0, 2),
        base[..., ::2],
        base[:1].expand(2, -1, -1, -1),
    ):
        dense = x.clone(memory_format=torch.contiguous_format)
        out = ours.bandpass_power(x, sos, 40, 40, 0)
        assert torch.equal(out, ours.bandpass_power(dense, sos, 40, 40, 0))
        grad = torch.randn(*out.shape, 2)[..., 0]
        out = ours.bandpass_power_backward(grad, x, sos, 40, 40, 0)
        again = ours.bandpass_power_backward(grad.contiguous(), dense, sos, 40, 40, 0)
        assert torch.equal(out, again)


def test_empty(ours):
    sos = resonators(BANDS, 2)
    for shape, windows in (((0, 3, 50), 5), ((2, 0, 50), 5), ((2, 3, 9), 0)):
        x = torch.randn(shape)
        out = ours.bandpass_power(x, sos, 10, 10, 0)
        assert out.shape == (shape[0], windows, shape[1], 5)
        grad_x = ours.bandpass_power_backward(out, x, sos, 10, 10, 0)
        assert torch.equal(grad_x, torch.zeros_like(x))


def test_windows_of_one_sample(ours):
    sos, x = resonators(BANDS, 1), 20 * torch.randn(1, 3)
    assert float(ours.bandpass_power(x, sos, 1, 1, 0).abs().max()) <= 1e-4
    grad_x = ours.bandpass_power_backward(torch.ones(3, 1, 5), x, sos, 1, 1, 0)
    assert float(grad_x.abs().max()) <= 1e-4


def test_what_is_left_to_the_reference(ours):
    x, sos = torch.randn(2, 50), resonators(BANDS[:1], 11)
    unstable, delayed = sos[:, :1].clone(), sos[:, :1].clone()
    unstable[..., 5], delayed[..., 0] = -1.5, 0
    for refused in (sos, unstable, delayed):
        with pytest.raises(NotImplementedError, match="bandpass_power in Triton"):
            ours.bandpass_power(x, refused, 10, 10, 0)
