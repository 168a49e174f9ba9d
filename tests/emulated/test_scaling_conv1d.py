# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: as for the CPU kernels (tests/ops/test_scaling_conv1d.py); a kernel's gradient sums
at most 32 samples in a lane, then lanes, then tiles in double. Kernels of a thousand taps sum eight
times as many terms, which is three times the rounding. A half type rounds its result once, by half
a unit in the last place: at most 2**-11 relative in float16, 2**-8 in bfloat16.

The reference gradient takes the mask of the tested forward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import relative_error

from eegfast import ops, reference

HALF = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
FORWARD = {torch.float32: 5e-7, torch.float64: 8 * 2.3e-16, **HALF}
BACKWARD = {torch.float32: 2e-6, torch.float64: 24 * 2.3e-16, **HALF}

# batch, n_chans, n_times, filters, length, levels (None: all)
CASES = [
    (1, 2, 512, 8, 65, 6),
    (1, 1, 1100, 5, 33, None),  # two tiles, a filter left over
    (2, 1, 129, 4, 129, None),
    (2, 1, 1, 1, 5, None),
    (2, 3, 63, 6, 63, None),
    (1, 2, 1030, 7, 17, 2),
    (3, 2, 9, 3, 33, None),
    (2, 2, 127, 2, 1, None),
    (2, 9, 31, 1, 3, None),
    (1, 1, 260, 5, 1501, None),  # kernels in chunks
    (1, 1, 601, 4, 1103, 3),
]
SHORT = CASES[1:9]


def draw(case, shared, dtype):
    batch, n_chans, n_times, filters, length, levels = case
    levels = len(ops.scaling_levels(length, levels))
    own = 1 if shared else n_chans
    shapes = (batch, n_chans, n_times), (own, filters, length), (own, filters, levels)
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes], levels


