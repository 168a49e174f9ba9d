# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances, relative in the norm. An output is three short sums in a row (of C, 27 and E terms)
that round at random: under 5e-7 in float32. In float64, where the truth rounds as much, 2e-14.
Gradients pass five; those of the norms are sums over the batch whose terms can cancel, and have the
error of the terms, which are of the size of the incoming gradient: 2e-6, and 1e-12 in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from numerics import float64_leaf, relative_error
from unit_inputs import EPS, clear_of_corners, make_inputs, plain

from eegfast import ops, reference
from eegfast._build import extension
from eegfast.ops.mobile_unit3d import _unit

FORWARD = {torch.float32: 5e-7, torch.float64: 2e-14}
BACKWARD = {torch.float32: 2e-6, torch.float64: 1e-12}
PARAMETERS = ["norm1_weight", "norm1_bias", "expand_weight", "norm2_weight", "norm2_bias"]
PARAMETERS += ["depthwise_weight", "project_weight"]

# batch, channels, depth, height, width, expanded channels: LDM-EEG's planes and some of no
# convenience, batches that leave lanes empty, channels that fill no block.
SHAPES = [
    (2, 4, 5, 16, 16, 32),
    (3, 3, 5, 8, 8, 7),
    (5, 2, 8, 4, 4, 9),
    (9, 6, 5, 2, 2, 48),
    (4, 3, 2, 1, 1, 5),
    (2, 3, 4, 9, 5, 6),
    (1, 2, 2, 3, 37, 5),
    (2, 1, 1, 17, 19, 3),
    (2, 5, 3, 13, 11, 6),
    (1, 2, 1, 1, 63, 2),
    (1, 2, 1, 2, 127, 3),
]


def ours(x, parameters, running, training, merge):
    return _unit(
        x,
        *parameters,
        running=tuple(running),
        training=training,
        momentum=(0.1, 0.1),
        eps=(EPS, EPS),
        merge=merge,
    )


