# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances, as relative error of the whole tensor: a sum of n products rounds at random, term
by term, and ends within about sqrt(n) / 4 eps of its size: n <= 130 taps give 3 eps (4e-7 in
float32). The gradient of the signal sums filters times taps, n <= 2,100 here: 12 eps (1.4e-6); that
of a kernel sums at most 256 samples per lane before it turns to double. float64 gets twice as many,
since its reference rounds as much as the kernel.

Where a pre-activation is within rounding of 0, ReLU may go either way, which the gradient shows in
full. So the reference gradient takes the mask of the tested forward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import relative_error

from eegfast import ops, reference
from eegfast._build import extension

FORWARD = {torch.float32: 5e-7, torch.float64: 8 * 2.3e-16}
BACKWARD = {torch.float32: 2e-6, torch.float64: 24 * 2.3e-16}

# batch dimensions, n_chans, n_times, filters, length, max_levels
CASES = [
    ((2,), 3, 512, 8, 65, 6),
    ((2,), 2, 1100, 5, 33, None),
    ((), 2, 129, 4, 129, None),
    ((1, 2), 1, 1, 1, 5, None),
    ((2,), 3, 63, 6, 63, None),
    ((1,), 2, 2048, 7, 17, 2),
    ((3,), 2, 9, 3, 33, None),
    ((1,), 1, 3001, 8, 65, None),
    ((2,), 2, 127, 2, 1, None),
    ((2,), 40, 31, 1, 3, None),
]


def draw(case, shared, dtype):
    batch, n_chans, n_times, filters, length, max_levels = case
    levels = len(ops.scaling_levels(length, max_levels))
    kernels = (filters,) if shared else (n_chans, filters)
    x = torch.randn(*batch, n_chans, n_times, dtype=dtype)
    weight = torch.randn(*kernels, length, dtype=dtype)
    bias = torch.randn(*kernels, levels, dtype=dtype)
    return x, weight, bias, max_levels


def pooled(kernel, count_include_pad):
    """The rule in words: means of neighbours, a zero in front if the number would be even."""
    kernel = list(kernel)
    if len(kernel) // 2 % 2 == 0:
        first = kernel[0] / 2 if count_include_pad else kernel[0]
        pairs = zip(kernel[1::2], kernel[2::2], strict=True)
        return np.array([first, *((a + b) / 2 for a, b in pairs)])
    return np.array([(a + b) / 2 for a, b in zip(kernel[::2], kernel[1::2], strict=False)])


def numpy_truth(x, weight, bias, levels, relu, count_include_pad):
    """The formula of the docstring, one row at a time."""
    out = np.zeros((*x.shape[:-1], weight.shape[-2], levels, x.shape[-1]))
    for row in np.ndindex(x.shape[:-1]):
        for f in range(weight.shape[-2]):
            kernel = weight[f] if weight.ndim == 2 else weight[row[-1], f]
            for level in range(levels):
                reach = len(kernel) // 2
                y = np.correlate(np.pad(x[row], reach), kernel, "valid")
                y = y + (bias[f, level] if bias.ndim == 2 else bias[row[-1], f, level])
                out[(*row, f, level)] = np.maximum(y, 0) if relu else y
                kernel = pooled(kernel, count_include_pad)
    return out


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_is_the_formula(isa, case, shared, relu):
    for count_include_pad in (True, False):
        x, weight, bias, max_levels = draw(case, shared, torch.float64)
        out = ops.scaling_conv1d(
            x, weight, bias, max_levels=max_levels, relu=relu, count_include_pad=count_include_pad
        )
        arrays = (x.numpy(), weight.numpy(), bias.numpy())
        truth = numpy_truth(*arrays, bias.shape[-1], relu, count_include_pad)
        np.testing.assert_allclose(out.numpy(), truth, rtol=1e-12, atol=1e-12)


