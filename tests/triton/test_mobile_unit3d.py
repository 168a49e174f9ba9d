# SPDX-License-Identifier: BSD-3-Clause
"""What the table of tests/ops/cases.py does not show. Tolerances and inputs are those of
tests/ops/test_mobile_unit3d.py: relative in the norm, gradients to no less than the incoming one,
far from the corners of the ReLUs."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import relative_error
from unit_inputs import EPS, clear_of_corners, make_inputs

from eegfast import reference

OP = "mobile_unit3d"
# Batch, channels, depth, height, width, expanded channels; statistics of the batch; concat.
CASES = [
    ((1, 1, 1, 1, 2, 1), (True, True), True),
    ((2, 3, 2, 1, 1, 5), (True, False), True),
    ((2, 2, 1, 2, 67, 3), (False, True), False),
    ((1, 4, 3, 4, 3, 18), (True, True), False),
    ((1, 13, 1, 2, 3, 5), (True, True), True),
]


@pytest.fixture
def shared(kernels):
    """The module of the configurations."""
    return kernels("_mobile_unit3d")


def draw(shape, training):
    """Inputs in float64 that float32 holds exactly, and the statistics as the op takes them."""
    x, parameters, running = make_inputs(shape)
    parameters = [p.float().double() for p in parameters]
    running = [tuple(v.float().double() for v in pair) for pair in running]
    x = clear_of_corners(x.float(), parameters, running, training).double()
    pairs = zip(running, training, strict=True)
    return x, parameters, [None if train else v for pair, train in pairs for v in pair]


def single(values):
    return [v if v is None else v.float() for v in values]


def check(op, shape, training, concat, filters=True):
    x, parameters, statistics = draw(shape, training)
    exact, options = [x, *parameters], (EPS, EPS, concat)
    ours = op.mobile_unit3d(*single([*exact, *statistics]), *options)
    truth = reference.mobile_unit3d(*exact, *statistics, *options)
    for value, true in zip(ours, truth, strict=True):
        assert value.dtype == torch.float32 and value.is_contiguous()
        assert relative_error(value, true) <= 5e-7

    grad = torch.randn(truth[0].shape)
    tail = (*training, *options, filters)
    grads = op.mobile_unit3d_backward(grad, *single(exact), *ours[1:], *tail)
    statistics = [v.double() for v in ours[1:]]
    true_grads = reference.mobile_unit3d_backward(grad.double(), *exact, *statistics, *tail)
    for i, (value, true) in enumerate(zip(grads, true_grads, strict=True)):
        assert value.shape == true.shape and value.dtype == torch.float32
        scale = max(float(true.norm()), float(grad.norm()))
        assert float((value.double() - true).norm()) <= 2e-6 * scale, i


@pytest.mark.parametrize("shape, training, concat", CASES)
def test_modes_and_odd_sizes(kernels, shape, training, concat):
    check(kernels(OP), shape, training, concat)


def test_without_the_gradients_of_the_filters(kernels):
    check(kernels(OP), (1, 3, 2, 3, 4, 5), (True, True), True, filters=False)


@pytest.mark.parametrize("programs, rows, voxels", [(1, 4, 99), (3, 2, 8), (99, 1, 99)])
def test_bands_and_programs_that_take_several(kernels, shared, monkeypatch, programs, rows, voxels):
    monkeypatch.setattr(shared, "PROGRAMS", programs)
    monkeypatch.setattr(shared, "MIN_ROWS", rows)
    monkeypatch.setattr(shared, "MOST_VOXELS", voxels)
    monkeypatch.setitem(shared.STATISTICS, "BLOCK", 16)
    monkeypatch.setitem(shared.STATISTICS, "RUN", 2)
    check(kernels(OP), (2, 2, 1, 5, 4, 3), (True, True), True)


def test_other_tiles(kernels, monkeypatch):
    tile = dict(EB=4, POS=8, num_warps=1)
    for module in (OP, "_mobile_unit3d_backward"):
        monkeypatch.setattr(kernels(module), "configs", lambda *_: tile)
    check(kernels(OP), (1, 2, 1, 3, 5, 6), (True, True), True)


@pytest.mark.parametrize("scale, offset", [(1 / 640, 0.0), (1e-3, 0.5), (1.0, 100.0)])
def test_large_mean_and_tiny_variance(kernels, scale, offset):
    x, parameters, _ = make_inputs((2, 3, 3, 5, 5, 6), torch.float32)
    x = x * scale + offset
    options = (None, None, None, None, EPS, EPS, False)
    truth = reference.mobile_unit3d(x.double(), *(p.double() for p in parameters), *options)
    out = kernels(OP).mobile_unit3d(x, *parameters, *options)
    # The mean is rounded to eps |offset|, and the norm divides that by the deviation.
    limit = 5e-7 * (1 + 2 * abs(offset) / (scale**2 * 0.5 + EPS) ** 0.5)
    assert relative_error(out[0] - x, truth[0] - x.double()) <= limit
    for i, (value, true) in enumerate(zip(out[1:], truth[1:], strict=True)):
        assert relative_error(value, true) <= (5e-7 if i < 2 else limit)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_voxel_stays_within_its_neighbours(kernels, bad):
    op = kernels(OP)
    x, parameters, running = make_inputs((2, 2, 3, 4, 5, 3), torch.float32)
    x[1, 1, 0, 2, 4] = bad
    statistics = [*running[0], *running[1]]
    reached = torch.zeros(2, 1, 3, 4, 5, dtype=torch.bool)
    reached[1, :, :2, 1:, 3:] = True
    options = (*statistics, EPS, EPS, True)
    out = op.mobile_unit3d(x, *parameters, *options)[0]
    truth = reference.mobile_unit3d(x, *parameters, *options)[0]
    assert out[(~reached).expand_as(out)].isfinite().all()
    assert torch.equal(out.isnan(), truth.isnan())
    tail = (*statistics, False, False, EPS, EPS, True, True)
    grad_x = op.mobile_unit3d_backward(torch.randn(out.shape), x, *parameters, *tail)[0]
    assert grad_x[(~reached).expand_as(grad_x)].isfinite().all()
    out = op.mobile_unit3d(x, *parameters, None, None, None, None, EPS, EPS, True)[0]
    assert out.isnan().any()


def test_strides(kernels):
    op = kernels(OP)
    x, parameters, running = make_inputs((1, 3, 1, 4, 6, 4), torch.float32)
    statistics = [*running[0], *running[1]]
    turned = [p.permute(*range(p.dim())[::-1]).contiguous() for p in parameters]
    turned = [p.permute(*range(p.dim())[::-1]) for p in turned]
    tail = (*statistics, False, False, EPS, EPS, True, True)
    for view in (x[:, :, :, ::2, 3:], x.to(memory_format=torch.channels_last_3d)):
        dense = view.contiguous()
        out = op.mobile_unit3d(view, *turned, *statistics, EPS, EPS, True)
        again = op.mobile_unit3d(dense, *parameters, *statistics, EPS, EPS, True)
        assert all(torch.equal(a, b) for a, b in zip(out, again, strict=True))
        grad = torch.randn(()).expand(out[0].shape)
        grads = op.mobile_unit3d_backward(grad, view, *turned, *tail)
        again = op.mobile_unit3d_backward(grad.contiguous(), dense, *parameters, *tail)
        assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_statistics_are_copies_and_nothing_gives_nothing(kernels):
    op = kernels(OP)
    x, parameters, running = make_inputs((1, 3, 2, 2, 2, 21), torch.float32)
    statistics = [*running[0], *running[1]]
    for some in (x, x[:0]):
        out = op.mobile_unit3d(some, *parameters, *statistics, EPS, EPS, True)
        assert out[0].shape == (len(some), 6, 2, 2, 2)
        for value, given in zip(out[1:], statistics, strict=True):
            assert torch.equal(value, given) and value.data_ptr() != given.data_ptr()
    tail = (*statistics, False, False, EPS, EPS, True, True)
    grads = op.mobile_unit3d_backward(out[0], x[:0], *parameters, *tail)
    assert grads[0].shape == (0, 3, 2, 2, 2) and not any(g.any() for g in grads[1:])


@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((1, 2, 1, 2, 2, 3), torch.float64),
        ((1, 17, 1, 2, 2, 3), torch.float32),
        ((1, 2, 1, 2, 2, 0), torch.float32),
        ((0, 2, 1, 2, 2, 3), torch.float32),
    ],
)
def test_what_is_left_to_the_reference(kernels, shape, dtype):
    x, parameters, running = make_inputs(shape, dtype)
    with pytest.raises(NotImplementedError, match=OP):
        kernels(OP).mobile_unit3d(x, *parameters, None, None, None, None, EPS, EPS, True)
    if len(x):
        tail = (*running[0], *running[1], False, False, EPS, EPS, False, True)
        with pytest.raises(NotImplementedError, match=OP):
            kernels(OP).mobile_unit3d_backward(x, x, *parameters, *tail)
