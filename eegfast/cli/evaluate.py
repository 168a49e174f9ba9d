# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EVALUATE_EXAMPLES = """
[b]Examples[/b]

Score a run, with a null of 1000 label permutations:

    eegfast evaluate runs/ldm-eeg --null 1000

Two runs of the same splits, subject by subject, as one table:

    eegfast evaluate runs/ldm-eeg runs/hamnet -o both.csv
"""


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that eegfast train wrote. Later ones are compared with the first.",
            show_default=False,
        ),
    ],
    null: Annotated[
        int, typer.Option("--null", min=0, metavar="N", help="Label permutations of the null.")
    ] = 0,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    interval: Annotated[
        str, typer.Option(help="Bootstrap interval: percentile, bca.")
    ] = "percentile",
    seed: Annotated[int, typer.Option(min=0, help="Of draws and permutations.")] = 0,
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the table: csv, json, parquet (default: the file's suffix, or csv).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Also write the tidy table of all runs to this file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Scores of finished runs, with intervals that draw subjects.

    Accuracy, balanced accuracy, F1, kappa, per class and per subject, for single
    samples and for whole trials. Writes results.json and results.csv (and .parquet
    where pyarrow is installed) into every RUN. What leaks is named.
    """
    from rich.console import Console

    from eegfast.cli._evaluate_table import comparison, overview
    from eegfast.training.results import summarise
    from eegfast.training.runs import Run
    from eegfast.training.scores import METHODS
    from eegfast.training.tables import compare, rows, table_format, write_results, write_table

    if not 0 < level < 1:
        raise typer.BadParameter(f"--level must be between 0 and 1, got {level}")
    if interval not in METHODS:
        raise typer.BadParameter(f"--interval must be {' or '.join(METHODS)}, got {interval!r}")
    if len({path.resolve() for path in runs}) < len(runs):
        raise typer.BadParameter("one RUN is named twice")
    if format is not None and out is None:
        raise typer.BadParameter("--format is of the file that -o names")
    try:
        kind = None if out is None else table_format(out, format or (None if out.suffix else "csv"))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    options = {"level": level, "method": interval, "seed": seed}
    console, status = Console(highlight=False), Console(stderr=True)
    with status.status("reading") as says:
        opened = [Run(path) for path in runs]
        results = []
        for run in opened:
            says.update(f"scoring {run.path.name}")
            results.append(summarise(run, n_permutations=null, **options))
    written = [
        path
        for run, result in zip(opened, results, strict=True)
        for path in write_results(result, run.path)
    ]
    if len({result.about["run"] for result in results}) < len(results):
        for path, result in zip(runs, results, strict=True):
            result.about["run"] = str(path)
    if out is not None:
        table = [row for result in results for row in rows(result)]
        written.append(write_table(table, out, kind))
    for part in overview(results):
        console.print(part)
    if len(results) > 1:
        pairs = [compare(results[0], other, **options) for other in results[1:]]
        for part in comparison(pairs, level):
            console.print(part)
    console.print("Written: " + ", ".join(str(path) for path in written), markup=False)
