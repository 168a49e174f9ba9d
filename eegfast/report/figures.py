# SPDX-License-Identifier: BSD-3-Clause
"""The demo's figures, as ``data:`` URIs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eegfast.report.scalp import Scalp, centred, colour_bar
from eegfast.report.style import BLUE, GREY, INK, ORANGE, ORDERED, SIGNED, drawn


def _as_image(draw: Callable[..., Figure]) -> Callable[..., str]:
    """Return what a drawing function draws as an SVG ``data:`` URI."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs) -> str:
        return drawn(draw)(*args, **kwargs).uri()

    return wrapped


def model_label(model: Mapping[str, Any]) -> str:
    """``"name | features | normalisation"`` on two lines."""
    return f"{model['name']}\n{model['features']}, {model['normalization']}"


@_as_image
def topomaps(maps: Mapping[str, Any]) -> Figure:
    """Scalp maps: one column per band, one row per condition, then their difference.

    Parameters
    ----------
    maps : mapping
        ``ch_names``, ``positions`` (metres, head frame), ``bands``, ``unit``, ``conditions``
        ({name: (n_chans, n_bands)}). Channels without a position are left out.

    Returns
    -------
    str
        SVG as a ``data:`` URI.

    Raises
    ------
    ImportError
        If mne is not installed.
    ValueError
        If fewer than four channels have a position.
    """
    scalp = Scalp(maps["ch_names"], maps["positions"])
    values = {name: np.asarray(v, float) for name, v in maps["conditions"].items()}
    first, second = list(values)[:2]
    rows = [*values.items(), (f"{second} − {first}", values[second] - values[first])]
    n_bands = len(maps["bands"])
    figure = Figure(figsize=(1.75 * n_bands + 0.9, 6.2), layout="constrained")
    axes = figure.subplots(len(rows), n_bands, squeeze=False)
    for band in range(n_bands):
        column = np.stack([v[scalp.keep, band] for v in values.values()])
        for row, (name, data) in enumerate(rows):
            axis, difference = axes[row, band], row == len(rows) - 1
            limits = centred(data[scalp.keep, band]) if difference else (column.min(), column.max())
            image = scalp.draw(axis, data[:, band], limits, SIGNED if difference else ORDERED)
            if row == 0:
                axis.set_title(maps["bands"][band], loc="center")
            if band == 0:
                axis.set_ylabel(name, fontweight="bold", labelpad=8)
            if row >= len(rows) - 2:
                group = axes[row, band] if difference else axes[: len(rows) - 1, band]
                colour_bar(figure, image, group, maps["unit"], shrink=0.75)
    return figure


@_as_image
def learning_curves(
    histories: Sequence[Mapping[str, Sequence[float]]], chance: float | None = None
) -> Figure:
    """Loss and accuracy over epochs: a thin line per fold, a thick one for their mean.

    Parameters
    ----------
    histories : sequence of mapping
        Per fold: ``train_loss``, ``train_accuracy`` and, maybe, ``val_loss``, ``val_accuracy``.
    chance : float, optional
        Where to draw the line of guessing.

    Returns
    -------
    str
        SVG as a ``data:`` URI.
    """
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    panels = figure.subplots(1, 2)
    sides = {"train": (BLUE, "training subjects"), "val": (ORANGE, "validation subjects")}
    for axis, kind, label in zip(
        panels,
        ("loss", "accuracy"),
        ("cross-entropy (nats)", "accuracy (share of sequences)"),
        strict=True,
    ):
        for side, (colour, name) in sides.items():
            curves = [
                history[f"{side}_{kind}"] for history in histories if f"{side}_{kind}" in history
            ]
            if not curves:
                continue
            for curve in curves:
                axis.plot(range(1, len(curve) + 1), curve, color=colour, alpha=0.3, lw=0.8)
            shortest = min(map(len, curves))
            mean = np.mean([curve[:shortest] for curve in curves], axis=0)
            axis.plot(range(1, shortest + 1), mean, color=colour, lw=2.2, label=f"{name} (mean)")
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.margins(x=0.02)
    if chance is not None:
        panels[1].axhline(chance, color=GREY, lw=1, ls="--", label="chance")
    panels[1].set_ylim(0, 1.03)
    panels[1].legend(loc="lower right", fontsize=8)
    return figure


@_as_image
def confusion_matrices(
    models: Sequence[Mapping[str, Any]], class_names: Sequence[str] | None = None
) -> Figure:
    """Counts of recordings per model; colour is the share of the true class.

    Parameters
    ----------
    models : sequence of mapping
        With ``confusion`` (truth along the rows), ``name``, ``features``, ``normalization``.
    class_names : sequence of str, optional
        Default: class numbers.

    Returns
    -------
    str
        SVG as a ``data:`` URI.
    """
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.75 * rows + 0.2), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.06)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(models) :]:
        axis.set_axis_off()
    for axis, model in zip(axes, models, strict=False):
        counts = np.asarray(model["confusion"])
        names = [str(name) for name in class_names or range(len(counts))]
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if share[i, j] > 0.6 else INK
            axis.text(j, i - 0.06, str(count), ha="center", va="bottom", fontsize=13, color=colour)
            axis.text(
                j, i + 0.08, f"{share[i, j]:.0%}", ha="center", va="top", fontsize=8, color=colour
            )
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names, rotation=90, va="center")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("answer")
        axis.set_ylabel("truth")
        axis.set_title(model_label(model), fontsize=8)
    return figure


