# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances, as relative error of the whole tensor, are those of the CPU kernels (tests/ops/
test_scaling_conv1d.py): a sum of n products rounds at random to about sqrt(n) / 4 units of 1.2e-7;
n <= 130 taps give 3 (4e-7), filters times taps for the gradient of the signal and batch times
samples for that of the kernels, a few thousand each, give 12 (1.4e-6). Kernels are pooled in
float32, one unit more, which the limits have room for. A half type rounds its result once, by at
most 2**-11 relative in float16 and 2**-8 in bfloat16, besides.

Where a pre-activation is within rounding of 0, ReLU may go either way, which the gradient shows in
full. So the reference gradient takes the mask of the tested forward."""

from __future__ import annotations

import math

import pytest
import torch

from eegfast import reference

triton = pytest.importorskip("triton")
from eegfast._triton import scaling_conv1d as op  # noqa: E402

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
FORWARD, BACKWARD = 5e-7, 2e-6

# shape of x, filters, length, levels, kernels of each electrode's own, biases of each its own
CASES = [
    ((1, 2, 130), 8, 65, 6, False, False),
    ((1, 2, 127), 5, 33, 6, True, True),
    ((1, 1, 129), 2, 129, 8, False, True),
    ((2, 600), 9, 5, 3, True, False),
    ((1, 2, 1, 1100), 1, 5, 2, False, False),
    ((2, 2, 1, 1), 1, 5, 3, True, True),
    ((3, 2, 9), 2, 33, 4, False, False),
    ((1, 3, 63), 2, 1, 1, False, False),
    ((1, 3, 31), 17, 3, 2, False, False),
]


def draw(case, dtype=torch.float32):
    shape, filters, length, levels, own_kernels, own_bias = case
    x = torch.randn(shape)
    weight = torch.randn(shape[-2] if own_kernels else 1, filters, length)
    bias = torch.randn(shape[-2] if own_bias else 1, filters, levels)
    return [t.to(dtype) for t in (x, weight, bias)]


def relative_error(value, truth):
    assert value.shape == truth.shape
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-300))


def check(case, relu, count_include_pad, dtype=torch.float32):
    x, weight, bias = draw(case, dtype)
    exact, options = [t.double() for t in (x, weight, bias)], (bias.shape[-1], relu)
    out, mask = op.scaling_conv1d(x, weight, bias, *options, count_include_pad, True)
    truth, _ = reference.scaling_conv1d(*exact, *options, count_include_pad, False)
    assert out.dtype == dtype and relative_error(out, truth) <= FORWARD + ROUNDING[dtype]
    if relu:
        kept = _bits(mask, x.shape[-1])
        assert torch.equal(kept, ~(out <= 0))
    else:
        assert mask.shape == (0,) and mask.dtype == torch.uint8
    grad = torch.randn(out.shape).to(dtype)
    given = (mask if relu else None, bias.shape[0], bias.shape[-1], count_include_pad)
    gradients = op.scaling_conv1d_backward(grad, x, weight, *given, True, True, True)
    truths = reference.scaling_conv1d_backward(grad.double(), *exact[:2], *given, True, True, True)
    for ours, theirs in zip(gradients, truths, strict=True):
        assert ours.dtype == dtype and relative_error(ours, theirs) <= BACKWARD + ROUNDING[dtype]


def _bits(mask, n_times):
    """The mask's bits in order, once those behind the signal are seen to be zero."""
    bits = (mask[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    bits = bits.flatten(-2).bool()
    assert bits.shape[-1] == (n_times + 63) // 64 * 64 and not bits[..., n_times:].any()
    return bits[..., :n_times]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    check(case, True, True)


@pytest.mark.parametrize("case", [*CASES[1:2], *CASES[3:7]])
def test_without_relu_and_without_counting_the_zero(case):
    check(case, False, False)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 33, 63, 65, 97, 129])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_kernels_of_every_level(length, count_include_pad):
    """The signal is an impulse, so the results are the kernels, reversed."""
    levels = len(list(iter_lengths(length)))
    x, weight = torch.zeros(1, 2 * length + 1), torch.randn(1, 1, length)
    x[0, length] = 1
    options = (None, levels, False, count_include_pad, False)
    out, _ = op.scaling_conv1d(x, weight, *options)
    truth, _ = reference.scaling_conv1d(x, weight, *options)
    torch.testing.assert_close(out, truth, rtol=1e-6, atol=1e-7)