MODES = [
    ((True, True), "concat"),
    ((False, False), "add"),
    ((True, False), "concat"),
    ((False, True), "add"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training, merge", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_gradients_and_running_statistics(isa, shape, training, merge, dtype):
    x, parameters, running = make_inputs(shape, dtype)
    if dtype == torch.float32:
        x = clear_of_corners(x, parameters, running, training)
    exact = [float64_leaf(v) for v in (x, *parameters)]
    leaves = [v.clone().requires_grad_() for v in (x, *parameters)]
    exact_running = [tuple(v.double().clone() for v in pair) for pair in running]

    truth = plain(exact[0], exact[1:], exact_running, training, merge)[0]
    out = ours(leaves[0], leaves[1:], running, training, merge)
    first = x.shape[1] if merge == "concat" else 0
    assert torch.equal(out[:, :first], leaves[0][:, :first])
    error = relative_error(out[:, first:].detach(), truth[:, first:].detach())
    assert error <= FORWARD[dtype]
    for pair, exact_pair in zip(running, exact_running, strict=True):
        for value, exact_value in zip(pair, exact_pair, strict=True):
            assert relative_error(value, exact_value) <= FORWARD[dtype]

    grad = torch.randn(truth.shape, dtype=dtype)
    truth.backward(grad.double())
    out.backward(grad)
    for name, leaf, value in zip(["x", *PARAMETERS], leaves, exact, strict=True):
        scale = max(float(value.grad.norm()), float(grad.norm()))
        error = float((leaf.grad.double() - value.grad).norm()) / scale
        assert error <= BACKWARD[dtype], name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("merge", ["concat", "add"])
def test_reference_is_the_formula(training, merge):
    """The written-out backward pass of the reference, against autograd of the plain modules."""
    x, parameters, running = make_inputs((3, 3, 4, 5, 6, 7))
    leaves = [v.clone().requires_grad_() for v in (x, *parameters)]
    truth = plain(leaves[0], leaves[1:], running, (training,) * 2, merge)[0]
    grad = torch.randn_like(truth)
    grads = torch.autograd.grad(truth, leaves, grad)
    given = [None] * 4 if training else [*running[0], *running[1]]
    merge_flag = merge == "concat"
    out, *statistics = reference.mobile_unit3d(x, *parameters, *given, EPS, EPS, merge_flag)
    assert relative_error(out, truth.detach()) <= 1e-14
    mine = reference.mobile_unit3d_backward(
        grad, x, *parameters, *statistics, training, training, EPS, EPS, merge_flag, True
    )
    for value, exact in zip(mine, grads, strict=True):
        assert relative_error(value, exact) <= 1e-12


def test_large_mean_and_tiny_variance(isa):
    """An input with variance near eps, and one far from zero: nothing may cancel, eps is exact."""
    for scale, offset in ((1 / 640, 0.0), (1e-3, 0.5), (1.0, 100.0)):
        x, parameters, running = make_inputs((4, 4, 5, 8, 8, 16), torch.float32)
        x = x * scale + offset
        exact_running = [tuple(v.double().clone() for v in pair) for pair in running]
        truth = plain(
            x.double(), [p.double() for p in parameters], exact_running, (True, True), "add"
        )[0]
        out = ours(x, parameters, running, (True, True), "add")
        # The mean is rounded to eps |offset|, and the norm divides that by the deviation.
        limit = 5e-7 * (1 + 2 * abs(offset) / (scale**2 * 0.5 + EPS) ** 0.5)
        assert relative_error(out - x, truth - x.double()) <= limit
        for i, pair in enumerate(running):
            for value, exact_value in zip(pair, exact_running[i], strict=True):
                assert relative_error(value, exact_value) <= (limit if i else 5e-7)


@pytest.mark.parametrize("training", [True, False])
def test_half_types_run_in_float32_and_round_once(training):
    x, parameters, running = make_inputs((2, 4, 5, 8, 8, 32), torch.float32)
    for dtype, limit in ((torch.bfloat16, 4e-3), (torch.float16, 1e-3)):
        narrow = [v.to(dtype).requires_grad_() for v in (x, *parameters)]
        wide = [v.detach().float().requires_grad_() for v in narrow]
        buffers = [tuple(v.clone() for v in pair) for pair in running]
        out = ours(narrow[0], narrow[1:], buffers, (training,) * 2, "concat")
        expected = ours(wide[0], wide[1:], running, (training,) * 2, "concat")
        assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
        assert relative_error(out.detach(), expected.detach().double()) <= limit
        grad = torch.randn(out.shape).to(dtype)
        out.backward(grad)
        expected.backward(grad.float())
        for a, b in zip(narrow, wide, strict=True):
            assert torch.equal(a.grad, b.grad.to(dtype))
        mixed = ours(narrow[0], wide[1:], buffers, (False, False), "concat")
        assert mixed.dtype == dtype


def test_strides(isa):
    x, parameters, running = make_inputs((4, 4, 3, 8, 8, 8))
    base = torch.randn(8, 4, 3, 8, 16, dtype=x.dtype)
    for view in (
        base[::2, ..., ::2],
        base[:4].transpose(0, 1),
        base.to(memory_format=torch.channels_last_3d)[:4],
        base[:1].expand(4, -1, -1, -1, -1),
    ):
        dense = view.clone(memory_format=torch.contiguous_format).requires_grad_()
        leaf = view.detach().requires_grad_()
        out = ours(leaf, parameters, running, (False, False), "concat")
        expected = ours(dense, parameters, running, (False, False), "concat")
        assert torch.equal(out, expected)
        grad = torch.randn_like(out).transpose(3, 4).contiguous().transpose(3, 4)
        assert torch.equal(
            torch.autograd.grad(out, leaf, grad)[0], torch.autograd.grad(expected, dense, grad)[0]
        )


def test_empty_batch_in_evaluation(isa):
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5))
    leaves = [v.clone().requires_grad_() for v in (x[:0], *parameters)]
    out = ours(leaves[0], leaves[1:], running, (False, False), "concat")
    assert out.shape == (0, 6, 2, 4, 4)
    out.sum().backward()
    assert all(torch.equal(v.grad, torch.zeros_like(v)) for v in leaves)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("width", [8, 16, 19])
def test_a_bad_voxel_stays_within_its_neighbours(isa, bad, width):
    x, parameters, running = make_inputs((5, 4, 5, 6, width, 8), torch.float32)
    x[2, 1, 2, 3, width - 1] = bad
    leaf = x.clone().requires_grad_()
    out = ours(leaf, parameters, running, (False, False), "concat")
    reached = torch.zeros(5, 1, 5, 6, width, dtype=torch.bool)
    reached[2, :, 1:4, 2:5, width - 2 :] = True
    # Inf may meet only negative weights and come out as zero, as it would in torch.
    assert out[(~reached).expand_as(out)].isfinite().all()
    truth = plain(x, parameters, running, (False, False), "concat")[0]
    assert torch.equal(out.isnan(), truth.isnan())
    out.sum().backward()
    assert leaf.grad[(~reached).expand_as(leaf)].isfinite().all()
    assert ours(x, parameters, running, (True, True), "add").isnan().any()


