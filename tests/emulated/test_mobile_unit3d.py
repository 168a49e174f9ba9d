# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: as for the CPU kernels (tests/ops/test_mobile_unit3d.py), and their inputs: far from
the corners of the ReLUs. A half type rounds each result once, by half a unit in the last place: at
most 2**-11 relative in float16, 2**-8 in bfloat16, gradients too; its statistics are float32."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import float64_leaf, relative_error
from unit_inputs import EPS, clear_of_corners, make_inputs, plain

from eegfast import reference

ROUNDING = {torch.float32: 0, torch.float64: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}

# batch, channels, depth, height, width, expanded channels. Whole planes of 16 x 16 and 8 x 8 with 5
# or 8 of them and 4 or 8 channels have kernels of their own, but in float64. Batches that fill no
# block, or several; channels that fill no step, or split.
PLANES = [
    (2, 4, 5, 16, 16, 12),
    (1, 8, 5, 16, 16, 9),
    (1, 4, 8, 16, 16, 8),
    (5, 4, 5, 8, 8, 11),
    (2, 8, 8, 8, 8, 3),
    (1, 8, 8, 16, 16, 5),
    (3, 8, 5, 8, 8, 17),
    (25, 4, 5, 8, 8, 2),
    (1, 4, 8, 8, 8, 70),
]
ANY = [
    (3, 3, 5, 8, 8, 7),
    (5, 2, 8, 4, 4, 9),
    (2, 40, 3, 2, 2, 19),
    (40, 3, 2, 1, 1, 5),
    (1, 1, 1, 1, 2, 1),
    (2, 5, 3, 13, 11, 6),
    (1, 19, 2, 1, 63, 2),
    (1, 2, 1, 2, 127, 3),
    (1, 8, 3, 40, 37, 3),
    (1, 2, 1, 3, 1500, 2),
]
MODES = [
    ((True, True), True),
    ((False, False), False),
    ((True, False), True),
    ((False, True), False),
]
CASES = [(shape, *MODES[0]) for shape in PLANES + ANY]
CASES += [(shape, *mode) for shape in (PLANES[0], PLANES[3], ANY[0]) for mode in MODES[1:]]


def draw(shape, training, dtype):
    """Return inputs that ``dtype`` holds exactly; in float32, far from corners."""
    x, parameters, running = make_inputs(shape)
    if dtype == torch.float64:
        return x, parameters, running
    parameters = [v.to(dtype).double() for v in parameters]
    running = [tuple(v.float().double() for v in pair) for pair in running]
    if dtype == torch.float32:
        x = clear_of_corners(x.float(), parameters, running, training)
    return x.to(dtype).double(), parameters, running


def given(running, training, dtype):
    """Return the four statistics as the op takes them."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        None if train else value.to(wide)
        for pair, train in zip(running, training, strict=True)
        for value in pair
    ]


def run(emulated, inputs, training, concat, dtype, filters=True, grad=None):
    """Return our output, statistics and gradients, and the reference's."""
    x, parameters, running = inputs
    exact = [x, *parameters]
    ours = [emulated.guarded(v.to(dtype)) for v in exact]
    statistics = given(running, training, dtype)
    guarded = [v if v is None else emulated.guarded(v) for v in statistics]
    forward = emulated.mobile_unit3d(*ours, *guarded, EPS, EPS, concat)
    statistics = [v if v is None else v.double() for v in statistics]
    true_forward = reference.mobile_unit3d(*exact, *statistics, EPS, EPS, concat)

    if grad is None:
        grad = torch.randn(true_forward[0].shape).to(dtype)
    tail = (*training, EPS, EPS, concat, filters)
    backward = emulated.mobile_unit3d_backward(
        emulated.guarded(grad), *ours, *(emulated.guarded(v) for v in forward[1:]), *tail
    )
    true_statistics = [v.double() for v in forward[1:]]
    true_backward = reference.mobile_unit3d_backward(grad.double(), *exact, *true_statistics, *tail)
    return (forward, backward), (true_forward, true_backward), grad


