# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: each output is a chain of contractions with factors under 1, so rounding does not
grow: a few eps of the series' norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import float64_leaf, relative_error

from eegfast import ops, reference

LIMIT = {torch.float32: 5e-7, torch.float64: 2e-15}
SHAPES = [(240, 62, 5), (2, 3, 17, 7, 5), (1, 1, 1), (5, 1, 3), (3, 100, 1), (2, 65, 2)]


def series(shape, dtype=torch.float64):
    return (torch.randn(shape, dtype=torch.float64).cumsum(-3) + 20).to(dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_is_the_smoother_of_a_gaussian_model(isa, causal):
    """The posterior mean of the random walk, from its joint covariance."""
    windows, q, r, p0 = 7, 0.3, 0.8, 0.5
    y, prior = series((windows, 2, 3)), torch.randn(2, 3, dtype=torch.float64)
    t = np.arange(windows)
    covariance = p0 + q * np.minimum.outer(t, t)
    out = ops.lds_smooth(y, causal=causal, q=q, r=r, p0=p0, prior=prior)
    for i in range(windows):
        seen = i + 1 if causal else windows
        observed = covariance[:seen, :seen] + r * np.eye(seen)
        weights = covariance[i, :seen] @ np.linalg.inv(observed)
        residual = y[:seen].numpy() - prior.numpy()
        mean = prior.numpy() + np.tensordot(weights, residual, 1)
        np.testing.assert_allclose(out[i].numpy(), mean, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("own_prior", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(isa, shape, causal, own_prior, dtype):
    y = series(shape, dtype)
    prior = None if own_prior else torch.randn(shape[:-3] + shape[-2:], dtype=dtype)
    exact, leaf = [
        [None if t is None else make(t) for t in (y, prior)]
        for make in (float64_leaf, lambda t: t.clone().requires_grad_())
    ]
    truth = reference.lds_smooth(*exact, 1e-3, 1.0, 0.1, causal)
    out = ops.lds_smooth(leaf[0], prior=leaf[1], causal=causal)
    assert relative_error(out.detach(), truth.detach()) <= LIMIT[dtype]
    grad = torch.randn_like(truth)
    truth.backward(grad)
    out.backward(grad.to(dtype))
    for ours, theirs in zip(leaf, exact, strict=True):
        if ours is not None:
            assert relative_error(ours.grad, theirs.grad) <= LIMIT[dtype]


def test_defaults_are_seeds(isa):
    y = series((400, 2, 2))
    torch.testing.assert_close(
        ops.lds_smooth(y),
        ops.lds_smooth(y, causal=False, q=1e-3, r=1.0, p0=0.1, prior=y.mean(0)),
        rtol=1e-14,
        atol=0,
    )
    steady = reference.lds_smooth(y, None, 1e-3, 1.0, 0.1, True)
    gain = (steady[-1] - steady[-2]) / (y[-1] - steady[-2])
    torch.testing.assert_close(gain, torch.full_like(gain, 0.031127), rtol=1e-3, atol=0)


def test_prior_broadcasts():
    y = series((9, 4, 5))
    torch.testing.assert_close(
        ops.lds_smooth(y, prior=2.0), ops.lds_smooth(y, prior=torch.full((4, 5), 2.0))
    )
    with pytest.raises(ValueError, match=r"prior must broadcast to \(4, 5\), got \(3,\)"):
        ops.lds_smooth(y, prior=torch.ones(3))


def test_strides(isa):
    base = series((4, 30, 6, 5))
    for y in (
        base,
        base[:, ::2],
        base.transpose(0, 1),
        base[..., ::2],
        base[:1].expand(3, -1, -1, -1),
    ):
        assert torch.equal(ops.lds_smooth(y), ops.lds_smooth(y.contiguous()))


def test_empty_and_single_window(isa):
    for shape in ((0, 3, 2), (2, 0, 3, 2), (0, 4, 3, 2), (4, 0, 5)):
        y = torch.randn(shape, requires_grad=True)
        out = ops.lds_smooth(y)
        assert out.shape == shape
        out.sum().backward()
    y = series((1, 3, 2))
    torch.testing.assert_close(ops.lds_smooth(y), y)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_value_stays_in_its_series(isa, bad):
    y = series((2, 20, 19, 5), torch.float32)
    y[1, 7, 3, 2] = bad
    y.requires_grad_()
    out = ops.lds_smooth(y)
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, :, 3, 2] = True
    assert torch.equal(~out.isfinite(), hit)
    causal = ops.lds_smooth(y, causal=True, prior=0.0)
    assert causal[1, :7, 3, 2].isfinite().all()
    out.sum().backward()
    assert y.grad.isfinite().all()


def test_gradcheck(isa):
    y = torch.randn(2, 9, 2, 3, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    for causal in (False, True):
        assert torch.autograd.gradcheck(
            lambda y, p, c=causal: ops.lds_smooth(y, prior=p, causal=c), (y, prior)
        )
        assert torch.autograd.gradcheck(lambda y, c=causal: ops.lds_smooth(y, causal=c), y)


def test_opcheck():
    y = torch.randn(2, 9, 2, 3, requires_grad=True)
    op = torch.ops.eegfast.lds_smooth.default
    torch.library.opcheck(op, (y, None, 1e-3, 1.0, 0.1, False))
    torch.library.opcheck(op, (y, torch.randn(2, 2, 3, requires_grad=True), 1e-3, 1.0, 0.1, True))
    torch.library.opcheck(
        torch.ops.eegfast.lds_smooth_backward.default,
        (torch.randn(2, 9, 2, 3), 1e-3, 1.0, 0.1, False, True),
    )


@pytest.mark.parametrize("option", [{"q": -1.0}, {"r": 0.0}, {"p0": -0.1}, {"q": math.nan}])
def test_bad_variances_are_named(option):
    with pytest.raises(ValueError, match="q >= 0, r > 0 and p0 >= 0"):
        ops.lds_smooth(torch.randn(5, 2, 2), **option)


def test_shape_and_type_are_checked():
    with pytest.raises(
        ValueError, match=r"y must be \(..., windows, n_chans, bands\), got \(5, 2\)"
    ):
        ops.lds_smooth(torch.randn(5, 2))
    with pytest.raises(TypeError, match="floating point"):
        ops.lds_smooth(torch.ones(5, 2, 2, dtype=torch.int64))