def iter_lengths(length):
    while length > 1:
        yield length
        length = length // 2 | 1
    yield length


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    check(((1, 2, 70), 5, 9, 3, True, True), True, True, dtype)


def test_parts_of_the_batch_sum_in_a_fixed_order(monkeypatch):
    monkeypatch.setattr(op, "PROGRAMS", 1)  # one program goes through all samples
    check(((5, 2, 130), 3, 9, 3, False, False), True, True)


def test_only_what_is_asked_for():
    x, weight, bias = draw(((1, 3, 70), 3, 5, 3, True, False))
    out, mask = op.scaling_conv1d(x, weight, bias, 3, True, True, True)
    plain, none = op.scaling_conv1d(x, weight, bias, 3, True, True, False)
    assert torch.equal(out, plain) and none.shape == (0,)
    linear, _ = op.scaling_conv1d(x, weight, None, 3, False, True, False)
    truth, _ = reference.scaling_conv1d(x, weight, None, 3, False, True, False)
    torch.testing.assert_close(linear, truth, rtol=1e-5, atol=1e-5)
    args = (torch.randn_like(out), x, weight, mask, 1, 3, True)
    full = op.scaling_conv1d_backward(*args, True, True, True)
    for wanted in range(3):
        some = op.scaling_conv1d_backward(*args, *(i == wanted for i in range(3)))
        for i in range(3):
            assert torch.equal(some[i], full[i]) if i == wanted else some[i].shape == (0,)


def test_strides():
    _, weight, bias = draw(((2, 3, 50), 1, 3, 1, False, False))
    base = torch.randn(2, 3, 9)
    for x in (base[..., ::2], base[:1].expand(2, -1, -1), base.transpose(-1, -2)):
        out, mask = op.scaling_conv1d(x, weight, bias, 1, True, True, True)
        same, _ = op.scaling_conv1d(x.contiguous(), weight, bias, 1, True, True, True)
        assert torch.equal(out, same)
        grad = torch.randn(()).expand(out.shape)
        rest = (weight, mask, 1, 1, True, True, True, True)
        strided = op.scaling_conv1d_backward(grad, x, *rest)
        dense = op.scaling_conv1d_backward(grad.contiguous(), x.contiguous(), *rest)
        assert all(torch.equal(a, b) for a, b in zip(strided, dense, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 50), (2, 0, 50), (2, 3, 0)])
def test_empty(shape):
    x, weight, bias = draw((shape, 2, 5, 2, False, False))
    out, mask = op.scaling_conv1d(x, weight, bias, 2, True, True, True)
    truth, bits = reference.scaling_conv1d(x, weight, bias, 2, True, True, True)
    assert out.shape == truth.shape and mask.shape == bits.shape
    gradients = op.scaling_conv1d_backward(out, x, weight, mask, 1, 2, True, True, True, True)
    for value, gradient in zip((x, weight, bias), gradients, strict=True):
        assert gradient.shape == value.shape and not gradient.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_reaches_what_its_kernels_cover(bad):
    x, weight, bias = draw(((2, 2, 90), 3, 9, 3, False, False))
    x[1, 0, 40] = bad
    out, _ = op.scaling_conv1d(x, weight.abs(), bias, 3, True, True, True)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    for level, reach in enumerate((4, 2, 1)):
        hit[1, 0, :, level, 40 - reach : 41 + reach] = True
    assert torch.equal(~out.isfinite(), hit)


def test_float64_is_left_to_the_reference():
    x, weight, _ = (t.double() for t in draw(((2, 3, 50), 2, 5, 2, False, False)))
    with pytest.raises(NotImplementedError, match="float64"):
        op.scaling_conv1d(x, weight, None, 2, True, True, False)
