# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: a sum of n products, one after the other, has an error of about sqrt(n) / 2 eps of
the row's norm, and the energies' double that; backward, two such sums. Three passes of tf32 leave
out the product of the two rests and what either rest loses, each at most 2**-22 of a product and of
random sign, together under 4 eps of the norm: test_three_passes holds that, since the interpreter
multiplies in plain float32. A half type rounds its result once: by at most 2**-11 in float16; in
bfloat16 by 2**-8 on a GPU, but Triton's interpreter truncates, by up to 2**-7."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import float64_leaf, relative_error

import eegfast
from eegfast import ops, reference

EPS = 2**-24
HALF = {torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def ours(kernels):
    return kernels("band_power")


def some_bins(n_fft):
    top = n_fft // 2 + 1
    return [0, top, top // 3, top // 3 + 1, top // 2, top, top // 4, top // 2 + 1]


def limits(n_fft, window, dtype):
    if dtype in HALF:
        return HALF[dtype], HALF[dtype] * 1.01
    used = min(n_fft, window)
    return (4 + used**0.5) * EPS, (8 + 4 * used**0.5) * EPS


def check(ours, x, window, step, n_fft, bins, log2=False, gain=3.0):
    dtype = x.dtype
    taper = torch.rand(window) + 0.5
    options = (window, step, n_fft, bins, gain, log2)
    forward, backward = limits(n_fft, window, dtype)
    out = ours.band_power(x, taper, *options)
    truth = reference.band_power(x.double(), taper.double(), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= forward
    grad = torch.randn_like(truth).to(dtype)
    out = ours.band_power_backward(grad, x, taper, *options)
    truth = reference.band_power_backward(grad.double(), x.double(), taper.double(), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= backward * (10 if log2 and dtype not in HALF else 1)


# n_fft, window, step: padded, equal, longer; apart, adjoining, overlapping; odd, prime, tiny; bins
# of more than one tile.
FRAMINGS = [(256, 200, 200), (200, 200, 100), (64, 50, 61), (64, 83, 93), (127, 127, 50)]
FRAMINGS += [(77, 63, 20), (13, 13, 13), (7, 20, 7), (2, 2, 1), (1, 1, 1), (32, 9, 9)]


@pytest.mark.parametrize("n_fft, window, step", FRAMINGS)
@pytest.mark.parametrize("log2", [False, True])
def test_values_and_gradients(ours, n_fft, window, step, log2):
    # The log of a bin that happens to be near zero is ill-conditioned: wide bands only.
    if log2 and n_fft < 30:
        pytest.skip("every band of so short a transform is a narrow one")
    bins = [0, n_fft // 2 + 1, 2, n_fft // 3] if log2 else some_bins(n_fft)
    check(ours, torch.randn(2, 3, 2 * window + 3 * step + 1), window, step, n_fft, bins, log2)


def test_whole_windows_leave_no_gap(ours):
    check(ours, torch.randn(2, 3, 200), 50, 50, 64, some_bins(64))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("n_fft, step", [(64, 64), (50, 21), (140, 140)])
def test_half_types(ours, dtype, n_fft, step):
    x = torch.randn(2, 3, 3 * n_fft + 1).to(dtype)
    for log2 in (False, True):
        check(ours, x, n_fft, step, n_fft, [0, n_fft // 2 + 1, 3, n_fft // 2], log2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_bin_a_band(ours, dtype):
    """More bands than a launch takes, in no order, some of them twice."""
    bins = [edge for k in torch.randperm(51).tolist() for edge in (k, k + 1)]
    check(ours, torch.randn(3, 200).to(dtype), 100, 51, 100, bins + bins[:30])


@pytest.mark.parametrize("rows", [1, 10**6])
@pytest.mark.parametrize("log2", [False, True])
def test_every_configuration(ours, monkeypatch, rows, log2):
    kept = ours.configs
    monkeypatch.setattr(ours, "configs", lambda _, *rest: kept(rows, *rest))
    for n_fft in (20, 60, 140):
        check(ours, torch.randn(3, 5 * n_fft), n_fft, n_fft, n_fft, [0, n_fft // 2 + 1], log2)


def test_strides(ours):
    base = torch.randn(2, 3, 4, 101)
    taper = torch.rand(50)
    options = (50, 30, 60, [1, 5, 3, 9], 1.0, False)
    for make in (
        lambda x: x[:, ::2],
        lambda x: x[::2, 1:, ::2, 10:],
        lambda x: x.transpose(0, 2),
        lambda x: x[..., ::2],
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x[0, 0],
    ):
        x = make(base)
        out = ours.band_power(x, taper, *options)
        dense = x.clone(memory_format=torch.contiguous_format)
        assert torch.equal(out, ours.band_power(dense, taper, *options))
        grad = torch.randn_like(out)
        out = ours.band_power_backward(grad, x, taper, *options)
        assert torch.equal(out, ours.band_power_backward(grad, dense, taper, *options))


@pytest.mark.parametrize("step", [20, 7, 30])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_stays_in_its_windows_and_channel(ours, step, bad):
    x = torch.randn(2, 5, 160)
    x[1, 4, 98] = bad
    options = (20, step, 20, [1, 4, 4, 8], 1.0, False)
    out = ours.band_power(x, torch.ones(20), *options)
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= 98) & (98 < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)
    grad = ours.band_power_backward(torch.ones_like(out), x, torch.ones(20), *options)
    touched = torch.zeros(x.shape, dtype=torch.bool)
    for window in torch.nonzero(hit[1, :, 4, 0]).flatten():
        touched[1, 4, window * step : window * step + 20] = True
    assert grad[~touched].isfinite().all()
    assert grad[touched].isnan().any()


def test_log2_of_no_power(ours):
    options = (60, 60, 60, [0, 3], 1.0, True)
    assert (ours.band_power(torch.zeros(2, 60), torch.ones(60), *options) == -math.inf).all()


def test_empty(ours):
    for shape, windows in (((0, 3, 50), 5), ((2, 0, 50), 5), ((2, 3, 9), 0), ((2, 3, 0), 0)):
        x = torch.randn(shape)
        options = (10, 10, 64, [1, 3], 1.0, False)
        out = ours.band_power(x, torch.ones(10), *options)
        assert out.shape == (shape[0], windows, shape[1], 1)
        grad = ours.band_power_backward(out, x, torch.ones(10), *options)
        assert torch.equal(grad, torch.zeros_like(x))


def test_float64_is_left_to_the_reference(ours):
    with pytest.raises(NotImplementedError, match="band_power has no float64"):
        ours.band_power(torch.randn(1, 9).double(), torch.ones(9), 9, 9, 9, [0, 3], 1.0, False)


def test_is_the_operator_where_it_is_forced():
    x = torch.randn(2, 3, 130)
    options = dict(window=50, step=40, n_fft=64, bins=[(1, 9), (9, 30)], log2=True)
    exact, leaf = float64_leaf(x), x.clone().requires_grad_()
    ops.band_power(exact, **options).square().sum().backward()
    with eegfast.backend("triton"):
        out = ops.band_power(leaf, **options)
        out.square().sum().backward()
    assert relative_error(leaf.grad, exact.grad) <= 10 * limits(64, 50, torch.float32)[1]


def tf32(x):
    """The nearest number of 11 significant bits."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_three_passes():
    """What the interpreter does not do: the arithmetic of PRECISION, summed in float64."""
    x, table = torch.randn(64, 100) * 20, torch.randn(100, 64).clamp(-1, 1)
    (a, a_rest), (b, b_rest) = [(tf32(t), tf32(t - tf32(t))) for t in (x, table)]
    exact = x.double() @ table.double()
    one = a.double() @ b.double()
    three = one + a.double() @ b_rest.double() + a_rest.double() @ b.double()
    assert relative_error(three, exact) <= 4 * EPS
    assert 1e-4 <= relative_error(one, exact) <= 1e-3
