# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast reproduce``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

REPRODUCE_EXAMPLES = """
[b]Examples[/b]

See that all of it runs, in a minute, on invented data in SEED's layout:

    eegfast reproduce ldm-eeg --quick -o try

The same on the recordings that come along (rest against arithmetic):

    eegfast reproduce hamnet --quick --root bundled -o try-bundled

The paper's experiment, eight fits at a time:

    eegfast reproduce hamnet --root SEED_EEG -o hamnet --workers 8

Another question, another data set, another number of epochs:

    eegfast reproduce scalingnet --root DEAP -o arousal --set data.select.target=arousal

    eegfast reproduce resattentionet --root SEED-VII -o vii --set data.dataset=seed-vii

Interrupted, killed, out of power: the same command goes on where it was.
"""

_BOTH = "both"


def reproduce(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="ldm-eeg, sst-emotionnet, hamnet, scalingnet, resattentionet, or a YAML file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="Folder for all of it.", show_default=False
        ),
    ],
    root: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The data set's folder as downloaded, or bundled: the recordings that come along.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Few epochs, subjects and samples; without --root on invented data in OUT/data.",
        ),
    ] = False,
    protocol: Annotated[str, typer.Option(help="paper, honest or both.")] = _BOTH,
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
            metavar="N",
            min=1,
            help="Only the first N splits of each protocol (default: all).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that take a fit each; 0: this one.")
    ] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://...", help="A Dask scheduler in place of --workers.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where prepared inputs are kept (default: OUT/inputs).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """A paper's experiment: its split, an honest split, and its figures beside ours.

    Writes OUT/paper and OUT/honest, runs as `eegfast train` makes them, then
    OUT/reproduction.json and OUT/report.html, and prints what leaks. What the
    recipe holds and what of it is guessed: docs/reproduce.md.

    The exit code is 2 if the command makes no sense, 130 if interrupted.
    """
    from rich.console import Console

    from eegfast.cli.train import _ACCELERATORS
    from eegfast.training.recipe import load_recipe
    from eegfast.training.reproduction import plan_reproduction

    if device not in _ACCELERATORS:
        raise typer.BadParameter(f"--device must be auto, cpu or cuda, got {device!r}")
    if root is None and not quick:
        raise typer.BadParameter("give --root, the data set's folder, or --quick")
    try:
        plan = plan_reproduction(load_recipe(recipe), root, quick=quick, settings=settings or ())
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    names = [name for name in ("paper", "honest") if name in plan.protocols]
    if protocol != _BOTH:
        if protocol not in plan.protocols:
            known = ", ".join([*plan.protocols, _BOTH])
            raise typer.BadParameter(f"--protocol must be one of {known}, got {protocol!r}")
        names = [protocol]
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"-o must be a folder, {out} is a file")

    console = Console(stderr=True)
    # A polite kill unwinds like Ctrl-C.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = root if root is not None else _quick_data(plan, out / "data", console)
        options = {"splits": splits, "workers": workers, "scheduler": scheduler}
        options |= {"accelerator": _ACCELERATORS[device]}
        found = {}
        for name in names:
            prepared = _prepared(plan.for_protocol(name), place, cache or out / "inputs", console)
            found[name] = _run(plan, prepared, out, name, options, console)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on.")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    about = {"dataset": prepared.facts["dataset"], "quick": quick, "splits": splits}
    _finish(plan, found, about, out)
    _report([out / name for name in names], out / "report.html", place if quick else None, console)


def _quick_data(plan, folder: Path, console) -> Path:
    from eegfast.training.reproduction import write_quick_data

    with console.status("writing invented data") as says:
        return write_quick_data(
            plan, folder, lambda done, n, path: says.update(f"writing {done}/{n} {path}")
        )


def _prepared(plan, root, cache: Path, console):
    from rich.markup import escape

    from eegfast.training.inputs import prepare

    with console.status("preparing inputs") as says:
        return prepare(
            plan,
            root,
            cache=cache,
            progress=lambda done, n, text: says.update(
                f"preparing inputs {done}/{n} {escape(text)}"
            ),
        )


def _run(plan, prepared, out: Path, name: str, options, console) -> dict:
    """Train under a protocol, score, and return the figures."""
    from eegfast.cli.train import _bars
    from eegfast.training.experiment import run_experiment
    from eegfast.training.reproduction import figures_of
    from eegfast.training.results import summarise
    from eegfast.training.runs import Run
    from eegfast.training.tables import write_results

    with _bars(console) as progress:
        path = run_experiment(
            plan, prepared, out / name, protocol=name, progress=progress, **options
        )
    run = Run(path)
    results = summarise(run)
    write_results(results, path)
    return figures_of(run, results, plan.paper.per)


def _finish(plan, found: dict, about: dict, out: Path) -> None:
    """Write reproduction.json and print the table."""
    from rich.console import Console
    from rich.markup import escape

    from eegfast.cli._reproduce_table import comparison_table
    from eegfast.training.reproduction import reproduction
    from eegfast.training.runs import write_json

    told = reproduction(plan, runs=found, **about)
    path = write_json(out / "reproduction.json", told)
    console = Console(highlight=False)
    for part in comparison_table(told):
        console.print(part)
    console.print(f"Written: {escape(str(path))}", soft_wrap=True)


def _report(runs: list[Path], page: Path, root, console) -> None:
    from eegfast.cli.report import report

    try:
        report(runs, page, root=None if root is None else Path(root))
    except ImportError as error:
        console.print(f"No report: {error}", markup=False)
