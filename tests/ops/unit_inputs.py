# SPDX-License-Identifier: BSD-3-Clause
"""Inputs of the Mobile unit, and its plain form."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPS = 1e-5


def make_inputs(shape, dtype=torch.float64):
    """Return x, the parameters and the running statistics of both norms."""
    *x_shape, expanded = shape
    channels = x_shape[1]
    x = torch.randn(x_shape, dtype=dtype) * 0.7 + 0.3
    parameters = [
        1 + 0.2 * torch.randn(channels, dtype=dtype),
        0.3 * torch.randn(channels, dtype=dtype),
        torch.randn(expanded, channels, 1, 1, 1, dtype=dtype) / channels**0.5,
        1 + 0.2 * torch.randn(expanded, dtype=dtype),
        0.3 * torch.randn(expanded, dtype=dtype),
        torch.randn(expanded, 1, 3, 3, 3, dtype=dtype) / 5,
        torch.randn(channels, expanded, 1, 1, 1, dtype=dtype) / expanded**0.5,
    ]
    running = [
        (0.3 * torch.randn(n, dtype=dtype), 0.5 + torch.rand(n, dtype=dtype))
        for n in (channels, expanded)
    ]
    return x, parameters, running


def plain(x, parameters, running, training, merge, momentum=0.1):
    """The unit in torch's own functions; also the two pre-activations."""
    w1, b1, expand, w2, b2, depthwise, project = parameters
    norm = [
        lambda v, w, b, i=i: F.batch_norm(v, *running[i], w, b, training[i], momentum, EPS)
        for i in (0, 1)
    ]
    before1 = norm[0](x, w1, b1)
    before2 = norm[1](F.conv3d(F.relu(before1), expand), w2, b2)
    filtered = F.conv3d(F.relu(before2), depthwise, padding=1, groups=before2.shape[1])
    result = F.conv3d(filtered, project)
    out = torch.cat([x, result], 1) if merge == "concat" else x + result
    return out, before1, before2


def clear_of_corners(x, parameters, running, training, attempts=200):
    """Nudge single voxels of x until no pre-activation is within rounding of zero."""
    for _ in range(attempts):
        copies = [tuple(v.double().clone() for v in pair) for pair in running]
        _, *before = plain(x.double(), [p.double() for p in parameters], copies, training, "add")
        near = sum((b.abs() < 1e-5).any(1, keepdim=True) for b in before) > 0
        if not near.any():
            return x
        x = torch.where(near, x + 0.01 * torch.randn_like(x), x)
    raise AssertionError("no luck")
