# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG's Mobile unit, whole: the wide tensors between its convolutions are never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from eegfast import reference
from eegfast.ops._library import check_signal, register, register_autograd, widen_half
from eegfast.reference.mobile_unit3d import statistics_dtype

MERGES = ("concat", "add")


def _fake(
    x,
    norm1_weight,
    norm1_bias,
    expand_weight,
    norm2_weight,
    norm2_bias,
    depthwise_weight,
    project_weight,
    mean1,
    var1,
    mean2,
    var2,
    eps1,
    eps2,
    concat,
):
    out = x.new_empty((x.shape[0], (2 if concat else 1) * x.shape[1], *x.shape[2:]))
    dtype = statistics_dtype(x.dtype)
    sizes = (norm1_weight.shape,) * 2 + (norm2_weight.shape,) * 2
    statistics = (x.new_empty(size, dtype=dtype) for size in sizes)
    return out, *statistics


def _fake_backward(grad, x, *inputs):
    parameters, filters = inputs[:7], inputs[-1]
    shapes = [v.shape if filters or i < 5 else (0,) for i, v in enumerate(parameters)]
    return x.new_empty(x.shape), *(v.new_empty(s) for v, s in zip(parameters, shapes, strict=True))


_op = register("mobile_unit3d", reference.mobile_unit3d, _fake)
_backward_op = register("mobile_unit3d_backward", reference.mobile_unit3d_backward, _fake_backward)


def _setup_context(ctx, inputs, output):
    *tensors, eps1, eps2, concat = inputs
    statistics = output[1:]
    ctx.mark_non_differentiable(*statistics)
    ctx.save_for_backward(*tensors[:8], *statistics)
    ctx.rest = (tensors[8] is None, tensors[10] is None, eps1, eps2, concat)


def _backward(ctx, grad, *_):
    filters = ctx.needs_input_grad[6] or ctx.needs_input_grad[7]
    grads = _backward_op(grad, *ctx.saved_tensors, *ctx.rest, filters)
    wanted = ctx.needs_input_grad[:8]
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None,) * 7)


register_autograd("mobile_unit3d", _setup_context, _backward)


_PARAMETERS = (
    "norm1_weight",
    "norm1_bias",
    "expand_weight",
    "norm2_weight",
    "norm2_bias",
    "depthwise_weight",
    "project_weight",
)


def _refuse(text: str) -> ValueError:
    return ValueError(f"eegfast.ops.mobile_unit3d: {text}")


def _check(x: Tensor, parameters: tuple[Tensor, ...], running) -> None:
    if not isinstance(x, Tensor) or x.dim() != 5 or not x.is_floating_point():
        check_signal("mobile_unit3d", "x", x, 5, "(batch, channels, depth, height, width)")
        raise _refuse(f"x must be (batch, channels, depth, height, width), got {tuple(x.shape)}")
    channels, expanded = x.shape[1], parameters[2].shape[0]
    shapes = (
        (channels,),
        (channels,),
        (expanded, channels, 1, 1, 1),
        (expanded,),
        (expanded,),
        (expanded, 1, 3, 3, 3),
        (channels, expanded, 1, 1, 1),
    )
    for name, value, shape in zip(_PARAMETERS, parameters, shapes, strict=True):
        if value.shape != shape:
            raise _refuse(f"{name} must be {shape}, got {tuple(value.shape)}")
        if value.dtype != x.dtype:
            raise TypeError(
                f"eegfast.ops.mobile_unit3d: {name} must be {x.dtype} like x, got {value.dtype}"
            )
    for i, (pair, size) in enumerate(zip(running, (channels, expanded), strict=True), 1):
        for kind, value in zip(("mean", "var"), pair, strict=True):
            if value is not None and value.shape != (size,):
                raise _refuse(f"running_{kind}{i} must be {(size,)}, got {tuple(value.shape)}")
        if (pair[0] is None) != (pair[1] is None):
            raise _refuse(f"running_mean{i} and running_var{i} must be given together")


def _update(running, statistics, count: int, momentum: float) -> None:
    mean, var = (s.detach() for s in statistics)
    unbiased = mean, var * (count / (count - 1))
    values = [s.to(old.dtype) for s, old in zip(unbiased, running, strict=True)]
    torch._foreach_lerp_(list(running), values, momentum)


