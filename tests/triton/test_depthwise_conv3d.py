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

import pytest
import torch

from eegfast import reference

triton = pytest.importorskip("triton")
from eegfast._triton import depthwise_conv3d as op  # noqa: E402

LIMIT = {
    torch.float32: 1.2e-7,
    torch.float16: 2**-11 + 1.2e-7,
    torch.bfloat16: 2**-8 + 1.2e-7,
}
SUMS = LIMIT | {torch.float32: 3e-7}
NAMES = ["x", "weight", "bias", "in_scale", "in_shift", "out_scale", "out_shift"]
FLAT, LAST = torch.contiguous_format, torch.channels_last_3d
THREE = ((3, 3, 3), (1, 1, 1), (1,) * 6)

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


def draw(shape, kernel, dtype, affine=True, layout=FLAT):
    """Operands by name; those not given are None."""
    channels = shape[1]
    values = [torch.randn(shape), torch.randn(channels, 1, *kernel)]
    values += [torch.randn(channels) for _ in range(5)] if affine else [None] * 5
    values = dict(zip(NAMES, (v if v is None else v.to(dtype) for v in values), strict=True))
    if affine:
        scale, shift = (values[n].double()[:, None, None, None] for n in ("in_scale", "in_shift"))
        scale[scale.abs() < 1e-2] = 1
        values["in_scale"] = scale.flatten().to(dtype)
        while (near := (values["x"].double() * scale + shift).abs() < 1e-4).any():
            values["x"] = torch.where(near, values["x"] + 1, values["x"])
    values["x"] = values["x"].to(memory_format=layout)
    return values


def exactly(values):
    return [v if v is None else v.double() for v in values]


def sizes_of_terms(values, grad, geometry):
    """The norms of the result and its gradients, had no two terms cancelled."""
    positive = [v if v is None else v.abs() for v in exactly(values.values())]
    out = reference.depthwise_conv3d(*positive, *geometry, False, False)
    gradients = reference.depthwise_conv3d_backward(
        grad.abs(), *positive[:6], None, *geometry, False, False, [1] * 7
    )
    return out.norm(), [g.norm() for g in gradients]


def check(shape, case, dtype, layout, affine, relu):
    kernel, *geometry = case
    values = draw(shape, kernel, dtype, affine, layout)
    options = (*geometry, relu, relu)
    out = op.depthwise_conv3d(*values.values(), *options)
    truth = reference.depthwise_conv3d(*exactly(values.values()), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert out.is_contiguous(memory_format=layout)
    grad = torch.randn(truth.shape).to(dtype)
    y = out if relu else None
    kept = torch.where(out <= 0, 0, grad) if relu else grad
    out_size, sizes = sizes_of_terms(values, kept.double(), geometry)
    assert (out.double() - truth).norm() <= LIMIT[dtype] * out_size

    wanted = [1] * 7 if affine else [1, 1, 1, 0, 0, 0, 1]
    operands = list(values.values())[:6]
    gradients = op.depthwise_conv3d_backward(
        grad.to(memory_format=layout), *operands, y, *options, wanted
    )
    truths = reference.depthwise_conv3d_backward(*exactly([grad, *operands, y]), *options, wanted)
    for name, ours, true, size in zip(NAMES, gradients, truths, sizes, strict=True):
        assert ours.dtype == dtype and ours.shape == true.shape
        limit = (LIMIT if name == "x" else SUMS)[dtype]
        assert (ours.double() - true).norm() <= limit * size, name
    assert gradients[0].is_contiguous(memory_format=layout)


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
    values = draw(shape, (3, 3, 3), torch.float32)
    options = (*THREE[1:], True, True)
    out = op.depthwise_conv3d(*values.values(), *options)
    assert out.shape == shape
    gradients = op.depthwise_conv3d_backward(
        out, *list(values.values())[:6], out, *options, [1] * 7
    )
    for value, gradient in zip(values.values(), gradients, strict=True):
        assert gradient.shape == value.shape and not gradient.any()


def test_padding_around_nothing():
    x, weight, bias = torch.randn(2, 3, 0, 4, 4), torch.randn(3, 1, 1, 3, 3), torch.randn(3)
    options = ((1, 1, 1), (1,) * 6, False, False)
    out = op.depthwise_conv3d(x, weight, bias, *(None,) * 4, *options)
    assert torch.equal(out, bias[:, None, None, None].expand(2, 3, 2, 4, 4))
    gradients = op.depthwise_conv3d_backward(
        torch.ones_like(out), x, weight, bias, *(None,) * 4, *options, [1] * 7
    )
    assert gradients[0].shape == x.shape and not gradients[1].any()
    assert torch.equal(gradients[2], torch.full((3,), 64.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", [FLAT, LAST])
def test_a_bad_value_reaches_what_its_kernel_covers(bad, layout):
    x = torch.randn(2, 3, 3, 5, 6)
    x[1, 1, 1, 3, 5] = bad
    x = x.to(memory_format=layout)
    weight = torch.rand(3, 1, 3, 3, 3).add(0.5)
    rest = (*(None,) * 5, *THREE[1:], False, False)
    out = op.depthwise_conv3d(x, weight, *rest)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, 1, :, 2:5, 4:] = True
    assert torch.equal(~out.isfinite(), hit)

    def backward(grad):
        return op.depthwise_conv3d_backward(grad, x, weight, *rest, [1] * 7)

    reached, by_weight, *_ = backward(torch.ones_like(out))
    assert reached.isfinite().all() and by_weight[[0, 2]].isfinite().all()
    assert not by_weight[1, 0, 1, 1, 1].isfinite()
    grad = torch.zeros_like(out)
    grad[0, 2, 1, 3, 0] = bad
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[0, 2, :, 2:5, :2] = True
    assert torch.equal(~backward(grad)[0].isfinite(), hit)


def test_relu_keeps_nan():
    x, weight = torch.full((1, 1, 2, 2, 5), math.nan), torch.ones(1, 1, 3, 3, 3)
    for relus in ((True, False), (False, True)):
        assert op.depthwise_conv3d(x, weight, *(None,) * 5, *THREE[1:], *relus).isnan().all()


def test_float64_is_left_to_the_reference():
    x, weight = torch.randn(1, 1, 2, 2, 2).double(), torch.ones(1, 1, 1, 1, 1).double()
    with pytest.raises(NotImplementedError, match="float64"):
        op.depthwise_conv3d(x, weight, *(None,) * 5, (1, 1, 1), (0,) * 6, False, False)
