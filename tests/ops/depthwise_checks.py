# SPDX-License-Identifier: BSD-3-Clause
"""What the depthwise convolution's kernels are held to where they are called by themselves: ``op``
has its two functions."""

from __future__ import annotations

import math

import torch

from eegfast import reference

NAMES = ["x", "weight", "bias", "in_scale", "in_shift", "out_scale", "out_shift"]
FLAT, LAST = torch.contiguous_format, torch.channels_last_3d
THREE = ((3, 3, 3), (1, 1, 1), (1,) * 6)


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


def values_and_gradients(op, limits, shape, case, dtype, layout, affine, relu, guard=list):
    """``limits`` by type, of x and the result, and of sums; ``guard`` prepares a call's tensors."""
    limit, sums = limits
    kernel, *geometry = case
    values = draw(shape, kernel, dtype, affine, layout)
    options = (*geometry, relu, relu)
    out = op.depthwise_conv3d(*guard(values.values()), *options)
    truth = reference.depthwise_conv3d(*exactly(values.values()), *options)
    assert out.dtype == dtype and out.shape == truth.shape
    assert out.is_contiguous(memory_format=layout)
    grad = torch.randn(truth.shape).to(dtype)
    y = out if relu else None
    kept = torch.where(out <= 0, 0, grad) if relu else grad
    out_size, sizes = sizes_of_terms(values, kept.double(), geometry)
    assert (out.double() - truth).norm() <= limit[dtype] * out_size

    wanted = [1] * 7 if affine else [1, 1, 1, 0, 0, 0, 1]
    operands = list(values.values())[:6]
    gradients = op.depthwise_conv3d_backward(
        *guard([grad.to(memory_format=layout), *operands, y]), *options, wanted
    )
    truths = reference.depthwise_conv3d_backward(*exactly([grad, *operands, y]), *options, wanted)
    for name, ours, true, size in zip(NAMES, gradients, truths, sizes, strict=True):
        assert ours.dtype == dtype and ours.shape == true.shape
        most = (limit if name == "x" else sums)[dtype]
        assert (ours.double() - true).norm() <= most * size, name
    assert gradients[0].is_contiguous(memory_format=layout)


def empty(op, shape):
    values = draw(shape, (3, 3, 3), torch.float32)
    options = (*THREE[1:], True, True)
    out = op.depthwise_conv3d(*values.values(), *options)
    assert out.shape == shape
    gradients = op.depthwise_conv3d_backward(
        out, *list(values.values())[:6], out, *options, [1] * 7
    )
    for value, gradient in zip(values.values(), gradients, strict=True):
        assert gradient.shape == value.shape and not gradient.any()


def padding_around_nothing(op):
    x, weight, bias = torch.randn(2, 3, 0, 4, 4), torch.randn(3, 1, 1, 3, 3), torch.randn(3)
    options = ((1, 1, 1), (1,) * 6, False, False)
    out = op.depthwise_conv3d(x, weight, bias, *(None,) * 4, *options)
    assert torch.equal(out, bias[:, None, None, None].expand(2, 3, 2, 4, 4))
    gradients = op.depthwise_conv3d_backward(
        torch.ones_like(out), x, weight, bias, *(None,) * 4, *options, [1] * 7
    )
    assert gradients[0].shape == x.shape and not gradients[1].any()
    assert torch.equal(gradients[2], torch.full((3,), 64.0))


def bad_value_reaches_what_its_kernel_covers(op, bad, layout, height, width):
    x = torch.randn(2, 3, 3, height, width)
    x[1, 1, 1, 3, width - 1] = bad
    x = x.to(memory_format=layout)
    weight = torch.rand(3, 1, 3, 3, 3).add(0.5)
    rest = (*(None,) * 5, *THREE[1:], False, False)
    out = op.depthwise_conv3d(x, weight, *rest)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, 1, :, 2:5, width - 2 :] = True
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


def relu_keeps_nan(op, shape):
    x, weight = torch.full(shape, math.nan), torch.ones(1, 1, 3, 3, 3)
    for relus in ((True, False), (False, True)):
        assert op.depthwise_conv3d(x, weight, *(None,) * 5, *THREE[1:], *relus).isnan().all()
