# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPORT_EXAMPLES = """
[b]Examples[/b]

The paper's split beside an honest one:

    eegfast report runs/ldm-eeg-paper runs/ldm-eeg-honest

With what the networks make of the data, and all figures as PDF:

    eegfast report runs/* --root /data/SEED -o seed.html --figures figures --format pdf
"""


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that eegfast train wrote.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path(
        "report.html"
    ),
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the data set, for scalp maps and attention.",
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Look into the network of this fit (default: each run's first).",
            show_default=False,
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="What figures count: sample, as papers do, or trial.")
    ] = "sample",
    null: Annotated[
        int, typer.Option("--null", min=0, metavar="N", help="Label permutations of the null.")
    ] = 0,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write every figure to this folder.", show_default=False
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="Of these files: png, pdf, svg.")] = "png",
) -> None:
    """One page that compares runs, to be opened in any browser.

    The paper's figure beside ours under the paper's split and an honest one,
    what leaks, learning curves, confusion, classes, subjects, what the networks
    see and have learned, and how it all was made. The page loads nothing from
    anywhere.
    """
    from rich.console import Console

    from eegfast.cli._report_gather import gather
    from eegfast.report import write_comparison
    from eegfast.report.comparison import UNITS
    from eegfast.report.style import FORMATS
    from eegfast.training.runs import Run

    if unit not in UNITS:
        raise typer.BadParameter(f"--unit must be {' or '.join(UNITS)}, got {unit!r}")
    if format not in FORMATS:
        raise typer.BadParameter(f"--format must be {', '.join(FORMATS)}, got {format!r}")
    if out.is_dir():
        raise typer.BadParameter(f"-o must be a file, {out} is a folder")
    opened = [Run(path) for path in runs]
    with Console(stderr=True).status("reading") as says:

        def prepared(run: Run):
            from eegfast.training.inputs import prepare

            return prepare(run.recipe, root)

        comparison = gather(
            opened,
            unit=unit,
            fit=fit,
            prepare=None if root is None else prepared,
            on_run=lambda label: says.update(f"reading {label}"),
            n_permutations=null,
        )
        says.update("drawing")
        written = write_comparison(comparison, out, figures=figures, format=format)
    more = f" and {len(written) - 1} figures in {figures}" if figures is not None else ""
    Console(highlight=False).print(f"Written: {out}{more}", markup=False)
