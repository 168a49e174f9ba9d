# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances, relative to the norm of what the sums of absolute values would give, since terms may
cancel: a result sums at most 125 products (27 for most shapes here) and two affine maps, an error
of about an eps of that; the gradients of parameters sum over a whole channel, in the kernel's type
over at most a few hundred vectors and then in double: a few eps. The truth in float64 rounds like
the kernel, hence twice the eps there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import float64_leaf, relative_error

from eegfast import ops, reference
from eegfast._build import extension

LIMIT = {torch.float32: 1.2e-7, torch.float64: 5e-16}
SUMS = {torch.float32: 3e-7, torch.float64: 2e-15}
LAST = torch.channels_last_3d
NAMES = ["x", "weight", "bias", "in_scale", "in_shift", "out_scale", "out_shift"]
THREE = dict(kernel=(3, 3, 3), stride=1, padding=1)

# Whole vectors per row, rows that share a vector, rows that straddle them; strides, phases without
# a tap, over-padding, several tiles, results of one element.
SHAPES = [
    ((3, 3, 5, 16, 16), THREE),
    ((2, 17, 5, 8, 8), THREE),
    ((2, 5, 8, 4, 4), THREE),
    ((1, 2, 5, 32, 32), THREE),
    ((1, 2, 12, 30, 63), THREE),
    ((1, 2, 3, 7, 16), THREE),
    ((2, 3, 4, 6, 8), THREE),
    ((2, 2, 3, 5, 8), THREE),
    ((1, 2, 2, 13, 48), THREE),
    ((1, 2, 25, 32, 32), THREE),
    ((1, 3, 6, 8, 16), dict(kernel=(5, 3, 3), stride=1, padding=(1, 1, 1))),
    ((2, 2, 3, 4, 8), dict(kernel=(2, 3, 3), stride=1, padding=(4, 1, 1))),
    ((2, 3, 4, 5, 127), dict(kernel=(5, 5, 5), stride=1, padding=2)),
    ((2, 33, 3, 2, 9), THREE),
    ((1, 1, 1, 1, 1), THREE),
    ((2, 4, 3, 6, 16), dict(kernel=(1, 3, 3), stride=1, padding=(0, 1, 1))),
    ((2, 4, 5, 6, 16), dict(kernel=(3, 1, 1), stride=1, padding=(1, 0, 0))),
    ((2, 16, 8, 9, 7), dict(kernel=(3, 3, 3), stride=2, padding=1)),
    ((1, 5, 9, 11, 13), dict(kernel=(5, 4, 2), stride=(2, 1, 3), padding=(2, 1, 0))),
    ((1, 2, 6, 7, 9), dict(kernel=(1, 1, 1), stride=2, padding=0)),
    ((1, 2, 6, 7, 9), dict(kernel=(1, 2, 1), stride=3, padding=4)),
    ((1, 2, 6, 7, 9), dict(kernel=(3, 3, 3), stride=(1, 2, 2), padding=(3, 0, 4))),
    ((1, 2, 6, 7, 18), dict(kernel=(3, 3, 3), stride=1, padding=0)),
    ((1, 3, 3, 1, 2), dict(kernel=(3, 1, 2), stride=2, padding=(1, 0, 0))),
    ((1, 2, 5, 8, 16), dict(kernel=(4, 2, 4), stride=1, padding="same")),
]


def draw(shape, kernel, dtype=torch.float64, affine=True):
    """Operands by name."""
    channels = shape[1]
    values = [torch.randn(shape, dtype=dtype), torch.randn(channels, 1, *kernel, dtype=dtype)]
    values += [torch.randn(channels, dtype=dtype) for _ in range(5)]
    return dict(zip(NAMES, values if affine else values[:2], strict=False))


def formula(x, weight, bias=None, stride=1, padding=0, *, in_relu=False, out_relu=False, **affine):
    """The docstring's formula with torch's convolution."""

    def apply(v, scale, shift):
        v = v if scale is None else v * scale[:, None, None, None]
        return v if shift is None else v + shift[:, None, None, None]

    a = apply(x, affine.get("in_scale"), affine.get("in_shift"))
    a = a.relu() if in_relu else a
    z = torch.nn.functional.conv3d(a, weight, bias, stride, padding, groups=x.shape[1])
    y = apply(z, affine.get("out_scale"), affine.get("out_shift"))
    return y.relu() if out_relu else y


