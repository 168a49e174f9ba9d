# SPDX-License-Identifier: BSD-3-Clause
"""Every operator on the device, against the reference in float64 on the CPU.

Tolerances are relative to the norm of the truth, or of the incoming gradient where that is larger:
gradients of parameters are sums over the batch whose terms cancel. float32 and float64 as in
tests/ops, with room for another order of the sums. A half type rounds each result once, by at most
2**-11 (float16) or 2**-8 (bfloat16); the reference rounds after every step, so half types are only
held to this where a compiled kernel runs. Exceptions and their reasons stand in ``LIMITS_OF``.
"""

from __future__ import annotations

import pytest
import torch
from cases import (
    DTYPES,
    FIRST,
    HALF,
    REFUSE_HALF_ON_CPU,
    close,
    equal,
    grads_for,
    kernels_of,
    on,
    parametrize_cases,
    parametrize_ops,
)
from numerics import relative_error
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from eegfast._build import extension

# Forward and backward.
LIMITS = {
    torch.float32: (5e-7, 2e-6),
    torch.float64: (2e-14, 2e-12),
    torch.float16: (2**-11, 2**-11 * 1.1),
    torch.bfloat16: (2**-8, 2**-8 * 1.1),
}
LIMITS_OF = {
    # A recursion whose poles lie close to 1 amplifies rounding (tests/ops/test_bandpass_power.py).
    ("bandpass_power", torch.float32): (2e-5, 2e-5),
    ("bandpass_power", torch.float64): (1e-11, 1e-11),
    # The gradient of log2 divides by powers that are themselves rounded.
    ("band_power", torch.float32): (5e-7, 2e-5),
    # Relative to |x|^2 |h|^2 the sums are right to some eps; the power is not far below that.
    ("filter_bank_power", torch.float64): (1e-13, 2e-12),
    # The backward takes the statistics as the forward returns them, rounded to the half type: means
    # off by 2**-9 of a deviation move voxels across the corners of two ReLUs, sqrt(2 * 2**-9).
    ("mobile_unit3d", torch.float16): (2**-10, 0.03),
    ("mobile_unit3d", torch.bfloat16): (2**-7, 0.08),
}


def limits(case, dtype):
    return LIMITS_OF.get((case.op, dtype), LIMITS[dtype])


def compare(case, dtype, computed, truth, grads):
    forward, backward = limits(case, dtype)
    for value, exact in zip(computed[0], truth[0], strict=True):
        assert value.dtype == dtype and value.shape == exact.shape
        assert relative_error(value.cpu(), exact) <= forward
    incoming = max(float(g.double().norm()) for g in grads)
    for index, (value, exact) in enumerate(zip(computed[1], truth[1], strict=True)):
        assert value.dtype == dtype and value.shape == exact.shape
        scale = max(float(exact.norm()), incoming if index else 0.0)
        error = float((value.cpu().double() - exact).norm())
        assert error <= backward * scale, f"gradient {index}: {error / max(scale, 1e-300):.2g}"


@parametrize_cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(device, needs_kernel, case, dtype):
    if dtype in HALF and device.type == "cuda":
        needs_kernel(*kernels_of(case), reason="which rounds to half after every step")
    if dtype in HALF and device.type == "cpu" and case.op in REFUSE_HALF_ON_CPU:
        pytest.skip("the CPU kernels refuse half types")
    leaves, constants = on(device, *case.inputs(dtype))
    grads = grads_for(case, leaves, constants)
    computed = case.gradients(leaves, constants, grads)
    compare(case, dtype, computed, case.truth(leaves, constants, grads), grads)


@parametrize_cases
def test_strides(device, case):
    """Every other element of a larger tensor, and a tensor laid out from its other end."""
    leaves, constants = on(device, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)

    def spread(t):
        return torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0]

    def turned(t):
        axes = range(t.dim() - 1, -1, -1)
        return t.permute(*axes).contiguous().permute(*axes)

    dense = [t.contiguous() for t in leaves]
    expected = case.gradients(dense, constants, grads)
    for view in (spread, turned):
        views = [view(t) for t in dense], constants, [view(g) for g in grads]
        assert close(device, case, case.gradients(*views), expected)


@parametrize_ops
def test_gradients_of_a_sum_are_expanded(device, case):
    leaves, constants = on(device, *case.inputs(torch.float32))
    grads = [torch.ones_like(g) for g in grads_for(case, leaves, constants)]
    expanded = [g.new_ones(()).expand(g.shape) for g in grads]
    computed = case.gradients(leaves, constants, expanded)
    assert close(device, case, computed, case.gradients(leaves, constants, grads))


@parametrize_cases
def test_empty(device, case):
    """No batch: statistics of one would not exist, a smoother's prior has none either."""
    if "train" in case.name:
        pytest.skip("statistics of an empty batch")
    leaves, constants = on(device, *case.inputs(torch.float32))
    if case.op == "lds_smooth":
        leaves = [t[None][:0] for t in leaves]
    elif leaves[0].dim() == 2:
        leaves[0] = leaves[0][None]
    leaves[0] = leaves[0][:0]
    grads = grads_for(case, leaves, constants)
    out, gradients = case.gradients(leaves, constants, grads)
    assert all(o.numel() == 0 for o in out)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@parametrize_cases
def test_same_bits_again(device, case):
    leaves, constants = on(device, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    first = case.gradients(leaves, constants, grads)
    for _ in range(2):
        assert equal(first, case.gradients(leaves, constants, grads))


class Recorder(TorchDispatchMode):
    """Keeps every call of an operator of ours."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "eegfast":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@parametrize_ops
def test_opcheck(device, case):
    leaves, constants = on(device, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    with Recorder() as recorder:
        case.gradients(leaves, constants, grads)
    assert [func._opname for func, _ in recorder.calls] == list(kernels_of(case))
    for func, args in recorder.calls:

        def fresh(t, forward=func._opname == case.op):
            return t.detach().requires_grad_(forward and t.requires_grad)

        args = tree_map_only(torch.Tensor, fresh, args)
        torch.library.opcheck(func, args)


def test_compiles_whole(device):
    case = FIRST["band_power"]
    leaves, constants = on(device, *case.inputs(torch.float32))
    x = leaves[0].requires_grad_()

    def entropy(x):
        return case.call([2 * x], constants).add(1).log().mean(-1)

    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(entropy, fullgraph=True, backend=backend)
    for f in (lambda f: f(x), lambda f: torch.autograd.grad(f(x).sum(), x)[0]):
        torch.testing.assert_close(f(compiled), f(entropy), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_devices_must_agree(gpu):
    for case in FIRST.values():
        leaves, constants = case.inputs(torch.float32)
        if len(leaves) > 1:
            with pytest.raises((RuntimeError, TypeError, ValueError)):
                case.results([leaves[0].to(gpu), *leaves[1:]], constants)
                torch.cuda.synchronize()
