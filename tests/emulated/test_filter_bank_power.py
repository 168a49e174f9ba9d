# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: the kernels sum in double as the CPU's do (tests/ops/test_filter_bank_power.py), so
totals, squares and the gradient of the taps are right to 1e-13 of their norm on white noise, and
narrow bands of 1/f^2 noise to 1e-10 each, whatever the type of x. The gradient of x is rounded to
that type, once from float32 (half types: by 2**-11 or 2**-8)."""

from __future__ import annotations

import math

import filter_bank_checks as checks
import pytest
import torch
from filter_bank_checks import EXACT, data
from numerics import relative_error

from eegfast import reference

LIMIT = {
    torch.float32: 1e-7,
    torch.float64: 1e-13,
    torch.float16: 2**-11 + 1e-7,
    torch.bfloat16: 2**-8 + 1e-7,
}

# shape, filters, length, head, tail: one and several warps of lags, more lags than a block has
# warps for; ends on both sides of a block of outputs, more of them than fit shared memory; rows cut
# into parts, rows longer than a tile of the backward; rows shorter than the filters.
SHAPES = [
    ((3, 5, 200), 18, 41, 20, 20),
    ((2, 16, 127), 1, 63, 31, 31),
    ((2, 9, 63), 3, 8, 4, 3),
    ((2, 9, 600), 7, 33, 32, 32),
    ((1, 1, 9), 1, 1, 0, 0),
    ((1, 2, 9), 3, 9, 8, 8),
    ((2, 3, 7), 11, 12, 8, 8),
    ((2, 17, 5), 2, 9, 4, 4),
    ((1, 8, 300), 3, 9, 0, 0),
    ((2, 2, 2503), 5, 29, 28, 28),
    ((1, 2, 300), 2, 150, 100, 149),
    ((2, 1, 4), 2, 200, 60, 131),
    ((1, 1, 1), 2, 3, 1, 1),
    ((3, 2, 40), 300, 5, 2, 1),
]


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("shape, filters, length, head, tail", SHAPES)
def test_values_and_gradients(emulated, dtype, shape, filters, length, head, tail):
    x, taps = data(shape, filters, length, dtype)
    ours = [emulated.guarded(t) for t in (x, taps)]
    out = emulated.filter_bank_power(*ours, head, tail)
    truth = reference.filter_bank_power(x.double(), taps, head, tail)
    for value, true in zip(out, truth, strict=True):
        assert value.dtype == torch.float64 and value.shape == true.shape
        assert relative_error(value, true) <= EXACT
    grads = [torch.randn_like(t) for t in truth[:2]]
    theirs = reference.filter_bank_power_backward(
        *grads, x.double(), taps, truth[2], head, tail, True
    )
    grads = [emulated.guarded(g) for g in grads]
    sums = emulated.guarded(out[2])
    grad_x, grad_taps = emulated.filter_bank_power_backward(*grads, *ours, sums, head, tail, True)
    assert grad_x.dtype == dtype and grad_taps.dtype == torch.float64
    assert relative_error(grad_x, theirs[0]) <= LIMIT[dtype]
    assert relative_error(grad_taps, theirs[1]) <= EXACT


def test_many_rows(emulated):
    """More groups of rows than blocks that sum for the taps."""
    x, taps = data((8, 1080, 6), 2, 4)
    out = emulated.filter_bank_power(x, taps, 2, 1)
    for value, true in zip(out, reference.filter_bank_power(x, taps, 2, 1), strict=True):
        assert relative_error(value, true) <= EXACT
    grads = [torch.randn_like(t) for t in out[:2]]
    ours = emulated.filter_bank_power_backward(*grads, x, taps, out[2], 2, 1, True)
    theirs = reference.filter_bank_power_backward(*grads, x, taps, out[2], 2, 1, True)
    for value, true in zip(ours, theirs, strict=True):
        assert relative_error(value, true) <= EXACT


@pytest.mark.parametrize("wanted", ["total", "squares", "x", "taps", "nothing"])
def test_gradients_asked_for(emulated, wanted):
    checks.gradients_asked_for(emulated, wanted, 70, 11)


@pytest.mark.parametrize("ends", [(20, 20), (40, 40)])
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-7), (torch.float64, 1e-10)])
def test_narrow_bands_of_eeg_like_noise(emulated, ends, dtype, limit):
    checks.narrow_bands_of_eeg_like_noise(
        emulated, (5, 1000), [(f, f + 2) for f in range(40, 76, 2)], 41, ends, 1e-4, dtype, limit
    )


def test_no_power_is_not_negative(emulated):
    checks.no_power_is_not_negative(emulated, 400, 5, 30)


def test_strides(emulated):
    base, taps = torch.randn(4, 6, 5, 90), torch.randn(3, 9).double()
    for x in (base[:, ::2], base[::2, 1:, ::2, 10:], base.transpose(0, 2), base[..., ::2]):
        out = emulated.filter_bank_power(x, taps, 4, 4)
        flat = emulated.filter_bank_power(x.contiguous(), taps, 4, 4)
        assert all(torch.equal(a, b) for a, b in zip(out, flat, strict=True))
        grads = [torch.randn(*t.shape[:-1], 2 * t.shape[-1]).double()[..., ::2] for t in out[:2]]
        ours = emulated.filter_bank_power_backward(*grads, x, taps, out[2], 4, 4, True)
        theirs = reference.filter_bank_power_backward(*grads, x, taps, out[2], 4, 4, True)
        for value, true in zip(ours, theirs, strict=True):
            assert relative_error(value, true) <= 1e-7


@pytest.mark.parametrize(
    "shape, filters", [((0, 3, 20), 4), ((2, 0, 20), 4), ((2, 3, 20), 0), ((2, 3, 0), 4)]
)
def test_empty(emulated, shape, filters):
    x, taps = data(shape, filters, 2)
    ends = (0, 0) if shape[-1] else (0, 1)
    out = emulated.filter_bank_power(x, taps, *ends)
    grads = [torch.randn(shape[0], filters, shape[1], dtype=torch.float64) for _ in range(2)]
    ours = emulated.filter_bank_power_backward(*grads, x, taps, out[2], *ends, True)
    shapes = [g.shape for g in grads] + [(3, shape[0] * shape[1]), x.shape, taps.shape]
    for value, expected in zip((*out, *ours), shapes, strict=True):
        assert value.shape == expected
        assert value is out[2] and filters == 0 or not value.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sample", [0, 30, 59])
def test_a_bad_sample_stays_in_its_row(emulated, bad, sample):
    checks.bad_sample_stays_in_its_row(emulated, bad, sample, 19, 3, 9)


def test_a_bad_filter_stays_to_itself(emulated):
    checks.bad_filter_stays_to_itself(emulated, 9, torch.float64)


def test_same_bits_in_any_order_of_threads(emulated):
    x, taps = data((2, 19, 300), 18, 41)
    outs = []
    for seed in (1, 2):
        emulated.set_seed(seed)
        out = emulated.filter_bank_power(x, taps, 20, 20)
        grads = emulated.filter_bank_power_backward(*out[:2], x, taps, out[2], 20, 20, True)
        outs.append((*out, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))


def test_bad_arguments_are_refused(emulated):
    x, taps = torch.randn(2, 5), torch.randn(2, 9).double()
    for arguments in ((x, taps.float(), 0, 0), (x, taps, 9, 0), (x, taps, 8, 7), (x, taps, -1, 0)):
        with pytest.raises(RuntimeError, match="bad taps, head or tail"):
            emulated.filter_bank_power(*arguments)