@_as_image
def accuracy_per_subject(
    models: Sequence[Mapping[str, Any]], chance: float | None = None
) -> Figure:
    """Sorted bars: share of right units per subject, marked where all recordings are right.

    Parameters
    ----------
    models : sequence of mapping
        With ``subjects`` ({name: {``accuracy``, ``unit_accuracy``}}), ``unit``, and the names.
    chance : float, optional
        Where to draw the line of guessing.

    Returns
    -------
    str
        SVG as a ``data:`` URI.
    """
    most = max(len(model["subjects"]) for model in models)
    figure = Figure(figsize=(max(6.4, 0.33 * most + 1), 2.55 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 1, squeeze=False).ravel()
    for axis, model in zip(axes, models, strict=True):
        ranked = sorted(
            model["subjects"].items(), key=lambda item: (-item[1]["unit_accuracy"], item[0])
        )
        heights = [row["unit_accuracy"] for _, row in ranked]
        colours = [BLUE if row["accuracy"] == 1 else ORANGE for _, row in ranked]
        axis.bar(range(len(ranked)), heights, color=colours, width=0.78)
        for x, (_, row) in enumerate(ranked):
            axis.text(
                x, row["unit_accuracy"] + 0.015, f"{row['accuracy']:.0%}", ha="center", fontsize=6.3
            )
        axis.set_xticks(range(len(ranked)), [name for name, _ in ranked], fontsize=8)
        if max(len(name) for name, _ in ranked) > 4:
            axis.tick_params(axis="x", rotation=60)
        axis.set_xlim(-0.6, len(ranked) - 0.4)
        axis.set_ylim(0, 1.1)
        axis.set_ylabel(f"share of {model['unit']}s right")
        axis.set_title(f"{model['name']}: {model['features']}, {model['normalization']}")
        if chance is not None:
            axis.axhline(chance, color=INK, lw=1, ls="--")
            axis.text(
                1.005,
                chance,
                "chance",
                transform=axis.get_yaxis_transform(),
                va="center",
                fontsize=7.5,
            )
    axes[-1].set_xlabel("subject (sorted by accuracy)")
    return figure


@_as_image
def null_curves(models: Sequence[Mapping[str, Any]]) -> Figure:
    """Share of label permutations at least as accurate as each accuracy, and what was reached.

    Parameters
    ----------
    models : sequence of mapping
        With ``nulls`` (each with ``kind``, ``levels``, ``counts``) and ``accuracy``.

    Returns
    -------
    str
        SVG as a ``data:`` URI.
    """
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = {"refit": BLUE, "swap": ORANGE}
    for axis in axes[len(models) :]:
        axis.set_axis_off()
    for axis, model in zip(axes, models, strict=False):
        for null in model["nulls"]:
            counts = np.asarray(null["counts"])
            at_least = counts[::-1].cumsum()[::-1] / counts.sum()
            axis.step(
                [0, *null["levels"], 1.02],
                [1, *at_least, 0],
                where="pre",
                lw=1.5,
                color=colours.get(null["kind"], GREY),
                label=f"{null['kind']} null",
            )
        axis.axvline(model["accuracy"], color=INK, lw=1.8, label="reached")
        axis.set_xlim(0, 1.02)
        axis.set_ylim(0, 1.03)
        axis.set_title(model_label(model), fontsize=8)
        axis.set_xlabel("accuracy (share of recordings)")
        axis.legend(fontsize=7, loc="lower left", handlelength=1.2)
    for axis in axes[::columns]:
        axis.set_ylabel("share of permutations\nat least as accurate")
    return figure


@_as_image
def speed_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Median times with the spread of the middle half.

    Parameters
    ----------
    rows : sequence of mapping
        ``label``, ``median_ms``, ``low_ms``, ``high_ms`` (quartiles), in milliseconds.

    Returns
    -------
    str
        SVG as a ``data:`` URI.
    """
    figure = Figure(figsize=(8.0, 0.55 * len(rows) + 0.75), layout="constrained")
    axis = figure.subplots()
    medians = np.array([row["median_ms"] for row in rows])
    low = medians - [row["low_ms"] for row in rows]
    high = [row["high_ms"] for row in rows] - medians
    colours = [BLUE, *[GREY] * (len(rows) - 1)]
    axis.barh(
        range(len(rows)),
        medians,
        xerr=[low, high],
        color=colours,
        height=0.62,
        error_kw={"lw": 1, "capsize": 3, "ecolor": INK},
    )
    for y, (value, upper) in enumerate(zip(medians, high, strict=True)):
        axis.text(value + upper, y, f"  {value:.2f} ms", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * (medians + high).max())
    axis.set_xlabel("time per call (ms), median and middle half of the runs")
    return figure
