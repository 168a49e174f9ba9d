# SPDX-License-Identifier: BSD-3-Clause
"""All scales of a kernel, against every way torch has to compute them.

Rivals: one convolution per level; all levels as one convolution with kernels padded to the longest
(stacked), as conv1d and as conv2d in channels_last. Each also compiled.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from harness import relative_error

from eegfast import ops

# x, filters, length, levels, whether electrodes share their kernels
SHAPES = {
    "sc_512": ((4, 32, 512), 8, 65, 6, True),
    "sc_8064": ((1, 32, 8064), 8, 65, 6, True),
    "sc_129": ((2, 32, 1024), 8, 129, 7, True),
    "sc_33": ((4, 32, 512), 8, 33, 6, True),
    "network": ((4, 32, 8064), 1, 33, 6, False),
}
# How many times faster than one convolution per level and the best rival ours should be, forward
# and forward + backward; milliseconds a prototype took forward.
GOALS = ((10, 7), (10, 8))
PREDICTED = {"sc_8064": 3.78, "sc_129": 1.44}


def contenders(filters: int, length: int, levels: int, shared: bool):
    """Return ours, one convolution per level, and the stacked ones."""

    def pooled(weight):
        """The kernels of all levels, each (filters, length) or (n_chans, filters, length)."""
        kernels = [weight]
        for _ in range(levels - 1):
            kernel = kernels[-1]
            kernels.append(F.avg_pool1d(kernel, 2, 2, int(kernel.shape[-1] // 2 % 2 == 0)))
        return kernels

    def stacked_kernel(weight):
        kernels = [F.pad(k, ((length - k.shape[-1]) // 2,) * 2) for k in pooled(weight)]
        return torch.stack(kernels, -2).reshape(-1, 1, length)

    def ours(x, weight, bias):
        return ops.scaling_conv1d(x, weight, bias, max_levels=levels)

    def per_level(x, weight, bias):
        rows = x.reshape(-1, 1, x.shape[-1]) if shared else x
        outputs = [
            F.conv1d(
                rows,
                kernel.reshape(-1, 1, kernel.shape[-1]),
                bias[..., level].reshape(-1),
                padding=kernel.shape[-1] // 2,
                groups=rows.shape[1],
            )
            for level, kernel in enumerate(pooled(weight))
        ]
        out = torch.stack([y.reshape(*x.shape[:-1], filters, -1) for y in outputs], -2)
        return torch.relu(out)

    def stacked(x, weight, bias):
        rows = x.reshape(-1, 1, x.shape[-1]) if shared else x
        kernel = stacked_kernel(weight)
        groups = rows.shape[1]
        out = F.conv1d(rows, kernel, bias.reshape(-1), padding=length // 2, groups=groups)
        return torch.relu(out).reshape(*x.shape[:-1], filters, levels, -1)

    def stacked_2d(x, weight, bias):  # x: (..., n_chans, 1, n_times), channels_last
        rows = x.reshape(-1, 1, 1, x.shape[-1]) if shared else x
        kernel = stacked_kernel(weight).unsqueeze(2)
        groups = rows.shape[1]
        out = F.conv2d(rows, kernel, bias.reshape(-1), padding=(0, length // 2), groups=groups)
        return torch.relu(out).reshape(*x.shape[:2], filters, levels, -1)

    return ours, {
        "eager": per_level,
        "eager stacked": stacked,
        "eager stacked conv2d": stacked_2d,
    }


def draw(name: str, smoke: bool):
    shape, filters, length, levels, shared = SHAPES[name]
    if smoke:
        shape = (*shape[:2], shape[2] // 8 + 1)
    generator = torch.Generator().manual_seed(0)
    kernels = (filters,) if shared else (shape[1], filters)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(*kernels, length, generator=generator) / length**0.5
    bias = torch.randn(*kernels, levels, generator=generator) / length**0.5
    label = f"{shape} F{filters} K{length} L{levels}{'' if shared else ' per electrode'}"
    return [x, weight, bias], (filters, length, levels, shared), label


def calls(bench, tensors, ours, rivals, call):
    """Return ``call(function, tensors)`` of ours and of each rival, eager and compiled."""
    x, *rest = tensors
    wide = x.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last)
    wide.requires_grad_(x.requires_grad)
    timed = {}
    for name, rival in rivals.items():
        inputs = [wide if "conv2d" in name else x, *rest]
        compiled = bench.compile(rival)
        timed[name] = lambda f=rival, inputs=inputs: call(f, inputs)
        timed[name.replace("eager", "compile")] = (
            (lambda f=compiled, inputs=inputs: call(f, inputs)) if compiled else None
        )
    return (lambda: call(ours, tensors)), timed


@pytest.mark.parametrize("name", SHAPES)
def bench_forward(bench, name):
    tensors, options, label = draw(name, bench.smoke)
    ours, rivals = contenders(*options)
    truth = rivals["eager"](*(t.double() for t in tensors))
    with torch.inference_mode():
        bench.compare(
            f"scaling_conv1d {name}",
            label,
            *calls(bench, tensors, ours, rivals, lambda f, inputs: f(*inputs)),
            lambda value: relative_error(value, truth),
            error_limit=5e-7,
            predicted_ms=PREDICTED.get(name),
            goal=GOALS[0],
        )


@pytest.mark.parametrize("name", SHAPES)
def bench_forward_backward(bench, name):
    tensors, options, label = draw(name, bench.smoke)
    ours, rivals = contenders(*options)
    tensors = [t.requires_grad_() for t in tensors]
    out = ours(*tensors).detach()
    # A pre-activation within rounding of 0 may fall on either side: no gradient flows there.
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)) * (out > 1e-5)
    del out
    exact = [t.detach().double().requires_grad_() for t in tensors]
    truth = torch.autograd.grad(rivals["eager"](*exact), exact, grad.double())
    bench.compare(
        f"scaling_conv1d {name} fwd+bwd",
        label,
        *calls(
            bench,
            tensors,
            ours,
            rivals,
            lambda f, inputs: torch.autograd.grad(f(*inputs), inputs, grad),
        ),
        lambda value: max(
            relative_error(v.reshape(t.shape), t) for v, t in zip(value, truth, strict=True)
        ),
        error_limit=2e-6,
        goal=GOALS[1],
    )
