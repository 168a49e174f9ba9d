# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast train``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
[b]Examples[/b]

ScalingNet on DEAP, as its authors split it; then by subject:

    eegfast train scalingnet --root DEAP -o runs/scaling-paper

    eegfast train scalingnet --root DEAP -o runs/scaling-honest --protocol honest

HAMNet's 45 x 5 fits, eight at a time; a few epochs only, to see that it runs:

    eegfast train hamnet --root SEED -o runs/hamnet --workers 8

    eegfast train hamnet --root SEED -o runs/try --set training.stages.0.epochs=3 --splits 2

Two processes on each batch (gloo on CPUs, NCCL on GPUs):

    torchrun --nproc-per-node 2 -m eegfast train ldm-eeg --root SEED -o runs/ldm

Interrupted, killed, out of power: the same command goes on where it was.
"""

_ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}
_MOST_ROWS = 40


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a recipe that comes along, such as hamnet, or a YAML file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="RUN", help="The run's folder.", show_default=False),
    ],
    root: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The data set's folder as downloaded, a feature store, or bundled (default: the "
            "recipe's).",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="paper, honest, or the name of a protocol, such as subject-k-fold.")
    ] = "paper",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value in the recipe, such as training.stages.0.epochs=3. Repeatable.",
            show_default=False,
        ),
    ] = None,
    splits: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Only the first N splits (default: all).", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that take a fit each; 0: this one.")
    ] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://...",
            help="A Dask scheduler whose workers take the fits. They must see the run's folder "
            "under the same path, and have the same eegfast.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where prepared inputs are kept for next time.", show_default=False
        ),
    ] = None,
) -> None:
    """Train a recipe's network on every split of a protocol.

    Writes a run's folder: the recipe, one folder per fit with weights,
    learning curve and answers on the test side, and what it all came from.
    `eegfast evaluate RUN` and `eegfast report RUN` go on from there.

    Finished fits are kept. A folder that holds a run of another recipe or
    other data is refused. The exit code is 130 if interrupted.
    """
    if device not in _ACCELERATORS:
        raise typer.BadParameter(f"--device must be auto, cpu or cuda, got {device!r}")
    from rich.console import Console
    from rich.markup import escape

    from eegfast.training.experiment import run_experiment
    from eegfast.training.inputs import prepare
    from eegfast.training.recipe import load_recipe
    from eegfast.training.results import summarise
    from eegfast.training.runs import Run
    from eegfast.training.tables import write_results
    from eegfast.training.trainer import join_processes

    plan = load_recipe(recipe).override(settings or [])
    if protocol in plan.protocols:
        plan = plan.for_protocol(protocol)
    rank, _ = join_processes()
    console = Console(stderr=True, quiet=rank > 0)
    # A polite kill unwinds like Ctrl-C.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status("preparing inputs") as status:

            def tell(done: int, trials: int, what: str) -> None:
                status.update(f"preparing inputs: trial {done} of {trials}, {escape(what)}")

            prepared = prepare(plan, root, cache=cache, progress=tell)
        with _bars(console) as progress:
            run_experiment(
                plan,
                prepared,
                out,
                protocol=protocol,
                splits=splits,
                workers=workers,
                scheduler=scheduler,
                accelerator=_ACCELERATORS[device],
                progress=progress,
            )
    except KeyboardInterrupt:
        console.print(_stopped(out))
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if rank == 0:
        run = Run(out)
        write_results(summarise(run), run.path)
        _print_run(run)


@contextmanager
def _bars(console) -> Iterator:
    """Two bars, over the epochs of all fits and of the one at work."""
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        fields = {"count": "", "figures": "", "total": None}
        whole, current = (bars.add_task(name, **fields) for name in ("fits", ""))

        def show(news) -> None:
            epoch = news.epoch if news.row else 0
            bars.update(
                whole,
                total=news.n_fits * news.n_epochs,
                completed=news.fits_done * news.n_epochs + epoch,
                count=f"{news.fits_done}/{news.n_fits}",
            )
            bars.update(
                current,
                description=escape(news.split),
                total=news.n_epochs,
                completed=news.epoch,
                count=f"epoch {news.epoch}/{news.n_epochs}",
                figures=_figures(news.row),
            )

        yield show


def _figures(row) -> str:
    """Loss and accuracy of the newest epoch."""
    parts = [
        f"{side} {row[f'{key}_loss']:.3f} {100 * row[f'{key}_accuracy']:.1f} %"
        for side, key in (("training", "train"), ("validation", "val"))
        if f"{key}_loss" in row
    ]
    return ", ".join(parts)


def _stopped(out: Path) -> str:
    from eegfast.training.runs import Run

    try:
        run = Run(out)
    except (OSError, ValueError):
        return "Stopped before the first fit; the same command starts again."
    done, left = len(run.fits), len(run.unfinished)
    return f"Stopped with {done} of {done + left} fits done; the same command goes on."


def _print_run(run) -> None:
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    table.add_column("split", overflow="fold")
    for name in ("training", "validation", "test", "epochs", "kept", "seconds", "accuracy"):
        table.add_column(name, justify="right")
    accuracies, reasons, waited, seconds = [], {}, 0.0, 0.0
    for fit in run.fits:
        facts, answers = fit.facts, fit.predictions()
        accuracies.append((answers["proba"].argmax(1) == answers["label"]).mean())
        reasons |= dict.fromkeys(facts["leak_reasons"])
        waited, seconds = waited + facts["data_seconds"], seconds + facts["seconds"]
        if len(accuracies) <= _MOST_ROWS:
            counts = (facts["n_train"], facts["n_validation"] or "-", facts["n_test"])
            table.add_row(
                f"[red]{escape(fit.name)}[/]" if fit.leaks else escape(fit.name),
                *map(str, counts),
                str(facts["epochs"]),
                str(facts["best_epoch"] or "last"),
                f"{facts['seconds']:.1f}",
                f"{100 * accuracies[-1]:.1f} %",
            )
    console = Console()
    console.print(table)
    if len(accuracies) > _MOST_ROWS:
        console.print(f"and {len(accuracies) - _MOST_ROWS} more fits")
    console.print(
        f"\n{len(accuracies)} fits, accuracy per sample {100 * np.mean(accuracies):.2f} % "
        f"(standard deviation over fits {100 * np.std(accuracies):.2f}); "
        f"waiting for data: {100 * waited / max(seconds, 1e-9):.1f} % of the time"
    )
    for reason in reasons:
        console.print(f"[red]Leaks:[/] {escape(reason)}")
    console.print(f"Run: {escape(str(run.path))}", soft_wrap=True)
