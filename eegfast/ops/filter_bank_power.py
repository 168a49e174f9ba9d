# SPDX-License-Identifier: BSD-3-Clause
"""Sum and sum of squares behind a bank of FIR filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import check_signal, register, register_autograd


def _fake(x, taps, head, tail):
    shape = (*x.shape[:-2], taps.shape[0], x.shape[-2])
    rows = math.prod(x.shape[:-1])  # Size.numel would fix a symbolic size
    sums = x.new_empty((taps.shape[1] + 1, rows), dtype=torch.float64)
    return (*(x.new_empty(shape, dtype=torch.float64) for _ in range(2)), sums)


def _fake_backward(grad_total, grad_squares, x, taps, sums, head, tail, need_x):
    grad_x = x.new_empty(x.shape if need_x else 0)
    return grad_x, taps.new_empty(0 if sums is None else taps.shape)


_op = register("filter_bank_power", reference.filter_bank_power, _fake)
_backward_op = register(
    "filter_bank_power_backward", reference.filter_bank_power_backward, _fake_backward
)


def _setup_context(ctx, inputs, output):
    x, taps, ctx.head, ctx.tail = inputs
    sums = output[2]
    ctx.mark_non_differentiable(sums)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, taps, sums if ctx.needs_input_grad[1] else None)


def _backward(ctx, grad_total, grad_squares, _):
    x, taps, sums = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    grad_x, grad_taps = _backward_op(
        grad_total, grad_squares, x, taps, sums, ctx.head, ctx.tail, need_x
    )
    return grad_x if need_x else None, None if sums is None else grad_taps, None, None


register_autograd("filter_bank_power", _setup_context, _backward)


def padding_of(padding: str | int, length: int) -> tuple[int, int]:
    """Return the zeros that ``padding`` puts before and behind a row for filters of ``length``."""
    if padding == "same":
        return (length - 1) // 2, length // 2
    if padding == "valid":
        return 0, 0
    if isinstance(padding, int) and not isinstance(padding, bool) and padding >= 0:
        return padding, padding
    raise ValueError(
        "eegfast.ops.filter_bank_power: padding must be 'same', 'valid' or a whole number >= 0, "
        f"got {padding!r}"
    )


def filter_bank_power(
    x: Tensor,
    taps: Tensor,
    padding: str | int = "same",
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of each row behind each filter of an FIR bank.

    With ``y[f, t] = sum_k taps[f, k] x[t + k - left]``, zeros outside of the row (``F.conv1d``: the
    taps are not flipped)::

        total = sum_t y[f, t]        squares = sum_t y[f, t]^2

    From them follow mean power and, the filters being the channels, all that batch normalisation
    asks of ``y``. The filtered signals are never stored, nor computed: the power comes from the
    autocorrelation of the row, in double precision.

    Parameters
    ----------
    x : Tensor, shape (..., rows, n_times)
        Signal, any strides; bfloat16 and float16 are read as float32.
    taps : Tensor, shape (filters, length)
        Filters, any floating type whatever that of ``x``: they are used in float64.
    padding : {"same", "valid"} or int
        Zeros at both ends of a row. ``"same"``: ``(length - 1) // 2`` before and ``length // 2``
        behind, as ``F.conv1d`` has it, so that there are ``n_times`` outputs.
    dtype : torch.dtype, optional
        Type of the results; float64 keeps the sums as they were computed. Default: that of ``x``.

    Returns
    -------
    total, squares : Tensor, shape (..., filters, rows)
        Sums over the ``n_times + zeros - length + 1`` outputs.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Notes
    -----
    All sums are double, with an error of a few 1e-16 of a row's energy. Where a filter keeps 1e-8
    of that or more, float32 results are right to the last digit; a float64 result of 1e-4 of the
    energy has twelve digits. A NaN or Inf
    makes the results of its row non-finite and touches no other row. The gradients, of ``x`` and
    ``taps``, are computed where they are asked for. There is no second derivative.

    Examples
    --------
    >>> x, taps = torch.randn(100, 16, 200), torch.randn(18, 41)
    >>> total, squares = filter_bank_power(x, taps)
    >>> mean_power = squares / 200  # (100, 18, 16)
    """
    check_signal("filter_bank_power", "x", x, 2, "(..., rows, n_times)")
    check_signal("filter_bank_power", "taps", taps, 2, "(filters, length)")
    if taps.dim() != 2 or taps.shape[1] == 0:
        raise ValueError(
            "eegfast.ops.filter_bank_power: taps must be (filters, length) with length >= 1, "
            f"got {tuple(taps.shape)}"
        )
    if taps.device != x.device:
        raise ValueError(
            "eegfast.ops.filter_bank_power: taps must be on the device of x, "
            f"got {taps.device} and {x.device}"
        )
    length = taps.shape[1]
    left, right = padding_of(padding, length)
    if left + x.shape[-1] + right < length:
        raise ValueError(
            "eegfast.ops.filter_bank_power: taps must not be longer than the padded rows, "
            f"got {length} taps for {x.shape[-1]} samples and padding={padding!r}"
        )
    result = x.dtype if dtype is None else dtype
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    head, tail = max(length - 1 - left, 0), max(length - 1 - right, 0)
    total, squares, _ = _op(x, taps.double(), head, tail)
    return total.to(result), squares.to(result)
