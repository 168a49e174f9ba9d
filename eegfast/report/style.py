# SPDX-License-Identifier: BSD-3-Clause
"""The look of all figures, and figures as ``data:`` URIs or files.

Colours are from the Okabe-Ito set and perceptually ordered maps, which stay apart for colour-blind
readers and in grey print.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import matplotlib
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("eegfast.report needs matplotlib: pip install 'eegfast[report]'") from error

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8a8f98", "#1f2430"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")
DASHES = ("-", "--", ":", "-.")
ORDERED, SIGNED = "viridis", "RdBu_r"
FORMATS = ("png", "pdf", "svg")

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#b9bec7",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "#5b616c",
    "ytick.color": "#5b616c",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "eegfast",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw under the style without touching Matplotlib's global settings."""
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


class Drawing:
    """A finished figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What was drawn.
    """

    def __init__(self, figure: Figure):
        self.figure = figure

    def uri(self) -> str:
        """The figure as an SVG image in a ``data:`` URI."""
        stream = io.BytesIO()
        with style():
            self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()

    def save(self, path: str | os.PathLike) -> Path:
        """Write the figure in the format of the path's suffix, whole or not at all.

        Parameters
        ----------
        path : path-like
            Ends in ``.png``, ``.pdf`` or ``.svg``; a file of that name is replaced.

        Returns
        -------
        Path
            The file.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with style():
            try:
                self.figure.savefig(part, format=path.suffix[1:], dpi=200, facecolor="white")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        return path


def drawn(draw: Callable[..., Figure]) -> Callable[..., Drawing]:
    """Run a drawing function under the style and return what it drew."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs) -> Drawing:
        with style():
            return Drawing(draw(*args, **kwargs))

    return wrapped


def short(name: object, length: int = 18) -> str:
    """A name that fits a figure: one line, its middle left out where it is long."""
    text = " ".join(str(name).split())
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[: length - 1 - head]}…{text[-head:]}"


def wrapped(text: str, width: int) -> str:
    """A title on at most two lines of so many characters."""
    lines = textwrap.wrap(text, width) or [""]
    return "\n".join([lines[0], *[short(" ".join(lines[1:]), width)] * (len(lines) > 1)])


def line_style(index: int) -> dict[str, str]:
    """Colour and dash of the n-th of several curves; dashes change when the colours are used up."""
    dash = DASHES[index // len(PALETTE) % len(DASHES)]
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": dash}
