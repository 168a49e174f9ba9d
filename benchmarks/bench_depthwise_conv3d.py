# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise 3x3x3 convolution, bias and ReLU, against every way torch has to compute them."""

from __future__ import annotations

import pytest
import torch
from harness import relative_error

from eegfast import ops

SHAPES = {
    "dw_16": (16, 32, 5, 16, 16),
    "dw_16x": (16, 64, 5, 16, 16),
    "dw_8": (32, 64, 5, 8, 8),
    "dw_32": (8, 32, 5, 32, 32),
}
LAST = torch.channels_last_3d
# Milliseconds a prototype took, forward and forward + backward, and how many times faster than the
# natural code and the best rival ours should be, on contiguous tensors.
PREDICTED = {"dw_16": (0.39, 1.33), "dw_16x": (0.87, 2.62), "dw_8": (0.61, 2.18)}
PREDICTED["dw_32"] = (0.92, 3.11)
GOALS = {name: ((4, 1.7), (25, 8)) for name in SHAPES} | {"dw_8": ((3.5, 1.5), (25, 8))}


def expectations(name, layout, step):
    """What goes into the results beside a row of forward (0) or forward + backward (1)."""
    if layout != "contiguous":
        return {}
    return {"predicted_ms": PREDICTED[name][step], "goal": GOALS[name][step]}


def natural(x, weight, bias):
    return torch.nn.functional.conv3d(x, weight, bias, padding=1, groups=x.shape[1]).relu()


def ours(x, weight, bias):
    return ops.depthwise_conv3d(x, weight, bias, padding=1, out_relu=True)


def stacked(x, weight, bias):
    """Depth folded into the batch of 2-D convolutions, one for each plane of the kernel."""
    batch, channels, depth, height, width = x.shape
    planes = x.transpose(1, 2).flatten(0, 1)
    out = None
    for k in range(3):
        part = torch.nn.functional.conv2d(planes, weight[:, :, k], padding=1, groups=channels)
        part = part.unflatten(0, (batch, depth))
        start, stop = max(0, 1 - k), depth - max(0, k - 1)
        part = torch.nn.functional.pad(
            part[:, start - 1 + k : stop - 1 + k], (0, 0, 0, 0, 0, 0, start, depth - stop)
        )
        out = part if out is None else out + part
    return (out.transpose(1, 2) + bias[:, None, None, None]).relu()


def operands(name, requires_grad):
    """Return x contiguous and channels last, weight and bias, and all of them in float64."""
    shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(channels, 1, 3, 3, 3, generator=generator) / 27**0.5
    bias = torch.randn(channels, generator=generator) / 4
    exact = [t.double() for t in (x, weight, bias)]
    last = x.to(memory_format=LAST)
    leaves = [t.requires_grad_(requires_grad) for t in (x, last, weight, bias, *exact)]
    return leaves[0], leaves[1], leaves[2:4], leaves[4:]


def contenders(bench, layout):
    """The layout's own rivals and those of the other layout: name -> (function, is it last)."""
    rivals = {
        "eager": (natural, False),
        "eager channels_last": (natural, True),
        "eager stacked conv2d": (stacked, False),
        "compile": (bench.compile(natural), False),
        "compile channels_last": (bench.compile(natural), True),
        "compile stacked conv2d": (bench.compile(stacked), False),
    }
    if layout == "channels_last":
        rivals = {k: v for k, v in rivals.items() if v[1]}
    return rivals


CASES = [(name, "contiguous") for name in SHAPES] + [
    (name, "channels_last") for name in ("dw_16", "dw_8", "dw_32")
]


@pytest.mark.parametrize("name, layout", CASES)
def bench_forward(bench, name, layout):
    x, last, parameters, exact = operands(name, False)
    truth = natural(*exact)
    own = last if layout == "channels_last" else x
    with torch.inference_mode():
        bench.compare(
            f"depthwise_conv3d {name} {layout}",
            str(SHAPES[name]),
            lambda: ours(own, *parameters),
            {
                rival: (lambda f=f, i=last if is_last else x: f(i, *parameters)) if f else None
                for rival, (f, is_last) in contenders(bench, layout).items()
            },
            lambda value: relative_error(value, truth),
            error_limit=5e-7,
            **expectations(name, layout, 0),
        )


@pytest.mark.parametrize("name, layout", CASES)
def bench_forward_backward(bench, name, layout):
    x, last, parameters, exact = operands(name, True)
    own = last if layout == "channels_last" else x
    # The ReLU's mask is that of the tested forward: gradients are zero where the two disagree.
    out = natural(*exact)
    with torch.no_grad():
        agree = (out > 0) == (ours(x, *parameters) > 0)
        agree &= (out > 0) == (natural(x, *parameters) > 0)
        agree &= out.abs() > 1e-5
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)) * agree
    truth = torch.autograd.grad(out, exact, grad.double())
    grad_last = grad.to(memory_format=LAST)

    def both(function, x, is_last):
        inputs = (x, *parameters)
        g = grad_last if is_last else grad
        return lambda: torch.autograd.grad(function(*inputs), inputs, g)

    bench.compare(
        f"depthwise_conv3d {name} {layout} fwd+bwd",
        str(SHAPES[name]),
        both(ours, own, layout == "channels_last"),
        {
            rival: both(f, last if is_last else x, is_last) if f else None
            for rival, (f, is_last) in contenders(bench, layout).items()
        },
        lambda value: max(relative_error(v, t) for v, t in zip(value, truth, strict=True)),
        error_limit=2e-6,
        **expectations(name, layout, 1),
    )
