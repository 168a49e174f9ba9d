# SPDX-License-Identifier: BSD-3-Clause
"""Figures of what networks see and have learned. All take arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eegfast.report.scalp import Scalp, centred, colour_bar, draw_grid, span
from eegfast.report.style import (
    BLUE,
    GREY,
    ORANGE,
    ORDERED,
    SIGNED,
    drawn,
    line_style,
    short,
)

ATTENTION = "cividis"


@drawn
def class_topographies(maps: Mapping[str, Any]) -> Figure:
    """Scalp maps per band: the mean over classes, then how each class differs from it.

    Parameters
    ----------
    maps : mapping
        ``bands`` (labels), ``unit``, ``classes``: {name: array}; the arrays are (n_chans, n_bands)
        with ``ch_names`` and ``positions``, or (n_bands, height, width), maps on a grid.

    Returns
    -------
    Drawing
        One column per band. Within a band, the classes share a scale with zero in its middle.
    """
    values = {name: np.asarray(array, float) for name, array in maps["classes"].items()}
    on_grid = maps.get("ch_names") is None
    mean = np.mean(list(values.values()), 0)
    bands = [array if on_grid else array.T for array in (mean, *values.values())]
    mean, classes = bands[0], [array - bands[0] for array in bands[1:]]
    scalp = None if on_grid else Scalp(maps["ch_names"], maps["positions"])

    def draw(axis, array, limits, cmap):
        return (
            draw_grid(axis, array, limits, cmap)
            if on_grid
            else (scalp.draw(axis, array, limits, cmap))
        )

    def shown(array):
        return array if on_grid else array[..., scalp.keep]

    n_bands, n_rows = len(maps["bands"]), 1 + len(classes)
    figure = Figure(figsize=(1.55 * n_bands + 1.0, 1.55 * n_rows + 1.1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02)
    axes = figure.subplots(n_rows, n_bands, squeeze=False)
    for band in range(n_bands):
        axes[0, band].set_title(maps["bands"][band], loc="center")
        image = draw(axes[0, band], mean[band], span(shown(mean[band])), ORDERED)
        colour_bar(figure, image, axes[0, band], maps["unit"], shrink=0.8)
        limits = centred(np.stack([shown(array[band]) for array in classes]))
        for row, array in enumerate(classes, 1):
            image = draw(axes[row, band], array[band], limits, SIGNED)
        colour_bar(figure, image, axes[1:, band], f"difference ({maps['unit']})", shrink=0.8)
    axes[0, 0].set_ylabel("mean of\nclasses", fontweight="bold", labelpad=6)
    for row, name in enumerate(values, 1):
        axes[row, 0].set_ylabel(f"{short(name, 14)}\n− mean", fontweight="bold", labelpad=6)
    return figure


@drawn
def spatial_filters(filters: Mapping[str, Any]) -> Figure:
    """Learned weights on the electrodes, the two branches below one another.

    Parameters
    ----------
    filters : mapping
        ``weights`` (branches, n_spatial, n_chans), ``branches`` (their names), ``ch_names``,
        ``positions``.

    Returns
    -------
    Drawing
        Each filter in its own colours, zero in the middle, the same for its branches.
    """
    weights = np.asarray(filters["weights"], float)
    n_branches, n_filters, _ = weights.shape
    scalp = Scalp(filters["ch_names"], filters["positions"])
    columns = min(8, n_filters)
    blocks = -(-n_filters // columns)
    figure = Figure(
        figsize=(1.14 * columns + 0.5, blocks * (1.18 * n_branches + 0.25) + 0.75),
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=0.015, w_pad=0.01, hspace=0.01, wspace=0.01)
    axes = figure.subplots(blocks * n_branches, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    # Sign and size of a component are arbitrary: each has a scale of its own.
    scale = np.abs(weights[..., scalp.keep]).max((0, 2))
    for i in range(n_filters):
        for branch in range(n_branches):
            axis = axes[i // columns * n_branches + branch, i % columns]
            axis.set_axis_on()
            image = scalp.draw(axis, weights[branch, i] / max(scale[i], 1e-12), (-1, 1), SIGNED)
            if branch == 0:
                axis.set_title(f"{i + 1}", loc="center", fontsize=8, pad=2)
            if i % columns == 0:
                axis.set_ylabel(filters["branches"][branch], fontsize=8, labelpad=4)
    colour_bar(
        figure, image, axes, "weight, over the filter's largest", shrink=0.3, aspect=24, pad=0.02
    )
    return figure


@drawn
def filter_responses(responses: Mapping[str, Any]) -> Figure:
    """Gain of each temporal filter over frequency, learned over its start.

    Parameters
    ----------
    responses : mapping
        ``frequencies`` (Hz), ``learned`` and ``start`` (filters, n_points), ``bands`` (low, high).

    Returns
    -------
    Drawing
        One small panel per filter.
    """
    frequencies = np.asarray(responses["frequencies"])
    start, learned = np.asarray(responses["start"]), np.asarray(responses["learned"])
    columns = min(6, len(learned))
    rows = -(-len(learned) // columns)
    figure = Figure(figsize=(1.55 * columns + 0.5, 1.2 * rows + 0.75), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.ravel()[len(learned) :]:
        axis.set_axis_off()
    for i, axis in enumerate(axes.ravel()[: len(learned)]):
        axis.fill_between(frequencies, start[i], color=GREY, alpha=0.35, lw=0, label="start")
        axis.plot(frequencies, learned[i], color=BLUE, lw=1.3, label="learned")
        low, high = responses["bands"][i]
        axis.set_title(f"{low:g}–{high:g} Hz", fontsize=8)
        axis.tick_params(labelsize=7.5)
        if i + columns >= len(learned):
            axis.tick_params(labelbottom=True)
    axes[0, 0].set_xlim(0, frequencies[-1])
    axes[0, 0].set_ylim(bottom=0)
    figure.supxlabel("frequency (Hz)", fontsize=9)
    figure.supylabel("gain (out / in)", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
    return figure


@drawn
def scale_maps(maps: Mapping[str, Any]) -> Figure:
    """Output of the scaling layer over time, one example per class, like a spectrogram.

    Parameters
    ----------
    maps : mapping
        ``examples``: {class name: (levels, n_times)}, means over electrodes; ``lengths`` of the
        kernels in samples; ``sfreq`` in Hz; ``step``, seconds per column.

    Returns
    -------
    Drawing
        One panel per class, the longest kernel on top; each kernel relative to its mean.
    """
    examples = {name: np.asarray(array, float) for name, array in maps["examples"].items()}
    # Shorter kernels pass less; on a common scale their rows would be dark.
    mean = np.mean([array.mean(1, keepdims=True) for array in examples.values()], 0)
    examples = {name: array / np.maximum(mean, 1e-12) for name, array in examples.items()}
    limits = 0.0, max(span(array)[1] for array in examples.values())
    levels = len(maps["lengths"])
    figure = Figure(figsize=(8.6, (0.5 + 0.21 * levels) * len(examples) + 0.6))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(examples), 1, squeeze=False, sharex=True).ravel()
    for axis, (name, array) in zip(axes, examples.items(), strict=True):
        image = axis.imshow(
            array,
            aspect="auto",
            cmap=ORDERED,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
            extent=(0, array.shape[1] * maps["step"], levels - 0.5, -0.5),
        )
        labels = [f"{1e3 * length / maps['sfreq']:.0f}" for length in maps["lengths"]]
        axis.set_yticks(range(levels), labels, fontsize=7.5)
        axis.set_title(short(name, 40))
        axis.spines[:].set_visible(False)
    axes[-1].set_xlabel("time (s)")
    figure.supylabel("length of the kernel (ms)", fontsize=9)
    colour_bar(
        figure, image, axes, "activation over the kernel's mean", upright=True, aspect=30, pad=0.015
    )
    return figure


@drawn
def attention_maps(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Where the network's attention lies: over the scalp per class, and over bands or time.

    Parameters
    ----------
    stages : sequence of mapping
        One per attention: ``title``, ``class_names``, ``spatial`` (classes, height, width),
        ``depth`` (classes, n), ``depth_labels`` (n), ``depth_axis`` (label with its unit),
        ``scale`` (what a weight of 1 means), ``neutral`` (weight that changes nothing).

    Returns
    -------
    Drawing
        One row per attention. The classes of a row share a scale.
    """
    n_classes = max(len(stage["class_names"]) for stage in stages)
    figure = Figure(figsize=(1.5 * n_classes + 4.4, 1.85 * len(stages) + 0.5))
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(
        len(stages), n_classes + 1, width_ratios=[1] * n_classes + [2.3 if n_classes < 5 else 3]
    )
    for row, stage in enumerate(stages):
        spatial = np.asarray(stage["spatial"], float)
        neutral = stage["neutral"]
        # Small differences of weights are not to look great.
        half = max(np.abs(spatial - neutral).max(), 0.1 * neutral)
        limits = neutral - half, neutral + half
        heads = []
        for k, name in enumerate(stage["class_names"]):
            axis = figure.add_subplot(grid[row, k])
            image = draw_grid(axis, spatial[k], limits, ATTENTION)
            axis.set_title(short(name, 12), loc="center", fontsize=8, fontweight="normal", pad=2)
            if k == 0:
                axis.set_ylabel(stage["title"], fontsize=8.5, fontweight="bold", labelpad=6)
            heads.append(axis)
        colour_bar(figure, image, heads, stage["scale"], upright=True, aspect=12, shrink=0.8)
        axis = figure.add_subplot(grid[row, n_classes])
        _weights_of(axis, stage)
        axis.set_ylabel(stage["scale"], fontsize=7.5)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4, fontsize=8)
    return figure


