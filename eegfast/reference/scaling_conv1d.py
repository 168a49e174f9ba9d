# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.scaling_conv1d`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BIT = tuple(1 << i for i in range(8))


def _is_padded(length: int) -> bool:
    """Whether pooling needs a zero in front for its result to be of odd length."""
    return length // 2 % 2 == 0


def _pooled(weight: Tensor, levels: int, count_include_pad: bool) -> list[Tensor]:
    """Return the kernels of all levels, each ``(n_chans, filters, length)``."""
    kernels = [weight]
    for _ in range(levels - 1):
        kernel = kernels[-1]
        padding = int(_is_padded(kernel.shape[-1]))
        kernels.append(
            F.avg_pool1d(kernel, 2, stride=2, padding=padding, count_include_pad=count_include_pad)
        )
    return kernels


def _pooled_backward(grads: list[Tensor], count_include_pad: bool) -> Tensor:
    """Carry the gradients of all levels' kernels back to the first."""
    carried = grads[-1]
    for grad in grads[-2::-1]:
        padded = _is_padded(grad.shape[-1])
        to_pairs = (carried / 2).repeat_interleave(2, -1)
        if padded:  # the first tap averaged the zero in front and one tap
            to_pairs = to_pairs[..., 1:]
            if not count_include_pad:
                to_pairs[..., 0] = carried[..., 0]
        carried = grad + F.pad(to_pairs, (0, grad.shape[-1] - to_pairs.shape[-1]))
    return carried


def _pack(positive: Tensor) -> Tensor:
    """Bit t % 8 of byte t // 8; rows are whole 64-bit words."""
    words = (positive.shape[-1] + 63) // 64
    bits = F.pad(positive, (0, 64 * words - positive.shape[-1])).unflatten(-1, (8 * words, 8))
    return (bits * torch.tensor(_BIT, device=bits.device)).sum(-1).to(torch.uint8)


def _unpack(mask: Tensor, n_times: int) -> Tensor:
    bits = mask.unsqueeze(-1) & torch.tensor(_BIT, dtype=torch.uint8, device=mask.device)
    return (bits != 0).flatten(-2)[..., :n_times]


def scaling_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    levels: int,
    relu: bool,
    count_include_pad: bool,
    save_mask: bool,
) -> tuple[Tensor, Tensor]:
    """``weight`` and ``bias`` are (n_chans or 1, filters, length or levels).

    Return the output and, with ReLU and if asked for, one bit per output, else no bytes.
    """
    n_chans, n_times = x.shape[-2:]
    filters = weight.shape[1]
    out_shape = (*x.shape[:-1], filters, levels, n_times)
    if x.numel() == 0:
        out = x.new_zeros(out_shape)
    else:
        rows = x.reshape(-1, n_chans, n_times)
        outputs = []
        for kernel in _pooled(weight, levels, count_include_pad):
            kernel = kernel.expand(n_chans, -1, -1).flatten(0, 1).unsqueeze(1)
            outputs.append(F.conv1d(rows, kernel, padding="same", groups=n_chans))
        out = torch.stack([y.unflatten(1, (n_chans, filters)) for y in outputs], 3)
        if bias is not None:
            out = out + bias.unsqueeze(-1)
        out = out.reshape(out_shape)
    if not relu:
        return out, x.new_empty(0, dtype=torch.uint8)
    positive = ~(out <= 0)  # NaN passes
    mask = _pack(positive) if save_mask else x.new_empty(0, dtype=torch.uint8)
    return torch.relu(out), mask


def scaling_conv1d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    bias_chans: int,
    levels: int,
    count_include_pad: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mask`` is None without ReLU. Gradients that are not needed come back empty."""
    n_chans, n_times = x.shape[-2:]
    weight_chans, filters, length = weight.shape
    grad_x = x.new_zeros(x.shape if need_x else 0)
    grad_weight = x.new_zeros(weight.shape if need_weight else 0)
    grad_bias = x.new_zeros((bias_chans, filters, levels) if need_bias else 0)
    if grad.numel() == 0:
        return grad_x, grad_weight, grad_bias
    if mask is not None:
        grad = torch.where(_unpack(mask, n_times), grad, 0.0)
    grad = grad.reshape(-1, n_chans, filters, levels, n_times)
    kernels = _pooled(weight, levels, count_include_pad)
    if need_x:
        for level, kernel in enumerate(kernels):
            kernel = kernel.expand(n_chans, -1, -1).flatten(0, 1).unsqueeze(1)
            rows = grad[:, :, :, level].flatten(1, 2)
            padding = kernel.shape[-1] // 2
            part = F.conv_transpose1d(rows, kernel, padding=padding, groups=n_chans)
            grad_x += part.reshape(x.shape)
    if need_weight:
        rows = x.reshape(-1, n_chans, n_times)
        grads = []
        for level, kernel in enumerate(kernels):
            reach = kernel.shape[-1] // 2
            seen = F.pad(rows, (reach, reach)).unfold(-1, n_times, 1)
            grads.append(torch.einsum("bcft,bcjt->cfj", grad[:, :, :, level], seen))
        grad_weight = _pooled_backward(grads, count_include_pad)
        if weight_chans == 1:
            grad_weight = grad_weight.sum(0, keepdim=True)
    if need_bias:
        grad_bias = grad.sum((0, 4))
        if bias_chans == 1:
            grad_bias = grad_bias.sum(0, keepdim=True)
    return grad_x, grad_weight, grad_bias
