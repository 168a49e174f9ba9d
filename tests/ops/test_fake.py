# SPDX-License-Identifier: BSD-3-Clause
"""Fake kernels: for tensors on devices that this machine lacks, of types that its kernels refuse,
an operator and its backward promise what the real ones give."""

from __future__ import annotations

import contextlib

import pytest
import torch
from cases import CASES, DTYPES, HALF, REFUSE_HALF_ON_CPU
from numerics import Recorder
from torch._subclasses import FakeTensorMode

from eegfast import reference
from eegfast._build import extension
from eegfast.backends import run_on


def calls_of(case, dtype):
    """The operator's and its backward's arguments and results, computed for real on the CPU.

    Half types that the CPU kernels refuse are computed in float32, as a stand-in.
    """
    leaves, constants = case.inputs(dtype)
    stand_in = dtype in HALF
    if stand_in:
        leaves, constants = ([t.float() for t in part] for part in (leaves, constants))
    with Recorder() as recorder:
        leaves = [t.requires_grad_() for t in leaves]
        out = case.results(leaves, constants)
        torch.autograd.grad(out, leaves, [torch.randn_like(o) for o in out])
    assert [func._opname for func, _, _ in recorder.calls] == [case.op, case.op + "_backward"]

    def narrow(t, name):
        own = t.dtype == torch.float32 and stand_in and name not in WIDE
        return t.detach().to(dtype) if own else t.detach()

    if case.op == "filter_bank_power":  # reads half types as float32
        stand_in = False
    return [_with_names(narrow, *call) for call in recorder.calls]


WIDE = ("mean1", "var1", "mean2", "var2")  # statistics of a half type are float32


def _with_names(change, func, args, out):
    """Change each tensor of a call, knowing the argument's name or what the result is."""
    names = [argument.name for argument in func._schema.arguments]
    args = [
        change(a, n) if isinstance(a, torch.Tensor) else a for a, n in zip(args, names, strict=True)
    ]
    if isinstance(out, torch.Tensor):
        return func, args, change(out, "out")
    results = ("out", *WIDE) if func._opname == "mobile_unit3d" else ("out",) * len(out)
    return func, args, tuple(change(o, n) for o, n in zip(out, results, strict=True))


def described(t):
    return t.shape, t.dtype, t.stride() if t.numel() else None


def on_device(device, func, args):
    """Tensors like the arguments there; ``sos`` stays on the CPU, no taper is of a half type."""
    there = []
    for argument, value in zip(func._schema.arguments, args, strict=True):
        if isinstance(value, torch.Tensor):
            dtype = value.dtype
            if argument.name == "taper":
                dtype = torch.promote_types(dtype, torch.float32)
            at = "cpu" if argument.name == "sos" else device
            value = torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=at)
        there.append(value)
    return there


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_meta_and_fake_tensors_give_what_the_operator_gives(case, dtype):
    for func, args, real in calls_of(case, dtype):
        expected = [described(t) for t in (real if isinstance(real, tuple) else (real,))]
        for device in ("meta", "cuda"):
            with FakeTensorMode() if device == "cuda" else contextlib.nullcontext():
                out = func(*on_device(device, func, args))
            out = out if isinstance(out, tuple) else (out,)
            assert [described(t) for t in out] == expected, (func, device)
            assert all(t.device.type == device for t in out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradients_flow_through_meta_tensors(case, dtype):
    leaves, constants = case.inputs(dtype)
    leaves = [t.to("meta").requires_grad_() for t in leaves]
    out = case.results(leaves, [t.to("meta") for t in constants])
    assert all(o.dtype == dtype for o in out)
    grads = torch.autograd.grad(out, leaves, [torch.empty_like(o) for o in out])
    assert [described(g)[:2] for g in grads] == [described(t)[:2] for t in leaves]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_run_on_takes_the_reference(case):
    """What the tests on a GPU call the truth: none of our kernels runs in it."""
    leaves, constants = case.inputs(torch.float64)
    with run_on(reference), Recorder() as recorder:
        by_reference = case.results(leaves, constants)
    assert len(recorder.calls) == 1
    for a, b in zip(by_reference, case.results(leaves, constants), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("op", sorted(REFUSE_HALF_ON_CPU))
def test_cpu_kernels_that_refuse_half_types_say_so(op):
    case = next(case for case in CASES if case.op == op)
    with pytest.raises(RuntimeError, match=f"eegfast.ops.{op}.*float32 or float64"):
        case.results(*case.inputs(torch.float16))


def test_float32_parameters_meet_half_input():
    case = next(case for case in CASES if case.id.startswith("mobile_unit3d"))
    (x, *parameters), constants = case.inputs(torch.float32)
    parameters = [p.to("meta").requires_grad_() for p in parameters]
    leaves = [x.to("meta", torch.bfloat16), *parameters]
    out = case.results(leaves, [t.to("meta") for t in constants])
    assert out[0].dtype == torch.bfloat16
    grads = torch.autograd.grad(out[0], parameters, torch.empty_like(out[0]))
    assert all(g.dtype == torch.float32 for g in grads)
