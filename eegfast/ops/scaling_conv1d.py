# SPDX-License-Identifier: BSD-3-Clause
"""One learned kernel, correlated with the signal at all its scales."""

from __future__ import annotations

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import (
    check_like,
    check_signal,
    register,
    register_autograd,
    widen_half,
)


def _fake(x, weight, bias, levels, relu, count_include_pad, save_mask):
    rows = (*x.shape[:-1], weight.shape[1], levels)
    mask_bytes = (x.shape[-1] + 63) // 64 * 8
    mask_shape = (*rows, mask_bytes) if relu and save_mask else (0,)
    return x.new_empty((*rows, x.shape[-1])), x.new_empty(mask_shape, dtype=torch.uint8)


def _fake_backward(
    grad,
    x,
    weight,
    mask,
    bias_chans,
    levels,
    count_include_pad,
    need_x,
    need_weight,
    need_bias,
):
    return (
        x.new_empty(x.shape if need_x else (0,)),
        x.new_empty(weight.shape if need_weight else (0,)),
        x.new_empty((bias_chans, weight.shape[1], levels) if need_bias else (0,)),
    )


_op = register("scaling_conv1d", reference.scaling_conv1d, _fake)
_backward_op = register(
    "scaling_conv1d_backward", reference.scaling_conv1d_backward, _fake_backward
)


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.levels, ctx.relu, ctx.count_include_pad, save_mask = inputs
    mask = output[1]
    ctx.bias_chans = 0 if bias is None else bias.shape[0]
    ctx.masked = save_mask
    ctx.mark_non_differentiable(mask)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, grad, _):
    if grad is None:
        return (None,) * 7
    if ctx.relu and not ctx.masked:
        raise RuntimeError("eegfast::scaling_conv1d: no gradient without save_mask")
    x, weight, mask = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    grads = _backward_op(
        grad,
        x,
        weight,
        mask if ctx.relu else None,
        ctx.bias_chans,
        ctx.levels,
        ctx.count_include_pad,
        *needs,
    )
    return (*(g if needed else None for g, needed in zip(grads, needs, strict=True)), *(None,) * 4)


register_autograd("scaling_conv1d", _setup_context, _backward)


