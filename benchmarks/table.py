# SPDX-License-Identifier: BSD-3-Clause
"""Turns the results of ``pytest --benchmark --benchmark-results FILE.json`` into a table, FILE.md.

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


def table(source: Path) -> str:
    rows = json.loads(source.read_text())["rows"]
    machines = sorted({f"{row['cpu']}, torch {row['torch']}, {row['date']}" for row in rows})
    text = HEAD.format(source=source.name, machines="; ".join(machines))

    def section(row: dict) -> tuple[str, str]:
        return row["name"].partition(" ")[0], row["cpu"]

    for (op, cpu), alike in groupby(sorted(rows, key=section), key=section):
        lines = [COLUMNS, "|" + "---|" * COLUMNS.count(" |"), *map(line, alike)]
        text += f"\n## {op}, {cpu}\n\n" + "\n".join(lines) + "\n"
    return text


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    source.with_suffix(".md").write_text(table(source))
