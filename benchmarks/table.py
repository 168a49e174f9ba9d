# SPDX-License-Identifier: BSD-3-Clause
"""Turns the results of ``pytest --benchmark --benchmark-results FILE.json``, or of gpu.py, into a
table, FILE.md.

python benchmarks/table.py [FILE.json]
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

DEFAULT = Path(__file__).parent / "results" / "cpu.json"
HEAD = """# Measured speed

Written by `benchmarks/table.py` from [{source}]({source}). Ratios say how many times slower a rival
is than ours: the median of the ratios round by round, all contenders taking turns in one run.
"Natural" is the code one would write first, "best" the fastest rival of the row. Goals (natural /
best) and predictions were written down before measuring, for two threads and AVX-512. Rows that are
not quiet were disturbed: do not quote them.

Machines: {machines}.
"""
COLUMNS = "| | shape | run | ours ms | natural | best | which | goal | predicted | error | quiet |"


def run(row: dict) -> str:
    settings = f"{row['threads']} threads, {row['isa']}"
    return settings + (", cold allocator" if row["allocator"] == "cold" else "")


def line(row: dict) -> str:
    contenders = row["contenders"]
    ratios = {
        name: figures["ratio_to_ours"]
        for name, figures in contenders.items()
        if not name.startswith("ours")
    }
    natural, best = next(iter(ratios)), min(ratios, key=ratios.get)
    predictable = (row["threads"], row["isa"], row["allocator"]) == (2, "avx512", "warm")
    cells = [
        row["name"].partition(" ")[2],
        row["shape"],
        run(row),
        f"{contenders['ours']['median_ms']:.3g}",
        f"{ratios[natural]:.1f}",
        f"{ratios[best]:.1f}",
        best,
        "{:g} / {:g}".format(*row["goal"]) if row["goal"] else "",
        f"{row['predicted_ms']:g}" if row["predicted_ms"] and predictable else "",
        f"{row['error']:.1e}",
        "yes" if row["quiet"] else "**no**",
    ]
    return f"| {' | '.join(cells)} |"


GPU_HEAD = """# Measured speed on a GPU

Written by `benchmarks/gpu.py` and `benchmarks/table.py` from [{source}]({source}). Medians of what
the GPU takes after a sweep of its L2 cache, all contenders taking turns; "graph" is a replayed CUDA
graph, "queue" what a call costs Python. The floor is the larger of the bytes (each input read once,
each output written once) at 4.3 TB/s and the arithmetic at 67 TFLOP/s (33.5 in float64); "copy" is
the share of a copy's bandwidth, measured in the same run. Ratios say how many times slower the
rival is; "best" is torch's fastest, compiled where there was time for it. No TF32 anywhere. Goals
(percent of floor, natural, best) and predictions were written down before any GPU was seen. A row
marked "reference" has no kernel of its own.

Machines: {machines}.
"""
GPU_COLUMNS = (
    "| | shape | type | step | us | graph us | queue us | floor us | % floor | GB/s | % copy "
    "| natural | compile | best | which | triton | goal | predicted us | error | quiet |"
)
MEMORY_COLUMNS = "| | type | step | MB | eager MB | eager / ours |"


def torchs(contenders: dict) -> dict:
    """Names and figures of torch's own: neither ours nor our Triton kernels."""
    return {n: c for n, c in contenders.items() if not n.startswith(("ours", "triton"))}


def gpu_quiet(row: dict) -> bool:
    ours, again = row["contenders"]["ours"], row["contenders"]["ours again"]
    steady = ours["min_us"] / ours["median_us"] >= 0.7
    return steady and abs(again["ratio_to_ours"] - 1) <= 0.05