@pytest.mark.parametrize("training", [True, False])
def test_only_the_gradients_that_are_asked_for(isa, training):
    x, parameters, running = make_inputs((2, 3, 3, 5, 8, 7))
    leaves = [v.clone().requires_grad_() for v in (x, *parameters)]
    out = ours(leaves[0], leaves[1:], running, (training,) * 2, "concat")
    grad = torch.randn_like(out)
    whole = torch.autograd.grad(out, leaves, grad)
    some = [v.detach().requires_grad_(i < 4) for i, v in enumerate((x, *parameters))]
    out = ours(some[0], some[1:], running, (training,) * 2, "concat")
    for a, b in zip(torch.autograd.grad(out, some[:4], grad), whole, strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 2, 2, 3, 4, 3), (3, 1, 1, 2, 9, 2)])
def test_gradcheck(isa, shape, training):
    x, parameters, running = make_inputs(shape)
    leaves = [v.requires_grad_() for v in (x, *parameters)]

    def unit(x, *parameters):
        buffers = [tuple(v.clone() for v in pair) for pair in running]
        return ours(x, parameters, buffers, (training,) * 2, "concat")

    assert torch.autograd.gradcheck(unit, leaves, eps=1e-7, atol=1e-5)


def test_opcheck():
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5))
    leaves = [v.requires_grad_() for v in (x, *parameters)]
    op = torch.ops.eegfast.mobile_unit3d.default
    torch.library.opcheck(op, (*leaves, None, None, None, None, EPS, EPS, True))
    torch.library.opcheck(op, (*leaves, *running[0], *running[1], EPS, EPS, False))
    plain_leaves = [v.detach() for v in leaves]
    given = (*running[0], *running[1], False, True, EPS, EPS)
    backward = torch.ops.eegfast.mobile_unit3d_backward.default
    for filters in (True, False):
        torch.library.opcheck(
            backward, (torch.randn(2, 6, 2, 4, 4).double(), *plain_leaves, *given, True, filters)
        )


@pytest.mark.parametrize("shape", [(11, 4, 5, 8, 8, 32), (40, 2, 3, 16, 16, 9)])
def test_same_bits_again_and_on_any_number_of_threads(isa, shape):
    x, parameters, running = make_inputs(shape, torch.float32)
    leaves = [v.requires_grad_() for v in (x, *parameters)]

    def run(threads):
        torch.set_num_threads(threads)
        buffers = [tuple(v.clone() for v in pair) for pair in running]
        out = ours(leaves[0], leaves[1:], buffers, (True, True), "concat")
        grads = torch.autograd.grad(out.square().sum(), leaves)
        return [out.detach(), *grads, *buffers[0], *buffers[1]]

    before = torch.get_num_threads()
    try:
        first = run(1)
        for threads in (1, 2, 3):
            assert all(torch.equal(a, b) for a, b in zip(first, run(threads), strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(extension is None, reason="the reference stores what the kernels do not")
@pytest.mark.parametrize("training", [True, False])
def test_peak_memory_is_a_fifth_of_the_plain_modules(training):
    x, parameters, running = make_inputs((16, 4, 5, 16, 16, 32), torch.float32)
    leaves = [v.requires_grad_() for v in (x, *parameters)]

    def peak(function):
        with torch.profiler.profile(profile_memory=True) as profile:
            function(leaves[0], leaves[1:], running, (training,) * 2, "concat").sum().backward()
        level = highest = 0
        for event in sorted(
            (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),
            key=lambda e: e.start_ns(),
        ):
            level += event.nbytes()
            highest = max(highest, level)
        for leaf in leaves:
            leaf.grad = None
        return highest

    eager = peak(lambda *arguments: plain(*arguments)[0])
    assert eager > 5 * 16 * 32 * 1280 * 4  # the count sees the expanded tensors
    assert peak(ours) <= eager / 5


def test_no_second_derivative():
    x, parameters, running = make_inputs((2, 2, 2, 3, 3, 3))
    x.requires_grad_()
    out = ours(x, parameters, running, (True, True), "add")
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="mobile_unit3d has no second derivative"):
        grad.sum().backward()


def test_without_running_statistics_the_batch_is_used():
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5))
    buffers = [tuple(v.clone() for v in pair) for pair in running]
    batch = ours(x, parameters, buffers, (True, True), "concat")
    assert torch.equal(ops.mobile_unit3d(x, *parameters), batch)
    assert torch.equal(ops.mobile_unit3d(x, *parameters, training=True), batch)