def scaling_levels(length: int, max_levels: int | None = None) -> list[int]:
    """Return the lengths of a kernel and of its pooled versions.

    Parameters
    ----------
    length : int
        Length of the first kernel, odd.
    max_levels : int, optional
        Keep that many at most. Default: all, down to length 1.

    Returns
    -------
    list of int
        Odd lengths, each half of the one before, or half and a bit.

    Examples
    --------
    >>> scaling_levels(33)
    [33, 17, 9, 5, 3, 1]
    >>> scaling_levels(63, max_levels=3)
    [63, 31, 15]
    """
    if int(length) != length or length < 1 or length % 2 == 0:
        raise ValueError(f"eegfast.ops.scaling_levels: length must be odd and >= 1, got {length!r}")
    _check_max_levels("scaling_levels", max_levels)
    lengths = [int(length)]
    while lengths[-1] > 1:
        lengths.append(lengths[-1] // 2 | 1)
    return lengths[:max_levels]


def _check_max_levels(op: str, max_levels: int | None) -> None:
    if max_levels is not None and (int(max_levels) != max_levels or max_levels < 1):
        raise ValueError(
            f"eegfast.ops.{op}: max_levels must be a whole number >= 1, got {max_levels!r}"
        )


@widen_half
def scaling_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    max_levels: int | None = None,
    relu: bool = True,
    count_include_pad: bool = True,
) -> Tensor:
    """ScalingNet's layer: each filter's kernel at all its scales.

    The kernel of level 0 is ``weight``; that of level l + 1 averages neighbouring taps of level l
    (window 2, stride 2), with a zero in front where the result would otherwise be of even length.
    So lengths stay odd, and every output is as long as the signal::

        out[l, t] = act(bias[l] + sum_j kernel_l[j] x[t + j - (length_l - 1) / 2])

    with zeros outside the signal. The gain halves from level to level and is not made up for.

    Parameters
    ----------
    x : Tensor, shape (..., n_chans, n_times)
        Signal, float32 or float64, any strides. bfloat16 and float16 are computed in float32 on the
        CPU and rounded once (relative error at most 2**-9 and 2**-12).
    weight : Tensor, shape (filters, length) or (n_chans, filters, length)
        One kernel per filter, shared by all electrodes, or one per filter and electrode; ``length``
        is odd.
    bias : Tensor, optional, broadcastable to (n_chans, filters, levels)
        One offset per filter and level, and per electrode if it has three dimensions.
    max_levels : int, optional
        Keep that many levels at most. Default: all, down to a kernel of length 1
        (:func:`scaling_levels`).
    relu : bool
        Whether ``act`` is ReLU or nothing. The backward pass keeps one bit per output for it.
    count_include_pad : bool
        What becomes of the first tap where pooling put a zero in front of it: halved (default), or
        kept with False.

    Returns
    -------
    Tensor, shape (..., n_chans, filters, levels, n_times)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came. ``weight`` and ``bias`` of another
        dtype than ``x`` are refused, unless ``x`` is half precision on the CPU, where those of
        float32 are used as they are.

    Notes
    -----
    Correlation, as ``torch.nn.functional.conv1d`` has it: kernels are not reversed. A NaN or Inf
    reaches the outputs whose kernel covers it. There is no second derivative.

    References
    ----------
    Hu et al., "ScalingNet: extracting features from raw EEG data for emotion recognition",
    arXiv:2105.13987.

    Examples
    --------
    >>> x = torch.randn(4, 32, 512)
    >>> weight, bias = torch.randn(8, 65), torch.randn(8, 7)
    >>> scaling_conv1d(x, weight, bias).shape
    torch.Size([4, 32, 8, 7, 512])
    """
    check_signal("scaling_conv1d", "x", x, 2, "(..., n_chans, n_times)")
    weight = _check_weight(weight, x)
    _check_max_levels("scaling_conv1d", max_levels)
    levels = len(scaling_levels(weight.shape[-1], max_levels))
    if bias is not None:
        bias = _check_bias(bias, x, (x.shape[-2], weight.shape[1], levels))
    tensors = (x, weight) if bias is None else (x, weight, bias)
    save_mask = relu and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _op(x, weight, bias, levels, bool(relu), bool(count_include_pad), save_mask)[0]


def _check_weight(weight: Tensor, x: Tensor) -> Tensor:
    """Return ``weight`` with its first dimension that of the electrodes, or 1."""
    check_like("scaling_conv1d", "weight", weight, x)
    n_chans = x.shape[-2]
    good = weight.dim() in (2, 3) and weight.shape[-1] % 2 == 1 and weight.shape[-2] >= 1
    if not good or (weight.dim() == 3 and weight.shape[0] not in (1, n_chans)):
        raise ValueError(
            "eegfast.ops.scaling_conv1d: weight must be (filters, length) or "
            f"(n_chans = {n_chans}, filters, length) with odd length, got {tuple(weight.shape)}"
        )
    return weight if weight.dim() == 3 else weight.unsqueeze(0)


def _check_bias(bias: Tensor, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return ``bias`` as (n_chans or 1, filters, levels)."""
    check_like("scaling_conv1d", "bias", bias, x)
    n_chans = shape[0] if bias.dim() == 3 and bias.shape[0] != 1 else 1
    try:
        return bias.expand(n_chans, *shape[1:])
    except RuntimeError:
        raise ValueError(
            "eegfast.ops.scaling_conv1d: bias must broadcast to (n_chans, filters, levels) = "
            f"{shape}, got {tuple(bias.shape)}"
        ) from None
