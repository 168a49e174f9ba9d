#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compile every CUDA kernel and hold its registers and shared memory against a committed table.

Spilling is an error with any compiler. Register counts differ between releases of nvcc, so the
table binds only the release it was written with. ``--write`` writes it anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".txt")
ARCHS = ("sm_80", "sm_90")


def compile_one(arch: str, source: Path) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-cubin", f"-arch={arch}", "-std=c++17", "-O3", "-Xptxas", "-v"]
        command += ["-I", ROOT / "kernels/include", source, "-o", Path(folder) / "cubin"]
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout + done.stderr, time.monotonic() - begin


def short_name(mangled: str) -> str:
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"eegfast::|\(anonymous namespace\)::|^void ", "", name)
    return re.sub(r"\((?:int|bool)\)", "", name).rsplit("(", 1)[0].replace(" ", "")


def kernels(text: str):
    """Yield name, registers, shared bytes and spilled bytes of each kernel that ptxas tells of."""
    for part in text.split("Compiling entry function '")[1:]:
        spills = re.findall(r"(\d+) bytes spill", part)
        shared = re.search(r"(\d+) bytes smem", part)
        registers = re.search(r"Used (\d+) registers", part)
        yield (
            short_name(part.split("'")[0]),
            int(registers.group(1)),
            int(shared.group(1)) if shared else 0,
            sum(map(int, spills)),
        )


def main() -> int:
    release = re.search(r"release ([\d.]+)", subprocess.check_output(["nvcc", "-V"], text=True))
    head = f"# nvcc {release.group(1)}: architecture, registers, static shared bytes, kernel"
    jobs = [(arch, source) for arch in ARCHS for source in sorted(ROOT.glob("kernels/cuda/*.cu"))]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        outputs = list(pool.map(lambda job: compile_one(*job), jobs))
    bad, rows = [], {}
    for (arch, source), (text, seconds) in zip(jobs, outputs, strict=True):
        print(f"{source.name} {arch}: {seconds:.0f} s")
        for name, registers, shared, spilled in kernels(text):
            rows[arch, name] = (registers, shared)
            if spilled:
                bad.append(f"{arch} {name} spills {spilled} bytes")
    lines = [f"{a} {r:4d} {s:6d}  {name}" for (a, name), (r, s) in sorted(rows.items())]
    if "--write" in sys.argv:
        TABLE.write_text("\n".join([head, *lines]) + "\n")
    known = TABLE.read_text().splitlines()
    if known[0] != head:
        print(f"the table is of another compiler ({known[0]}): only spills were checked")
    else:
        limits = {}
        for line in known[1:]:
            arch, registers, shared, name = line.split(maxsplit=3)
            limits[arch, name] = (int(registers), int(shared))
        for key, used in rows.items():
            limit = limits.get(key)
            if limit is None or any(a > b for a, b in zip(used, limit, strict=True)):
                bad.append(
                    f"{' '.join(key)} uses {used} registers and bytes, the table has {limit}"
                )
    print("\n".join(bad) or f"{len(rows)} kernels, no spills")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
