# SPDX-License-Identifier: BSD-3-Clause
"""Kalman filter and RTS smoother of a scalar random walk along the windows."""

from __future__ import annotations

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import check_signal, register, register_autograd


def _fake(y, prior, q, r, p0, causal):
    return y.new_empty(y.shape)


def _fake_backward(grad, q, r, p0, causal, own_prior):
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape[:-3] + grad.shape[-2:])


_op = register("lds_smooth", reference.lds_smooth, _fake)
_backward_op = register("lds_smooth_backward", reference.lds_smooth_backward, _fake_backward)


def _setup_context(ctx, inputs, output):
    _, prior, *ctx.rest = inputs
    ctx.own_prior = prior is None


def _backward(ctx, grad):
    grad_y, grad_prior = _backward_op(grad, *ctx.rest, ctx.own_prior)
    return (grad_y, None if ctx.own_prior else grad_prior, *(None,) * 4)


register_autograd("lds_smooth", _setup_context, _backward)


def lds_smooth(
    y: Tensor,
    *,
    causal: bool = False,
    q: float = 1e-3,
    r: float = 1.0,
    p0: float = 0.1,
    prior: Tensor | float | None = None,
) -> Tensor:
    """Smooth each feature along its windows with a linear dynamical system.

    The model is a scalar random walk seen in noise: ``x[t] = x[t-1] + N(0, q)``,
    ``y[t] = x[t] + N(0, r)``, ``x[0] ~ N(prior, p0)`` before the first observation.

    Parameters
    ----------
    y : Tensor, shape (..., windows, n_chans, bands)
        Features, float32 or float64, any strides.
    causal : bool
        True gives the Kalman filter, which uses windows 0..t for window t; False (default) the
        Rauch-Tung-Striebel smoother, which uses them all.
    q, r, p0 : float
        Variance of the walk, of the observation, and of the prior. Defaults: those of SEED.
    prior : Tensor broadcastable to (..., n_chans, bands), float, or None
        Prior mean. None (default, as SEED has it) takes each series' own mean over all windows, so
        even ``causal=True`` then looks ahead; give a value for streaming.

    Returns
    -------
    Tensor, shape of ``y``
        Filtered or smoothed means.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    References
    ----------
    Shi and Lu, "Off-line and on-line vigilance estimation based on linear dynamical system and
    manifold learning", EMBC 2010.
    """
    check_signal("lds_smooth", "y", y, 3, "(..., windows, n_chans, bands)")
    if not (q >= 0 and r > 0 and p0 >= 0):
        raise ValueError(
            f"eegfast.ops.lds_smooth: q >= 0, r > 0 and p0 >= 0 are needed, got {q=}, {r=}, {p0=}"
        )
    if prior is not None:
        series = y.shape[:-3] + y.shape[-2:]
        prior = torch.as_tensor(prior, dtype=y.dtype, device=y.device)
        try:
            prior = prior.expand(series)
        except RuntimeError:
            raise ValueError(
                f"eegfast.ops.lds_smooth: prior must broadcast to {tuple(series)}, "
                f"got {tuple(prior.shape)}"
            ) from None
    return _op(y, prior, float(q), float(r), float(p0), causal)
