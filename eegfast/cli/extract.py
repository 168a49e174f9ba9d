# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eegfast.cli._follow import follow

EXAMPLES = """
[b]Examples[/b]

SEED's features of two recordings, smoothed:

    eegfast extract s1.cnt s2.cnt -o features --resample 200 --smooth lds

Own bands, windows of 2 s, a new one every second:

    eegfast extract *.edf -o out --window 2 --step 1 --bands a:4-8,b:8-13

Start again after a break: the same command, which skips what is done.

A whole data set into one store, on all cores; then on a Dask cluster:

    eegfast extract --dataset seed --root SEED_EEG -o seed-de --smooth lds

    eegfast extract --dataset seed --root SEED_EEG -o seed-de --smooth lds
      --scheduler tcp://head:8786

Features that came with the data set, of some subjects:

    eegfast extract --dataset seed --root SEED_EEG -o supplied --kind features
      --option feature=de_movingAve --option subjects=1,2,3
"""


def extract(
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Recordings: EDF, BDF, EEGLAB .set, FIF, BrainVision .vhdr, Neuroscan .cnt.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Folder for the feature files, or the feature store.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="In place of FILE: a data set, such as seed; features go to one store.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The data set's folder as downloaded.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of the data set: preprocessed, raw or features (default: what is there).",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the data set, such as subjects=1,2 or feature=psd_LDS or target=arousal.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Processes for a data set (default: one per core); 1: this one, no Dask.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tcp://...",
            help="A Dask scheduler whose workers do it. They must see the data set and the store "
            "under the same paths, and have the same eegfast.",
            show_default=False,
        ),
    ] = None,
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
    """Differential entropy of recordings, one feature file each; or of a data set.

    Writes FOLDER/NAME.de.npz: features (windows x channels x bands), window
    times, channel names and positions, bands, and what the numbers are and
    come from. With --dataset, FOLDER is a feature store, with a group for
    each file of the data set.

    A bad file does not stop the others. The exit code is 1 if any failed, 2
    if the command makes no sense.
    """
    from eegfast.datasets.registry import open_dataset, parse_options
    from eegfast.features.batch import extract_file, plan_outputs
    from eegfast.features.extract import ExtractOptions, parse_bands

    try:
        if not files and dataset is None:
            raise ValueError("there must be a FILE, or --dataset")
        if files and dataset is not None:
            raise ValueError("give FILE or --dataset, not both")
        for name, value in {
            "root": root,
            "kind": kind,
            "option": option or None,
            "workers": workers,
        }.items():
            if value is not None and dataset is None:
                raise ValueError(f"--{name} is for --dataset")
        if scheduler is not None and (dataset is None or workers is not None):
            raise ValueError("--scheduler is for --dataset, and not with --workers")
        if dataset is not None and root is None:
            raise ValueError("--dataset needs --root, the folder as downloaded")
        if format != "npz":
            raise ValueError(f"format must be npz, got {format!r}")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out must be a folder, {out} is a file")
        more = {"kind": kind, **parse_options(option or [])}
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

    if dataset is None:
        plan = plan_outputs(files, out)
        outcomes = (extract_file(*pair, options, overwrite=overwrite) for pair in plan)
        follow(outcomes, [source for source, _ in plan], in_order=True)
    else:
        from eegfast.features.dataset import extract_dataset

        data = open_dataset(dataset, root, **more)
        outcomes = extract_dataset(
            data, out, options, workers=workers, scheduler=scheduler, overwrite=overwrite
        )
        follow(outcomes, list(data.files), in_order=False, remarks=data.missing)
