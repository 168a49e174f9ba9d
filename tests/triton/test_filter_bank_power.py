# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: sums and products are double, as in the compiled kernels, so totals, squares and the
gradient of the taps are right to 1e-13 of their norm on white noise, and narrow bands of 1/f noise
to 1e-10 each, whatever the type of x. The gradient of x is rounded to that type once (Triton's
interpreter truncates to bfloat16, by up to 2**-7)."""

from __future__ import annotations

import math

import filter_bank_checks as checks
import pytest
import torch
from filter_bank_checks import EXACT, data
from numerics import relative_error

from eegfast import reference

LIMIT = {torch.float32: 1e-7, torch.float64: EXACT, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def ours(kernels):
    return kernels("filter_bank_power")


def check(ours, x, taps, head, tail, grads=None):
    out = ours.filter_bank_power(x, taps, head, tail)
    truth = reference.filter_bank_power(x.double(), taps, head, tail)
    for value, true in zip(out, truth, strict=True):
        assert value.dtype == torch.float64 and value.is_contiguous()
        assert value.shape == true.shape and relative_error(value, true) <= EXACT
    grads = grads or [torch.randn_like(t) for t in truth[:2]]
    rest = (taps, truth[2], head, tail, True)
    grad_x, grad_taps = ours.filter_bank_power_backward(*grads, x, *rest)
    theirs = reference.filter_bank_power_backward(*grads, x.double(), *rest)
    assert grad_x.dtype == x.dtype and grad_x.shape == x.shape
    assert relative_error(grad_x, theirs[0]) <= LIMIT[x.dtype]
    assert grad_taps.dtype == torch.float64 and relative_error(grad_taps, theirs[1]) <= EXACT


# Ends of one sample, of an even and an odd number, none, one without the other, longer than the
# row; lags of one tile and of two; more filters than a tile; rows of two tiles of the gradient.
SHAPES = [
    ((1, 3, 40), 2, 9, 8, 5),
    ((2, 2, 21), 3, 6, 1, 0),
    ((1, 2, 30), 2, 4, 0, 3),
    ((2, 1, 4), 2, 12, 6, 8),
    ((1, 1, 1), 2, 3, 1, 1),
    ((1, 8, 300), 3, 9, 0, 0),
    ((1, 2, 140), 1, 120, 3, 2),
    ((1, 2, 30), 1, 40, 19, 36),
    ((3, 2, 20), 35, 5, 2, 1),
    ((1, 1, 2100), 2, 17, 4, 4),
    ((5, 30), 2, 5, 2, 2),
    ((2, 1, 2, 30), 2, 5, 2, 2),
]


@pytest.mark.parametrize("shape, filters, length, head, tail", SHAPES)
def test_values_and_gradients(ours, shape, filters, length, head, tail):
    check(ours, *data(shape, filters, length, torch.float32), head, tail)


@pytest.mark.parametrize("dtype", LIMIT)
def test_types(ours, dtype):
    check(ours, *data((2, 3, 40), 3, 7, dtype), 3, 3)


@pytest.mark.parametrize("programs", [1, 10**6])
def test_parts_of_rows_are_added_in_a_fixed_order(ours, monkeypatch, programs):
    monkeypatch.setattr(ours, "PROGRAMS", programs)
    check(ours, *data((2, 20, 530), 2, 5, torch.float32), 2, 2)


def test_large_tiles(ours, monkeypatch):
    """Those of many rows."""
    kept = ours.bank_config
    monkeypatch.setattr(ours, "bank_config", lambda _, filters: kept(10**6, filters))
    check(ours, *data((3, 11, 20), 18, 6, torch.float32), 3, 2)


@pytest.mark.parametrize("wanted", ["total", "squares", "x", "taps", "nothing"])
def test_gradients_asked_for(ours, wanted):
    checks.gradients_asked_for(ours, wanted, 40, 7)


@pytest.mark.parametrize("ends", [(10, 10), (20, 20)])
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-7), (torch.float64, 1e-10)])
def test_narrow_bands_of_eeg_like_noise(ours, ends, dtype, limit):
    checks.narrow_bands_of_eeg_like_noise(
        ours, (3, 600), [(f, f + 2) for f in range(40, 76, 9)], 21, ends, 1e-3, dtype, limit
    )


def test_no_power_is_not_negative(ours):
    checks.no_power_is_not_negative(ours, 100, 3, 10)


def test_strides(ours):
    base, taps = torch.randn(2, 2, 3, 20), torch.randn(5, 2).double().mT
    for x in (
        base[:, ::2],
        base[::2, 1:, ::2, 5:],
        base.transpose(0, 2),
        base[..., ::2],
        base[:1].expand(2, -1, -1, -1),
    ):
        out = ours.filter_bank_power(x, taps, 2, 2)
        dense = ours.filter_bank_power(x.contiguous(), taps.contiguous(), 2, 2)
        assert all(torch.equal(a, b) for a, b in zip(out, dense, strict=True))
        grads = [torch.randn(*t.shape[:-1], 2 * t.shape[-1]).double()[..., ::2] for t in out[:2]]
        computed = ours.filter_bank_power_backward(*grads, x, taps, out[2], 2, 2, True)
        theirs = reference.filter_bank_power_backward(*grads, x, taps, out[2], 2, 2, True)
        for value, true in zip(computed, theirs, strict=True):
            assert value.is_contiguous() and relative_error(value, true) <= 1e-7
        expanded = [g.new_ones(()).expand(g.shape) for g in grads]
        computed = ours.filter_bank_power_backward(*expanded, x, taps, out[2], 2, 2, True)
        ones = [torch.ones_like(t) for t in out[:2]]
        dense = ours.filter_bank_power_backward(*ones, x, taps, out[2], 2, 2, True)
        assert all(torch.equal(a, b) for a, b in zip(computed, dense, strict=True))


@pytest.mark.parametrize(
    "shape, filters", [((0, 3, 20), 4), ((2, 0, 20), 4), ((2, 3, 20), 0), ((2, 3, 0), 4)]
)
def test_empty(ours, shape, filters):
    x, taps = data(shape, filters, 2, torch.float32)
    ends = (0, 0) if shape[-1] else (0, 1)
    out = ours.filter_bank_power(x, taps, *ends)
    result = (shape[0], filters, shape[1])
    for value, expected in zip(out, (result, result, (3, shape[0] * shape[1])), strict=True):
        assert value.shape == expected and (filters == 0 or not value.any())
    products = torch.stack([x.square().sum(-1), (x[..., 1:] * x[..., :-1]).sum(-1), x.sum(-1)])
    torch.testing.assert_close(out[2], products.flatten(1).double(), rtol=1e-5, atol=1e-5)
    grads = [torch.randn_like(t) for t in out[:2]]
    computed = ours.filter_bank_power_backward(*grads, x, taps, out[2], *ends, True)
    for value, like in zip(computed, (x, taps), strict=True):
        assert value.shape == like.shape and value.dtype == like.dtype and not value.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sample", [0, 30, 59])
def test_a_bad_sample_stays_in_its_row(ours, bad, sample):
    checks.bad_sample_stays_in_its_row(ours, bad, sample, 17, 2, 5)


def test_a_bad_filter_stays_to_itself(ours):
    checks.bad_filter_stays_to_itself(ours, 3, torch.float32)


def test_tables_too_large_are_left_to_the_reference(ours):
    x = torch.empty(1, 10, device="meta")
    taps = torch.empty(10, 50000, dtype=torch.float64, device="meta")
    with pytest.raises(NotImplementedError, match="filter_bank_power"):
        ours.filter_bank_power(x, taps, 49999, 49999)