def gpu_cells(row: dict) -> list[str]:
    contenders = row["contenders"]
    whole = row["name"].startswith(("network", "chain"))  # of many operators
    ours, rivals = contenders["ours"], torchs(contenders)
    natural, best = next(iter(rivals)), min(rivals, key=lambda n: rivals[n]["median_us"])
    compiled = [c["ratio_to_ours"] for n, c in rivals.items() if n.startswith("compile")]
    bandwidth = row["bytes"] / ours["median_us"] / 1e3
    return [
        row["name"].partition(" ")[2] + ("" if row["kernels"] or whole else " (reference)"),
        row["shape"],
        row["dtype"],
        row["step"],
        f"{ours['median_us']:.4g}",
        f"{ours['graph_us']:.4g}" if "graph_us" in ours else "",
        f"{ours['queued_in_us']:.0f}",
        f"{row['floor_us']:.3g}",
        f"{100 * row['floor_us'] / ours['median_us']:.0f}",
        f"{bandwidth:.0f}",
        f"{100 * bandwidth / row['copy_gbps']:.0f}" if row["copy_gbps"] else "",
        f"{rivals[natural]['ratio_to_ours']:.1f}",
        f"{min(compiled):.1f}" if compiled else "",
        f"{rivals[best]['ratio_to_ours']:.1f}",
        best,
        f"{contenders['triton']['ratio_to_ours']:.2f}" if "triton" in contenders else "",
        "{:g} % / {:g} / {:g}".format(*row["goal"]) if row["goal"] else "",
        f"{row['predicted_us']:.3g}" if "predicted_us" in row else "",
        f"{row['error']:.1e}",
        "yes" if gpu_quiet(row) else "**no**",
    ]


def gpu_summary(row: dict) -> str:
    """One line for the terminal."""
    name, _, dtype, step, us, graph, _, _, percent, _, _, _, _, best, which, *_ = gpu_cells(row)
    graph = f" graph {graph}" if graph else ""
    return (
        f"{row['name'].partition(' ')[0]} {name} {dtype} {step}: {us} us{graph}, "
        f"{percent} % of floor, x{best} {which}, error {row['error']:.0e}"
    )


def memory_line(row: dict) -> str:
    ours, rival = row["contenders"]["ours"], next(iter(torchs(row["contenders"]).values()))
    mine, theirs = ours["peak_mb"], rival["peak_mb"]
    cells = [row["name"].partition(" ")[2], row["dtype"], row["step"], f"{mine:.3g}"]
    return f"| {' | '.join([*cells, f'{theirs:.3g}', f'{theirs / max(mine, 1e-9):.1f}'])} |"


def gpu_table(source: Path, rows: list[dict]) -> str:
    machines = sorted({f"{r['gpu']}, torch {r['torch']}, {r['date']}" for r in rows})
    text = GPU_HEAD.format(source=source.name, machines="; ".join(machines))
    for op, of_op in groupby(rows, key=lambda row: row["name"].partition(" ")[0]):
        of_op = list(of_op)
        lines = [f"| {' | '.join(gpu_cells(row))} |" for row in of_op]
        text += f"\n## {op}\n\n" + "\n".join([*header(GPU_COLUMNS), *lines]) + "\n"
        measured = [row for row in of_op if row["contenders"]["ours"]["peak_mb"]]
        if op == "mobile_unit3d" and measured:
            lines = [*header(MEMORY_COLUMNS), *map(memory_line, measured)]
            text += "\nMemory of a call, results included:\n\n" + "\n".join(lines) + "\n"
        refused = sorted({f"{n}: {why}" for r in of_op for n, why in r["refused"].items()})
        if refused:
            text += "\nNot compared in every row: " + "; ".join(refused) + ".\n"
    return text


def header(columns: str) -> list[str]:
    return [columns, "|" + "---|" * columns.count(" |")]


def table(source: Path) -> str:
    rows = json.loads(source.read_text())["rows"]
    rows.sort(key=lambda row: row["name"].partition(" ")[0])
    if "gpu" in rows[0]:
        return gpu_table(source, rows)
    machines = sorted({f"{row['cpu']}, torch {row['torch']}, {row['date']}" for row in rows})
    text = HEAD.format(source=source.name, machines="; ".join(machines))

    def section(row: dict) -> tuple[str, str]:
        return row["name"].partition(" ")[0], row["cpu"]

    for (op, cpu), alike in groupby(sorted(rows, key=section), key=section):
        lines = [*header(COLUMNS), *map(line, alike)]
        text += f"\n## {op}, {cpu}\n\n" + "\n".join(lines) + "\n"
    return text


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    source.with_suffix(".md").write_text(table(source))