def check(emulated, inputs, training, concat, dtype, limits, filters=True):
    (forward, backward), (true_forward, true_backward), grad = run(
        emulated, inputs, training, concat, dtype, filters
    )
    rounding = ROUNDING[dtype]
    x = inputs[0]
    first = x.shape[1] if concat else 0
    assert forward[0].dtype == dtype
    assert torch.equal(forward[0][:, :first], x[:, :first].to(dtype))
    assert relative_error(forward[0][:, first:], true_forward[0][:, first:]) <= limits[0] + rounding
    for value, truth in zip(forward[1:], true_forward[1:], strict=True):
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert relative_error(value, truth) <= limits[0]
    for i, (value, truth) in enumerate(zip(backward, true_backward, strict=True)):
        assert value.shape == truth.shape and value.dtype == dtype
        scale = max(float(truth.norm()), float(grad.double().norm()))
        assert float((value.double() - truth).norm()) / scale <= limits[1] + rounding, i


@pytest.mark.parametrize("shape, training, concat", CASES)
def test_float32(emulated, shape, training, concat):
    inputs = draw(shape, training, torch.float32)
    check(emulated, inputs, training, concat, torch.float32, (5e-7, 2e-6))


@pytest.mark.parametrize("shape", [PLANES[1], PLANES[3], *ANY])
@pytest.mark.parametrize("training, concat", MODES[:2])
def test_float64(emulated, shape, training, concat):
    inputs = draw(shape, training, torch.float64)
    check(emulated, inputs, training, concat, torch.float64, (2e-14, 1e-12))


# Values of 16 bits may lie on a corner; one voxel on the wrong side of it adds 1e-4.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [PLANES[0], PLANES[6], ANY[5]])
@pytest.mark.parametrize("training, concat", MODES[:2])
def test_half(emulated, shape, training, concat, dtype):
    inputs = draw(shape, training, dtype)
    check(emulated, inputs, training, concat, dtype, (1e-6, 2e-4))


@pytest.mark.parametrize("shape", [PLANES[3], ANY[0]])
def test_without_the_gradients_of_the_filters(emulated, shape):
    inputs = draw(shape, (True, True), torch.float32)
    check(emulated, inputs, (True, True), True, torch.float32, (5e-7, 2e-6), filters=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 4, 5, 8, 8, 6), (1, 3, 2, 5, 4, 6)])
def test_one_sample_against_autograd_of_the_plain_modules(emulated, shape, training):
    x, parameters, running = draw(shape, (training,) * 2, torch.float32)
    leaves = [float64_leaf(v) for v in (x, *parameters)]
    truth = plain(leaves[0], leaves[1:], running, (training,) * 2, "concat")[0]
    grad = torch.randn(truth.shape, dtype=torch.float32)
    true_grads = torch.autograd.grad(truth, leaves, grad.double())
    # plain() has updated the running statistics in training, where they play no part.
    (forward, backward), _, _ = run(
        emulated, (x, parameters, running), (training,) * 2, True, torch.float32, grad=grad
    )
    assert relative_error(forward[0], truth.detach()) <= 5e-7
    for value, true in zip(backward, true_grads, strict=True):
        scale = max(float(true.norm()), float(grad.norm()))
        assert float((value.double() - true).norm()) / scale <= 2e-6


@pytest.mark.parametrize("channels", [4, 3])
@pytest.mark.parametrize("scale, offset", [(1 / 640, 0.0), (1e-3, 0.5), (1.0, 100.0)])
def test_large_mean_and_tiny_variance(emulated, channels, scale, offset):
    x, parameters, _ = make_inputs((4, channels, 5, 8, 8, 16), torch.float32)
    x = x * scale + offset
    options = (None, None, None, None, EPS, EPS, False)
    truth = reference.mobile_unit3d(x.double(), *(p.double() for p in parameters), *options)
    out = emulated.mobile_unit3d(x, *parameters, *options)
    # The mean is rounded to eps |offset|, and the norm divides that by the deviation.
    limit = 5e-7 * (1 + 2 * abs(offset) / (scale**2 * 0.5 + EPS) ** 0.5)
    assert relative_error(out[0] - x, truth[0] - x.double()) <= limit
    for i, (value, true) in enumerate(zip(out[1:], truth[1:], strict=True)):
        assert relative_error(value, true) <= (5e-7 if i < 2 else limit)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("height, width", [(8, 8), (16, 16), (6, 19)])