@widen_half
def _unit(
    x: Tensor,
    *parameters: Tensor,
    running: tuple[tuple[Tensor | None, Tensor | None], tuple[Tensor | None, Tensor | None]],
    training: tuple[bool, bool],
    momentum: tuple[float, float],
    eps: tuple[float, float],
    merge: str,
) -> Tensor:
    """The unit, each norm on its own in training or not; ``momentum`` 0 updates nothing."""
    if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16):
        # They may meet float32 parameters.
        parameters = tuple(v.to(x.dtype) if v.dtype == torch.float32 else v for v in parameters)
    _check(x, parameters, running)
    if merge not in MERGES:
        raise _refuse(f"merge must be one of {MERGES}, got {merge!r}")
    dtype = statistics_dtype(x.dtype)
    given = [
        (None, None) if train or mean is None else (mean.to(dtype), var.to(dtype))
        for train, (mean, var) in zip(training, running, strict=True)
    ]
    count = x.numel() // x.shape[1] if x.shape[1] else 0
    if count <= 1 and any(mean is None for mean, _ in given):
        raise _refuse(
            "more than one value per channel is needed for statistics of the batch, "
            f"got x of shape {tuple(x.shape)}"
        )
    out, *statistics = _op(
        x, *parameters, *given[0], *given[1], float(eps[0]), float(eps[1]), merge == "concat"
    )
    for i in (0, 1):
        if training[i] and running[i][0] is not None:
            _update(running[i], statistics[2 * i : 2 * i + 2], count, momentum[i])
    return out


def mobile_unit3d(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    expand_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    running_mean1: Tensor | None = None,
    running_var1: Tensor | None = None,
    running_mean2: Tensor | None = None,
    running_var2: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps1: float = 1e-5,
    eps2: float = 1e-5,
    merge: str = "concat",
) -> Tensor:
    """BatchNorm, ReLU, 1x1x1 expansion, BatchNorm, ReLU, depthwise 3x3x3, 1x1x1 projection.

    With ``F`` for ``torch.nn.functional``, and the same results up to rounding::

        a = relu(F.batch_norm(x, ..., eps1))
        p = relu(F.batch_norm(F.conv3d(a, expand_weight), ..., eps2))
        q = F.conv3d(p, depthwise_weight, padding=1, groups=E)
        r = F.conv3d(q, project_weight)
        out = torch.cat([x, r], 1)          # merge="concat"; x + r with merge="add"

    Neither ``p`` nor ``q`` nor anything else of ``E`` channels is stored, in forward or backward,
    with the statistics of the batch or without.

    Parameters
    ----------
    x : Tensor, shape (batch, C, depth, height, width)
        float32 or float64, any strides; float16 and bfloat16 on the CPU run in float32 and are
        rounded once. Any size, of every axis.
    norm1_weight, norm1_bias : Tensor, shape (C,)
        Of the first BatchNorm.
    expand_weight : Tensor, shape (E, C, 1, 1, 1)
        Any E.
    norm2_weight, norm2_bias : Tensor, shape (E,)
        Of the second BatchNorm.
    depthwise_weight : Tensor, shape (E, 1, 3, 3, 3)
        Kernel 3x3x3, zero padding 1, stride 1; there are no others.
    project_weight : Tensor, shape (C, E, 1, 1, 1)
        No convolution has a bias.
    running_mean1, running_var1, running_mean2, running_var2 : Tensor, optional
        Running statistics, shapes (C,) and (E,). Used where ``training`` is False, updated in place
        where it is True, as ``F.batch_norm`` does: ``momentum`` times the batch's mean and unbiased
        variance. A norm without them takes the batch's statistics always.
    training : bool
        Use the statistics of the batch.
    momentum : float
        Weight of the batch in the running statistics.
    eps1, eps2 : float
        Added to the variances. Attention in front of the unit can shrink the input so far that its
        variance is near the default of 1e-5.
    merge : {"concat", "add"}
        LDM-EEG's code puts the result behind its input; its text adds them.

    Returns
    -------
    Tensor, shape (batch, 2 C or C, depth, height, width)
        Contiguous.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came. All tensors have one dtype (but
        float32 parameters may meet a half ``x``); statistics of the batch need more than one value
        per channel.

    Notes
    -----
    There is no second derivative. In training a NaN or Inf spreads to its channel and from there to
    all, as it does through BatchNorm; with running statistics it stays in its sample, within one
    voxel.

    References
    ----------
    Lei and Liu, "LDM-EEG", Computer Science 50(6A), 2023, 220300262.
    """
    return _unit(
        x,
        norm1_weight,
        norm1_bias,
        expand_weight,
        norm2_weight,
        norm2_bias,
        depthwise_weight,
        project_weight,
        running=((running_mean1, running_var1), (running_mean2, running_var2)),
        training=(training, training),
        momentum=(momentum, momentum),
        eps=(eps1, eps2),
        merge=merge,
    )
