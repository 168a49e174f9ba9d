# SPDX-License-Identifier: BSD-3-Clause
"""The ``eegfast`` command. It holds no logic of its own; each command is a function in a module of
its name."""

from __future__ import annotations

import os
import sys
from typing import Annotated

try:
    import typer
except ImportError as error:
    raise ImportError("The eegfast command needs Typer: pip install 'eegfast[cli]'.") from error

from eegfast._version import __version__
from eegfast.cli.demo import demo
from eegfast.cli.evaluate import EVALUATE_EXAMPLES, evaluate
from eegfast.cli.extract import EXAMPLES, extract
from eegfast.cli.info import info
from eegfast.cli.predict import EXAMPLES as PREDICT_EXAMPLES
from eegfast.cli.predict import predict
from eegfast.cli.report import REPORT_EXAMPLES, report
from eegfast.cli.reproduce import REPRODUCE_EXAMPLES, reproduce
from eegfast.cli.synth import EXAMPLES as SYNTH_EXAMPLES
from eegfast.cli.synth import synth
from eegfast.cli.train import EXAMPLES as TRAIN_EXAMPLES
from eegfast.cli.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="eegfast",
    help="EEG emotion recognition at hardware speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(info)
app.command(epilog=EXAMPLES)(extract)
app.command()(demo)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
app.command(epilog=REPRODUCE_EXAMPLES)(reproduce)
app.command(epilog=REPORT_EXAMPLES)(report)
app.command(epilog=SYNTH_EXAMPLES)(synth)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command(epilog=PREDICT_EXAMPLES)(predict)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"eegfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors of the user are one sentence, unless EEGFAST_DEBUG=1."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("EEGFAST_DEBUG") == "1":
            raise
        print(f"eegfast: {error}", file=sys.stderr)
        sys.exit(1)