def check(shape, case, dtype, layout, affine, relu):
    options = dict(stride=case["stride"], padding=case["padding"], in_relu=relu, out_relu=relu)
    values = draw(shape, case["kernel"], dtype, affine)
    if relu and affine:  # no activation within rounding of zero, where the two would disagree
        scale, shift = (values[n][:, None, None, None] for n in ("in_scale", "in_shift"))
        near = (values["x"] * scale + shift).abs() < 1e-4
        values["x"] = torch.where(near, values["x"] + 0.01, values["x"])
    values["x"] = values["x"].to(memory_format=layout)
    exact = {name: float64_leaf(v) for name, v in values.items()}
    leaves = {name: v.clone().requires_grad_() for name, v in values.items()}
    out, truth = ops.depthwise_conv3d(**leaves, **options), formula(**exact, **options)
    assert out.shape == truth.shape
    assert out.is_contiguous(memory_format=layout)
    # The result's mask is that of the tested forward.
    grad = torch.randn_like(truth) * ((out.detach() > 0) == (truth.detach() > 0))
    truth.backward(grad)
    out.backward(grad.to(dtype))
    kept = grad * (truth > 0) if relu else grad
    out_size, *sizes = sizes_of_terms(exact, kept, case["stride"], case["padding"])
    assert (out.detach().double() - truth.detach()).norm() <= LIMIT[dtype] * out_size
    for (name, leaf), size in zip(leaves.items(), sizes, strict=True):
        assert leaf.grad.shape == leaf.shape
        limit = (LIMIT if name == "x" else SUMS)[dtype]
        assert (leaf.grad.double() - exact[name].grad).norm() <= limit * size, name
    assert leaves["x"].grad.stride() == values["x"].stride()


