# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise 3-D convolution between two optional affine maps and ReLUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import (
    check_like,
    check_signal,
    register,
    register_autograd,
    remembered,
    widen_half,
)
from eegfast.reference.depthwise_conv3d import memory_format, output_size

_NAME = "eegfast.ops.depthwise_conv3d"
_LARGEST_KERNEL = 5
_PER_CHANNEL = ("bias", "in_scale", "in_shift", "out_scale", "out_shift")


def _empty(x, size):
    return torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=memory_format(x)
    )


def _fake(
    x,
    weight,
    bias,
    in_scale,
    in_shift,
    out_scale,
    out_shift,
    stride,
    padding,
    in_relu,
    out_relu,
):
    return _empty(x, output_size(x, weight, stride, padding))


def _fake_backward(
    grad,
    x,
    weight,
    bias,
    in_scale,
    in_shift,
    out_scale,
    y,
    stride,
    padding,
    in_relu,
    out_relu,
    wanted,
):
    full = [_empty(x, x.shape[2:]), weight.new_empty(weight.shape)]
    full += [weight.new_empty(weight.shape[0]) for _ in range(5)]
    return tuple(g if want else x.new_empty(0) for g, want in zip(full, wanted, strict=True))


_op = register("depthwise_conv3d", reference.depthwise_conv3d, _fake)
_backward_op = register(
    "depthwise_conv3d_backward", reference.depthwise_conv3d_backward, _fake_backward
)


def _setup_context(ctx, inputs, output):
    x, weight, bias, in_scale, in_shift, out_scale, _, *ctx.rest = inputs
    y = output if ctx.rest[-1] else None  # the ReLU's mask
    ctx.save_for_backward(x, weight, bias, in_scale, in_shift, out_scale, y)


def _backward(ctx, grad):
    wanted = [int(need) for need in ctx.needs_input_grad[:7]]
    gradients = _backward_op(grad, *ctx.saved_tensors, *ctx.rest, wanted)
    asked = (g if want else None for g, want in zip(gradients, wanted, strict=True))
    return (*asked, None, None, None, None)


register_autograd("depthwise_conv3d", _setup_context, _backward)


def _triple(argument: str, value, least: int) -> list[int]:
    if type(value) is int and value >= least:
        return [value] * 3
    values = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(values) != 3 or any(int(v) != v or v < least for v in values):
        raise ValueError(
            f"{_NAME}: {argument} must be one or three whole numbers >= {least}, got {value!r}"
        )
    return [int(v) for v in values]


def _both_sides(padding, stride: list[int], kernel: Sequence[int]) -> list[int]:
    """Zeros before and after along each axis."""
    if padding == "valid":
        return [0] * 6
    if padding == "same":
        if stride != [1, 1, 1]:
            raise ValueError(f"{_NAME}: stride must be 1 with padding='same', got {stride}")
        return [side for k in kernel for side in ((k - 1) // 2, k // 2)]
    if isinstance(padding, str):
        raise ValueError(
            f"{_NAME}: padding must be 'same', 'valid' or whole numbers, got {padding!r}"
        )
    return [p for p in _triple("padding", padding, 0) for _ in range(2)]


@remembered
def _geometry(x_shape, weight_shape, stride, padding) -> tuple[list[int], list[int]]:
    """Return the strides, and the zeros before and after along each axis."""
    channels = x_shape[1]
    if len(weight_shape) != 5 or weight_shape[:2] != (channels, 1):
        raise ValueError(
            f"{_NAME}: weight must be ({channels}, 1, kd, kh, kw), got {tuple(weight_shape)}"
        )
    kernel = tuple(weight_shape[2:])
    if not all(1 <= k <= _LARGEST_KERNEL for k in kernel):
        raise ValueError(
            f"{_NAME}: weight must have kernel sizes of 1 to {_LARGEST_KERNEL}, got {kernel}"
        )
    stride = _triple("stride", stride, 1)
    padding = _both_sides(padding, stride, kernel)
    for axis, (size, taps) in enumerate(zip(x_shape[2:], kernel, strict=True)):
        if size + padding[2 * axis] + padding[2 * axis + 1] < taps:
            raise ValueError(
                f"{_NAME}: x must be at least as large as the kernel {kernel} "
                f"once padded, got {tuple(x_shape)} and padding {padding}"
            )
    return stride, padding


@widen_half
def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    *,
    in_scale: Tensor | None = None,
    in_shift: Tensor | None = None,
    in_relu: bool = False,
    out_scale: Tensor | None = None,
    out_shift: Tensor | None = None,
    out_relu: bool = False,
) -> Tensor:
    """Convolve each channel with a kernel of its own, between two optional affine maps and ReLUs.

    ``torch.nn.functional.conv3d(x, weight, bias, stride, padding, groups=channels)``, with what
    usually stands around it in the same pass::

        a = relu?(in_scale x + in_shift)
        y = relu?(out_scale (conv(a) + bias) + out_shift)

    Padding puts zeros around ``a``, as a sequence of BatchNorm, ReLU and convolution does. A
    BatchNorm is a scale and a shift: constant in evaluation, computed from the batch (and
    differentiable through both) in training.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, depth, height, width) or (channels, depth, height, width)
        Float32 or float64, any strides; bfloat16 and float16 on the CPU are computed in float32
        and rounded once. The result is laid out like ``x``: ``torch.channels_last_3d``, or
        contiguous.
    weight : Tensor, shape (channels, 1, kd, kh, kw)
        One kernel per channel, at most 5 long on each axis; 3 x 3 x 3 is the fastest.
    bias, in_scale, in_shift, out_scale, out_shift : Tensor, shape (channels,), optional
        Default: 0, 1, 0, 1, 0. Like ``weight`` of the dtype of ``x``: under autocast nothing is
        converted.
    stride, padding : int or sequence of three int
        As in ``conv3d``; ``padding`` also ``"valid"`` or, with stride 1, ``"same"``.
    in_relu, out_relu : bool
        Whether a ReLU follows the affine map.

    Returns
    -------
    Tensor, shape (batch, channels, depth', height', width'), without batch if ``x`` has none

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Notes
    -----
    The backward keeps ``x``, the parameters and, for ``out_relu``, the result; one pass gives all
    gradients that are asked for. A NaN or Inf reaches the results whose kernel covers it, and makes
    gradients of that channel's parameters NaN or Inf. There is no second derivative.
    """
    layout = "(batch, channels, depth, height, width) or without batch"
    check_signal("depthwise_conv3d", "x", x, 4, layout)
    if x.dim() > 5:
        raise ValueError(f"{_NAME}: x must be {layout}, got {tuple(x.shape)}")
    if x.dim() == 4:
        return depthwise_conv3d(
            x[None],
            weight,
            bias,
            stride,
            padding,
            in_scale=in_scale,
            in_shift=in_shift,
            in_relu=in_relu,
            out_scale=out_scale,
            out_shift=out_shift,
            out_relu=out_relu,
        )[0]
    check_like("depthwise_conv3d", "weight", weight, x)
    stride, padding = _geometry(x.shape, weight.shape, stride, padding)
    per_channel = (bias, in_scale, in_shift, out_scale, out_shift)
    for argument, value in zip(_PER_CHANNEL, per_channel, strict=True):
        if value is None:
            continue
        check_like("depthwise_conv3d", argument, value, x)
        if value.shape != (x.shape[1],):
            raise ValueError(
                f"{_NAME}: {argument} must have shape ({x.shape[1]},), got {tuple(value.shape)}"
            )
    return _op(x, weight, *per_channel, stride, padding, bool(in_relu), bool(out_relu))
