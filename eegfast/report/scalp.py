# SPDX-License-Identifier: BSD-3-Clause
"""Values of electrodes as maps of the scalp, and maps on a grid, seen from above, nose up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Ellipse, Polygon
from matplotlib.ticker import MaxNLocator

FEWEST = 4


class Scalp:
    """Where the electrodes are, for drawing.

    Parameters
    ----------
    ch_names : sequence of str
        Electrodes in the order of the values.
    positions : mapping
        ``{name: (x, y, z)}`` in metres, head frame. Electrodes without one are left out.

    Raises
    ------
    ImportError
        If mne is not installed.
    ValueError
        If fewer than four electrodes have a position.
    """

    def __init__(self, ch_names: Sequence[str], positions: Mapping[str, Sequence[float]]):
        try:
            import mne
        except ImportError as error:
            raise ImportError("scalp maps need mne: pip install 'eegfast[report]'") from error
        self.keep = [i for i, name in enumerate(ch_names) if name in positions]
        if len(self.keep) < FEWEST:
            raise ValueError(
                f"topomaps: only {len(self.keep)} channels have a position, {FEWEST} are needed"
            )
        names = [ch_names[i] for i in self.keep]
        places, self.radius = on_head(np.array([positions[name] for name in names], float))
        self.info = mne.create_info(names, 1.0, "eeg", verbose="error")
        montage = mne.channels.make_dig_montage(
            dict(zip(names, places, strict=True)), coord_frame="head"
        )
        self.info.set_montage(montage, verbose="error")

    def draw(self, axis, values: np.ndarray, limits: tuple[float, float], cmap: str) -> Any:
        """Draw one map and return its image.

        Parameters
        ----------
        axis : matplotlib.axes.Axes
            Where.
        values : ndarray, shape (n_chans,)
            One per channel of ``ch_names``.
        limits : (float, float)
            Of the colours.
        cmap : str
            Colour map.
        """
        import mne

        image, _ = mne.viz.plot_topomap(
            np.asarray(values, float)[self.keep],
            self.info,
            axes=axis,
            show=False,
            contours=0,
            sensors="k.",
            cmap=cmap,
            vlim=limits,
            sphere=(0, 0, 0, self.radius),
        )
        for dots in axis.lines:
            if dots.get_marker() == ".":
                dots.set_markersize(3.5 if len(self.keep) <= 32 else 1.6)
        return image


def on_head(positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Electrodes about the middle of the head, and its radius, in metres.

    The sphere nearest to the electrodes gives middle and radius; the middle is then lowered to the
    lowest electrodes, so that none is drawn outside the head.
    """
    system = np.column_stack([2 * positions, np.ones(len(positions))])
    *centre, rest = np.linalg.lstsq(system, (positions**2).sum(1))[0]
    radius = float(np.sqrt(rest + np.dot(centre, centre)))
    return positions - [centre[0], centre[1], positions[:, 2].min()], radius


def draw_grid(axis, values: np.ndarray, limits: tuple[float, float], cmap: str) -> Any:
    """Draw a map on a grid (rows from the nose backwards) with an outline of the head around it."""
    image = axis.imshow(
        values, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=(-1, 1, -1, 1), aspect="equal"
    )
    outline = {"fill": False, "edgecolor": "#5b616c", "lw": 0.9, "clip_on": False}
    axis.add_patch(Ellipse((0, 0), 2.12, 2.12, **outline))
    axis.add_patch(Polygon([(-0.14, 1.06), (0, 1.22), (0.14, 1.06)], closed=False, **outline))
    axis.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.27), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return image


def span(values: np.ndarray) -> tuple[float, float]:
    """Limits of the colours from lowest to highest; never empty."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def centred(values: np.ndarray) -> tuple[float, float]:
    """Limits of diverging colours, zero in the middle."""
    finite = np.abs(values[np.isfinite(values)])
    most = float(finite.max()) if finite.size else 0.0
    return (-most, most) if most > 0 else (-1e-12, 1e-12)


def colour_bar(figure, image, axes, label: str, *, upright: bool = False, **options) -> Any:
    """A slim colour bar with few ticks."""
    side = {"orientation": "vertical" if upright else "horizontal"}
    bar = figure.colorbar(image, ax=axes, **side, **{"aspect": 14, "pad": 0.03, **options})
    bar.locator = MaxNLocator(3)
    bar.update_ticks()
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.set_label(label, fontsize=7.5)
    return bar
