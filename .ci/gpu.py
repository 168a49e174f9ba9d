#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Everything that only a machine with a GPU can show, in one command: `make gpu`.

Builds for the GPU found, runs tests/backends and tests/cuda, benchmarks/gpu.py, compute-sanitizer
and, if asked, ncu. Needs python3 with torch, numpy, scipy, pytest and a C++ compiler, CMake and
nvcc; no network. A step that fails does not keep the next from running; one for which no time is
left is named. The log and results go to $OUT, or build/gpu. `--dry-run` does what a machine without
a GPU can.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
OUT = Path(os.environ.get("OUT") or ROOT / "build" / "gpu")
FACTS = """
import torch, eegfast, eegfast.ops
from eegfast.backends import backends, kernels
print(f"torch {torch.__version__}, {eegfast.build_info()}")
for b in backends(): print(f"{b.name}: {'runs' if b.available else 'does not run'}: {b.reason}")
for k in kernels("cuda"): print(f"{k.op} on CUDA: {k.backend} ({k.reason})")
"""


@dataclass
class Step:
    """Commands that run side by side. ``attempts``: each is tried until one succeeds."""

    name: str
    seconds: int  # its own limit, within what is left of the whole
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    attempts: bool = False
    unavailable: str | None = None  # output that says the tool cannot work on this machine
    lines: int = 6  # of a good run's output to show


def gpu_arch() -> str | None:
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"^\s*(\d+)\.(\d+)\s*$", answer, re.MULTILINE)
    return ";".join(sorted({major + minor for major, minor in found})) or None


def steps(dry_run: bool, profile: bool) -> list[Step]:
    """In the order of what matters most, should time run out."""
    device = ["--device", "cpu" if dry_run else "cuda"]
    dry = ["--dry-run"] if dry_run else []
    pytest = [PYTHON, "-m", "pytest", "-q", "--durations=5", "-p", "no:cacheprovider"]
    pytest += ["tests/backends", "tests/cuda"]
    for name in ["cpu"] if dry_run else ["cuda", "triton"]:
        pytest += ["--backend", name]
    sanitize = [PYTHON, "tests/cuda/sanitize.py", *device]
    benchmark = [PYTHON, "benchmarks/gpu.py", *dry]
    arch = gpu_arch()
    build_environment = {"EEGFAST_CUDA": "1"}
    if arch and not os.environ.get("EEGFAST_CUDA_ARCHS"):
        build_environment["EEGFAST_CUDA_ARCHS"] = arch
    install = [PYTHON, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps"]
    all_steps = [
        Step(
            "build",
            200,
            [[*install, "-e", "."], [PYTHON, "setup.py", "build_ext", "--inplace"]],
            build_environment,
            attempts=True,
            lines=2,
        ),
        Step("facts", 60, [[PYTHON, "-c", FACTS]], lines=19),
        Step("tests", 150, [pytest], lines=10),
        Step("benchmarks", 220, [benchmark], lines=30),
        Step(
            "sanitizers",
            150,
            [["compute-sanitizer", *options, *sanitize] for options in SANITIZERS],
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            unavailable=r"Device not supported|not find.*device driver",
            lines=8,
        ),
    ]
    if profile:
        ncu = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--set", "full"]
        ncu += ["--kernel-name-base", "mangled", "-k", "regex:eegfast", "-f", "-o"]
        ncu += [str(OUT / "profile")]
        unavailable = "LibraryNotLoaded|ERR_NVGPUCTRPERM|ncu: command not found"
        command = [*ncu, *benchmark, "--profile"]
        if not dry_run:
            command = ["bash", "-c", '"$@" && ncu -i "$0" --page details', f"{OUT}/profile.ncu-rep"]
            command += [*ncu, *benchmark, "--profile"]
        all_steps.append(Step("profiles", 150, [command], unavailable=unavailable, lines=12))
    if dry_run:
        all_steps = all_steps[1:]  # what is built stays as it is
        for step in all_steps:
            step.environment = {"OMP_NUM_THREADS": "1"}  # small shapes
            if step.name == "sanitizers":
                step.commands = [sanitize]
            if step.name == "profiles":
                step.commands = [[*benchmark, "--profile"]]
    return all_steps


# Where kernels are named, only ours are instrumented, which saves most of the time; initcheck must
# see the others too, since they write what ours read.
OURS = ["--kernel-name", "kns=eegfast"]
COMMON = ["--error-exitcode", "9", "--print-limit", "20"]
SANITIZERS = [
    ["--tool", "memcheck", "--report-api-errors", "no", *OURS, *COMMON],
    ["--tool", "racecheck", *OURS, *COMMON],
    ["--tool", "synccheck", *OURS, *COMMON],
    ["--tool", "initcheck", *COMMON],
]


def execute(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run with a limit on the whole process group; 124 where it was reached, as of timeout(1)."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **environment,
    }
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return 127, str(error)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, output + f"\nstopped after {seconds:.0f} s\n"


def perform(step: Step, seconds: float) -> tuple[str, str]:
    """Run a step; return its state and what it printed."""
    tool = step.commands[0][0]
    if shutil.which(tool) is None:
        return "not available", f"{tool} is not on the PATH\n"
    begin = time.monotonic()

    def run(command: list[str]) -> tuple[int, str]:
        left = seconds - (time.monotonic() - begin)
        code, output = execute(command, step.environment, max(left, 1.0))
        return code, f"$ {' '.join(command)}\n{output}(exit {code})\n"

    if step.attempts:
        done = []
        for command in step.commands:
            done.append(run(command))
            if done[-1][0] == 0:
                break
        codes = [done[-1][0]]
    else:
        with ThreadPoolExecutor(len(step.commands)) as pool:
            done = list(pool.map(run, step.commands))
        codes = [code for code, _ in done]
    output = "".join(text for _, text in done)
    if any(codes) and step.unavailable and re.search(step.unavailable, output):
        return "not available", output
    if 124 in codes:
        return "OUT OF TIME", output
    return ("FAILED" if any(codes) else "passed"), output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="what needs no GPU, on the CPU")
    parser.add_argument("--profile", action="store_true", help="ncu on the largest shapes, too")
    parser.add_argument("--budget", type=float, default=470, help="seconds for everything")
    parser.add_argument("--only", default="", help="names of the steps to run, with commas")
    chosen = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "log.txt").unlink(missing_ok=True)
    begin, table = time.monotonic(), []
    for step in steps(chosen.dry_run, chosen.profile):
        if chosen.only and step.name not in chosen.only.split(","):
            continue
        left = chosen.budget - (time.monotonic() - begin)
        if left < 15:
            table.append((step.name, "NO TIME LEFT", 0.0))
            continue
        started = time.monotonic()
        state, output = perform(step, min(step.seconds, left))
        seconds = time.monotonic() - started
        with (OUT / "log.txt").open("a") as log:
            log.write(f"=== {step.name}: {state}, {seconds:.0f} s ===\n{output}\n")
        lines = output.splitlines()
        shown = lines[-step.lines :] if state == "passed" else lines[-40:]
        print(f"=== {step.name}: {state}, {seconds:.0f} s ===", *shown, "", sep="\n", flush=True)
        table.append((step.name, state, seconds))
    print(f"=== summary, {time.monotonic() - begin:.0f} s; all output in {OUT}/log.txt ===")
    for name, state, seconds in table:
        print(f"{name:12s} {seconds:5.0f} s  {state}")
    return int(not all(state in ("passed", "not available") for _, state, _ in table))


if __name__ == "__main__":
    sys.exit(main())
