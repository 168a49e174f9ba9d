# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: as for the CPU kernels (tests/ops/test_mobile_unit3d.py), and their inputs: far from
the corners of the ReLUs. A half type rounds each result once, by half a unit in the last place: at
most 2**-11 relative in float16, 2**-8 in bfloat16, gradients too; its statistics are float32."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import relative_error
from unit_inputs import EPS, clear_of_corners, make_inputs

from eegfast import reference

ROUNDING = {torch.float32: 0, torch.float64: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
FORWARD = {torch.float64: 2e-14}
BACKWARD = {torch.float64: 1e-12}

# batch, channels, depth, height, width, expanded channels
SHAPES = [
    (2, 4, 5, 16, 16, 12),
    (1, 8, 5, 16, 16, 9),
    (1, 4, 8, 16, 16, 8),
    (5, 4, 5, 8, 8, 11),
    (5, 8, 8, 8, 8, 8),
    (3, 3, 5, 8, 8, 7),
    (5, 2, 8, 4, 4, 9),
    (2, 40, 3, 2, 2, 19),
    (4, 3, 2, 1, 1, 5),
    (1, 1, 1, 1, 2, 1),
    (2, 5, 3, 13, 11, 6),
    (1, 19, 2, 1, 63, 2),
    (1, 2, 1, 2, 127, 3),
    (1, 8, 3, 40, 37, 3),
]
MODES = [
    ((True, True), True),
    ((False, False), False),
    ((True, False), True),
    ((False, True), False),
]


def given(running, training):
    return [v for pair, train in zip(running, training, strict=True) for v in pair if not train]


def statistics_for(running, training, dtype):
    """The four statistics as the op takes them."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        None if train else value.to(wide)
        for pair, train in zip(running, training, strict=True)
        for value in pair
    ]


def check(emulated, inputs, training, concat, dtype, limits=(5e-7, 2e-6), filters=True):
    x, parameters, running = inputs
    narrow = [v.to(dtype) for v in (x, *parameters)]
    exact = [v.double() for v in narrow]
    given = statistics_for(running, training, dtype)
    forward, backward = (FORWARD[dtype], BACKWARD[dtype]) if dtype == torch.float64 else limits
    rounding = ROUNDING[dtype]

    options = (EPS, EPS, concat)
    guarded = [emulated.guarded(v) for v in narrow]
    ours = emulated.mobile_unit3d(
        *guarded, *(v if v is None else emulated.guarded(v) for v in given), *options
    )
    truth = reference.mobile_unit3d(*exact, *(v if v is None else v.double() for v in given), *options)
    first = x.shape[1] if concat else 0
    assert torch.equal(ours[0][:, :first], narrow[0][:, :first])
    assert ours[0].dtype == dtype
    assert relative_error(ours[0][:, first:], truth[0][:, first:]) <= forward + rounding
    for value, exact_value in zip(ours[1:], truth[1:], strict=True):
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert relative_error(value, exact_value) <= forward

    grad = torch.randn(truth[0].shape).to(dtype)
    tail = (*training, EPS, EPS, concat, filters)
    grads = emulated.mobile_unit3d_backward(emulated.guarded(grad), *guarded, *ours[1:], *tail)
    exact_grads = reference.mobile_unit3d_backward(
        grad.double(), *exact, *(v.double() for v in ours[1:]), *tail
    )
    for i, (value, true) in enumerate(zip(grads, exact_grads, strict=True)):
        assert value.shape == true.shape and value.dtype == dtype
        scale = max(float(true.norm()), float(grad.norm()))
        error = float((value.double() - true).norm()) / scale
        assert error <= backward + rounding, (i, error)


def drawn(shape, training, dtype):
    x, parameters, running = make_inputs(shape)
    if dtype == torch.float64:
        return x, parameters, running
    parameters = [v.to(dtype).double() for v in parameters]
    for _ in range(20):
        x = clear_of_corners(x, parameters, running, training)
        if torch.equal(x, x.to(dtype).double()):
            break
        x = x.to(dtype).double()
    return x, parameters, [tuple(v.float().double() for v in pair) for pair in running]


@pytest.mark.parametrize("training, concat", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(emulated, shape, training, concat):
    for dtype in (torch.float32, torch.float64):
        check(emulated, drawn(shape, training, dtype), training, concat, dtype)
