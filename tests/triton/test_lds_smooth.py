# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: those of the CPU kernels (tests/ops/test_lds_smooth.py); in float64 the gains, as
powers of a matrix, add their own rounding. A half type rounds its result once: by half a unit in
the last place in float16, at most 2**-11 relative; in bfloat16 a GPU does so too, but Triton's
interpreter truncates, by up to a whole unit, 2**-7."""

from __future__ import annotations

import pytest
import torch
from numerics import float64_leaf, relative_error

import eegfast
from eegfast import ops, reference

LIMIT = {
    torch.float32: 5e-7,
    torch.float64: 1e-14,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-7,
}
# Series beyond one block, windows beyond one block of gains.
SHAPES = [(130, 3, 2), (2, 17, 7, 5), (1, 1, 1), (2, 2, 5, 5, 3), (5, 37, 1)]


@pytest.fixture(scope="module")
def ours(kernels):
    return kernels("lds_smooth")


def series(shape, dtype):
    return (torch.randn(shape, dtype=torch.float64).cumsum(-3) + 20).to(dtype)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("own_prior", [True, False])
def test_values_and_gradients(ours, shape, causal, own_prior, dtype):
    y, grad = series(shape, dtype), torch.randn(shape).to(dtype)
    prior = None if own_prior else torch.randn(shape[:-3] + shape[-2:]).to(dtype)
    options = (1e-3, 1.0, 0.1, causal)
    exact = [t if t is None else t.double() for t in (y, prior)]
    out = ours.lds_smooth(y, prior, *options)
    assert out.dtype == dtype and out.shape == y.shape
    assert relative_error(out, reference.lds_smooth(*exact, *options)) <= LIMIT[dtype]
    truth = reference.lds_smooth_backward(grad.double(), *options, own_prior)
    out = ours.lds_smooth_backward(grad, *options, own_prior)
    for value, true in zip(out, truth, strict=True):
        assert value.dtype == dtype and value.shape == true.shape
        assert relative_error(value, true) <= LIMIT[dtype]


@pytest.mark.parametrize("shape", [(3000, 1, 1), (1, 9, 150, 2)])
def test_other_configurations(ours, shape, monkeypatch):
    """The block of many series; and gains far out, which a matrix to a high power gives."""
    assert {ours.configs(n)["BLOCK"] for n in (1, 10**6)} == {32, 128}
    monkeypatch.setattr(ours, "configs", lambda series: dict(BLOCK=128, STAGES=4, num_warps=4))
    if shape[0] > 1:
        gains = ours._launch_gains(torch.empty(1), shape[0], 1e-3, 1.0, 0.1)
        kalman, rts = reference.lds_smooth.__globals__["_gains"](shape[0], 1e-3, 1.0, 0.1)
        truth = torch.tensor([kalman, rts], dtype=torch.float64)
        torch.testing.assert_close(gains.double(), truth, rtol=1e-6, atol=0)
        return
    y = series(shape, torch.float32)
    out = ours.lds_smooth(y, None, 1e-3, 1.0, 0.1, False)
    truth = reference.lds_smooth(y.double(), None, 1e-3, 1.0, 0.1, False)
    assert relative_error(out, truth) <= LIMIT[torch.float32]


@pytest.mark.parametrize(
    "variances", [(0.0, 1.0, 0.1), (1e-3, 1.0, 0.0), (0.0, 2.0, 0.0), (5, 1e-6, 9)]
)
def test_gains(ours, variances):
    y = series((200, 1, 2), torch.float64)
    out = ours.lds_smooth(y, None, *variances, False)
    assert relative_error(out, reference.lds_smooth(y, None, *variances, False)) <= 1e-13


def test_strides_and_empty(ours):
    y = series((2, 9, 6, 4), torch.float32)
    for view in (y.transpose(0, 1), y[..., ::2], y[:, 1:, :, 3:]):
        out = ours.lds_smooth(view, None, 1e-3, 1.0, 0.1, False)
        assert torch.equal(out, ours.lds_smooth(view.contiguous(), None, 1e-3, 1.0, 0.1, False))
    for shape in ((0, 3, 2), (2, 0, 3, 2), (0, 4, 3, 2)):
        y = torch.randn(shape)
        assert ours.lds_smooth(y, None, 1e-3, 1.0, 0.1, False).shape == shape
        grads = ours.lds_smooth_backward(y, 1e-3, 1.0, 0.1, False, True)
        assert grads[0].shape == shape and not grads[1].any()


def test_a_bad_value_stays_in_its_series(ours):
    y = series((2, 5, 9, 5), torch.float32)
    y[1, 2, 3, 2] = torch.nan
    hit = torch.zeros(y.shape, dtype=torch.bool)
    hit[1, :, 3, 2] = True
    assert torch.equal(ours.lds_smooth(y, None, 1e-3, 1.0, 0.1, False).isnan(), hit)


def test_is_the_operator_where_it_is_forced():
    y = series((9, 2, 3), torch.float32)
    exact, leaf = float64_leaf(y), y.clone().requires_grad_()
    ops.lds_smooth(exact).square().sum().backward()
    with eegfast.backend("triton"):
        ops.lds_smooth(leaf).square().sum().backward()
    assert relative_error(leaf.grad, exact.grad) <= 2 * LIMIT[torch.float32]
