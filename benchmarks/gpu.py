# SPDX-License-Identifier: BSD-3-Clause
"""Every operator on a GPU, against every way torch has, the floor of its memory and arithmetic, and
the goals: writes results/gpu.json and, by table.py, results/gpu.md.

python benchmarks/gpu.py                     all rows, torch.compile's rivals while there is time
python benchmarks/gpu.py --only 'scaling.*bfloat16' --compile-seconds 300
python benchmarks/gpu.py --dry-run           tiny shapes on the CPU: does every row still run?
python benchmarks/gpu.py --profile           the largest shapes once each, for ncu
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests" / "models")]

import gpu_cases  # noqa: E402
import gpu_rows  # noqa: E402
import table  # noqa: E402
from gpu_timing import GpuBenchmark, environment  # noqa: E402
from harness import merge_rows  # noqa: E402


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose title matches")
    parser.add_argument("--eager", action="store_true", help="leave out what torch.compile makes")
    parser.add_argument("--seconds", type=float, default=200, help="start no row after that")
    parser.add_argument(
        "--compile-seconds", type=float, default=80, help="then leave the compiled rivals out"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--profile", action="store_true", help="what ncu looks at, and no timing")
    return parser.parse_args()


def main() -> int:
    chosen = options()
    device = torch.device("cpu" if chosen.dry_run else "cuda")
    rows = [plan for plan in gpu_cases.plans() if re.search(chosen.only, plan.title)]
    if chosen.profile:
        return profile(device, chosen.dry_run)
    compile_seconds = 0.0 if chosen.eager or chosen.dry_run else chosen.compile_seconds
    bench = GpuBenchmark(device, compile_seconds, smoke=chosen.dry_run)
    facts = environment(device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"copy {bench.copy_bytes_per_second / 1e12:.2f} TB/s, read and written")
    begin, done, failed, left = time.monotonic(), [], [], []
    for plan in rows:
        if time.monotonic() - begin > chosen.seconds:
            left.append(plan.title)
            continue
        try:
            row = measure(bench, plan, facts)
        except Exception as error:
            failed.append(f"{plan.title}: {type(error).__name__}: {error}")
            traceback.print_exc()
        else:
            done.append(row)
            print(table.gpu_summary(row), flush=True)
            failed += unexpected(plan, row) if chosen.dry_run else []
    if done:
        write(chosen, done)
    print(f"{len(done)} rows in {time.monotonic() - begin:.0f} s")
    for title, names in (("FAILED", failed), ("no time for", left)):
        for name in names:
            print(f"{title} {name}")
    return bool(failed) or not done


def unexpected(plan: gpu_rows.Plan, row: dict) -> list[str]:
    """Rivals that a dry run should have seen. On a CPU torch lacks some half types, and computes
    some wrongly."""
    known = ["no time for compilers", "torchaudio"]
    if plan.dtype in gpu_rows.HALF:
        known += ["not implemented for", "computes something else"]
    return [
        f"{plan.title}: {name}: {why}"
        for name, why in row["refused"].items()
        if not any(text in why for text in known)
    ]


def measure(bench: GpuBenchmark, plan: gpu_rows.Plan, facts: dict) -> dict:
    torch.manual_seed(0)
    contest = plan.make(bench)
    measured = bench.contest(contest, plan.op, inference="bwd" not in plan.step)
    row = {
        "name": f"{plan.op} {plan.name}",
        "step": plan.step,
        "dtype": str(plan.dtype)[6:],
        **facts,
        **measured,
        "goal": None,
    }
    if plan.goal:
        row["goal"] = [plan.goal.percent, plan.goal.natural, plan.goal.best]
        row["predicted_us"] = 100 * plan.goal.floor_us / plan.goal.percent
    del contest
    if bench.on_gpu:
        torch.cuda.empty_cache()
    return row


def write(chosen: argparse.Namespace, rows: list[dict]) -> None:
    out = os.environ.get("OUT")
    results = chosen.results
    if chosen.dry_run:  # figures that mean nothing, through the same code
        results = Path(out or "/tmp") / "gpu-dry-run.json"
        results.unlink(missing_ok=True)
    merge_rows(results, rows, ("name", "step", "dtype", "shape", "gpu"))
    results.with_suffix(".md").write_text(table.table(results))
    print(f"wrote {results} and {results.with_suffix('.md').name}")
    if out and not chosen.dry_run:
        for file in (results, results.with_suffix(".md")):
            shutil.copy(file, out)


def profile(device: torch.device, smoke: bool) -> int:
    """The largest shapes once each, between the marks that ncu --profile-from-start off heeds."""
    bench = GpuBenchmark(device, compile_seconds=0.0, smoke=True)
    bench.smoke = smoke
    by_title = {plan.title: plan for plan in gpu_cases.plans()}
    for title in gpu_cases.PROFILED:
        ours = by_title[title].make(bench).ours
        ours()
        if bench.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        ours()
        if bench.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
            torch.cuda.empty_cache()
        print(title, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
