# SPDX-License-Identifier: BSD-3-Clause
"""What only a GPU shows: streams, graphs, memory, a second device, tensors past 2**31 elements."""

from __future__ import annotations

import gc

import pytest
import torch
from cases import (
    BANDS,
    FIRST,
    close,
    equal,
    grads_for,
    kernels_of,
    mobile_unit3d_case,
    on,
    parametrize_cases,
    parametrize_ops,
    resonators,
)
from numerics import relative_error

from eegfast import ops
from eegfast.backends import has_kernel

A_WHILE = 200_000_000  # clock cycles: a tenth of a second


@parametrize_cases
def test_side_stream(gpu, case):
    """The inputs are made on another stream, late: whoever runs elsewhere reads NaN."""
    leaves, constants = on(gpu, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    expected = case.gradients(leaves, constants, grads)
    late = [torch.full_like(t, torch.nan) for t in leaves]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(A_WHILE // 10)
        for t, value in zip(late, leaves, strict=True):
            t.copy_(value)
        computed = case.gradients(late, constants, grads)
    stream.synchronize()
    assert close(case, computed, expected)


@parametrize_ops
def test_the_default_stream_is_not_waited_for(gpu, needs_kernel, case):
    needs_kernel(*kernels_of(case), reason="which copies constants from the host")
    leaves, constants = on(gpu, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        case.gradients(leaves, constants, grads)  # its memory and modules are there now
    torch.cuda.synchronize()
    torch.cuda._sleep(2 * A_WHILE)
    busy = torch.cuda.Event()
    busy.record()
    with torch.cuda.stream(stream):
        case.gradients(leaves, constants, grads)
    stream.synchronize()
    assert not busy.query(), "the default stream came to its end first"
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@parametrize_cases
def test_graph_replays_with_new_inputs(gpu, needs_kernel, case, dtype):
    needs_kernel(case.op, reason="which copies constants from the host")
    backward = has_kernel(case.op + "_backward", gpu.type)
    leaves, constants = on(gpu, *case.inputs(dtype))
    grads = grads_for(case, leaves, constants)

    def run():
        if backward:
            return case.gradients(leaves, constants, grads)
        with torch.no_grad():
            return case.results(leaves, constants), []

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = run()
    for again in (1, 2):
        fresh, _ = on(gpu, *case.inputs(dtype, again))
        for t, value in zip(leaves, fresh, strict=True):
            t.copy_(value)
        for t in (*captured[0], *captured[1]):
            t.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert equal(captured, run())


@parametrize_ops
def test_calls_leave_no_memory_behind(gpu, case):
    leaves, constants = on(gpu, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    peaks, left = [], []
    for _ in range(4):
        torch.cuda.reset_peak_memory_stats()
        case.gradients(leaves, constants, grads)
        gc.collect()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated())
        left.append(torch.cuda.memory_allocated())
    assert len(set(left[1:])) == len(set(peaks[1:])) == 1, (left, peaks)


@pytest.mark.parametrize("training", [False, True])
def test_mobile_unit3d_stores_nothing_wide(gpu, needs_kernel, training):
    """All memory of forward and backward, results too, is less than one expanded tensor."""
    case = mobile_unit3d_case("peak", (64, 8, 5, 16, 16), 64, training)
    needs_kernel(*kernels_of(case), reason="which stores them")
    generator = torch.Generator().manual_seed(0)
    leaves, constants = on(gpu, *([t.float() for t in p] for p in case.draw(generator)))
    grads = grads_for(case, leaves, constants)
    case.gradients(leaves, constants, grads)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.gradients(leaves, constants, grads)
    assert torch.cuda.max_memory_allocated() - before < 8 * leaves[0].nbytes


@parametrize_ops
def test_second_device(gpu, case):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    leaves, constants = on(gpu, *case.inputs(torch.float32))
    grads = grads_for(case, leaves, constants)
    expected = case.gradients(leaves, constants, grads)
    other = torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    computed = case.gradients(*on(other, leaves, constants, grads))
    assert all(t.device == other for part in computed for t in part)
    assert close(case, [[t.to(gpu) for t in part] for part in computed], expected)


def seeded(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


WEIGHT, TAPS, SOS = seeded(64, 1, 3, 3, 3), seeded(5, 33), resonators(BANDS, 3)
UNIT = mobile_unit3d_case("huge", (1, 8, 5, 16, 16), 64, False).inputs(torch.float32)


def unit(x):
    return ops.mobile_unit3d(x, *(t.to(x) for t in (*UNIT[0][1:], *UNIT[1])))


# Of each operator, a call whose argument or result passes 2**31 elements.
HUGE = {
    "band_power": ((34_000, 64, 1000), lambda x: ops.band_power(x, window=500, bins=[(0, 100)])),
    "bandpass_power": ((34_000, 64, 1000), lambda x: ops.bandpass_power(x, SOS, window=500)),
    "depthwise_conv3d": (
        (26_300, 64, 5, 16, 16),
        lambda x: ops.depthwise_conv3d(x, WEIGHT.to(x), padding=1, out_relu=True),
    ),
    "filter_bank_power": ((34_000, 64, 1000), lambda x: ops.filter_bank_power(x, TAPS.to(x))[1]),
    "lds_smooth": ((34_000, 100, 128, 5), lambda x: ops.lds_smooth(x)),
    "mobile_unit3d": ((210_000, 8, 5, 16, 16), unit),
    "scaling_conv1d": ((2_300, 32, 1000), lambda x: ops.scaling_conv1d(x, TAPS.to(x))),
}


@pytest.mark.parametrize("op", HUGE)
def test_more_than_two_to_the_31_elements(gpu, needs_kernel, op):
    """The last rows and some in the middle are what they are on their own, both ways."""
    needs_kernel(op, op + "_backward", reason="which takes too much memory for this")
    shape, call = HUGE[op]
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 80e9:
        pytest.skip("needs 80 GB of free memory")
    torch.use_deterministic_algorithms(False)  # filling fresh memory would double the time
    dtype = torch.float32 if op == "filter_bank_power" else torch.bfloat16
    x = torch.randn(shape, device=gpu, dtype=dtype).requires_grad_()
    out = call(x)
    assert max(x.numel(), out.numel()) > 2**31
    (grad,) = torch.autograd.grad(out, x, out.detach())
    for rows in (slice(shape[0] - 2, shape[0]), slice(shape[0] // 2, shape[0] // 2 + 2)):
        part = x.detach()[rows].clone().requires_grad_()
        own = call(part)
        (own_grad,) = torch.autograd.grad(own, part, own.detach())
        # Few rows may be summed in another order, and are rounded to bfloat16.
        assert relative_error(out[rows].detach(), own.detach().double()) <= 1e-2
        assert relative_error(grad[rows], own_grad.double()) <= 1e-2
    del x, out, grad
    torch.cuda.empty_cache()


def test_devices_must_agree(gpu):
    for case in FIRST.values():
        leaves, constants = case.inputs(torch.float32)
        if len(leaves) > 1:
            with pytest.raises((RuntimeError, TypeError, ValueError)):
                case.results([leaves[0].to(gpu), *leaves[1:]], constants)
                torch.cuda.synchronize()
