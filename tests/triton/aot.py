# SPDX-License-Identifier: BSD-3-Clause
"""Compile the Triton kernels of an operator ahead of time, for GPUs that need not be there:

    python tests/triton/aot.py band_power 90

The operator's functions run on meta tensors, of the large shapes below and, for sm_90, those of
tests/ops/cases.py, and their launches are recorded, not done. What they would have launched is
compiled, each variant once, and printed as a line of JSON with the resources that cuobjdump tells.
Not under TRITON_INTERPRET, which leaves nothing to compile.
"""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from cases import BANDS, CASES, resonators
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from eegfast import ops
from eegfast.backends import run_on

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
DTYPES = (torch.float32, torch.bfloat16)


def large(op, dtype):
    """Calls whose shapes take the configurations of much data."""

    def leaf(*shape):
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    if op == "lds_smooth":
        yield lambda: ops.lds_smooth(leaf(256, 240, 62, 5))
    if op == "band_power":
        bins = [(0, 5), (4, 10), (9, 17), (16, 39), (38, 64)]
        for log2 in (False, True):
            options = dict(window=200, n_fft=256, bins=bins, log2=log2)
            yield lambda options=options: ops.band_power(leaf(64, 62, 48000), **options)
        wide = dict(window=800, n_fft=1024, bins=[(4, 200), (9, 17)], log2=True)
        yield lambda: ops.band_power(leaf(64, 62, 48000), **wide)
        yield lambda: ops.band_power(leaf(64, 62, 48000), window=50, step=20, bins=[(0, 9)])
    if op == "bandpass_power":
        for sections, shape, step in ((3, (64, 62), 200), (10, (64, 62), 200), (3, (62,), 100)):
            options = dict(sos=resonators(BANDS, sections), window=200, step=step)
            yield functools.partial(ops.bandpass_power, leaf(*shape, 48000), **options)
    if op == "depthwise_conv3d":
        maps = ("bias", "in_scale", "in_shift", "out_scale", "out_shift")
        for shape, size in (((256, 32, 5, 16, 16), 3), ((2, 32, 5, 9, 9), 5)):
            for form in (torch.contiguous_format, torch.channels_last_3d):
                x = leaf(*shape).contiguous(memory_format=form)
                weight = leaf(shape[1], 1, size, size, size)
                options = {name: leaf(shape[1]) for name in maps}
                options |= dict(padding="same", in_relu=True, out_relu=True)
                yield functools.partial(ops.depthwise_conv3d, x, weight, **options)
    if op == "scaling_conv1d":
        yield lambda: ops.scaling_conv1d(leaf(16, 32, 8064), leaf(8, 65), max_levels=6)


def launches(op, small):
    """Every call of a kernel: the kernel and its arguments by name. ``small``: of all cases too."""
    recorded = []

    def record(self, *args, grid, warmup, **kwargs):
        recorded.append((self, dict(zip(self.arg_names, args, strict=False), **kwargs)))

    JITFunction.run = record
    module = importlib.import_module(f"eegfast._triton.{op}")
    names = (op, op + "_backward")
    with run_on(SimpleNamespace(**{name: getattr(module, name) for name in names})):
        for dtype in DTYPES:
            for case in CASES:
                if small and case.op == op:
                    leaves, constants = case.inputs(dtype)
                    leaves = [t.to("meta").requires_grad_() for t in leaves]
                    constants = [t.to("meta") for t in constants]
                    backward(case.results(leaves, constants))
            for call in large(op, dtype):
                out = call()
                backward(out if isinstance(out, tuple) else [out])
    return recorded


def backward(results):
    wanted = [t for t in results if t.requires_grad]
    torch.autograd.backward(wanted, [torch.empty_like(t) for t in wanted])


def source(kernel, arguments):
    """The kernel specialised as Triton does at run time, every pointer on 16 bytes."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value, kind = arguments[parameter.name], parameter.annotation_type
        is_int = isinstance(value, int) and not isinstance(value, bool) and not kind
        if parameter.is_constexpr or value is None or (is_int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = kind or mangle_type(value)
        if isinstance(value, torch.Tensor) or (is_int and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def resources(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True)
    words = told.stdout.split()
    return {w.split(":")[0]: int(w.split(":")[1]) for w in words if w[:3] in ("REG", "STA", "LOC")}


def main(op, arch):
    seen = set()
    for kernel, arguments in launches(op, small=arch == 90):
        made = source(kernel, arguments)
        names = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
        options = {name: arguments[name] for name in names if name in arguments}
        named = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
        types = [t for t in made.signature.values() if t.startswith("*")]
        row = dict(kernel=kernel.__name__, types=types, **named, **options)
        # Sizes of 1 become constants, which is another source: on one generation, all of those.
        key = str(row) + (str(made.signature) if arch == 90 else "")
        if key in seen:
            continue
        seen.add(key)
        done = triton.compile(made, target=GPUTarget("cuda", arch, 32), options=options)
        row.update(resources(done.asm["cubin"]), shared=done.metadata.shared)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
