# SPDX-License-Identifier: BSD-3-Clause
"""Figures of training runs: learning curves, confusion, classes, subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eegfast.report.style import BLUE, GREY, INK, ORANGE, drawn, line_style, short, wrapped

SUBJECTS_PER_ROW = 40
MOST_LINES = 60


def _stacked(histories: Sequence[Mapping[str, Sequence]], column: str, stages: Sequence[str]):
    """Curves of all fits side by side, NaN where a fit has no value, and where stages begin."""
    parts, begins = [], [0]
    for stage in stages:
        rows = []
        for history in histories:
            names = history.get("stage", [""] * len(history["train_loss"]))
            values = history.get(column, [])
            rows.append([v for v, s in zip(values, names, strict=False) if str(s) == stage])
        part = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
        for row, values in zip(part, rows, strict=True):
            row[: len(values)] = [np.nan if v is None else float(v) for v in values]
        parts.append(part)
        begins.append(begins[-1] + part.shape[1])
    return np.concatenate(parts, 1), begins


@drawn
def learning_curves(
    histories: Sequence[Mapping[str, Sequence]], chance: float | None = None
) -> Figure:
    """Loss and accuracy over epochs: every fit, the mean, and a band of the middle 80 %.

    Parameters
    ----------
    histories : sequence of mapping
        Per fit, columns of equal length: ``train_loss``, ``train_accuracy`` and, maybe,
        ``val_loss``, ``val_accuracy``, ``stage``. Missing values are NaN or None.
    chance : float, optional
        Where to draw the line of guessing.

    Returns
    -------
    Drawing
        Two panels. Epochs of later stages follow those of earlier ones.
    """
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    stages = list(
        dict.fromkeys(str(s) for history in histories for s in history.get("stage", [""]))
    )
    for axis, kind in zip(panels, ("loss", "accuracy"), strict=True):
        for side, colour, name in (("train", BLUE, "training"), ("val", ORANGE, "validation")):
            curves, begins = _stacked(histories, f"{side}_{kind}", stages)
            alive = np.isfinite(curves).sum(0)
            if not alive.any():
                continue
            epochs = np.arange(1, curves.shape[1] + 1)
            for curve in curves[:MOST_LINES]:
                axis.plot(epochs, curve, color=colour, alpha=0.22, lw=0.7)
            # Where only few fits are still trained, their mean would be another average.
            most = alive >= max(1, len(histories) / 2)
            columns = curves[:, most]
            axis.plot(
                epochs[most], np.nanmean(columns, 0), color=colour, lw=2.2, label=f"{name}, mean"
            )
            if len(histories) > 2:
                low, high = np.nanquantile(columns, [0.1, 0.9], axis=0)
                axis.fill_between(epochs[most], low, high, color=colour, alpha=0.15, lw=0)
            if len(stages) > 1 and kind == "loss" and side == "train":
                for stage, begin in zip(stages, begins[:-1], strict=True):
                    axis.text(
                        begin + 0.7,
                        1.0,
                        short(stage, 14),
                        transform=axis.get_xaxis_transform(),
                        va="bottom",
                        fontsize=7.5,
                        color="#5b616c",
                    )
            for begin in begins[1:-1] if side == "train" else ():
                axis.axvline(begin + 0.5, color=GREY, lw=0.9, ls=":")
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.margins(x=0.02)
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[1].set_ylabel("accuracy (% of samples)")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    if chance is not None:
        panels[1].axhline(chance, color=INK, lw=1, ls="--", label="chance")
    panels[1].set_ylim(0, 1.03)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


@drawn
def confusion_matrices(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Counts per run and, below them and as colour, percent of the true class.

    Parameters
    ----------
    runs : sequence of mapping
        With ``label``, ``class_names``, and ``confusion`` (counts, truth along the rows).

    Returns
    -------
    Drawing
        One panel per run.
    """
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    most = max(len(run["class_names"]) for run in runs)
    side = min(1.5 + 0.62 * most, 4.6)
    figure = Figure(figsize=((side + 0.35) * columns, (side + 0.25) * rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.08)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(runs) :]:
        axis.set_axis_off()
    for axis, run in zip(axes, runs, strict=False):
        counts = np.asarray(run["confusion"])
        names = [short(name, 10) for name in run["class_names"]]
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
        size = 11 if len(names) <= 4 else 8.5
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if share[i, j] > 0.6 else INK
            text = {"ha": "center", "color": colour}
            axis.text(j, i - 0.04, f"{count}", va="bottom", fontsize=size, **text)
            axis.text(j, i + 0.08, f"{share[i, j]:.0%}", va="top", fontsize=size - 2.5, **text)
        crowded = len("".join(names)) > 6 * len(names)
        axis.set_xticks(
            range(len(names)),
            names,
            rotation=35 if crowded else 0,
            ha="right" if crowded else "center",
            rotation_mode="anchor",
        )
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("answer")
        axis.set_ylabel("truth")
        axis.set_title(wrapped(run["label"], 9 * len(names) + 10), fontsize=8)
    return figure


