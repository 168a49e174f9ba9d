# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast predict``."""

from __future__ import annotations

import csv
import os
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eegfast.training.pipeline import Pipeline
    from eegfast.training.prediction import Prediction

EXAMPLES = """
[b]Examples[/b]

What one fit of a run says of two recordings, window by window:

    eegfast predict runs/hamnet anna.edf ben.bdf --fit 03-subject-03

The mean of all its fits:

    eegfast predict runs/hamnet anna.edf --ensemble -o anna.csv

A folder to pass on, without the run; it holds no code:

    eegfast predict runs/hamnet --fit 03-subject-03 --export hamnet-03

    eegfast predict hamnet-03 anna.edf
"""


def predict(
    *,
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a pipeline's.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Recordings: EDF, BDF, EEGLAB .set, FIF, BrainVision .vhdr, Neuroscan .cnt, .npy.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="CSV", help="The table to write.")
    ] = Path("predictions.csv"),
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a run with several fits: this one, by folder or split.",
            show_default=False,
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Of a run: mean probabilities of all its fits.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    sfreq: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Rate of .npy files.", show_default=False),
    ] = None,
    ch_names: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Channels of .npy files.", show_default=False),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(
            metavar="LO-HI",
            help="Band-pass in hertz, for recordings that are raw where the training data were "
            "not.",
            show_default=False,
        ),
    ] = None,
    notch: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Mains frequency to take out.", show_default=False),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write the chosen fit as a pipeline: network, channels, features, classes.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let a trained network classify recordings, window by window.

    Writes one CSV table: file, window, start_s, stop_s, predicted, and a column
    of probabilities for each class. Channels are found by name, other rates
    are resampled.

    A bad file does not stop the others. The exit code is 1 if any failed, 2
    if the command makes no sense.
    """
    if not files and export is None:
        raise typer.BadParameter("there must be a FILE, or --export")
    if fit is not None and ensemble:
        raise typer.BadParameter("give --fit or --ensemble, not both")
    if ensemble and export is not None:
        raise typer.BadParameter("--export is for one fit: give --fit")
    edges = None if band is None else _edges(band)
    import torch

    from eegfast.training.pipeline import Pipeline

    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"--device {device} cannot be used here: {reason}") from None
    if (source / "pipeline.json").is_file():
        if fit is not None or ensemble:
            raise typer.BadParameter("--fit and --ensemble are for runs, this is a pipeline")
        pipelines = [Pipeline.load(source)]
    else:
        pipelines = _of_run(source, fit, ensemble)
    for pipeline in pipelines:
        pipeline.to(where)
        if edges is not None or notch is not None:
            pipeline.filter(edges, notch)
    if export is not None:
        print(f"pipeline written to {pipelines[0].save(export)}")
    if files:
        options = {}
        if sfreq is not None or ch_names is not None:
            names = None if ch_names is None else [name.strip() for name in ch_names.split(",")]
            options = {"sfreq": sfreq, "ch_names": names}
        _predict_files(pipelines, files, out, options)


def _edges(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        edges = float(low), float(high)
    except ValueError:
        edges = (1.0, 0.0)
    if not dash or not 0 <= edges[0] < edges[1]:
        raise typer.BadParameter(f"--band must be LO-HI in hertz, such as 4-45, got {text!r}")
    return edges


def _of_run(source: Path, name: str | None, ensemble: bool) -> list[Pipeline]:
    from eegfast.training.pipeline import Pipeline
    from eegfast.training.runs import Run

    if not (source / "run.json").is_file():
        raise FileNotFoundError(
            f"{source}: no run and no pipeline: there is no run.json, no pipeline.json"
        )
    run = Run(source)
    fits = run.fits
    if not fits:
        raise ValueError(f"{source}: none of its fits is finished")
    listed = ", ".join(fit.path.name for fit in fits[:12]) + (" ..." if len(fits) > 12 else "")
    if name is not None:
        fits = [fit for fit in fits if name in (fit.path.name, fit.name)]
        if not fits:
            raise ValueError(f"{source}: no finished fit {name!r}; there are {listed}")
    elif len(fits) > 1 and not ensemble:
        raise ValueError(
            f"{source}: it has {len(fits)} fits; choose one with --fit, or --ensemble: {listed}"
        )
    return [Pipeline.from_run(run, fit) for fit in fits]


def _predict_files(
    pipelines: Sequence[Pipeline], files: Sequence[Path], out: Path, options: dict
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from eegfast.training.runs import write_file

    if out.is_dir():
        raise typer.BadParameter(f"--out must be a file, {out} is a folder")
    done: list[tuple[Path, Prediction]] = []
    failed: list[tuple[Path, str]] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(files))
        for path in files:
            progress.update(task, description=path.name)
            try:
                done.append((path, _predict_file(pipelines, path, options)))
            except ImportError:
                raise
            except Exception as error:
                if os.environ.get("EEGFAST_DEBUG") == "1":
                    traceback.print_exception(error)
                failed.append((path, _reason(path, error)))
            progress.advance(task)
    if done:

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as stream:
                first = ["file", "window", "start_s", "stop_s", "predicted"]
                classes = [f"p_{name}" for name in pipelines[0].class_names]
                writer = csv.DictWriter(stream, [*first, *classes])
                writer.writeheader()
                for path, prediction in done:
                    for row in prediction.rows():
                        writer.writerow({"file": str(path), **_rounded(row)})

        write_file(out, write)
    _show(pipelines, done, failed, out)
    if failed:
        raise typer.Exit(1)


def _predict_file(pipelines: Sequence[Pipeline], path: Path, options: dict) -> Prediction:
    from dataclasses import replace

    from eegfast.training.pipeline import predict_together

    npy = path.suffix.lower() == ".npy"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = predict_together(pipelines, path, **(options if npy else {}))
    heard = [w for w in caught if issubclass(w.category, (UserWarning, RuntimeWarning))]
    notes = [str(warning.message).removeprefix(f"{path}: ") for warning in heard]
    return replace(answer, notes=tuple(dict.fromkeys([*notes, *answer.notes])))


def _reason(path: Path, error: Exception) -> str:
    reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
    if not isinstance(error, (ValueError, TypeError, OSError)):
        reason = f"{type(error).__name__}: {reason}"
    return reason


def _rounded(row: dict[str, object]) -> dict[str, object]:
    """Seconds to the microsecond, probabilities to nine digits."""
    return {
        name: value
        if not isinstance(value, float)
        else round(value, 6)
        if name.endswith("_s")
        else f"{value:.9g}"
        for name, value in row.items()
    }


def _show(
    pipelines: Sequence[Pipeline],
    done: Sequence[tuple[Path, Prediction]],
    failed: Sequence[tuple[Path, str]],
    out: Path,
) -> None:
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    first = pipelines[0]
    seconds = "recording" if first.row_seconds is None else f"{first.row_seconds:g} s"
    networks = first.about.get("recipe", first.inputs.name)
    if len(pipelines) > 1:
        networks = f"{networks}, mean of {len(pipelines)} fits"
    console.print(
        f"{networks}: {len(first.ch_names)} channels at {first.sfreq:g} Hz, an answer for each "
        f"{seconds}\n",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None)
    table.add_column("file", overflow="fold")
    table.add_column("windows", justify="right")
    table.add_column("on average")
    table.add_column("windows of each class")
    for path, prediction in done:
        counts = {name: int((prediction.labels == name).sum()) for name in prediction.class_names}
        mean = prediction.mean
        best = "no answer"
        if np.isfinite(mean).all():
            best = f"{prediction.class_names[mean.argmax()]} {mean.max():.3f}"
        shares = ", ".join(f"{name} {count}" for name, count in counts.items())
        table.add_row(escape(path.name), str(len(prediction)), escape(best), escape(shares))
    if done:
        console.print(table)
    remarks: dict[str, list[str]] = {}
    for path, prediction in done:
        for note in prediction.notes:
            remarks.setdefault(note, []).append(path.name)
    for note, names in remarks.items():
        console.print(f"\n{', '.join(names)}: {note}", markup=False, soft_wrap=True)
    everywhere = dict.fromkeys(remark for p in pipelines for remark in p.remarks())
    for remark in everywhere:
        console.print(f"\nThe network: {remark}", markup=False, soft_wrap=True)
    for path, reason in failed:
        console.print(f"\n[red]{escape(path.name)}[/] failed: {escape(reason)}", soft_wrap=True)
    written = f"; written to {out}" if done else "; nothing is written"
    console.print(
        f"\n{len(done)} done, {len(failed)} failed{written}", markup=False, soft_wrap=True
    )