def check(emulated, case, shared, dtype, relu=True, count_include_pad=True):
    tensors, levels = draw(case, shared, dtype)
    x, weight, bias = (emulated.guarded(t) for t in tensors)
    options = (levels, relu, count_include_pad)
    out, mask = emulated.scaling_conv1d(x, weight, bias, *options, True)
    exact = [t.double() for t in tensors]
    truth, _ = reference.scaling_conv1d(*exact, *options, False)
    longer = 3 if case[4] > 1000 else 1
    assert out.dtype == dtype and out.shape == truth.shape
    assert relative_error(out, truth) <= longer * FORWARD[dtype]
    if relu:
        bits = np.unpackbits(mask.numpy(), axis=-1, bitorder="little")
        assert not bits[..., case[2] :].any()
        if dtype != torch.bfloat16:  # which numpy does not have
            np.testing.assert_array_equal(bits[..., : case[2]], out.numpy() > 0)
    grad = torch.randn(out.shape, dtype=torch.float64).to(dtype)
    kept = mask if relu else None
    own = bias.shape[0]
    grads = emulated.scaling_conv1d_backward(
        emulated.guarded(grad),
        x,
        weight,
        emulated.guarded(kept) if relu else None,
        own,
        levels,
        count_include_pad,
        True,
        True,
        True,
    )
    truths = reference.scaling_conv1d_backward(
        grad.double(), *exact[:2], kept, own, levels, count_include_pad, True, True, True
    )
    for ours, theirs in zip(grads, truths, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= longer * BACKWARD[dtype]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients(emulated, case, shared):
    check(emulated, case, shared, torch.float32)


@pytest.mark.parametrize("case", SHORT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(emulated, case, dtype):
    check(emulated, case, False, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_long_kernels_of_other_dtypes(emulated, dtype):
    check(emulated, (1, 1, 130, 1, 1301, 3), True, dtype)


@pytest.mark.parametrize("case", SHORT)
@pytest.mark.parametrize("relu, count_include_pad", [(True, False), (False, True)])
def test_without_relu_or_the_padding(emulated, case, relu, count_include_pad):
    check(emulated, case, True, torch.float32, relu, count_include_pad)


def test_one_of_weight_and_bias_is_shared(emulated):
    x, weight, bias = draw((2, 3, 70, 5, 9, 4), False, torch.float32)[0]
    for w, b in ((weight[:1], bias), (weight, bias[:1])):
        out, mask = emulated.scaling_conv1d(x, w, b, 4, True, True, True)
        exact = [t.double() for t in (x, w, b)]
        truth, _ = reference.scaling_conv1d(*exact, 4, True, True, False)
        assert relative_error(out, truth) <= 5e-7
        options = (mask, len(b), 4, True, True, True, True)
        grads = emulated.scaling_conv1d_backward(out, x, w, *options)
        truths = reference.scaling_conv1d_backward(out.double(), *exact[:2], *options)
        for ours, theirs in zip(grads, truths, strict=True):
            assert relative_error(ours, theirs) <= 2e-6


def test_without_bias_or_mask(emulated):
    x, weight, _ = draw((2, 3, 70, 5, 9, 4), True, torch.float32)[0]
    out, mask = emulated.scaling_conv1d(x, weight, None, 4, True, True, False)
    truth, _ = reference.scaling_conv1d(x.double(), weight.double(), None, 4, True, True, False)
    assert relative_error(out, truth) <= 5e-7 and mask.numel() == 0


@pytest.mark.parametrize("case", [(2, 3, 100, 5, 9, None), (1, 2, 50, 1, 1201, 2)])
def test_only_the_gradients_asked_for(emulated, case):
    (x, weight, bias), levels = draw(case, False, torch.float32)
    out, mask = emulated.scaling_conv1d(x, weight, bias, levels, True, True, True)
    args = (torch.randn_like(out), x, weight, mask, case[1], levels, True)
    together = emulated.scaling_conv1d_backward(*args, True, True, True)
    for wanted in range(3):
        some = emulated.scaling_conv1d_backward(*args, *(i == wanted for i in range(3)))
        assert [g.numel() > 0 for g in some] == [i == wanted for i in range(3)]
        assert torch.equal(some[wanted], together[wanted])


def test_more_tiles_than_parts_of_the_sums(emulated):
    """Blocks that take several tiles add them up."""
    n_chans = 4096
    x, weight = torch.randn(2, n_chans, 3), torch.randn(1, 1, 3)
    grad = torch.randn(2, n_chans, 1, 2, 3)
    options = (None, 1, 2, True, False, True, True)
    grads = emulated.scaling_conv1d_backward(grad, x, weight, *options)
    truths = reference.scaling_conv1d_backward(grad.double(), x.double(), weight.double(), *options)
    for ours, theirs in zip(grads[1:], truths[1:], strict=True):
        assert relative_error(ours, theirs) <= 2e-6


def test_strides_and_leading_dimensions(emulated):
    whole = torch.randn(2, 3, 5, 140)
    weight, bias = torch.randn(1, 5, 9), torch.randn(1, 5, 4)
    for x in (whole[..., ::2], whole.transpose(0, 2), whole[:, 1:, ::2, 3:73], whole[0, 0]):
        ours = emulated.scaling_conv1d(x, weight, bias, 4, True, True, True)
        flat = emulated.scaling_conv1d(x.contiguous(), weight, bias, 4, True, True, True)
        assert ours[0].shape == (*x.shape[:-1], 5, 4, x.shape[-1])
        assert all(torch.equal(a, b) for a, b in zip(ours, flat, strict=True))
        grad = torch.randn(ours[0].shape[::-1]).permute(*reversed(range(ours[0].dim())))
        grads = [
            emulated.scaling_conv1d_backward(g, s, weight, ours[1], 1, 4, True, True, True, True)
            for g, s in ((grad, x), (grad.contiguous(), x.contiguous()))
        ]
        assert grads[0][0].shape == x.shape
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_gradient_at_any_address(emulated):
    x, weight = torch.randn(1, 2, 64), torch.randn(1, 4, 9)
    grad = torch.randn(1 + 2 * 4 * 2 * 64)[1:].view(1, 2, 4, 2, 64)
    options = (x, weight, None, 1, 2, True, True, True, True)
    shifted = emulated.scaling_conv1d_backward(grad, *options)
    aligned = emulated.scaling_conv1d_backward(grad.clone(), *options)
    assert all(torch.equal(a, b) for a, b in zip(shifted, aligned, strict=True))


def test_empty(emulated):
    weight, bias = torch.randn(1, 4, 9), torch.randn(1, 4, 4)
    for shape in ((0, 3, 50), (2, 0, 50), (2, 3, 0)):
        x = torch.randn(shape)
        out, mask = emulated.scaling_conv1d(x, weight, bias, 4, True, True, True)
        assert out.shape == (*shape[:-1], 4, 4, shape[-1])
        grads = emulated.scaling_conv1d_backward(out, x, weight, mask, 1, 4, True, True, True, True)
        assert grads[0].shape == shape and not any(g.any() for g in grads)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, 77, 98, 129])
@pytest.mark.parametrize("filters, length", [(5, 17), (1, 1201)])
def test_a_bad_sample_stays_under_its_kernels(emulated, bad, at, filters, length):
    x = torch.randn(1, 2, 130)
    x[0, 1, at] = bad
    weight = torch.rand(1, filters, length) + 0.1
    lengths = ops.scaling_levels(length, 5)
    times = torch.arange(130)
    out, _ = emulated.scaling_conv1d(x, weight, None, len(lengths), False, True, False)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    for level, size in enumerate(lengths):
        hit[0, 1, :, level] = (times - at).abs() <= size // 2
    assert torch.equal(~out.isfinite(), hit)
    # The gradient of the signal never meets it; that of a tap does where the tap meets the sample.
    grad = torch.ones(1, 2, filters, 1, 130)
    grads = emulated.scaling_conv1d_backward(grad, x, weight, None, 0, 1, True, True, True, False)
    assert grads[0].isfinite().all()
    met = torch.tensor([0 <= at - j + length // 2 < 130 for j in range(length)])
    assert torch.equal(~grads[1][0].isfinite(), met.expand(filters, -1))


@pytest.mark.parametrize("at", [0, 63, 129])
def test_a_bad_gradient_reaches_what_it_came_from(emulated, at):
    x, weight = torch.randn(1, 2, 130), torch.randn(1, 5, 17)
    grad = torch.randn(1, 2, 5, 3, 130)
    grad[0, 1, 4, 0, at] = math.nan
    grads = emulated.scaling_conv1d_backward(grad, x, weight, None, 1, 3, True, True, True, True)
    hit = torch.zeros(x.shape, dtype=torch.bool)
    hit[0, 1] = (torch.arange(130) - at).abs() <= 8
    assert torch.equal(~grads[0].isfinite(), hit)
    assert grads[1][0, :4].isfinite().all() and not grads[1][0, 4].isfinite().any()
    assert (~grads[2].isfinite()).nonzero().tolist() == [[0, 4, 0]]


def test_nan_passes_relu(emulated):
    x, weight = torch.randn(1, 1, 70), torch.randn(1, 5, 9)
    x[0, 0, 30] = math.nan
    out, mask = emulated.scaling_conv1d(x, weight, None, 1, True, True, True)
    bits = np.unpackbits(mask.numpy(), axis=-1, bitorder="little")
    np.testing.assert_array_equal(bits[..., :70], ~(out.numpy() <= 0))
    assert out[..., 26:35].isnan().all()


@pytest.mark.parametrize("case", [(2, 2, 300, 5, 33, None), (1, 1, 70, 4, 1101, 2)])
def test_same_bits_in_any_order_of_threads(emulated, case):
    (x, weight, bias), levels = draw(case, True, torch.float32)
    grad = torch.randn(*x.shape[:2], case[3], levels, case[2])
    results = []
    for seed in (1, 2):
        emulated.set_seed(seed)
        out, mask = emulated.scaling_conv1d(x, weight, bias, levels, True, True, True)
        grads = emulated.scaling_conv1d_backward(
            grad, x, weight, mask, 1, levels, True, True, True, True
        )
        results.append((out, mask, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