def test_a_bad_voxel_stays_within_its_neighbours(emulated, bad, height, width):
    x, parameters, running = make_inputs((3, 4, 5, height, width, 8), torch.float32)
    x[1, 1, 2, 3, width - 1] = bad
    statistics = [*running[0], *running[1]]
    reached = torch.zeros(3, 1, 5, height, width, dtype=torch.bool)
    reached[1, :, 1:4, 2:5, width - 2 :] = True
    options = (*statistics, EPS, EPS, True)
    out = emulated.mobile_unit3d(x, *parameters, *options)[0]
    truth = reference.mobile_unit3d(x, *parameters, *options)[0]
    assert out[(~reached).expand_as(out)].isfinite().all()
    assert torch.equal(out.isnan(), truth.isnan())
    grad = torch.randn(out.shape)
    tail = (*statistics, False, False, EPS, EPS, True, True)
    grad_x = emulated.mobile_unit3d_backward(grad, x, *parameters, *tail)[0]
    assert grad_x[(~reached).expand_as(grad_x)].isfinite().all()
    options = (None, None, None, None, EPS, EPS, True)
    assert emulated.mobile_unit3d(x, *parameters, *options)[0].isnan().any()


def test_strides_and_empty(emulated):
    x, parameters, running = make_inputs((4, 4, 3, 8, 8, 8), torch.float32)
    statistics = [*running[0], *running[1]]
    options = (*statistics, EPS, EPS, True)
    tail = (*statistics, False, False, EPS, EPS, True, True)
    for view in (
        x.transpose(3, 4),
        x[:, :, :, ::2, 3:],
        x.to(memory_format=torch.channels_last_3d),
    ):
        dense = view.contiguous()
        out = emulated.mobile_unit3d(view, *parameters, *options)[0]
        assert torch.equal(out, emulated.mobile_unit3d(dense, *parameters, *options)[0])
        grad = torch.randn(out.shape[::-1]).permute(4, 3, 2, 1, 0)
        grads = emulated.mobile_unit3d_backward(grad, view, *parameters, *tail)
        again = emulated.mobile_unit3d_backward(grad.contiguous(), dense, *parameters, *tail)
        assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    out = emulated.mobile_unit3d(x[:0], *parameters, *options)
    assert out[0].shape == (0, 8, 3, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(out[1:], statistics, strict=True))
    grads = emulated.mobile_unit3d_backward(out[0], x[:0], *parameters, *tail)
    assert grads[0].shape == (0, 4, 3, 8, 8) and not any(g.any() for g in grads[1:])


def test_no_expanded_channels(emulated):
    x, parameters, _ = make_inputs((2, 3, 2, 4, 4, 1), torch.float32)
    parameters = [*parameters[:2], *(v[:0] for v in parameters[2:6]), parameters[6][:, :0]]
    options = (EPS, EPS, True)
    out, *statistics = emulated.mobile_unit3d(x, *parameters, None, None, None, None, *options)
    assert torch.equal(out, torch.cat([x, torch.zeros_like(x)], 1))
    grad = torch.randn(out.shape)
    tail = (*statistics, True, True, *options, True)
    grads = emulated.mobile_unit3d_backward(grad, x, *parameters, *tail)
    assert torch.equal(grads[0], grad[:, :3]) and not any(g.any() for g in grads[1:])


@pytest.mark.parametrize("shape", [PLANES[3], ANY[5]])
def test_same_bits_in_any_order_of_threads(emulated, shape):
    inputs = draw(shape, (True, True), torch.float32)
    grad = torch.randn(shape[0], 2 * shape[1], *shape[2:5])
    results = []
    for seed in (1, 2):
        emulated.set_seed(seed)
        (forward, backward), _, _ = run(
            emulated, inputs, (True, True), True, torch.float32, grad=grad
        )
        results.append([*forward, *backward])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
