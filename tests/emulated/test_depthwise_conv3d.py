# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: relative to the norm of what the sums of absolute values would give, since terms may
cancel, as for the CPU kernels (tests/ops/test_depthwise_conv3d.py). Sums over a channel stay in the
kernel's type over a few hundred terms, then run in double. A half type rounds its result once, by
half a unit in the last place: at most 2**-11 relative in float16, 2**-8 in bfloat16, besides the
error in float32. ReLU's masks are those of the tested result, and no input comes within rounding of
the first ReLU's edge."""

from __future__ import annotations

import itertools
import math

import depthwise_checks as checks
import pytest
import torch
from depthwise_checks import FLAT, LAST, THREE, draw

from eegfast import reference

LIMIT = {
    torch.float32: 1.2e-7,
    torch.float64: 5e-16,
    torch.float16: 2**-11 + 1.2e-7,
    torch.bfloat16: 2**-8 + 1.2e-7,
}
SUMS = LIMIT | {torch.float32: 3e-7, torch.float64: 2e-15}

# Contiguous 3x3x3: whole planes, warps whose last planes are missing, parts of planes 32 wide.
PLANES = [
    (2, 3, 5, 16, 16),
    (1, 1, 1, 16, 16),
    (6, 3, 2, 8, 8),
    (19, 2, 3, 4, 4),
    (2, 1, 3, 32, 32),
    (3, 2, 4, 8, 32),
    (1, 5, 2, 24, 32),
]
# Anything else: odd sizes, every length of a kernel's axis, strides, phases without a tap, padding
# on one side and beyond the kernel, results without any input.
OTHERS = [
    ((1, 1, 1, 1, 1), THREE),
    ((2, 33, 3, 2, 9), THREE),
    ((1, 2, 3, 7, 63), THREE),
    ((1, 1, 2, 3, 127), THREE),
    ((3, 5, 5, 9, 9), THREE),
    ((2, 3, 2, 9, 16), THREE),
    ((2, 17, 2, 8, 8), ((3, 3, 3), (1, 1, 1), (1, 1, 1, 1, 2, 0))),
    ((1, 4, 4, 5, 11), ((5, 5, 5), (1, 1, 1), (2,) * 6)),
    ((2, 3, 5, 8, 8), ((4, 2, 4), (1, 1, 1), (1, 2, 0, 1, 1, 2))),
    ((2, 4, 3, 6, 8), ((1, 3, 3), (1, 1, 1), (0, 0, 1, 1, 1, 1))),
    ((2, 4, 5, 6, 8), ((3, 1, 1), (1, 1, 1), (1, 1, 0, 0, 0, 0))),
    ((2, 16, 4, 9, 7), ((3, 3, 3), (2, 2, 2), (1,) * 6)),
    ((1, 5, 9, 7, 13), ((5, 4, 2), (2, 1, 3), (2, 2, 1, 1, 0, 0))),
    ((1, 2, 6, 7, 9), ((1, 1, 1), (2, 2, 2), (0,) * 6)),
    ((1, 2, 6, 7, 9), ((1, 2, 1), (3, 3, 3), (4,) * 6)),
    ((1, 2, 6, 7, 9), ((3, 3, 3), (1, 2, 2), (3, 3, 0, 0, 4, 4))),
    ((1, 3, 3, 1, 2), ((3, 1, 2), (7, 2, 2), (1, 1, 0, 0, 0, 0))),
]


def guard(emulated, values):
    """Copies that no kernel may read beyond, laid out as before."""

    def one(v):
        if v is None or v.is_contiguous():
            return v if v is None else emulated.guarded(v)
        return emulated.guarded(v.movedim(1, -1)).movedim(-1, 1)

    return [one(v) for v in values]


def check(emulated, *arguments, **options):
    def guarded(values):
        return guard(emulated, values)

    checks.values_and_gradients(emulated, (LIMIT, SUMS), *arguments, **options, guard=guarded)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("shape", PLANES)
def test_whole_planes(emulated, shape, dtype):
    check(emulated, shape, THREE, dtype, FLAT, affine=True, relu=True)
    check(emulated, shape, THREE, dtype, FLAT, affine=False, relu=False)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("layout", [FLAT, LAST])
@pytest.mark.parametrize("shape, case", OTHERS)
def test_any_geometry(emulated, shape, case, layout, dtype):
    check(emulated, shape, case, dtype, layout, affine=True, relu=True)
    if dtype == torch.float32:
        check(emulated, shape, case, dtype, layout, affine=False, relu=False)


@pytest.mark.parametrize("shape", [(2, 3, 5, 16, 16), (5, 33, 3, 8, 8)])
def test_channels_last(emulated, shape):
    for dtype in LIMIT:
        check(emulated, shape, THREE, dtype, LAST, affine=True, relu=True)


