#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compile every CUDA kernel and hold its registers and shared memory against a committed table.

A kernel that spills is an error unless the table says that it does. Counts differ between releases
of nvcc, so the table's numbers bind only the release it was written with; with another, the kernels
that it lets spill may spill. A file that takes too long or too much memory to compile is an error
too. ``--write`` writes the table anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".txt")
ARCHS = ("sm_80", "sm_90", "sm_100")
MOST_SECONDS, MOST_GIGABYTES = 60, 3  # of one file for the default architectures, sm_80 and sm_90


def compile_one(arch: str, source: Path) -> tuple[str, float, float]:
    """Return what ptxas says, the processor's seconds and the gigabytes that it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-cubin", f"-arch={arch}", "-std=c++17", "-O3", "-Xptxas", "-v"]
        command += ["-I", ROOT / "kernels/include", source, "-o", Path(folder) / "cubin"]
        with open(Path(folder) / "log", "w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            log.seek(0)
            text = log.read()
    if status:
        raise SystemExit(text)
    return text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


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
    head = (
        f"# nvcc {release.group(1)}: architecture, registers, shared bytes, spilled bytes, kernel"
    )
    jobs = [(arch, source) for arch in ARCHS for source in sorted(ROOT.glob("kernels/cuda/*.cu"))]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        outputs = list(pool.map(lambda job: compile_one(*job), jobs))
    bad, rows, seconds = [], {}, Counter()
    for (arch, source), (text, took, gigabytes) in zip(jobs, outputs, strict=True):
        if arch != "sm_100":
            seconds[source.name] += took
        if gigabytes > MOST_GIGABYTES:
            bad.append(f"{source.name} took {gigabytes:.1f} GB to compile for {arch}")
        for name, *used in kernels(text):
            rows[arch, name] = used
    for name, took in seconds.most_common():
        print(f"{took:4.0f} s  {name}")
        if took > MOST_SECONDS:
            bad.append(f"{name} takes {took:.0f} s to compile")
    lines = [f"{a} {r:4d} {s:6d} {spilled:4d}  {n}" for (a, n), (r, s, spilled) in rows.items()]
    if "--write" in sys.argv:
        TABLE.write_text("\n".join([head, *sorted(lines)]) + "\n")
    known = TABLE.read_text().splitlines()
    limits = {}
    for line in known[1:]:
        arch, registers, shared, spilled, name = line.split(maxsplit=4)
        limits[arch, name] = [int(registers), int(shared), int(spilled)]
    if known[0] != head:
        print(f"the table is of another compiler ({known[0]}): only spills were checked")
        limits = {key: [255, 1 << 20, (1 << 20) * (limit[2] > 0)] for key, limit in limits.items()}
    for key, used in rows.items():
        limit = limits.get(key)
        if limit is None or any(a > b for a, b in zip(used, limit, strict=True)):
            bad.append(
                f"{' '.join(key)}: registers, shared and spilled bytes are {used}, "
                f"in the table {limit}"
            )
    print("\n".join(bad) or f"{len(rows)} kernels as in the table")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
