# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: relative to the norm of what the sums of absolute values would give, since terms may
cancel, as for the CUDA kernels (tests/emulated/test_depthwise_conv3d.py). A float32 sum of n terms
rounds at random to about sqrt(n) / 4 units of 1.2e-7 of that at most; the sums of a channel run
over depth and samples in float32 and over the rest pairwise or in double. A half type rounds its
result once, by at most 2**-11 relative in float16 and 2**-8 in bfloat16, besides. ReLU's masks are
those of the tested result, and no input comes within rounding of the first ReLU's edge."""

from __future__ import annotations

import itertools
import math

import depthwise_checks as checks
import pytest
import torch
from depthwise_checks import FLAT, LAST, THREE, draw

from eegfast import reference

triton = pytest.importorskip("triton")
from eegfast._triton import depthwise_conv3d as op  # noqa: E402

LIMIT = {
    torch.float32: 1.2e-7,
    torch.float16: 2**-11 + 1.2e-7,
    torch.bfloat16: 2**-8 + 1.2e-7,
}
SUMS = LIMIT | {torch.float32: 3e-7}

# Whole planes, parts of planes, several planes in a tile, more channels than a tile has; odd sizes,
# every length of a kernel's axis, strides, planes that no result sees, padding on one side and
# beyond the kernel, results without any input.
CASES = [
    ((1, 2, 2, 16, 16), THREE),
    ((3, 3, 2, 4, 4), THREE),
    ((1, 1, 1, 1, 1), THREE),
    ((1, 67, 1, 1, 3), THREE),
    ((1, 1, 2, 3, 63), THREE),
    ((1, 2, 1, 3, 5), ((5, 5, 5), (1, 1, 1), (2,) * 6)),
    ((1, 3, 3, 3, 6), ((4, 2, 4), (1, 1, 1), (1, 2, 0, 1, 1, 2))),
    ((2, 4, 3, 6, 8), ((1, 3, 3), (1, 1, 1), (0, 0, 1, 1, 1, 1))),
    ((2, 3, 4, 5, 7), ((3, 3, 3), (2, 2, 2), (1,) * 6)),
    ((1, 2, 3, 5, 7), ((5, 4, 2), (2, 1, 3), (2, 2, 1, 1, 0, 0))),
    ((1, 2, 6, 7, 9), ((1, 2, 1), (3, 3, 3), (4,) * 6)),
    ((1, 2, 6, 7, 9), ((3, 3, 3), (1, 2, 2), (3, 3, 0, 0, 4, 4))),
    ((1, 3, 9, 1, 2), ((3, 1, 2), (7, 2, 2), (1, 1, 0, 0, 0, 0))),
]


def check(*arguments, **options):
    checks.values_and_gradients(op, (LIMIT, SUMS), *arguments, **options)


@pytest.mark.parametrize("layout", [FLAT, LAST])
@pytest.mark.parametrize("shape, case", CASES)
def test_any_geometry(shape, case, layout):
    check(shape, case, torch.float32, layout, affine=True, relu=True)


@pytest.mark.parametrize("layout", [FLAT, LAST])
@pytest.mark.parametrize("dtype", LIMIT)
def test_types_and_plain_convolution(dtype, layout):
    check((2, 3, 2, 5, 7), THREE, dtype, layout, affine=False, relu=False)
    check((2, 3, 2, 5, 7), THREE, dtype, layout, affine=True, relu=True)


@pytest.mark.parametrize("layout", [FLAT, LAST])
def test_programs_that_take_several_samples(layout, monkeypatch):
    monkeypatch.setattr(op, "PROGRAMS", 1)
    check((7, 3, 2, 3, 5), THREE, torch.float32, layout, affine=True, relu=True)


@pytest.mark.parametrize("layout", [FLAT, LAST])
def test_each_gradient_alone(layout):
    values = list(draw((2, 3, 1, 2, 3), (3, 3, 3), torch.float32, True, layout).values())[:6]
    grad = torch.randn(2, 3, 1, 2, 3).to(memory_format=layout)
    args = (grad, *values, torch.randn(2, 3, 1, 2, 3).to(memory_format=layout), *THREE[1:])
    full = op.depthwise_conv3d_backward(*args, True, True, [1] * 7)
    for asked in (*itertools.combinations(range(7), 1), (0, 2), range(1, 7)):
        wanted = [int(i in asked) for i in range(7)]
        some = op.depthwise_conv3d_backward(*args, True, True, wanted)
        for i, (one, other) in enumerate(zip(some, full, strict=True)):
            assert torch.equal(one, other) if i in asked else one.shape == (0,)


def test_strides():
    weight = torch.randn(4, 1, 3, 3, 3)
    base = torch.randn(2, 4, 2, 4, 4)
    rest = (*(None,) * 5, *THREE[1:])
    for x in (
        base[::2, :, :, :, ::2],
        base.transpose(-1, -2),
        base[:1].expand(2, -1, -1, -1, -1),
        base.to(memory_format=LAST)[:, :, :, 2:],
    ):
        exact = reference.depthwise_conv3d(x, weight, *rest, False, False)
        out = op.depthwise_conv3d(x, weight, *rest, False, False)
        assert out.stride() == exact.stride()
        torch.testing.assert_close(out, exact, rtol=0, atol=2e-5)
        grad = torch.randn(()).expand(out.shape)
        args = (grad, x, weight, *(None,) * 5, *THREE[1:], False, False, [1, 1, 1, 0, 0, 0, 0])
        for ours, true in zip(
            op.depthwise_conv3d_backward(*args),
            reference.depthwise_conv3d_backward(*args),
            strict=True,
        ):
            assert ours.stride() == true.stride()
            torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5, 6), (2, 0, 4, 5, 6)])
def test_empty(shape):
    checks.empty(op, shape)


def test_padding_around_nothing():
    checks.padding_around_nothing(op)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", [FLAT, LAST])
def test_a_bad_value_reaches_what_its_kernel_covers(bad, layout):
    checks.bad_value_reaches_what_its_kernel_covers(op, bad, layout, 5, 6)


def test_relu_keeps_nan():
    checks.relu_keeps_nan(op, (1, 1, 2, 2, 5))


def test_float64_is_left_to_the_reference():
    x, weight = torch.randn(1, 1, 2, 2, 2).double(), torch.ones(1, 1, 1, 1, 1).double()
    with pytest.raises(NotImplementedError, match="float64"):
        op.depthwise_conv3d(x, weight, *(None,) * 5, (1, 1, 1), (0,) * 6, False, False)
