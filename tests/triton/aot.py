# SPDX-License-Identifier: BSD-3-Clause
"""Compile the Triton kernels of an operator ahead of time, for GPUs that need not be there:

    python tests/triton/aot.py band_power 90

The operator's functions run on meta tensors, of the large shapes below and, for sm_90 in float32,
two of tests/ops/cases.py, and their launches are recorded, not done. What they would have
launched is compiled, each variant once, and printed as a line of JSON: the kernel with its
configuration, and the resources that cuobjdump tells. Without arguments, the table of this release
of Triton, resources-VERSION.txt, is written anew, the most that any variant of a configuration
takes. Not under TRITON_INTERPRET, which leaves nothing to compile.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from eegfast import ops
from eegfast.backends import run_on

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "ops"))

from cases import BANDS, CASES, FIRST, resonators  # noqa: E402
from targets import LIGHT  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
OPS = sorted(p.stem for p in (ROOT / "kernels/triton").glob("*.py") if p.stem[0] != "_")
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes that a block may have
TABLE = Path(__file__).with_name(f"resources-{triton.__version__}.txt")
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
        for shape, step in (((64, 62), 200), ((62,), 100)):
            options = dict(sos=resonators(BANDS, 3), window=200, step=step)
            yield functools.partial(ops.bandpass_power, leaf(*shape, 48000), **options)
    if op == "depthwise_conv3d":
        maps = ("bias", "in_scale", "in_shift", "out_scale", "out_shift")
        for shape, size in (((256, 32, 5, 16, 16), 3), ((2, 32, 5, 9, 9), 5)):
            if size == 5 and dtype != torch.float32:
                continue  # takes minutes
            for form in (torch.contiguous_format, torch.channels_last_3d):
                x = leaf(*shape).contiguous(memory_format=form)
                weight = leaf(shape[1], 1, size, size, size)
                options = {name: leaf(shape[1]) for name in maps}
                options |= dict(padding="same", in_relu=True, out_relu=True)
                yield functools.partial(ops.depthwise_conv3d, x, weight, **options)
    if op == "mobile_unit3d":
        for chans, training in ((4, True), (8, True), (8, False)):
            expanded = 8 * chans
            sizes = [(chans,)] * 2 + [(expanded, chans, 1, 1, 1)] + [(expanded,)] * 2
            sizes += [(expanded, 1, 3, 3, 3), (chans, expanded, 1, 1, 1)]
            parameters = [leaf(*size) for size in sizes]
            running = [torch.empty(size, device="meta") for size in sizes[:2] + sizes[3:5]]
            x = leaf(256, chans, 5, 16, 16)
            yield functools.partial(ops.mobile_unit3d, x, *parameters, *running, training=training)
    if op == "filter_bank_power":
        for shape in ((64, 32, 8064), (1000, 40, 200), (3, 2, 100000)):
            yield lambda shape=shape: ops.filter_bank_power(leaf(*shape), leaf(18, 41))
        yield lambda: ops.filter_bank_power(leaf(8, 62, 2000), leaf(50, 150), "valid")
    if op == "scaling_conv1d":
        yield lambda: ops.scaling_conv1d(leaf(16, 32, 8064), leaf(8, 65), max_levels=6)


def launches(op, arch):
    """Every call of a kernel on a GPU of sm_``arch``: the kernel and its arguments by name."""
    recorded = []

    def record(self, *args, grid, warmup, **kwargs):
        recorded.append((self, dict(zip(self.arg_names, args, strict=False), **kwargs)))

    JITFunction.run = record
    module = importlib.import_module(f"eegfast._triton.{op}")
    for name, loaded in sys.modules.items():
        if name.startswith("eegfast._triton") and hasattr(loaded, "capability"):
            loaded.capability = lambda device: divmod(arch, 10)
    names = (op, op + "_backward")
    with run_on(SimpleNamespace(**{name: getattr(module, name) for name in names})):
        for dtype in DTYPES:
            for case in CASES:
                taken = case.op == op and (case.id in LIGHT or case is FIRST[op])
                if taken and arch == 90 and dtype == torch.float32:
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


def configuration(op, kernel, made, arguments, options):
    """A kernel, the types of its tensors, its constants and options, in one line."""
    types = groupby(t[1:] for t in made.signature.values() if t.startswith("*"))
    types = ", ".join(f"{len(list(group))} {name}" for name, group in types)
    constants = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
    values = (constants | options).items()
    words = [f"{name}={value}" for name, value in values if not isinstance(value, bool)]
    words += [name for name, value in values if value is True]
    return f"{op}.{kernel.__name__}({types}) {' '.join(words)}"


def compile_all(op, arch):
    """Print each variant's configuration and what it takes."""
    seen = set()
    for kernel, arguments in launches(op, arch):
        made = source(kernel, arguments)
        names = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
        options = {name: arguments[name] for name in names if name in arguments}
        name = configuration(op, kernel, made, arguments, options)
        # Sizes of 1 and multiples of 16 make another kernel: on one generation, some of those.
        key = name + (f"{made.signature} {made.attrs}" if arch == 90 else "")
        if key in seen:
            continue
        seen.add(key)
        done = triton.compile(made, target=GPUTarget("cuda", arch, 32), options=options)
        told = resources(done.asm["cubin"])
        taken = told["REG"], told["STACK"] + told["LOCAL"], done.metadata.shared
        print(json.dumps([name, *taken]), flush=True)


def measure(op, arch):
    """Compile in a process of its own: {configuration: (registers, spilled, shared bytes)}."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment |= {"TRITON_CACHE_DIR": cache}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        done = subprocess.run(
            [sys.executable, __file__, op, str(arch)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    taken = {}
    for line in done.stdout.splitlines():
        name, *numbers = json.loads(line)
        taken[name] = tuple(map(max, numbers, taken.get(name, numbers)))
    return taken


def read_table():
    """{(architecture, configuration): as measure gives}, of this release of Triton."""
    rows = (line.split(maxsplit=4) for line in TABLE.read_text().splitlines()[1:])
    return {(int(arch), name): tuple(map(int, numbers)) for arch, *numbers, name in rows}


def write_table():
    head = (
        f"# triton {triton.__version__}: architecture, registers, spilled and shared bytes, kernel"
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = [(arch, op) for op in OPS for arch in SHARED]
        found = pool.map(lambda pair: measure(*reversed(pair)), pairs)
        rows = [
            f"{arch:4} {registers:4} {spilled:4} {shared:7}  {name}"
            for (arch, _), taken in zip(pairs, found, strict=True)
            for name, (registers, spilled, shared) in sorted(taken.items())
        ]
    TABLE.write_text("\n".join([head, *rows]) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        write_table()
    else:
        compile_all(sys.argv[1], int(sys.argv[2]))
