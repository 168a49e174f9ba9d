# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG's Mobile unit, against torch's own modules: contiguous and channels-last, as they are,
compiled, and with the second norm folded into the convolution before it (evaluation)."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from harness import relative_error
from torch.nn.utils.fusion import fuse_conv_bn_eval

from eegfast.nn import MobileUnit3d

SHAPES = {
    "blk4": (16, 4, 5, 16, 16),
    "blk8": (16, 8, 5, 16, 16),
    "blk8_narrow": (64, 8, 5, 8, 8),
    "time_stream": (16, 8, 8, 8, 8),
    "block3": (16, 16, 5, 4, 4),
    "block4": (16, 64, 5, 2, 2),
}
# How many times faster than the natural code and the best rival ours should be.
GOALS = {
    "blk4 eval": (7, 3.2),
    "blk8 eval": (7, 3.2),
    "blk8_narrow eval": (6, 2.8),
    "blk4 fwd+bwd": (12, 5),
    "blk8 fwd+bwd": (12, 5),
    "blk8_narrow fwd+bwd": (12, 5),
}
# Milliseconds: what a prototype of the unit took, and the FLOP of both passes at its rate.
PREDICTED = {
    "blk4 eval": 0.42,
    "blk8 eval": 0.92,
    "blk8_narrow eval": 1.35,
    "blk4 fwd+bwd": 2.5,
    "blk8 fwd+bwd": 5.5,
}


def expectations(name):
    return {"predicted_ms": PREDICTED.get(name), "goal": GOALS.get(name)}


def plain(unit, x):
    """The unit in torch's own operators; norm2 is None where it is folded into ``expand``."""
    hidden = unit.expand(F.relu(unit.norm1(x)))
    if unit.norm2 is not None:
        hidden = unit.norm2(hidden)
    return torch.cat([x, unit.project(unit.depthwise(F.relu(hidden)))], 1)


def folded(unit):
    unit = copy.deepcopy(unit)
    unit.expand, unit.norm2 = fuse_conv_bn_eval(unit.expand, unit.norm2), None
    return unit


def make_unit(shape, device="cpu"):
    torch.manual_seed(0)
    unit = MobileUnit3d(shape[1]).to(device)
    with torch.no_grad():
        for norm in (unit.norm1, unit.norm2):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.2)
        for _ in range(20):
            unit(torch.randn(shape, device=device))  # running statistics
    return unit, torch.randn(shape, device=device)


def rivals(bench, unit, call):
    """``call(forward, memory_format)`` of each, eager and compiled, in both memory formats."""
    contenders = {}
    for format_name, memory_format in (
        ("", torch.contiguous_format),
        (" channels_last", torch.channels_last_3d),
    ):
        units = {"": unit} if unit.training else {"": unit, " folded": folded(unit)}
        for kind, rival in units.items():
            rival = copy.deepcopy(rival).to(memory_format=memory_format)

            def forward(x, rival=rival):
                return plain(rival, x)

            compiled = bench.compile(forward)
            contenders["eager" + kind + format_name] = call(forward, rival, memory_format)
            contenders["compile" + kind + format_name] = (
                call(compiled, rival, memory_format) if compiled else None
            )
    return contenders


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", SHAPES)
def bench_forward(bench, name, mode):
    unit, x = make_unit(SHAPES[name])
    unit.train(mode == "train")
    truth = plain(copy.deepcopy(unit).double(), x.double()).detach()
    channels = x.shape[1]

    def call(forward, module, memory_format):
        own = x.to(memory_format=memory_format)
        return lambda: forward(own)

    with torch.inference_mode():
        bench.compare(
            f"mobile_unit3d {name} {mode}",
            str(SHAPES[name]),
            lambda: unit(x),
            rivals(bench, unit, call),
            lambda out: relative_error(out[:, channels:], truth[:, channels:]),
            error_limit=5e-7,
            **expectations(f"{name} {mode}"),
        )


@pytest.mark.parametrize("name", SHAPES)
def bench_forward_backward(bench, name):
    unit, x = make_unit(SHAPES[name])
    exact, exact_x = copy.deepcopy(unit).double(), x.double().requires_grad_()
    out = plain(exact, exact_x)
    grad = torch.randn(out.shape)
    truth = torch.autograd.grad(out, [exact_x, *exact.parameters()], grad.double())

    def call(forward, module, memory_format):
        own = x.to(memory_format=memory_format).requires_grad_()
        own_grad = grad.to(memory_format=memory_format)
        leaves = [own, *module.parameters()]
        return lambda: torch.autograd.grad(forward(own), leaves, own_grad)

    bench.compare(
        f"mobile_unit3d {name} train fwd+bwd",
        str(SHAPES[name]),
        call(unit, unit, torch.contiguous_format),
        rivals(bench, unit, call),
        # One voxel of a million may sit on the corner of a ReLU, where rounding decides: 1e-4.
        lambda grads: max(relative_error(g, t) for g, t in zip(grads, truth, strict=True)),
        error_limit=1e-4,
        **expectations(f"{name} fwd+bwd"),
    )
