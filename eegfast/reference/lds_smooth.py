# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.lds_smooth`."""

from __future__ import annotations

import torch
from torch import Tensor


def _gains(windows: int, q: float, r: float, p0: float) -> tuple[list[float], list[float]]:
    """Return the Kalman gain of each window and the RTS gain from each to the next.

    They do not depend on the data. ``p0`` holds at the first observation, with no predict step
    before it.
    """
    kalman, rts, predicted = [], [], p0
    for _ in range(windows):
        kalman.append(predicted / (predicted + r))
        filtered = predicted - kalman[-1] * predicted
        predicted = filtered + q
        rts.append(filtered / predicted if predicted > 0 else 0.0)
    return kalman, rts


def lds_smooth(
    y: Tensor, prior: Tensor | None, q: float, r: float, p0: float, causal: bool
) -> Tensor:
    """``prior`` is the prior mean of each series, ``(..., n_chans, bands)``; None: its own mean."""
    windows = y.shape[-3]
    if windows == 0:
        return y.clone()
    kalman, rts = _gains(windows, q, r, p0)
    mean = y.mean(-3) if prior is None else prior
    means = []
    for t in range(windows):
        mean = mean + kalman[t] * (y[..., t, :, :] - mean)
        means.append(mean)
    if not causal:
        for t in range(windows - 2, -1, -1):
            means[t] = means[t] + rts[t] * (means[t + 1] - means[t])
    return torch.stack(means, -3)


def lds_smooth_backward(
    grad: Tensor, q: float, r: float, p0: float, causal: bool, own_prior: bool
) -> tuple[Tensor, Tensor]:
    """The transpose of the forward: return the gradients of ``y`` and of the prior."""
    windows = grad.shape[-3]
    if windows == 0:
        return grad.clone(), grad.new_zeros(grad.shape[:-3] + grad.shape[-2:])
    kalman, rts = _gains(windows, q, r, p0)
    means = list(grad.unbind(-3))
    if not causal:
        for t in range(windows - 1):
            means[t + 1] = means[t + 1] + rts[t] * means[t]
            means[t] = (1 - rts[t]) * means[t]
    carried, grads = torch.zeros_like(means[0]), []
    for t in range(windows - 1, -1, -1):
        carried = means[t] + carried
        grads.append(kalman[t] * carried)
        carried = (1 - kalman[t]) * carried
    grad_y = torch.stack(grads[::-1], -3)
    if own_prior:
        grad_y = grad_y + carried.unsqueeze(-3) / windows
    return grad_y, carried