def op_and_mask(x, weight, bias, levels, relu, count_include_pad=True):
    """The public function's output and the mask that it keeps for the gradient."""
    flat = [t if t is None or t.dim() == 3 else t[None] for t in (weight, bias)]
    return torch.ops.eegfast.scaling_conv1d(
        x.detach(), *flat, levels, relu, count_include_pad, True
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(isa, case, shared, dtype):
    for relu, count_include_pad in ((True, True), (True, False), (False, True)):
        x, weight, bias, max_levels = draw(case, shared, dtype)
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        exact = [t.double().requires_grad_() for t in (x, weight, bias)]
        out = ops.scaling_conv1d(
            *leaves, max_levels=max_levels, relu=relu, count_include_pad=count_include_pad
        )
        levels = bias.shape[-1]
        flat = [exact[0]] + [t if t.dim() == 3 else t[None] for t in exact[1:]]
        linear, _ = reference.scaling_conv1d(*flat, levels, False, count_include_pad, False)
        truth = linear.detach().relu() if relu else linear.detach()
        assert relative_error(out.detach(), truth) <= FORWARD[dtype]
        grad = torch.randn_like(out)
        kept = out.detach() > 0 if relu else torch.ones_like(out, dtype=torch.bool)
        linear.backward(grad.double() * kept)
        out.backward(grad)
        for ours, theirs in zip(leaves, exact, strict=True):
            assert ours.grad.shape == ours.shape
            assert relative_error(ours.grad, theirs.grad) <= BACKWARD[dtype]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_written_out_backward_of_the_reference(case, masked, count_include_pad):
    x, weight, bias, _ = draw(case, False, torch.float64)
    weight, bias = weight[: len(weight) if masked else 1], bias[:1]
    levels = bias.shape[-1]
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    out, mask = reference.scaling_conv1d(*leaves, levels, masked, count_include_pad, True)
    grad = torch.randn_like(out)
    truth = torch.autograd.grad(out, leaves, grad)
    written = reference.scaling_conv1d_backward(
        grad, x, weight, mask if masked else None, 1, levels, count_include_pad, True, True, True
    )
    for ours, theirs in zip(written, truth, strict=True):
        assert relative_error(ours, theirs) <= 1e-13


@pytest.mark.parametrize("n_times", [1, 9, 63, 64, 65, 127, 1024, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_is_one_bit_per_output(isa, n_times, dtype):
    x, weight, bias, _ = draw(((2,), 3, n_times, 5, 9, None), False, dtype)
    x[0, 0, n_times // 2] = math.nan
    out, mask = op_and_mask(x, weight, bias, 4, True)
    assert mask.dtype == torch.uint8 and mask.shape == (*out.shape[:-1], (n_times + 63) // 64 * 8)
    bits = np.unpackbits(mask.numpy(), axis=-1, bitorder="little")
    np.testing.assert_array_equal(bits[..., :n_times], ~(out.numpy() <= 0))
    assert not bits[..., n_times:].any()


def test_no_mask_without_need():
    x, weight, bias, _ = draw(((2,), 3, 50, 2, 9, None), False, torch.float32)
    seen = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is torch.ops.eegfast.scaling_conv1d.default:
                seen.append(out[1].numel())
            return out

    leaf = weight.clone().requires_grad_()
    with Spy():
        ops.scaling_conv1d(x, weight, bias)
        ops.scaling_conv1d(x, leaf, bias)
        ops.scaling_conv1d(x, leaf, bias, relu=False)
        with torch.no_grad():
            ops.scaling_conv1d(x, leaf, bias)
    assert [n > 0 for n in seen] == [False, True, False, False]


def test_only_the_gradients_asked_for(isa):
    tensors = draw(((2,), 3, 100, 5, 9, None), False, torch.float32)[:3]
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = ops.scaling_conv1d(*leaves)
    grad = torch.randn_like(out)
    together = torch.autograd.grad(out, leaves, grad)
    for wanted in range(3):
        some = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
        (alone,) = torch.autograd.grad(ops.scaling_conv1d(*some), some[wanted], grad)
        assert torch.equal(alone, together[wanted])


def test_levels_follow_the_rule():
    assert ops.scaling_levels(33) == [33, 17, 9, 5, 3, 1]
    assert ops.scaling_levels(63) == [63, 31, 15, 7, 3, 1]
    assert ops.scaling_levels(65, max_levels=6) == [65, 33, 17, 9, 5, 3]
    assert ops.scaling_levels(1, max_levels=5) == [1]
    assert len(ops.scaling_levels(129)) == 8
    ones = torch.ones(1, 33, dtype=torch.float64)
    x = torch.ones(1, 99, dtype=torch.float64)
    sums = ops.scaling_conv1d(x, ones)[0, 0, :, 49]
    assert sums.tolist() == [33, 16.5, 8.25, 4.125, 2.0625, 0.53125]
    uncounted = ops.scaling_conv1d(x, ones, count_include_pad=False)[0, 0, :, 49]
    assert uncounted.tolist() == [33, 17, 9, 5, 3, 1]


def test_weight_and_bias_broadcast(isa):
    x, weight, bias, _ = draw(((2,), 3, 50, 4, 9, None), False, torch.float64)
    shared = weight[0]

    def same(a, b):
        assert torch.equal(ops.scaling_conv1d(x, *a), ops.scaling_conv1d(x, *b))

    same((shared, bias[0]), (shared.expand(3, -1, -1), bias[:1].expand(3, -1, -1)))
    same((shared, bias), (shared.expand(3, -1, -1), bias))
    same((weight, bias[0]), (weight, bias[:1].expand(3, -1, -1)))
    same((weight[:1], bias[:, :, :1]), (shared, bias[:, :, :1].expand(-1, -1, 4)))
    same((weight, bias[0, 0]), (weight, bias[0, 0].expand(3, 4, 4)))
    same((weight, bias[0, :, :1]), (weight, bias[0, :, :1].expand(3, 4, 4)))
    same((weight,), (weight, torch.zeros_like(bias)))


def test_mixed_sharing_of_weight_and_bias_has_the_right_gradients(isa):
    x, weight, bias, _ = draw(((2,), 3, 70, 5, 9, None), False, torch.float64)
    for chosen in ((weight[0], bias), (weight, bias[0]), (weight[:1], bias[..., :1])):
        results = []
        for expand in (False, True):
            leaves = [t.clone().requires_grad_() for t in chosen]
            full = leaves
            if expand:
                full = [leaves[0].expand(3, 5, 9), leaves[1].expand(3, 5, 4)]
            out = ops.scaling_conv1d(x, *full)
            results.append(torch.autograd.grad(out.square().sum(), leaves))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_strides_and_leading_dimensions(isa):
    base = torch.randn(4, 6, 5, 300)
    for x in (
        base,
        base[0, 0],
        base[:, ::2],
        base[::2, 1:, ::2, 10:],
        base.transpose(0, 1),
        base.transpose(0, 2),
        base[..., ::2],
        base[:1].expand(3, -1, -1, -1),
        base[..., :1].expand(-1, -1, -1, 50),
    ):
        weight = torch.randn(17, 3).T.expand(x.shape[-2], -1, -1)
        bias = torch.randn(1, 5).expand(3, -1)
        dense = [t.clone(memory_format=torch.contiguous_format) for t in (x, weight, bias)]
        out = ops.scaling_conv1d(x, weight, bias)
        assert out.shape == (*x.shape[:-1], 3, 5, x.shape[-1])
        assert torch.equal(out, ops.scaling_conv1d(*dense))


def test_gradient_with_strides(isa):
    x = torch.randn(2, 3, 100)
    weight = torch.randn(5, 9)
    for grad in (
        torch.randn(1).expand(2, 3, 5, 4, 100),
        torch.randn(100, 4, 5, 3, 2).permute(4, 3, 2, 1, 0),
    ):
        results = []
        for g in (grad, grad.contiguous()):
            leaf = x.clone().requires_grad_()
            results.append(torch.autograd.grad(ops.scaling_conv1d(leaf, weight), leaf, g)[0])
        assert torch.equal(*results)


def test_empty_inputs(isa):
    for shape in ((0, 3, 50), (2, 0, 50), (2, 3, 0)):
        leaves = [torch.randn(shape), torch.randn(4, 9), torch.randn(4, 4)]
        leaves = [t.requires_grad_() for t in leaves]
        out = ops.scaling_conv1d(*leaves)
        assert out.shape == (*shape[:-1], 4, 4, shape[-1])
        out.sum().backward()
        for leaf in leaves:
            assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, 77, 98, 129])
def test_a_bad_sample_stays_under_its_kernels(isa, bad, at):
    x = torch.randn(2, 19, 130)
    x[1, 4, at] = bad
    weight = torch.rand(5, 17) + 0.1
    lengths = ops.scaling_levels(17)
    times = torch.arange(130)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    out = ops.scaling_conv1d(*leaves, relu=False)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    for level, length in enumerate(lengths):
        hit[1, 4, :, level] = (times - at).abs() <= length // 2
    assert torch.equal(~out.isfinite(), hit)
    # The gradient of the signal never meets it; that of a tap does where the tap meets the sample.
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.isfinite().all()
    finest = ops.scaling_conv1d(*leaves, relu=False, max_levels=1)
    (grad,) = torch.autograd.grad(finest.sum(), weight)
    met = torch.tensor([0 <= at - j + 8 < 130 for j in range(17)])
    assert torch.equal(~grad.isfinite(), met.expand(5, -1))


@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(isa, shared):
    for relu, filters in ((False, 5), (True, 2)):
        x, weight, bias, _ = draw(((2,), 2, 21, filters, 9, None), shared, torch.float64)
        while relu and ops.scaling_conv1d(x, weight, bias, relu=False).abs().min() < 1e-4:
            x = torch.randn_like(x)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        assert torch.autograd.gradcheck(
            lambda *t, relu=relu: ops.scaling_conv1d(*t, relu=relu), leaves
        )


def test_opcheck():
    x, weight, bias, _ = draw(((2,), 3, 70, 5, 9, None), False, torch.float32)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    op = torch.ops.eegfast.scaling_conv1d.default
    torch.library.opcheck(op, (*leaves, 4, True, True, True))
    torch.library.opcheck(op, (leaves[0], leaves[1], None, 3, False, False, False))
    out, mask = op_and_mask(x, weight.detach(), bias.detach(), 4, True)
    backward = torch.ops.eegfast.scaling_conv1d_backward.default
    args = (torch.randn_like(out), x.detach(), weight.detach())
    torch.library.opcheck(backward, (*args, mask, 3, 4, True, True, True, True))
    torch.library.opcheck(backward, (*args, None, 0, 4, True, False, True, False))


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_precision_is_float32_rounded_once(isa, dtype, limit):
    tensors = [t.to(dtype) for t in draw(((2,), 3, 130, 5, 17, None), False, torch.float32)[:3]]
    leaves = [t.clone().requires_grad_() for t in tensors]
    wide = [t.float().requires_grad_() for t in tensors]
    out, truth = ops.scaling_conv1d(*leaves), ops.scaling_conv1d(*wide)
    assert out.dtype == dtype and torch.equal(out, truth.to(dtype))
    assert relative_error(out.detach(), truth.detach().double()) <= limit
    grad = torch.randn_like(out)
    out.backward(grad)
    truth.backward(grad.float())
    for ours, theirs in zip(leaves, wide, strict=True):
        assert torch.equal(ours.grad, theirs.grad.to(dtype))
    mixed = ops.scaling_conv1d(tensors[0], wide[1], wide[2])
    assert mixed.dtype == dtype


def test_compiles_whole():
    x, weight, bias, _ = draw(((2,), 3, 100, 4, 9, None), True, torch.float32)
    compiled = torch.compile(ops.scaling_conv1d, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, bias), ops.scaling_conv1d(x, weight, bias))


@pytest.mark.parametrize(
    "case", [((4,), 5, 512, 8, 65, 6), ((1,), 2, 5000, 3, 33, None), ((2,), 70, 64, 2, 9, None)]
)
@pytest.mark.parametrize("shared", [True, False])
def test_same_bits_again_and_on_any_number_of_threads(isa, case, shared):
    leaves = [t.requires_grad_() for t in draw(case, shared, torch.float32)[:3]]
    grad = torch.randn(*leaves[0].shape[:-1], case[3], leaves[2].shape[-1], case[2])

    def run():
        out = ops.scaling_conv1d(*leaves, max_levels=case[5])
        return out.detach(), *torch.autograd.grad(out, leaves, grad)

    threads = torch.get_num_threads()
    try:
        first = run()
        for count in (threads, 1, 2, 3):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_no_second_derivative():
    x = torch.randn(3, 50, requires_grad=True)
    out = ops.scaling_conv1d(x, torch.randn(2, 9))
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="scaling_conv1d has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "weight, bias, options, message",
    [
        ((9,), None, {}, r"weight must be .* got \(9,\)"),
        ((2, 8), None, {}, r"odd length, got \(2, 8\)"),
        ((2, 0), None, {}, r"odd length, got \(2, 0\)"),
        ((0, 9), None, {}, r"got \(0, 9\)"),
        ((4, 2, 9), None, {}, r"n_chans = 3, filters, length\).* got \(4, 2, 9\)"),
        ((2, 9), (2, 3), {}, r"bias must broadcast to .* = \(3, 2, 4\), got \(2, 3\)"),
        ((2, 9), (4, 2, 4), {}, r"bias must broadcast to .* got \(4, 2, 4\)"),
        ((2, 9), (1, 3, 2, 4), {}, r"bias must broadcast to"),
        ((2, 9), None, dict(max_levels=0), "max_levels must be a whole number >= 1, got 0"),
        ((2, 9), None, dict(max_levels=1.5), "max_levels must be a whole number >= 1, got 1.5"),
    ],
)
def test_bad_arguments_are_named(weight, bias, options, message):
    bias = None if bias is None else torch.randn(bias)
    with pytest.raises(ValueError, match="eegfast.ops.scaling_conv1d: .*" + message):
        ops.scaling_conv1d(torch.randn(2, 3, 50), torch.randn(weight), bias, **options)


@pytest.mark.parametrize("length", [0, 4, -3, 2.5])
def test_bad_lengths_are_named(length):
    with pytest.raises(ValueError, match="eegfast.ops.scaling_levels: length must be odd"):
        ops.scaling_levels(length)


def test_wrong_types_are_named():
    x, weight = torch.randn(2, 50), torch.randn(2, 9)
    for args, message in (
        ((x.int(), weight), "x must be floating point"),
        (([1.0], weight), "x must be a torch.Tensor"),
        ((x, [1.0]), "weight must be a torch.Tensor, got list"),
        ((x, weight, 1.0), "bias must be a torch.Tensor, got float"),
        ((x, weight.double()), "weight must be torch.float32 on cpu like x, got torch.float64"),
        ((x, weight.bfloat16()), "weight must be torch.float32"),
        ((x, weight, torch.zeros(2, 4).double()), "bias must be torch.float32"),
    ):
        with pytest.raises(TypeError, match="eegfast.ops.scaling_conv1d: " + message):
            ops.scaling_conv1d(*args)
    with pytest.raises(ValueError, match=r"x must be \(..., n_chans, n_times\), got \(50,\)"):
        ops.scaling_conv1d(x[0], weight)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_the_operator_itself_refuses_what_would_not_fit():
    x, weight = torch.randn(2, 50), torch.randn(1, 2, 9)
    op, backward = (
        getattr(torch.ops.eegfast, name) for name in ("scaling_conv1d", "scaling_conv1d_backward")
    )
    with pytest.raises(RuntimeError, match="bad weight or levels"):
        op(x, weight, None, 5, True, True, True)
    with pytest.raises(RuntimeError, match="bad bias"):
        op(x, weight, torch.zeros(1, 2, 3), 4, True, True, True)
    grad = torch.randn(2, 2, 4, 50)
    with pytest.raises(RuntimeError, match="bad grad, mask"):
        backward(grad[..., 1:], x, weight, None, 0, 4, True, True, True, False)
    with pytest.raises(RuntimeError, match="bad grad, mask"):
        backward(grad, x, weight, torch.zeros(3, dtype=torch.uint8), 0, 4, True, True, True, False)
    leaf = x.clone().requires_grad_()
    out, _ = op(leaf, weight, None, 4, True, True, False)
    with pytest.raises(RuntimeError, match="no gradient without save_mask"):
        out.sum().backward()
