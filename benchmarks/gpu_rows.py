# SPDX-License-Identifier: BSD-3-Clause
"""What all rows of the GPU benchmark are made of: plans, goals, limits, contests of functions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from gpu_timing import Contest, GpuBenchmark, Refused
from harness import pink_noise, relative_error

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
HALF = (F16, BF16)
FWD, BOTH = "fwd", "fwd+bwd"
FLOAT64_RATE = 33.5e12


@dataclasses.dataclass(frozen=True)
class Goal:
    """Percent of a floor in microseconds, ratio to the natural code and to the best rival."""

    percent: float
    floor_us: float
    natural: float
    best: float


@dataclasses.dataclass(frozen=True)
class Plan:
    op: str
    name: str
    step: str
    dtype: torch.dtype
    make: Callable[[GpuBenchmark], Contest]
    goal: Goal | None = None

    @property
    def title(self) -> str:
        return f"{self.op} {self.name} {self.step} {str(self.dtype)[6:]}"


def limits(dtype, forward, backward, step):
    """Ours against float64, and what shows that a rival computes the same thing at all."""
    if dtype in HALF:
        own = 2**-10 if dtype == F16 else 2**-7
        return own if step == FWD else 2 * own, 0.2
    return (forward if step == FWD else backward), 1e-3


def size(dtype):
    return torch.empty((), dtype=dtype).element_size()


def differentiated(function, inputs, grad):
    """What one step of training asks for; None where a compiler had no time."""
    return (lambda: torch.autograd.grad(function(*inputs), inputs, grad)) if function else None


def worst(truth):
    truth = truth if isinstance(truth, tuple) else (truth,)

    def error(value):
        value = value if isinstance(value, tuple) else (value,)
        return max(relative_error(v, t) for v, t in zip(value, truth, strict=True))

    return error


def assemble(functions, inputs, truth_of, step, dtype, tolerances, grad_mask=None, **work):
    """A contest of functions of the same inputs; ``functions`` begins with ours, by name.

    ``truth_of`` takes float64 inputs; gradients flow only where ``grad_mask`` lets them.
    """
    exact = [t.detach().double().requires_grad_(step == BOTH) for t in inputs]
    out = truth_of(*exact)
    if step == FWD:
        truth = out.detach() if isinstance(out, torch.Tensor) else tuple(o.detach() for o in out)
        calls = {n: (lambda f=f: f(*inputs)) if f else None for n, f in functions.items()}
    else:
        inputs = [t.detach().requires_grad_() for t in inputs]
        outs = (out,) if isinstance(out, torch.Tensor) else out
        grads = [torch.randn_like(o) for o in outs]
        if grad_mask is not None:
            grads = [g * grad_mask(out) for g in grads]
        grads = [g.to(dtype) for g in grads]
        truth = torch.autograd.grad(outs, exact, [g.double() for g in grads])
        calls = {n: differentiated(f, inputs, grads) for n, f in functions.items()}
    ours = calls.pop("ours")
    own, rival = limits(dtype, *tolerances, step)
    return Contest(
        ours=ours,
        rivals=calls,
        error=worst(truth),
        error_limit=own,
        rival_error_limit=rival,
        **work,
    )


def widened(function, dtype):
    """torch's transforms know no half types: a user converts to float32 and back."""
    if function is None or dtype not in HALF:
        return function
    return lambda x: function(x.float()).to(dtype)


def refuse(reason):
    def call(*inputs):
        raise Refused(reason)

    return call


def noise(bench, shape, dtype):
    x = few_trials(min(shape[0], 4), *shape[1:]).to(bench.device)
    return x.repeat(-(-shape[0] // len(x)), *(1,) * (len(shape) - 1))[: shape[0]].to(dtype)


@functools.cache
def few_trials(*shape):  # 1/f noise takes its time
    return pink_noise(*shape, generator=torch.Generator().manual_seed(0))