def _weights_of(axis, stage: Mapping[str, Any]) -> None:
    depth = np.asarray(stage["depth"], float)
    x = np.arange(depth.shape[1])
    for k, name in enumerate(stage["class_names"]):
        axis.plot(x, depth[k], marker="o", ms=3.5, lw=1.2, label=short(name, 14), **line_style(k))
    axis.axhline(stage["neutral"], color=GREY, lw=0.8, ls=":")
    if len(x) <= 8:
        axis.set_xticks(x, stage["depth_labels"])
    else:
        axis.set_xticks(x[:: -(-len(x) // 8)], stage["depth_labels"][:: -(-len(x) // 8)])
    axis.tick_params(labelsize=7.5)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel(stage["depth_axis"], fontsize=8)
    axis.margins(x=0.08)
    # Small differences of weights are not to look great.
    low, high = axis.get_ylim()
    half = max(high - stage["neutral"], stage["neutral"] - low, 0.1 * stage["neutral"])
    axis.set_ylim(stage["neutral"] - half, stage["neutral"] + 1.1 * half)


@drawn
def temporal_attention(attention: Mapping[str, Any]) -> Figure:
    """Attention over the steps of a sequence, one panel per head.

    Parameters
    ----------
    attention : mapping
        ``weights`` (classes, heads, steps), each head's sum 1; ``class_names``; ``windows``:
        feature windows per step.

    Returns
    -------
    Drawing
        Bars beside one another per class.
    """
    weights = np.asarray(attention["weights"], float)
    n_classes, n_heads, n_steps = weights.shape
    figure = Figure(figsize=(min(3.1 * n_heads + 0.6, 9.4), 2.6), layout="constrained")
    axes = figure.subplots(1, n_heads, squeeze=False, sharey=True)[0]
    width = 0.8 / n_classes
    for head, axis in enumerate(axes):
        for k, name in enumerate(attention["class_names"]):
            x = np.arange(1, n_steps + 1) + (k - (n_classes - 1) / 2) * width
            colour = line_style(k)["color"]
            axis.bar(x, weights[k, head], width * 0.92, color=colour, label=short(name, 16))
        axis.axhline(1 / n_steps, color=ORANGE if n_classes == 1 else GREY, lw=1, ls="--")
        axis.set_title(f"head {head + 1}")
        axis.set_xticks(range(1, n_steps + 1, -(-n_steps // 12)))
        axis.set_xlim(0.4, n_steps + 0.6)
    axes[0].set_ylabel("attention (share, sums to 1)")
    figure.supxlabel(f"step of the encoder ({attention['windows']} windows each)", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure
