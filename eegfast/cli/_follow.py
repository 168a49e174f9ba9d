# SPDX-License-Identifier: BSD-3-Clause
"""What ``eegfast extract`` shows: progress, a table at the end, the exit code."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from eegfast.features.batch import Outcome


def follow(
    outcomes: Iterator[Outcome],
    files: Sequence[Path],
    *,
    in_order: bool,
    remarks: Sequence[str] = (),
) -> None:
    """Take outcomes as they come, show progress, print a table, and exit.

    Parameters
    ----------
    outcomes : generator of Outcome
        One for each file; the work is done as they are taken.
    files : sequence of Path
        All files there are to do.
    in_order : bool
        Whether outcomes come in the order of `files`, one file at a time: the one at work is then
        shown. Otherwise they are groups of a store, and their rate is shown.
    remarks : sequence of str
        Lines to print below the table.

    Raises
    ------
    typer.Exit
        With 1 if a file failed, with 130 if interrupted.
    """
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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    written_as = "feature file" if in_order else "group"
    taken: list[Outcome] = []
    start = time.perf_counter()
    try:
        with Progress(*columns, console=console, transient=True) as progress, closing(outcomes):
            task = progress.add_task(files[0].name if in_order else "", total=len(files))
            for outcome in outcomes:
                taken.append(outcome)
                if not in_order:
                    shown = _rate(taken, time.perf_counter() - start)
                else:
                    shown = files[min(len(taken), len(files) - 1)].name
                progress.update(task, advance=1, description=shown)
                if outcome.error is not None and os.environ.get("EEGFAST_DEBUG") == "1":
                    traceback.print_exception(outcome.error)
    except KeyboardInterrupt:
        _print_outcomes(taken if in_order else sorted(taken, key=_place), written_as)
        console.print(
            f"Stopped after {len(taken)} of {len(files)} files; the same command goes on."
        )
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    _print_outcomes(taken if in_order else sorted(taken, key=_place), written_as)
    if not in_order:
        console.print(_rate(taken, time.perf_counter() - start))
    for remark in remarks:
        console.print(f"missing: {remark}", markup=False, soft_wrap=True)
    if any(outcome.status == "failed" for outcome in taken):
        raise typer.Exit(1)


def _place(outcome: Outcome) -> Path:
    return outcome.output


def _rate(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Windows and megabytes of files per second, of those that were computed."""
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    windows = sum(outcome.shape[0] for outcome in done)
    size = sum(outcome.source.stat().st_size for outcome in done) / 1e6
    return f"{windows / seconds:.0f} windows/s, {size / seconds:.1f} MB/s"


def _print_outcomes(outcomes: list[Outcome], written_as: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"done": "green", "skipped": "dim", "failed": "red"}
    table = Table(box=None)
    table.add_column("file", overflow="fold")
    table.add_column("result")
    for name in ("windows", "channels", "bands"):
        table.add_column(name, justify="right")
    table.add_column(written_as, overflow="fold")
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
