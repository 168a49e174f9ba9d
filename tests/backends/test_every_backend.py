# SPDX-License-Identifier: BSD-3-Clause
"""Every operator, every back end, every type and shape, against the reference in float64.

Two tables make it: tests/ops/cases.py, the operators and shapes, and tests/ops/targets.py, the back
ends. ``--backend triton`` picks one (more by naming more). Triton runs in a process of its own,
``TRITON_INTERPRET=1 pytest tests/backends --backend triton``, or on a GPU.

Tolerances are relative to the norm of the truth, or of the incoming gradient where that is larger:
gradients of parameters are sums over the batch whose terms cancel. float32 and float64 as in
tests/ops, with room for another order of the sums. A half type rounds each result once, and a
gradient may lose a tenth of that more, since ReLU's mask and statistics come from what was rounded.
Exceptions and their reasons stand in ``LIMITS_OF``.
"""

from __future__ import annotations

import pytest
import torch
from cases import CASES, DTYPES, FIRST, HALF, equal, grads_for, kernels_of, on
from numerics import Recorder, relative_error
from targets import LIGHT, TARGETS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from eegfast import reference
from eegfast.backends import NAMES, run_on

# Forward and backward.
LIMITS = {torch.float32: (5e-7, 2e-6), torch.float64: (2e-14, 2e-12)}
LIMITS_OF = {
    # A recursion whose poles lie close to 1 amplifies rounding (tests/ops/test_bandpass_power.py).
    ("bandpass_power", torch.float32): (2e-5, 2e-5),
    ("bandpass_power", torch.float64): (1e-11, 1e-11),
    # The gradient of log2 divides by powers that are themselves rounded.
    ("band_power", torch.float32): (5e-7, 2e-5),
    # Relative to |x|^2 |h|^2 the sums are right to some eps; the power is not far below that.
    ("filter_bank_power", torch.float64): (1e-13, 2e-12),
}


def limits(target, case, dtype):
    if dtype in HALF:
        once = target.rounding(dtype)
        return once, 1.1 * once
    return LIMITS_OF.get((case.op, dtype), LIMITS[dtype])


def compare(target, case, dtype, computed, truth, grads):
    forward, backward = limits(target, case, dtype)
    for value, exact in zip(computed[0], truth[0], strict=True):
        assert value.dtype == dtype and value.shape == exact.shape
        assert relative_error(value.cpu(), exact) <= forward
    incoming = max(float(g.double().norm()) for g in grads)
    for index, (value, exact) in enumerate(zip(computed[1], truth[1], strict=True)):
        assert value.dtype == dtype and value.shape == exact.shape
        scale = max(float(exact.norm()), incoming if index else 0.0)
        error = float((value.cpu().double() - exact).norm())
        assert error <= backward * scale, f"gradient {index}: {error / max(scale, 1e-300):.2g}"


def same(target, a, b):
    """Bit for bit where a kernel runs; the reference may take another of torch's algorithms."""
    if target.exact:
        return equal(a, b)
    pairs = zip([*a[0], *a[1]], [*b[0], *b[1]], strict=True)
    return all(relative_error(x, y.double()) <= 1e-4 for x, y in pairs)


def inputs(target, case, dtype=torch.float32, essential=False):
    """Leaves, constants and incoming gradients, on the target's device."""
    if target.slow and not essential and case.id not in LIGHT:
        pytest.skip("float32 values only: it is slow")
    if refusal := target.refuses(case, dtype):
        pytest.skip(refusal)
    leaves, constants = case.inputs(dtype)
    with target.run():
        grads = grads_for(case, *on(target.device, leaves, constants))
    return *on(target.device, leaves, constants), grads


cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
light = [case for case in CASES if case.id in LIGHT]
one_of_each = pytest.mark.parametrize("case", light, ids=lambda case: case.id)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_values_and_gradients(target, case, dtype):
    leaves, constants, grads = inputs(target, case, dtype, dtype == torch.float32)
    with target.run():
        computed = case.gradients(leaves, constants, grads)
    compare(target, case, dtype, computed, case.truth(leaves, constants, grads), grads)


