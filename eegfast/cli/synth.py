# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast synth``."""

from __future__ import annotations

import signal
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
[b]Examples[/b]

Three subjects in SEED's layout, a tenth as long:

    eegfast synth seed --out seed --scale 0.1

SEED's raw files of one subject, at full length (3 GB):

    eegfast synth seed --out raw --subjects 1 --kind raw

What the whole of SEED-VII would take, without writing it:

    eegfast synth seed-vii --out x --subjects 20 --dry-run

Start again after a break: the same command, which keeps what is done.
"""


class Name(str, Enum):
    """The layouts."""

    seed = "seed"
    seed_iv = "seed-iv"
    seed_v = "seed-v"
    seed_vii = "seed-vii"
    deap = "deap"


def synth(
    dataset: Annotated[Name, typer.Argument(help="Whose layout.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="A new or empty folder, or one that this command began to fill.",
            show_default=False,
        ),
    ],
    subjects: Annotated[int, typer.Option(help="How many subjects.")] = 3,
    sessions: Annotated[
        int | None,
        typer.Option(help="How many sessions of each (default: all).", show_default=False),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="preprocessed, features, raw; DEAP has matlab for features. May be repeated "
            "(default: all but raw and matlab).",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Length of the trials; 1 is that of the data set.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other signals.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
    ] = False,
) -> None:
    """Synthetic EEG in the layout of a data set, for tests and benchmarks.

    The signals are invented: they have class-dependent band power that a
    classifier finds, and say nothing about emotion or about a method.

    Files appear when they are whole. The exit code is 1 if something failed,
    2 if the command makes no sense.
    """
    from eegfast.datasets.synthetic import PLANS, check_folder, write_tree

    options = {"subjects": subjects, "scale": scale, "seed": seed}
    if sessions is not None:
        if dataset is Name.deap:
            raise typer.BadParameter("DEAP has no sessions: leave out --sessions")
        options["sessions"] = sessions
    if kind:
        options["kinds"] = tuple(kind)
    try:
        files = PLANS[dataset.value](**options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    check_folder(out, dataset=dataset.value, scale=scale, seed=seed)

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    todo = [file for file in files if not (out / file.path).exists()]
    n_bytes = sum(file.n_bytes for file in todo)
    there = "" if len(todo) == len(files) else f", {len(files) - len(todo)} are there"
    console.print(f"{len(todo)} files to write, about {_size(n_bytes)}{there}.", highlight=False)
    if dry_run:
        return
    # A polite kill unwinds like Ctrl-C, so that no half-written file stays.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=sum(file.n_bytes for file in files))

            def progress(done: int, count: int, path: str) -> None:
                completed = sum(file.n_bytes for file in files[:done])
                bar.update(task, completed=completed, description=f"{done}/{count} {path}")

            write_tree(out, dataset.value, scale, seed, files, progress)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on.")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    console.print(f"Written to {out}.", highlight=False, markup=False, soft_wrap=True)


def _size(n_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