def sizes_of_terms(exact, grad, stride, padding):
    """The norms of the result and its gradients, had no two terms cancelled."""
    positive = {name: v.detach().abs().requires_grad_() for name, v in exact.items()}
    out = formula(**positive, stride=stride, padding=padding)
    gradients = torch.autograd.grad(out, list(positive.values()), grad.abs())
    return [out.detach().norm(), *(g.norm() for g in gradients)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("shape, case", SHAPES)
def test_values_and_gradients(isa, shape, case, dtype, layout):
    check(shape, case, dtype, layout, affine=True, relu=True)
    check(shape, case, dtype, layout, affine=False, relu=False)


@pytest.mark.parametrize("kernel", [*itertools.product((1, 3, 5), (1, 2, 4), (1, 2, 3, 4, 5))])
def test_every_kernel_size(kernel):
    case = dict(kernel=kernel, stride=1, padding=tuple(k // 2 for k in kernel))
    check((1, 2, 5, 6, 16), case, torch.float32, torch.contiguous_format, True, True)
    check((1, 17, 5, 5, 7), case, torch.float32, LAST, True, False)


def test_many_samples_sum_exactly(isa):
    """Gradients of the parameters over more samples than there are chunks."""
    for layout in (torch.contiguous_format, LAST):
        check((70, 3, 2, 8, 8), THREE, torch.float32, layout, True, True)


def test_same_padding_is_that_of_conv3d():
    x, weight = torch.randn(2, 3, 6, 7, 8), torch.randn(3, 1, 2, 4, 5)
    for padding in ("same", "valid"):
        truth = formula(x, weight, padding=padding)
        torch.testing.assert_close(ops.depthwise_conv3d(x, weight, padding=padding), truth)


def test_reference_is_the_formula_and_its_backward_the_derivative():
    for shape, case in SHAPES[7:]:
        if case["padding"] == "same":
            continue
        padding = case["padding"] if isinstance(case["padding"], tuple) else (case["padding"],) * 3
        stride = case["stride"] if isinstance(case["stride"], tuple) else (case["stride"],) * 3
        values = {n: v.requires_grad_() for n, v in draw(shape, case["kernel"]).items()}
        both = [side for p in padding for side in (p, p)]
        truth = formula(**values, stride=stride, padding=padding, in_relu=True, out_relu=True)
        out = reference.depthwise_conv3d(*values.values(), stride, both, True, True)
        torch.testing.assert_close(out, truth)
        grad = torch.randn_like(truth)
        gradients = reference.depthwise_conv3d_backward(
            grad, *list(values.values())[:-1], out, stride, both, True, True, [1] * 7
        )
        truths = torch.autograd.grad(truth, list(values.values()), grad)
        for ours, theirs in zip(gradients, truths, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("asked", [*itertools.combinations(NAMES, 1), ("x", "bias"), NAMES[1:]])
def test_each_gradient_alone(isa, layout, asked):
    values = draw((3, 18, 4, 5, 16), (3, 3, 3))
    values["x"] = values["x"].to(memory_format=layout)
    options = dict(stride=1, padding=1, in_relu=True, out_relu=True)
    for value in values.values():
        value.requires_grad_(True)
    truths = torch.autograd.grad(formula(**values, **options).square().sum(), values.values())
    for name, value in values.items():
        value.requires_grad_(name in asked)
    out = ops.depthwise_conv3d(**values, **options)
    gradients = torch.autograd.grad(out.square().sum(), [values[n] for n in asked])
    for name, gradient in zip(asked, gradients, strict=True):
        torch.testing.assert_close(gradient, truths[NAMES.index(name)], rtol=1e-9, atol=1e-9)


def test_batch_norm_in_training_through_scale_and_shift(isa):
    x = torch.randn(4, 6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    norm = torch.nn.BatchNorm3d(6).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    conv = torch.nn.Conv3d(6, 6, 3, padding=1, groups=6, bias=False).double()
    inputs = [x, norm.weight, norm.bias, conv.weight]
    truth = conv(norm(x).relu())
    grad = torch.randn_like(truth)
    truths = torch.autograd.grad(truth, inputs, grad)
    var, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0)
    scale = norm.weight * (var + norm.eps).rsqrt()
    out = ops.depthwise_conv3d(
        x, conv.weight, padding=1, in_scale=scale, in_shift=norm.bias - mean * scale, in_relu=True
    )
    torch.testing.assert_close(out, truth)
    for ours, theirs in zip(torch.autograd.grad(out, inputs, grad), truths, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_strides_and_missing_batch(isa):
    weight = torch.randn(6, 1, 3, 3, 3)
    base = torch.randn(4, 6, 5, 16, 16)
    for x in (
        base[::2],
        base[..., ::2],
        base.transpose(-1, -2),
        base[:, :, 1:],
        base[:1].expand(3, -1, -1, -1, -1),
        base.to(memory_format=LAST)[:, :, :, 2:],
    ):
        leaf = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        x = x.detach().requires_grad_()
        out = ops.depthwise_conv3d(x, weight, padding=1)
        dense = ops.depthwise_conv3d(leaf, weight, padding=1)
        assert torch.equal(out, dense)
        grad = torch.randn(()).expand(out.shape)
        assert torch.equal(
            torch.autograd.grad(out, x, grad)[0], torch.autograd.grad(dense, leaf, grad)[0]
        )
    assert torch.equal(
        ops.depthwise_conv3d(base[0], weight, padding=1),
        ops.depthwise_conv3d(base[:1], weight, padding=1)[0],
    )


@pytest.mark.parametrize("shape", [(0, 3, 4, 5, 6), (2, 0, 4, 5, 6)])
def test_empty_inputs(isa, shape):
    values = {n: v.requires_grad_() for n, v in draw(shape, (3, 3, 3)).items()}
    out = ops.depthwise_conv3d(**values, padding=1, out_relu=True)
    assert out.shape == shape
    out.sum().backward()
    for value in values.values():
        assert torch.equal(value.grad, torch.zeros_like(value))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("width", [4, 8, 9, 16, 32])
def test_a_bad_value_reaches_what_its_kernel_covers(isa, bad, layout, width):
    x = torch.randn(2, 3, 5, 6, width)
    x[1, 1, 2, 3, width - 1] = bad
    leaf = x.to(memory_format=layout).requires_grad_()
    weight = torch.rand(3, 1, 3, 3, 3).add(0.5).requires_grad_()
    out = ops.depthwise_conv3d(leaf, weight, padding=1)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, 1, 1:4, 2:5, width - 2 :] = True
    assert torch.equal(~out.isfinite(), hit)
    out.sum().backward()
    assert leaf.grad.isfinite().all()
    assert weight.grad[[0, 2]].isfinite().all()
    assert not weight.grad[1, 0, 1, 1, 1].isfinite()
    grad = torch.zeros_like(out)
    grad[0, 2, 2, 3, 0] = bad
    (reached,) = torch.autograd.grad(ops.depthwise_conv3d(leaf, weight, padding=1), leaf, grad)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[0, 2, 1:4, 2:5, :2] = True
    assert torch.equal(~reached.isfinite(), hit)


def test_relu_keeps_nan(isa):
    x = torch.full((1, 1, 2, 2, 16), math.nan)
    weight = torch.ones(1, 1, 1, 1, 1)
    for options in (dict(in_relu=True), dict(out_relu=True)):
        assert ops.depthwise_conv3d(x, weight, **options).isnan().all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_gradcheck(isa, layout, stride):
    values = draw((2, 2, 3, 3, 4), (3, 2, 3))
    values["x"] = values["x"].to(memory_format=layout)
    inputs = [v.requires_grad_() for v in values.values()]
    for relu in (False, True):
        assert torch.autograd.gradcheck(
            lambda *args, relu=relu: ops.depthwise_conv3d(
                **dict(zip(NAMES, args, strict=True)),
                stride=stride,
                padding=1,
                in_relu=relu,
                out_relu=relu,
            ),
            inputs,
            eps=1e-7,
            atol=1e-5,
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_opcheck(layout):
    values = [v.float() for v in draw((2, 3, 4, 5, 6), (3, 3, 3)).values()]
    values[0] = values[0].to(memory_format=layout)
    rest = ([1, 2, 1], [1, 1, 0, 1, 1, 1], True, True)
    leaves = [v.clone().requires_grad_() for v in values]
    op = torch.ops.eegfast.depthwise_conv3d.default
    torch.library.opcheck(op, (*leaves, *rest))
    torch.library.opcheck(op, (*leaves[:2], *(None,) * 5, *rest[:2], False, False))
    y = op(*values, *rest)
    backward = torch.ops.eegfast.depthwise_conv3d_backward.default
    for wanted in ([1] * 7, [1, 0, 0, 1, 0, 0, 0]):
        torch.library.opcheck(backward, (torch.randn_like(y), *values[:6], y, *rest, wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_half_types_are_computed_in_float32_and_rounded_once(dtype, layout):
    values = {n: v.to(dtype) for n, v in draw((2, 3, 5, 8, 8), (3, 3, 3)).items()}
    values["x"] = values["x"].to(memory_format=layout)
    options = dict(padding=1, in_relu=True, out_relu=True)
    half = {n: v.clone().requires_grad_() for n, v in values.items()}
    wide = {n: v.float().requires_grad_() for n, v in values.items()}
    out, full = ops.depthwise_conv3d(**half, **options), ops.depthwise_conv3d(**wide, **options)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    assert torch.equal(out, full.to(dtype))
    assert relative_error(out.detach(), full.detach().double()) <= 4e-3
    grad = torch.randn_like(out)
    out.backward(grad)
    full.backward(grad.float())
    for name in NAMES:
        assert torch.equal(half[name].grad, wide[name].grad.to(dtype))


def test_compiles_whole():
    values = {n: v.requires_grad_() for n, v in draw((2, 3, 4, 8, 8), (3, 3, 3)).items()}

    def call(*args):
        named = dict(zip(NAMES, args, strict=True))
        return ops.depthwise_conv3d(**named, padding="same", in_relu=True, out_relu=True)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = [
        (out := f(*values.values()), *torch.autograd.grad(out.sum(), list(values.values())))
        for f in (call, compiled)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("shape", [(9, 20, 5, 16, 16), (40, 3, 5, 8, 8), (1, 2, 30, 40, 32)])
def test_same_bits_again_and_on_any_number_of_threads(isa, layout, shape):
    values = {n: v.float() for n, v in draw(shape, (3, 3, 3)).items()}
    values["x"] = values["x"].to(memory_format=layout)
    leaves = {n: v.requires_grad_() for n, v in values.items()}

    def run():
        out = ops.depthwise_conv3d(**leaves, padding=1, in_relu=True, out_relu=True)
        return out, *torch.autograd.grad(out.square().sum(), list(leaves.values()))

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (2, 2, 1, 3):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_second_derivative():
    x = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    out = ops.depthwise_conv3d(x, torch.randn(2, 1, 1, 1, 1)).square()
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="depthwise_conv3d has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=torch.randn(3, 4, 5)), r"x must be \(batch, channels, .* got \(3, 4, 5\)"),
        (dict(weight=torch.randn(2, 1, 3, 3, 3)), r"weight must be \(3, 1, kd, kh, kw\), got"),
        (dict(weight=torch.randn(3, 3, 3)), r"weight must be \(3, 1, kd, kh, kw\), got"),
        (dict(weight=torch.randn(3, 1, 3, 6, 3)), "kernel sizes of 1 to 5, got"),
        (dict(bias=torch.randn(2)), r"bias must have shape \(3,\), got \(2,\)"),
        (dict(in_scale=torch.randn(3, 1)), r"in_scale must have shape \(3,\)"),
        (dict(stride=0), "stride must be one or three whole numbers >= 1, got 0"),
        (dict(stride=(1, 1)), "stride must be one or three whole numbers"),
        (dict(padding=-1), "padding must be one or three whole numbers >= 0, got -1"),
        (dict(padding=1.5), "padding must be one or three whole numbers"),
        (dict(padding="full"), "padding must be 'same', 'valid' or whole numbers, got 'full'"),
        (dict(padding="same", stride=2), "stride must be 1 with padding='same'"),
        (dict(x=torch.randn(1, 3, 2, 5, 5)), "at least as large as the kernel"),
    ],
)
def test_bad_arguments_are_named(change, message):
    good = dict(x=torch.randn(2, 3, 4, 5, 6), weight=torch.randn(3, 1, 3, 3, 3))
    with pytest.raises(ValueError, match="eegfast.ops.depthwise_conv3d: .*" + message):
        ops.depthwise_conv3d(**{**good, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(x=[[1.0]]), "x must be a torch.Tensor, got list"),
        (dict(x=torch.ones(2, 3, 4, 5, 6, dtype=torch.int32)), "x must be floating point"),
        (dict(weight=None), "weight must be a torch.Tensor, got NoneType"),
        (dict(weight=torch.randn(3, 1, 3, 3, 3).double()), "weight must be torch.float32 on cpu"),
        (dict(bias=torch.randn(3).bfloat16()), "bias must be torch.float32 on cpu like x, got"),
    ],
)
def test_wrong_types_are_named(change, message):
    good = dict(x=torch.randn(2, 3, 4, 5, 6), weight=torch.randn(3, 1, 3, 3, 3))
    with pytest.raises(TypeError, match="eegfast.ops.depthwise_conv3d: .*" + message):
        ops.depthwise_conv3d(**{**good, **change})


def test_autocast_changes_nothing():
    x, weight = torch.randn(2, 3, 4, 5, 6), torch.randn(3, 1, 3, 3, 3)
    plain = ops.depthwise_conv3d(x, weight)
    with torch.autocast("cpu"):
        assert torch.equal(ops.depthwise_conv3d(x, weight), plain)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_the_operator_itself_refuses_half_types_by_name():
    args = (torch.randn(1, 2, 3, 3, 3).half(), torch.randn(2, 1, 1, 1, 1).half(), *(None,) * 5)
    with pytest.raises(RuntimeError, match="eegfast.ops.depthwise_conv3d"):
        torch.ops.eegfast.depthwise_conv3d(*args, [1] * 3, [0] * 6, False, False)