@drawn
def per_class(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Recall, precision and F1 of each class, runs over one another.

    Parameters
    ----------
    runs : sequence of mapping
        Runs with the same ``class_names``; with ``label`` and ``per_class`` (``recall``,
        ``precision``, ``f1``: one share per class).

    Returns
    -------
    Drawing
        Radars; dots where there are fewer than three classes, of which no polygon can be made.
    """
    names = [short(name, 14) for name in runs[0]["class_names"]]
    scores = ("recall", "precision", "f1")
    radar = len(names) >= 3
    legend_rows = -(-len(runs) // 2)
    height = (3.0 if radar else 2.5) + 0.17 * legend_rows
    figure = Figure(figsize=(9.4, height), layout="constrained")
    axes = figure.subplots(1, 3, subplot_kw={"projection": "polar"} if radar else None)
    for axis, score in zip(axes, scores, strict=True):
        draw = _radar if radar else _dots
        draw(axis, names, [(run["label"], run["per_class"][score]) for run in runs])
        axis.set_title("F1" if score == "f1" else score, loc="center", pad=18 if radar else 6)
    if not radar:
        axes[0].set_ylabel("% of class")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _radar(axis, names: Sequence[str], curves: Sequence[tuple[str, Sequence[float]]]) -> None:
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    closed = [*angles, angles[0]]
    for i, (label, values) in enumerate(curves):
        filled = np.nan_to_num(np.asarray(values, float))
        look = line_style(i)
        axis.plot(
            closed, [*filled, filled[0]], lw=1.7, marker="o", ms=3, label=short(label, 40), **look
        )
    axis.set_theta_offset(np.pi / 2)
    axis.set_theta_direction(-1)
    axis.set_xticks(angles, names, fontsize=8)
    for text, angle in zip(axis.get_xticklabels(), angles, strict=True):
        sideways = np.sin(angle)
        text.set_horizontalalignment(
            "center" if abs(sideways) < 0.2 else "left" if sideways > 0 else "right"
        )
    axis.tick_params(axis="x", pad=1)
    axis.set_ylim(0, 1)
    axis.set_yticks([0.25, 0.5, 0.75, 1], ["25", "50", "75", "100 %"], fontsize=6.5)
    axis.set_rlabel_position(180 / len(names))
    axis.grid(color="#d4d8de", lw=0.7)
    axis.spines["polar"].set_color("#d4d8de")


def _dots(axis, names: Sequence[str], curves: Sequence[tuple[str, Sequence[float]]]) -> None:
    for i, (label, values) in enumerate(curves):
        x = np.arange(len(names)) + 0.5 * (i + 0.5) / len(curves) - 0.25
        axis.plot(
            x, values, color=line_style(i)["color"], marker="o", ls="", ms=6, label=short(label, 40)
        )
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_ylim(0, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axis.grid(axis="y", color="#d4d8de", lw=0.7)


@drawn
def subject_bars(run: Mapping[str, Any], chance: float | None = None) -> Figure:
    """Accuracy of each subject with its interval, sorted.

    Parameters
    ----------
    run : mapping
        With ``subjects``: {name: {``value``, ``low``, ``high``}}, shares; low and high may be None.
    chance : float, optional
        Where to draw the line of guessing.

    Returns
    -------
    Drawing
        Rows of at most 40 subjects.
    """
    ranked = sorted(run["subjects"].items(), key=lambda item: (-item[1]["value"], item[0]))
    n_rows = -(-len(ranked) // SUBJECTS_PER_ROW)
    per_row = -(-len(ranked) // n_rows)
    names = [short(name, 14) for name, _ in ranked]
    upright = max(map(len, names)) > 3
    height = 2.1 + 0.075 * max(map(len, names)) * upright
    figure = Figure(figsize=(min(max(4.6, 0.3 * per_row + 1.3), 9.4), height * n_rows))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(n_rows, 1, squeeze=False).ravel()
    for k, axis in enumerate(axes):
        part = ranked[k * per_row : (k + 1) * per_row]
        values = np.array([row["value"] for _, row in part])
        x = np.arange(len(part))
        axis.bar(x, values, color=BLUE, width=0.72)
        ends = [(row.get("low"), row.get("high")) for _, row in part]
        known = [i for i, pair in enumerate(ends) if None not in pair]
        if known:
            low, high = np.array([ends[i] for i in known]).T
            middle = values[known]
            spread = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
            axis.errorbar(
                x[known], middle, spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5
            )
        axis.set_xticks(
            x, names[k * per_row :][: len(part)], rotation=90 if upright else 0, fontsize=8
        )
        axis.tick_params(axis="x", length=0)
        axis.set_xlim(-0.6, per_row - 0.4)
        axis.set_ylim(0, 1.04)
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axis.set_ylabel("accuracy\n(% of samples)")
        if chance is not None:
            axis.axhline(chance, color=ORANGE, lw=1.4, ls="--")
            place = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
            axis.text(1.005, chance, "chance", **place)
    axes[-1].set_xlabel("subject, sorted by accuracy")
    return figure
