# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.mobile_unit3d`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_OVER = (0, 2, 3, 4)  # the axes of a batch-norm sum


def _along(vector: Tensor) -> Tensor:
    """View one value per channel so that it broadcasts over ``(batch, channels, D, H, W)``."""
    return vector.view(-1, 1, 1, 1)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics, and of all that is computed, for tensors of ``dtype``."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _statistics(x: Tensor, mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return those given (fresh copies), or mean and biased variance of ``x``."""
    if mean is not None and var is not None:
        return mean.clone(), var.clone()
    mean = x.mean(_OVER)
    return mean, (x - _along(mean)).square().mean(_OVER)


def mobile_unit3d(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    expand_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    mean1: Tensor | None,
    var1: Tensor | None,
    mean2: Tensor | None,
    var2: Tensor | None,
    eps1: float,
    eps2: float,
    concat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A norm without ``mean`` and ``var`` takes the batch's; all four are returned, biased.

    Half types are computed on in float32, which is the statistics' dtype then.
    """
    dtype, wide = x.dtype, statistics_dtype(x.dtype)
    if dtype != wide:
        parameters = (norm1_weight, norm1_bias, expand_weight, norm2_weight, norm2_bias)
        tensors = (v.to(wide) for v in (x, *parameters, depthwise_weight, project_weight))
        out, *statistics = mobile_unit3d(*tensors, mean1, var1, mean2, var2, eps1, eps2, concat)
        return out.to(dtype), *statistics
    mean1, var1 = _statistics(x, mean1, var1)
    scale1 = norm1_weight / (var1 + eps1).sqrt()
    activated = F.relu((x - _along(mean1)) * _along(scale1) + _along(norm1_bias))
    hidden = F.conv3d(activated, expand_weight)
    mean2, var2 = _statistics(hidden, mean2, var2)
    scale2 = norm2_weight / (var2 + eps2).sqrt()
    expanded = F.relu((hidden - _along(mean2)) * _along(scale2) + _along(norm2_bias))
    filtered = F.conv3d(expanded, depthwise_weight, padding=1, groups=expanded.shape[1])
    projected = F.conv3d(filtered, project_weight)
    out = torch.cat([x, projected], 1) if concat else x + projected
    return out, mean1, var1, mean2, var2


def mobile_unit3d_backward(
    grad: Tensor,
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    expand_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    mean1: Tensor,
    var1: Tensor,
    mean2: Tensor,
    var2: Tensor,
    batch1: bool,
    batch2: bool,
    eps1: float,
    eps2: float,
    concat: bool,
    filters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x`` and the seven parameters, in their order.

    ``batch1`` and ``batch2``: that norm's statistics came from the batch. Without ``filters`` those
    of the depthwise and the projecting weight are not computed, and empty.
    """
    dtype, wide = x.dtype, statistics_dtype(x.dtype)
    if dtype != wide:
        parameters = (norm1_weight, norm1_bias, expand_weight, norm2_weight, norm2_bias)
        tensors = (v.to(wide) for v in (grad, x, *parameters, depthwise_weight, project_weight))
        statistics = (mean1, var1, mean2, var2)
        grads = mobile_unit3d_backward(
            *tensors, *statistics, batch1, batch2, eps1, eps2, concat, filters
        )
        return tuple(g.to(dtype) for g in grads)
    channels, expanded_channels = x.shape[1], expand_weight.shape[0]
    identity, grad_projected = grad.split(channels, 1) if concat else (grad, grad)
    inverse1, inverse2 = (var1 + eps1).rsqrt(), (var2 + eps2).rsqrt()

    normed1 = (x - _along(mean1)) * _along(inverse1)
    activated = F.relu(normed1 * _along(norm1_weight) + _along(norm1_bias))
    normed2 = (F.conv3d(activated, expand_weight) - _along(mean2)) * _along(inverse2)
    expanded = F.relu(normed2 * _along(norm2_weight) + _along(norm2_bias))

    grad_depthwise = grad_project = x.new_empty(0)
    grad_filtered = torch.einsum("ce,bcdhw->bedhw", project_weight.flatten(1), grad_projected)
    if filters:
        filtered = F.conv3d(expanded, depthwise_weight, padding=1, groups=expanded_channels)
        grad_project = torch.einsum("bcdhw,bedhw->ce", grad_projected, filtered)
        grad_project = grad_project.view_as(project_weight)
        windows = F.pad(expanded, (1,) * 6)
        for axis in (2, 3, 4):
            windows = windows.unfold(axis, 3, 1)
        grad_depthwise = torch.einsum("bedhwijk,bedhw->eijk", windows, grad_filtered)
        grad_depthwise = grad_depthwise.unsqueeze(1)
    flipped = depthwise_weight.flip(2, 3, 4)
    grad_expanded = F.conv3d(grad_filtered, flipped, padding=1, groups=expanded_channels)

    def norm_backward(grad_out, normed, weight, inverse, batch):
        grad_bias, grad_weight = grad_out.sum(_OVER), (grad_out * normed).sum(_OVER)
        if batch:
            count = normed.shape[0] * normed[0, 0].numel()
            grad_out = grad_out - _along(grad_bias / count) - normed * _along(grad_weight / count)
        return grad_out * _along(weight * inverse), grad_weight, grad_bias

    grad_hidden, grad_norm2_weight, grad_norm2_bias = norm_backward(
        grad_expanded.masked_fill(expanded <= 0, 0), normed2, norm2_weight, inverse2, batch2
    )
    grad_expand = torch.einsum("bedhw,bcdhw->ec", grad_hidden, activated).view_as(expand_weight)
    grad_activated = torch.einsum("ec,bedhw->bcdhw", expand_weight.flatten(1), grad_hidden)
    grad_x, grad_norm1_weight, grad_norm1_bias = norm_backward(
        grad_activated.masked_fill(activated <= 0, 0), normed1, norm1_weight, inverse1, batch1
    )
    return (
        (grad_x + identity).contiguous(),
        grad_norm1_weight,
        grad_norm1_bias,
        grad_expand,
        grad_norm2_weight,
        grad_norm2_bias,
        grad_depthwise,
        grad_project,
    )
