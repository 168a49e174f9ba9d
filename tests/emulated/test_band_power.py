# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: those of the CPU kernels (tests/ops/test_band_power.py) hold for the fast transforms.
The definition sums up to n products one after the other, an error of about sqrt(n) / 2 eps of the
row's norm, and the energies' double that; backward, two such sums. A half type rounds its result
once, by at most 2**-11 (float16) or 2**-8 (bfloat16)."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import relative_error

from eegfast import reference

FAST = [64, 128, 256, 512, 1024, 2048]
EPS = {torch.float32: 2**-24, torch.float64: 2**-53}
HALF = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


def some_bins(n_fft):
    top = n_fft // 2 + 1
    return [0, top, top // 3, top // 3 + 1, top // 2, top, top // 4, top // 2 + 1]


def limits(n_fft, window, dtype):
    if dtype in HALF:
        return HALF[dtype], HALF[dtype] * 1.01
    if n_fft in FAST and dtype == torch.float32:
        return 5e-7, 2e-6
    used = min(n_fft, window)
    return (4 + used**0.5) * EPS[dtype], (8 + 4 * used**0.5) * EPS[dtype]


def check(emulated, x, window, step, n_fft, bins, log2=False, gain=3.0):
    dtype = x.dtype
    wide = torch.promote_types(dtype, torch.float32)
    taper = (torch.rand(window, dtype=torch.float64) + 0.5).to(wide)
    options = (window, step, n_fft, bins, gain, log2)
    forward, backward = limits(n_fft, window, dtype)
    signal, taper_there = emulated.guarded(x), emulated.guarded(taper)
    out = emulated.band_power(signal, taper_there, *options)
    truth = reference.band_power(x.double(), taper.double(), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= forward
    grad = torch.randn_like(truth).to(dtype)
    out = emulated.band_power_backward(emulated.guarded(grad), signal, taper_there, *options)
    truth = reference.band_power_backward(grad.double(), x.double(), taper.double(), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= backward * (10 if log2 and dtype not in HALF else 1)


# window and step as parts of n_fft: padded, equal, longer; apart, adjoining, overlapping.
FRAMINGS = [(0.78, 0.78), (1, 1), (1.3, 1.45), (0.97, 0.31), (0.5, 0.61)]


@pytest.mark.parametrize("n_fft", FAST)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_fast_transforms(emulated, n_fft, framing):
    window, step = (max(1, int(part * n_fft)) for part in framing)
    x = torch.randn(2, 3, int(3.7 * window))
    check(emulated, x, window, step, n_fft, some_bins(n_fft))


DEFINITIONS = [(200, 200, 100), (250, 230, 240), (77, 63, 20), (127, 127, 50), (13, 13, 13)]
DEFINITIONS += [(16, 16, 5), (7, 20, 7), (2, 2, 1), (1, 1, 1), (32, 9, 9), (4096, 90, 61)]


@pytest.mark.parametrize("n_fft, window, step", DEFINITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_length(emulated, dtype, n_fft, window, step):
    x = torch.randn(2, 5, 2 * window + 3 * step + 1, dtype=dtype)
    bins = some_bins(n_fft) if n_fft < 4096 else [100, 230, 190, 191]
    check(emulated, x, window, step, n_fft, bins)


def test_float64_by_the_definition_at_a_fast_length(emulated):
    x = torch.randn(1, 3, 420, dtype=torch.float64)
    check(emulated, x, 200, 110, 256, some_bins(256))


@pytest.mark.parametrize("n_fft", [64, 100, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log2(emulated, dtype, n_fft):
    x = torch.randn(2, 3, 3 * n_fft + 5, dtype=dtype)
    check(emulated, x, n_fft - 3, n_fft // 2, n_fft, [0, n_fft // 2 + 1, 2, n_fft // 3], log2=True)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("n_fft, step", [(64, 64), (64, 20), (50, 50), (50, 21)])
def test_half_types(emulated, dtype, n_fft, step):
    x = torch.randn(2, 5, 5 * n_fft + 1).to(dtype)
    for log2 in (False, True):
        check(emulated, x, n_fft, step, n_fft, [0, n_fft // 2 + 1, 3, n_fft // 2], log2)


@pytest.mark.parametrize("n_fft", [64, 100, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bin_a_band(emulated, dtype, n_fft):
    """More bands than a launch takes, in no order, some of them twice."""
    bins = [edge for k in torch.randperm(n_fft // 2 + 1).tolist() for edge in (k, k + 1)]
    x = torch.randn(3, 2 * n_fft).to(dtype)
    check(emulated, x, n_fft, n_fft // 2 + 1, n_fft, bins + bins[:30])


@pytest.mark.parametrize("n_fft", [64, 60])
def test_strides(emulated, n_fft):
    base = torch.randn(3, 4, 6, 301)
    taper = torch.rand(50)
    options = (50, 30, n_fft, [1, 5, 3, 9], 1.0, False)
    for make in (
        lambda x: x[:, ::2],
        lambda x: x[::2, 1:, ::2, 10:],
        lambda x: x[..., 1:-1],
        lambda x: x.transpose(0, 2),
        lambda x: x[..., ::2],
        lambda x: x[:1].expand(3, -1, -1, -1),
    ):
        x = make(emulated.guarded(base))
        out = emulated.band_power(x, taper, *options)
        dense = x.clone(memory_format=torch.contiguous_format)
        assert torch.equal(out, emulated.band_power(dense, taper, *options))
        grad = torch.randn_like(out)
        out = emulated.band_power_backward(grad, x, taper, *options)
        assert torch.equal(out, emulated.band_power_backward(grad, dense, taper, *options))


@pytest.mark.parametrize("step", [20, 7, 30])
@pytest.mark.parametrize("n_fft", [64, 20])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_stays_in_its_windows_and_channel(emulated, step, n_fft, bad):
    x = torch.randn(2, 19, 300)
    x[1, 4, 98] = bad
    options = (20, step, n_fft, [1, 4, 4, 8], 1.0, False)
    out = emulated.band_power(x, torch.ones(20), *options)
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= 98) & (98 < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)
    grad = emulated.band_power_backward(torch.ones_like(out), x, torch.ones(20), *options)
    touched = torch.zeros(x.shape, dtype=torch.bool)
    for window in torch.nonzero(hit[1, :, 4, 0]).flatten():
        touched[1, 4, window * step : window * step + 20] = True
    assert grad[~touched].isfinite().all()
    assert grad[touched].isnan().any()


def test_log2_of_no_power(emulated):
    for n_fft in (64, 60):
        out = emulated.band_power(
            torch.zeros(2, n_fft), torch.ones(n_fft), n_fft, n_fft, n_fft, [0, 3], 1.0, True
        )
        assert (out == -math.inf).all()


def test_empty(emulated):
    for shape, windows in (((0, 3, 50), 5), ((2, 0, 50), 5), ((2, 3, 9), 0), ((2, 3, 0), 0)):
        x = torch.randn(shape)
        options = (10, 10, 64, [1, 3], 1.0, False)
        out = emulated.band_power(x, torch.ones(10), *options)
        assert out.shape == (shape[0], windows, shape[1], 1)
        grad = emulated.band_power_backward(out, x, torch.ones(10), *options)
        assert torch.equal(grad, torch.zeros_like(x))


@pytest.mark.parametrize("n_fft", [64, 60, 2048])
def test_same_bits_in_any_order_of_threads(emulated, n_fft):
    x, taper = torch.randn(3, 7, 3 * n_fft), torch.rand(n_fft)
    options = (n_fft, n_fft // 2, n_fft, [1, 9, 4, 30], 1.0, True)
    outs = []
    for seed in (1, 2, 3):
        emulated.set_seed(seed)
        out = emulated.band_power(x, taper, *options)
        outs.append((out, emulated.band_power_backward(out, x, taper, *options)))
    for again in outs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outs[0], again, strict=True))