@cases
def test_strides(target, case):
    """Every other element of a larger tensor, and a tensor laid out from its other end."""
    leaves, constants, grads = inputs(target, case)

    def spread(t):
        return torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0]

    def turned(t):
        axes = range(t.dim() - 1, -1, -1)
        return t.permute(*axes).contiguous().permute(*axes)

    dense = [t.contiguous() for t in leaves]
    with target.run():
        expected = case.gradients(dense, constants, grads)
        for view in (spread, turned):
            views = [view(t) for t in dense], constants, [view(g) for g in grads]
            assert same(target, case.gradients(*views), expected)


@one_of_each
def test_gradients_of_a_sum_are_expanded(target, case):
    leaves, constants, grads = inputs(target, case)
    expanded = [g.new_ones(()).expand(g.shape) for g in grads]
    with target.run():
        computed = case.gradients(leaves, constants, expanded)
        expected = case.gradients(leaves, constants, [torch.ones_like(g) for g in grads])
    assert same(target, computed, expected)


@cases
def test_empty(target, case):
    """No batch: statistics of one would not exist, a smoother's prior has none either."""
    if "train" in case.name:
        pytest.skip("statistics of an empty batch")
    leaves, constants, _ = inputs(target, case)
    if case.op == "lds_smooth":
        leaves = [t[None][:0] for t in leaves]
    elif leaves[0].dim() == 2:
        leaves[0] = leaves[0][None]
    leaves[0] = leaves[0][:0]
    with target.run():
        grads = grads_for(case, leaves, constants)
        out, gradients = case.gradients(leaves, constants, grads)
    assert all(o.numel() == 0 for o in out)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@one_of_each
def test_same_bits_again(target, case):
    leaves, constants, grads = inputs(target, case)
    with target.run():
        first = case.gradients(leaves, constants, grads)
        assert equal(first, case.gradients(leaves, constants, grads))


@one_of_each
def test_is_one_operator_of_torch(target, case):
    """Schema, autograd and fake kernel hold, whatever runs below them."""
    if not target.dispatched:
        pytest.skip("torch's dispatcher does not know it")
    leaves, constants, grads = inputs(target, case)
    with target.run():
        with Recorder() as recorder:
            case.gradients(leaves, constants, grads)
        assert [func._opname for func, _, _ in recorder.calls] == list(kernels_of(case))
        for func, args, _ in recorder.calls:

            def fresh(t, forward=func._opname == case.op):
                return t.detach().requires_grad_(forward and t.requires_grad)

            torch.library.opcheck(func, tree_map_only(torch.Tensor, fresh, args))


def test_compiles_whole(target):
    if not target.dispatched:
        pytest.skip("torch's dispatcher does not know it")
    case = FIRST["band_power"]
    leaves, constants, _ = inputs(target, case, essential=True)
    x = leaves[0].requires_grad_()

    def entropy(x):
        return case.call([2 * x], constants).add(1).log().mean(-1)

    backend = "inductor" if target.device == "cuda" else "aot_eager"
    torch._dynamo.reset()
    compiled = torch.compile(entropy, fullgraph=True, backend=backend)
    with target.run():
        for f in (lambda f: f(x), lambda f: torch.autograd.grad(f(x).sum(), x)[0]):
            torch.testing.assert_close(f(compiled), f(entropy), rtol=1e-5, atol=1e-6)


class Launches(TorchDispatchMode):
    """Counts what torch computes: every call whose result is no view."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(returned.alias_info for returned in func._schema.returns)
        self.count += not views and "empty" not in func._opname
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
def test_the_reference_launches_more_than_triton_would(case):
    """So that no work is too small for Triton, where the reference is all else that there is."""
    leaves, constants = case.inputs(torch.float32)
    with Launches() as below, run_on(reference):
        case.results(leaves, constants)
    assert below.count >= 10


@pytest.mark.parametrize("row", TARGETS, ids=lambda row: row.id)
def test_rows_that_cannot_run_here_say_why(row):
    if reason := row.absent():
        pytest.skip(reason)


def test_the_tables_are_whole():
    assert {f"{op}{part}" for op in FIRST for part in ("", "_backward")} == set(reference.__all__)
    assert {target.backend for target in TARGETS} >= set(NAMES)
    assert {case.op for case in light} == set(FIRST) and len(light) == len(FIRST)
    assert set(HALF) < set(DTYPES) and len({case.id for case in CASES}) == len(CASES)
