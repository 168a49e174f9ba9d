# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.filter_bank_power`: filter, then sum.

``head`` and ``tail`` are the outputs of the full correlation that do not count; sums and the
gradient of the taps are float64 whatever ``x`` is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _filtered(x: Tensor, taps: Tensor, head: int, tail: int) -> Tensor:
    """The outputs that count, ``(rows of all batches, filters, outputs)``, in float64."""
    margin = taps.shape[1] - 1
    outputs = x.shape[-1] + margin - head - tail
    rows = F.pad(x.double().reshape(-1, 1, x.shape[-1]), (margin - head, margin - tail))
    if rows.shape[0] == 0 or taps.shape[0] == 0:
        return rows.new_zeros(rows.shape[0], taps.shape[0], outputs)
    return F.conv1d(rows, taps.unsqueeze(1))


def _by_row(x: Tensor, sums: Tensor) -> Tensor:
    """``(rows of all batches, filters)`` as ``(..., filters, rows)``."""
    return sums.unflatten(0, x.shape[:-1]).transpose(-2, -1).contiguous()


def filter_bank_power(
    x: Tensor, taps: Tensor, head: int, tail: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The third result holds each row's products at each lag and its sum, for the backward."""
    filtered = _filtered(x, taps, head, tail)
    rows = x.detach().double().reshape(-1, x.shape[-1])
    margin = taps.shape[1] - 1
    later = F.pad(rows, (0, margin))
    lags = [(rows * later[:, d : d + rows.shape[1]]).sum(-1) for d in range(margin + 1)]
    sums = torch.stack([*lags, rows.sum(-1)])
    return _by_row(x, filtered.sum(-1)), _by_row(x, filtered.square().sum(-1)), sums


def filter_bank_power_backward(
    grad_total: Tensor | None,
    grad_squares: Tensor | None,
    x: Tensor,
    taps: Tensor,
    sums: Tensor | None,
    head: int,
    tail: int,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    """Where a gradient is not wanted (``need_x`` false, ``sums`` None) an empty one comes back."""
    filtered = _filtered(x, taps, head, tail)
    grad = torch.zeros_like(filtered)
    if grad_total is not None:
        grad = grad + grad_total.transpose(-2, -1).reshape(*filtered.shape[:2], 1)
    if grad_squares is not None:
        grad = grad + 2 * filtered * grad_squares.transpose(-2, -1).reshape(*filtered.shape[:2], 1)
    margin = taps.shape[1] - 1
    grad_x, grad_taps = x.new_zeros(0), taps.new_zeros(0)
    if need_x and 0 in (*x.shape, taps.shape[0]):
        grad_x = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    elif need_x:
        full = F.conv_transpose1d(grad, taps.unsqueeze(1)).squeeze(1)
        full = F.pad(full, (head, tail))[:, margin : margin + x.shape[-1]]
        grad_x = full.reshape(x.shape).to(x.dtype)
    if sums is not None:
        rows = F.pad(x.double().reshape(-1, x.shape[-1]), (margin - head, margin - tail))
        frames = rows.unfold(-1, taps.shape[1], 1)  # (rows, outputs, length)
        grad_taps = torch.einsum("rft,rtk->fk", grad, frames)
    return grad_x, grad_taps
