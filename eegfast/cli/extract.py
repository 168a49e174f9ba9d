# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast extract``."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
[b]Examples[/b]

SEED's features of two recordings, smoothed:

    eegfast extract s1.cnt s2.cnt -o features --resample 200 --smooth lds

Own bands, windows of 2 s, a new one every second:

    eegfast extract *.edf -o out --window 2 --step 1 --bands a:4-8,b:8-13

Start again after a break: the same command, which skips what is done.
"""


def extract(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Recordings: EDF, BDF, EEGLAB .set, FIF, BrainVision .vhdr, Neuroscan .cnt.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Folder for the feature files.",
            show_default=False,
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Which differential entropy: bcmi, matlab, torcheeg, torcheeg_v1, libeer, clean."
        ),
    ] = "bcmi",
    window: Annotated[float, typer.Option(help="Window in seconds.")] = 1.0,
    step: Annotated[
        float | None,
        typer.Option(
            help="From window to window, in seconds (default: the window).", show_default=False
        ),
    ] = None,
    smooth: Annotated[
        str, typer.Option(help="Along the windows: lds, lds-causal, ma, none.")
    ] = "none",
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:LO-HI,...",
            help="Bands in hertz (default: the recipe's).",
            show_default=False,
        ),
    ] = None,
    resample: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Bring recordings to this rate first.", show_default=False),
    ] = None,
    picks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Only these channels (default: all scalp EEG).",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="Format of the feature files: npz.")] = "npz",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Compute also what is there already.")
    ] = False,
) -> None:
    """Differential entropy of recordings, one feature file each.

    Writes FOLDER/NAME.de.npz: features (windows x channels x bands), window
    times, channel names and positions, bands, and what the numbers are and
    come from.

    A bad file does not stop the others. The exit code is 1 if any failed, 2
    if the command makes no sense.
    """
    from eegfast.features.batch import extract_file, plan_outputs
    from eegfast.features.extract import ExtractOptions, parse_bands

    try:
        if format != "npz":
            raise ValueError(f"format must be npz, got {format!r}")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out must be a folder, {out} is a file")
        options = ExtractOptions(
            recipe=recipe,
            bands=None if bands is None else parse_bands(bands),
            window=window,
            step=step,
            smooth=smooth,
            resample=resample,
            picks=None if picks is None else tuple(name.strip() for name in picks.split(",")),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    # A polite kill unwinds like Ctrl-C, so that no half-written file stays.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    plan, outcomes = plan_outputs(files, out), []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(plan))
            for source, output in plan:
                progress.update(task, description=source.name)
                outcome = extract_file(source, output, options, overwrite=overwrite)
                outcomes.append(outcome)
                progress.advance(task)
                if outcome.error is not None and os.environ.get("EEGFAST_DEBUG") == "1":
                    traceback.print_exception(outcome.error)
    except KeyboardInterrupt:
        _print_outcomes(outcomes)
        console.print(
            f"Stopped after {len(outcomes)} of {len(plan)} files; the same command goes on."
        )
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    _print_outcomes(outcomes)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _print_outcomes(outcomes: list) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"done": "green", "skipped": "dim", "failed": "red"}
    table = Table(box=None)
    table.add_column("file", overflow="fold")
    table.add_column("result")
    for name in ("windows", "channels", "bands"):
        table.add_column(name, justify="right")
    table.add_column("feature file", overflow="fold")
    remarks: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        name = escape(outcome.source.name)
        shape = (str(n) for n in outcome.shape or ("", "", ""))
        written = "" if outcome.status == "failed" else escape(outcome.output.name)
        table.add_row(name, f"[{colours[outcome.status]}]{outcome.status}[/]", *shape, written)
        for note in outcome.notes:
            remarks.setdefault((outcome.status, note), []).append(name)
    console = Console()
    console.print(table)
    for (status, note), names in remarks.items():
        console.print(f"\n[{colours[status]}]{', '.join(names)}[/]: {escape(note)}", soft_wrap=True)
    console.print("\n" + ", ".join(f"{sum(o.status == s for o in outcomes)} {s}" for s in colours))