def test_warps_that_take_several_samples(emulated):
    grad, x = torch.randn(2, 17, 4100, 1, 4, 4)
    args = (grad, x, torch.ones(4100, 1, 3, 3, 3), *(None,) * 5, *THREE[1:], False, False)
    gradients = emulated.depthwise_conv3d_backward(*args, [1, 1, 0, 0, 0, 0, 1])
    truths = reference.depthwise_conv3d_backward(*args, [1, 1, 0, 0, 0, 0, 1])
    for ours, true in zip(gradients, truths, strict=True):
        torch.testing.assert_close(ours, true, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", [FLAT, LAST])
@pytest.mark.parametrize("asked", [*itertools.combinations(range(7), 1), (0, 2), range(1, 7)])
def test_each_gradient_alone(emulated, layout, asked):
    values = list(draw((3, 5, 2, 8, 8), (3, 3, 3), torch.float32, True, layout).values())[:6]
    grad = torch.randn(3, 5, 2, 8, 8).to(memory_format=layout)
    y = torch.randn(3, 5, 2, 8, 8).to(memory_format=layout)
    for case in (THREE[1:], ((2, 1, 1), (1,) * 6)):
        if case[0][0] == 2:
            grad, y = grad[:, :, :1].contiguous(memory_format=layout), y[:, :, :1]
        args = (*guard(emulated, [grad, *values, y.contiguous(memory_format=layout)]), *case)
        full = emulated.depthwise_conv3d_backward(*args, True, True, [1] * 7)
        wanted = [int(i in asked) for i in range(7)]
        some = emulated.depthwise_conv3d_backward(*args, True, True, wanted)
        for i, (one, other) in enumerate(zip(some, full, strict=True)):
            assert torch.equal(one, other) if i in asked else one.numel() == 0


def test_strides(emulated):
    weight = torch.randn(6, 1, 3, 3, 3)
    base = torch.randn(4, 6, 3, 16, 16)
    odd = torch.randn(2 * 6 * 3 * 256 + 1)[1:].view(2, 6, 3, 16, 16)  # not aligned to 16 bytes
    rest = (*(None,) * 5, *THREE[1:])
    for x in (
        odd,
        base[::2],
        base[..., ::2],
        base.transpose(-1, -2),
        base[:, :, 1:],
        base[:1].expand(3, -1, -1, -1, -1),
        base.to(memory_format=LAST)[:, :, :, 2:],
    ):
        exact = reference.depthwise_conv3d(x, weight, *rest, False, False)
        out = emulated.depthwise_conv3d(x, weight, *rest, False, False)
        torch.testing.assert_close(out, exact, rtol=0, atol=2e-5)
        grad = torch.randn(()).expand(out.shape)
        args = (grad, x, weight, *(None,) * 5, *THREE[1:], False, False, [1, 1, 1, 0, 0, 0, 0])
        for ours, true in zip(
            emulated.depthwise_conv3d_backward(*args),
            reference.depthwise_conv3d_backward(*args),
            strict=True,
        ):
            torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5, 6), (2, 0, 4, 5, 6), (0, 2, 3, 16, 16)])
def test_empty(emulated, shape):
    checks.empty(emulated, shape)


def test_padding_around_nothing(emulated):
    checks.padding_around_nothing(emulated)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", [FLAT, LAST])
@pytest.mark.parametrize("width", [4, 8, 9, 16, 32])
def test_a_bad_value_reaches_what_its_kernel_covers(emulated, bad, layout, width):
    height = 16 if width == 32 else width
    checks.bad_value_reaches_what_its_kernel_covers(emulated, bad, layout, height, width)


@pytest.mark.parametrize("shape", [(1, 1, 2, 16, 16), (1, 1, 2, 2, 5)])
def test_relu_keeps_nan(emulated, shape):
    checks.relu_keeps_nan(emulated, shape)


def test_same_bits_in_any_order_of_threads(emulated):
    for shape, layout in (
        ((5, 3, 3, 8, 8), FLAT),
        ((3, 5, 2, 7, 9), FLAT),
        ((3, 5, 2, 7, 9), LAST),
    ):
        values = draw(shape, (3, 3, 3), torch.float32, True, layout)
        options = (*THREE[1:], True, True)
        outs = []
        for seed in (1, 2):
            emulated.set_seed(seed)
            y = emulated.depthwise_conv3d(*values.values(), *options)
            outs.append(
                (
                    y,
                    *emulated.depthwise_conv3d_backward(
                        y, *list(values.values())[:6], y, *options, [1] * 7
                    ),
                )
            )
        assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
