# SPDX-License-Identifier: BSD-3-Clause
"""Compile what an operator would launch, without a GPU: ``python launches.py OP ARCH...``.

The operators are called on tensors without data and every launch is recorded, with the types and
values that Triton would specialise it for; each is then compiled to a cubin. Prints registers,
spilled bytes and shared bytes. Not to be run with TRITON_INTERPRET, which makes another kind of
kernel."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def recorded(call):
    """The launches that ``call`` makes: kernel, arguments by name, options."""
    launches = []

    def run(self, *args, grid, warmup, **kwargs):
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        launches.append((self, {name: values[name] for name in self.arg_names}, options))

    original, JITFunction.run = JITFunction.run, run
    try:
        call()
    finally:
        JITFunction.run = original
    return launches


def compiled(kernel, arguments, options, arch):
    """The cubin, specialised as Triton's launcher does: None, 1 and multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, (name, value) in enumerate(arguments.items()):
        parameter = kernel.params[i]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def resources(binary):
    """Registers, bytes of stack and local memory, which hold spills, and shared bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"], binary.metadata.shared


def depthwise_conv3d():
    from eegfast._triton import depthwise_conv3d as op

    three = ((3, 3, 3), (1, 1, 1), (1,) * 6)
    cases = [
        ((256, 32, 5, 16, 16), *three, torch.float32, True),
        ((256, 32, 5, 16, 16), *three, torch.bfloat16, True),
        ((64, 62, 5, 2, 2), *three, torch.float16, False),
        ((2, 32, 5, 9, 9), (5, 5, 5), (1, 1, 1), (2,) * 6, torch.float32, True),
        ((2, 5, 9, 9, 9), (5, 4, 2), (2, 1, 7), (2,) * 6, torch.float32, False),
    ]
    for (shape, kernel, *geometry, dtype, full), last in itertools.product(cases, (False, True)):
        form = torch.channels_last_3d if last else torch.contiguous_format
        x = torch.empty(shape, dtype=dtype, device="meta", memory_format=form)
        weight = x.new_empty(shape[1], 1, *kernel)
        affine = [x.new_empty(shape[1]) if full else None for _ in range(5)]
        y = op.depthwise_conv3d(x, weight, *affine, *geometry, full, full)
        wanted = [1] * 7 if full else [1, 1, 0, 0, 0, 0, 0]
        op.depthwise_conv3d_backward(
            y, x, weight, *affine[:4], y if full else None, *geometry, full, full, wanted
        )


def scaling_conv1d():
    from eegfast._triton import scaling_conv1d as op

    cases = [
        ((16, 32, 8064), 8, 65, 6, True, torch.float32),
        ((16, 32, 8064), 8, 65, 6, True, torch.bfloat16),
        ((2, 5, 127), 3, 129, 8, False, torch.float16),
        ((2, 5, 9), 40, 33, 2, False, torch.float32),
    ]
    for shape, filters, length, levels, relu, dtype in cases:
        x = torch.empty(shape, dtype=dtype, device="meta")
        chans = 1 if relu else shape[-2]
        weight, bias = x.new_empty(chans, filters, length), x.new_empty(chans, filters, levels)
        out, mask = op.scaling_conv1d(x, weight, bias, levels, relu, relu, True)
        op.scaling_conv1d_backward(
            out, x, weight, mask if relu else None, chans, levels, relu, True, True, True
        )


def main(op, archs):
    done = {}
    for kernel, arguments, options in recorded(globals()[op]):
        if arguments.get("FIRST", 0) > 0:  # but for a constant the kernel of plane 0
            continue
        for arch in archs:
            binary = compiled(kernel, arguments, options, arch)
            if binary.hash in done:
                continue
            done[binary.hash] = registers, spilled, shared = resources(binary)
            shown = [
                f"{key}={getattr(value, 'name', value)}"
                for key, value in arguments.items()
                if key.isupper()
            ]
            types = {TYPES[v.dtype] for v in arguments.values() if isinstance(v, torch.Tensor)}
            print(
                f"sm_{arch}: {registers} registers, {spilled} spilled bytes, {shared} shared bytes:"
                f" {kernel.__name__} {' '.join([*sorted(types), *shown])}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], [int(a) for a in sys.argv[2:]] or [80, 90, 100])
