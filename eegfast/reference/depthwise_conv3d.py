# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.depthwise_conv3d`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """The layout of results: channels last if ``x`` is laid out so, else contiguous."""
    last = torch.channels_last_3d
    if x.is_contiguous(memory_format=last) and not x.is_contiguous():
        return last
    return torch.contiguous_format


def output_size(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]):
    """Return depth, height and width of the result; ``padding`` is before, after, per axis."""
    return [
        (size + before + after - kernel) // step + 1
        for size, before, after, kernel, step in zip(
            x.shape[2:], padding[::2], padding[1::2], weight.shape[2:], stride, strict=True
        )
    ]


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is not None:
        x = x * _per_channel(scale)
    if shift is not None:
        x = x + _per_channel(shift)
    return x


def _taps(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each tap of the kernel, and the part of the padded input that it sees."""
    size = output_size(x, weight, stride, padding)
    for tap in itertools.product(*map(range, weight.shape[2:])):
        yield (
            tap,
            (slice(None), slice(None))
            + tuple(
                slice(k, k + (n - 1) * step + 1, step)
                for k, n, step in zip(tap, size, stride, strict=True)
            ),
        )


def _pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    return torch.nn.functional.pad(x, [*padding[4:], *padding[2:4], *padding[:2]])


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    out_scale: Tensor | None,
    out_shift: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    in_relu: bool,
    out_relu: bool,
) -> Tensor:
    """``padding`` holds the zeros before and after, of depth, height and width in turn."""
    active = _affine(x, in_scale, in_shift)
    if in_relu:
        active = active.relu()
    padded = _pad(active, padding)
    y = x.new_zeros((*x.shape[:2], *output_size(x, weight, stride, padding)))
    for tap, seen in _taps(x, weight, stride, padding):
        y = y + _per_channel(weight[:, 0][(slice(None), *tap)]) * padded[seen]
    if bias is not None:
        y = y + _per_channel(bias)
    y = _affine(y, out_scale, out_shift)
    if out_relu:
        y = y.relu()
    return y.clone(memory_format=memory_format(x))


def depthwise_conv3d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    out_scale: Tensor | None,
    y: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    in_relu: bool,
    out_relu: bool,
    wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, in_scale, in_shift, out_scale and out_shift.

    ``y`` is the result of the forward, given with ``out_relu``. Where ``wanted`` is 0 the gradient
    is an empty tensor.
    """
    if y is not None:
        grad = torch.where(y <= 0, 0, grad)
    folded = weight if out_scale is None else weight * _per_channel(out_scale)[..., None]
    active = _affine(x, in_scale, in_shift)
    if in_relu:
        active = active.relu()
    padded = _pad(active, padding)
    grad_padded, by_tap = torch.zeros_like(padded), torch.zeros_like(weight)
    for tap, seen in _taps(x, weight, stride, padding):
        of_tap = (slice(None), 0, *tap)
        by_tap[of_tap] = (grad * padded[seen]).sum((0, 2, 3, 4))
        grad_padded[seen] += grad * _per_channel(folded[of_tap])
    inside = tuple(
        slice(before, before + size) for before, size in zip(padding[::2], x.shape[2:], strict=True)
    )
    grad_active = grad_padded[(slice(None), slice(None), *inside)]
    if in_relu:
        grad_active = torch.where(active <= 0, 0, grad_active)
    total = grad.sum((0, 2, 3, 4))
    grad_out_scale = (weight * by_tap).sum((1, 2, 3, 4))
    if bias is not None:
        grad_out_scale = grad_out_scale + bias * total
    if out_scale is None:
        grad_weight, grad_bias = by_tap, total
    else:
        grad_weight, grad_bias = by_tap * _per_channel(out_scale)[..., None], total * out_scale
    grad_x = _affine(grad_active, in_scale, None)
    gradients = (
        grad_x.clone(memory_format=memory_format(x)),
        grad_weight,
        grad_bias,
        (grad_active * x).sum((0, 2, 3, 4)),
        grad_active.sum((0, 2, 3, 4)),
        grad_out_scale,
        total,
    )
    return tuple(
        g.clone() if want else x.new_empty(0) for g, want in zip(gradients, wanted, strict=True)
    )
