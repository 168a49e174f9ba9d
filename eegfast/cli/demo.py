# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast demo``: bundled recordings, features, two classifiers by subject, a table, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report; made if missing.")
    ] = Path("eegfast-demo"),
    recipe: Annotated[str, typer.Option(help="Differential-entropy recipe.")] = "bcmi",
    folds: Annotated[int, typer.Option(min=2, help="Folds over subjects.")] = 6,
    sequence_length: Annotated[
        int,
        typer.Option(
            min=1,
            max=60,
            help="One-second windows per network input. 60 is the paper's: one sequence per "
            "recording, zero-padded.",
        ),
    ] = 14,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs of the network.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds, weights and permutations.")] = 0,
    subjects: Annotated[
        int | None, typer.Option(min=6, max=24, help="Use the first N subjects.  [default: all 24]")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="2 epochs, few permutations: a check that all parts run.")
    ] = False,
) -> None:
    """Rest or mental arithmetic? A whole path from recordings to a report, in minutes.

    24 bundled subjects, one minute of rest and one of serial subtraction each (not emotion).
    Differential entropy, smoothing, folds over subjects, then a logistic regression and
    ResAttentioNet, side by side. Writes report.html, results.json and results.csv.
    """
    import time

    from rich.console import Console

    from eegfast.cli._demo_run import DemoOptions, run
    from eegfast.cli._demo_table import results_table
    from eegfast.report import write_report

    start = time.perf_counter()
    console = Console()
    options = DemoOptions(
        recipe=recipe,
        folds=folds,
        sequence_length=sequence_length,
        epochs=2 if fast else epochs,
        seed=seed,
        subjects=subjects,
        permutations=9 if fast else 99,
    )
    with console.status("reading recordings") as status:
        results = run(options, status.update)
        status.update("drawing the report")
        files = write_report(results, output)
    console.print(results_table(results))
    console.print(*results["verdict"], sep="\n")
    console.print(
        "Rest or mental arithmetic, not emotion: it shows that the path works, no more. "
        "The report says what the numbers can and cannot mean."
    )
    console.print(f"{time.perf_counter() - start:.0f} s. Report: {files.html}", soft_wrap=True)