def test_running_statistics_are_updated_as_batch_norm_does():
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5))
    exact = [tuple(v.clone() for v in pair) for pair in running]
    plain(x, parameters, exact, (True, True), "concat", momentum=0.3)
    given = dict(
        running_mean1=running[0][0],
        running_var1=running[0][1],
        running_mean2=running[1][0],
        running_var2=running[1][1],
    )
    ops.mobile_unit3d(x, *parameters, **given, training=True, momentum=0.3)
    for pair, exact_pair in zip(running, exact, strict=True):
        for value, exact_value in zip(pair, exact_pair, strict=True):
            torch.testing.assert_close(value, exact_value, rtol=1e-13, atol=1e-14)


def test_eps_of_each_norm_is_its_own():
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5))
    w1, b1, expand, w2, b2, depthwise, project = parameters
    a = F.relu(F.batch_norm(x, *running[0], w1, b1, False, 0, 0.1))
    p = F.relu(F.batch_norm(F.conv3d(a, expand), *running[1], w2, b2, False, 0, 0.4))
    truth = x + F.conv3d(F.conv3d(p, depthwise, padding=1, groups=5), project)
    out = ops.mobile_unit3d(
        x, *parameters, *running[0], *running[1], eps1=0.1, eps2=0.4, merge="add"
    )
    torch.testing.assert_close(out, truth, rtol=1e-12, atol=1e-13)


def test_autocast_leaves_it_alone():
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5), torch.float32)
    out = ops.mobile_unit3d(x, *parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.mobile_unit3d(x, *parameters), out)
        narrow = ops.mobile_unit3d(x.bfloat16(), *parameters)
    assert narrow.dtype == torch.bfloat16


def wrong(name, value):
    x, parameters, running = make_inputs((2, 3, 2, 4, 4, 5), torch.float32)
    arguments = dict(zip(["x", *PARAMETERS], (x, *parameters), strict=True))
    arguments.update(zip(["running_mean1", "running_var1"], running[0], strict=True))
    arguments[name] = value(arguments[name]) if callable(value) else value
    return arguments


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("x", torch.ones(3, 2, 4, 4), r"x must be \(batch, channels, depth, height, width\), got"),
        ("x", torch.ones(1, 2, 3, 2, 4, 4), r"x must be \(batch"),
        ("norm1_weight", torch.ones(4), r"norm1_weight must be \(3,\), got \(4,\)"),
        ("expand_weight", torch.ones(5, 3), r"expand_weight must be \(5, 3, 1, 1, 1\)"),
        ("norm2_bias", torch.ones(6), r"norm2_bias must be \(5,\), got \(6,\)"),
        (
            "depthwise_weight",
            torch.ones(5, 1, 1, 3, 3),
            r"depthwise_weight must be \(5, 1, 3, 3, 3\), got \(5, 1, 1, 3, 3\)",
        ),
        (
            "project_weight",
            lambda w: w.transpose(0, 1),
            r"project_weight must be \(3, 5, 1, 1, 1\)",
        ),
        ("running_mean1", torch.ones(2), r"running_mean1 must be \(3,\)"),
        ("running_mean1", None, "running_mean1 and running_var1 must be given together"),
        ("x", lambda x: x[:1, :, :1, :1, :1], "more than one value per channel"),
        ("x", lambda x: x[:0], "more than one value per channel"),
    ],
)
def test_bad_shapes_are_named(name, value, message):
    with pytest.raises(ValueError, match="eegfast.ops.mobile_unit3d: " + message):
        ops.mobile_unit3d(**wrong(name, value), training=True)


def test_bad_merge_and_types_are_named():
    arguments = wrong("x", lambda x: x)
    with pytest.raises(ValueError, match=r"merge must be one of \('concat', 'add'\), got 'cat'"):
        ops.mobile_unit3d(**arguments, merge="cat")
    with pytest.raises(TypeError, match="expand_weight must be torch.float32 like x, got"):
        ops.mobile_unit3d(**wrong("expand_weight", lambda w: w.double()))
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got list"):
        ops.mobile_unit3d(**wrong("x", [1.0]))
    with pytest.raises(TypeError, match="x must be floating point"):
        ops.mobile_unit3d(**wrong("x", lambda x: x.long()))
