# SPDX-License-Identifier: BSD-3-Clause
"""The sections of a comparison: which figures there are, in words too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eegfast.report import model_figures, run_figures
from eegfast.report.style import Drawing

Run = Mapping[str, Any]

PIXELS_PER_INCH = 104  # the page's text and that of the figures then are nearly of one size


def _figure(name: str, drawing: Drawing, alt: str, caption: str, title: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "drawing": drawing,
        "src": drawing.uri(),
        "width": round(PIXELS_PER_INCH * drawing.figure.get_figwidth()),
        "alt": alt,
        "caption": caption,
    }


def sections(runs: Sequence[Run], unit: str) -> list[dict[str, Any]]:
    """Draw all figures.

    Parameters
    ----------
    runs : sequence of mapping
        As :func:`~eegfast.report.write_comparison` takes them.
    unit : {"sample", "trial"}
        What is counted.

    Returns
    -------
    list of dict
        ``title``, ``intro``, ``figures`` (``name``, ``title``, ``drawing``, ``src``, ``width`` in
        pixels, ``alt``, ``caption``), ``missing`` (what is not shown, and why); those with neither
        are left out.
    """
    made = [
        {
            "title": "Subjects",
            "intro": f"Share of each subject's {unit}s answered right. The lines are 95 % "
            "intervals (Wilson) as if each trial were one independent answer; windows of a trial "
            "are not.",
            "figures": [_subjects(run, unit) for run in runs],
        },
        {"title": "Classes", "figures": [*_per_class(runs, unit), *_confusion(runs, unit)]},
        {
            "title": "Learning curves",
            "intro": "Thin lines: each fit; thick: their mean while at least half are trained; "
            "band: the middle 80 %. Dotted: another stage of training begins. Training figures are "
            "taken while the weights change.",
            "figures": [_curves(run) for run in runs if any(run["histories"])],
        },
        {
            "title": "What the networks see and have learned",
            "intro": "Of one fit per run; others may have learned otherwise.",
            "figures": [figure for run in runs for figure in _explained(run)],
            "missing": [f"{run['label']}: {text}" for run in runs for text in run["missing"]],
        },
    ]
    filled = [section for section in made if section["figures"] or section.get("missing")]
    return [{"intro": "", "missing": [], **section} for section in filled]


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``n`` independent answers."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _chance(run: Run) -> float:
    return 1 / len(run["results"]["class_names"])


def _subjects(run: Run, unit: str) -> dict[str, Any]:
    units = run["results"]["units"]
    rows = {}
    for name, scored in units[unit]["subjects"].items():
        if scored["accuracy"] is not None:
            low, high = wilson(scored["accuracy"], units["trial"]["subjects"][name]["n"])
            rows[name] = {"value": scored["accuracy"], "low": low, "high": high}
    values = sorted(row["value"] for row in rows.values())
    return _figure(
        f"subjects {run['label']}",
        run_figures.subject_bars({"subjects": rows}, _chance(run)),
        f"Accuracy of {len(rows)} subjects of {run['label']}: from {values[0]:.0%} to "
        f"{values[-1]:.0%}, median {values[len(values) // 2]:.0%}",
        f"{len(rows)} {'subject' if len(rows) == 1 else 'subjects'}.",
        run["label"],
    )


def _confusion(runs: Sequence[Run], unit: str) -> list[dict[str, Any]]:
    figures = []
    for names, group in _by_classes(runs).items():
        entries = [
            {
                "label": run["label"],
                "class_names": names,
                "confusion": run["results"]["units"][unit]["overall"]["confusion"],
            }
            for run in group
        ]
        figures.append(
            _figure(
                f"confusion {' '.join(names)}",
                run_figures.confusion_matrices(entries),
                "Confusion matrices: " + "; ".join(map(_confusion_words, entries)),
                f"{unit.capitalize()}s of all splits, truth along the rows. Percentages, and "
                "colours, are of the true class.",
                "Confusion",
            )
        )
    return figures


def _confusion_words(entry: Mapping[str, Any]) -> str:
    shares = [
        f"{name} {row[k] / max(sum(row), 1):.0%} right"
        for k, (name, row) in enumerate(zip(entry["class_names"], entry["confusion"], strict=True))
    ]
    return f"{entry['label']}: {', '.join(shares)}"


def _by_classes(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Run]]:
    """Runs that tell the same classes apart."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run["results"]["class_names"]), []).append(run)
    return groups


def _per_class(runs: Sequence[Run], unit: str) -> list[dict[str, Any]]:
    figures = []
    for names, group in _by_classes(runs).items():
        entries = []
        for run in group:
            classes = run["results"]["units"][unit]["overall"]["classes"]
            scores = {
                metric: [
                    math.nan if classes[name][metric] is None else classes[name][metric]
                    for name in names
                ]
                for metric in ("recall", "precision", "f1")
            }
            entries.append({"label": run["label"], "class_names": names, "per_class": scores})
        figures.append(
            _figure(
                f"classes {' '.join(names)}",
                run_figures.per_class(entries),
                f"Recall, precision and F1 of the classes {', '.join(names)} for "
                + ", ".join(entry["label"] for entry in entries),
                "Recall: share of a class that is answered right. Precision: share of the answers "
                "with this class that are right. F1: their harmonic mean.",
                "Scores per class",
            )
        )
    return figures


def _curves(run: Run) -> dict[str, Any]:
    histories = [history for history in run["histories"] if history]
    last = [history["train_accuracy"][-1] for history in histories]
    return _figure(
        f"learning curves {run['label']}",
        run_figures.learning_curves(histories, _chance(run)),
        f"Loss and accuracy over epochs of {len(histories)} fits of {run['label']}; training "
        f"accuracy ends at {sum(last) / len(last):.0%} on average",
        f"{len(histories)} {'fit' if len(histories) == 1 else 'fits'}.",
        run["label"],
    )


def _explained(run: Run) -> list[dict[str, Any]]:
    found, label = run["explained"], run["label"]
    of = f"{label}, fit {found['fit']}" if found.get("fit") else label
    figures = []

    def add(name: str, draw, data, title: str, alt: str, caption: str) -> None:
        heading = f"{label}: {title}"
        figures.append(_figure(f"{name} {label}", draw(data), f"{alt}, {of}", caption, heading))

    if maps := found.get("topographies"):
        add(
            "topographies",
            model_figures.class_topographies,
            maps,
            "differential entropy over the scalp",
            f"Scalp maps for the bands {', '.join(maps['bands'])} and the classes "
            f"{', '.join(maps['classes'])}",
            f"Top: mean of the classes; below: each class's difference from it, one scale per "
            f"band. Values: {maps['what']}. Seen from above, nose up; between the electrodes "
            "(dots, where shown) values are interpolated.",
        )
    if filters := found.get("spatial_filters"):
        add(
            "spatial filters",
            model_figures.spatial_filters,
            filters,
            "spatial filters",
            f"Weights of {len(filters['weights'][0])} spatial filters on the scalp, branches "
            + ", ".join(filters["branches"]),
            f"Fit {found['fit']}. Weights on the electrodes where they are. If both branches have "
            "learned the same, a filter's two maps are mirror images. The sign of a filter means "
            "nothing. Weights are not sources: they also cancel what disturbs.",
        )
    if responses := found.get("filter_responses"):
        add(
            "filter responses",
            model_figures.filter_responses,
            responses,
            "temporal filters",
            f"Gain over frequency of {len(responses['bands'])} filters, learned and at the start",
            f"Fit {found['fit']}. Grey: band-pass filters as training begins, of the bands above "
            "the panels; blue: as learned. Few taps cannot resolve narrow bands, so neighbours "
            "overlap.",
        )
    if maps := found.get("scale_maps"):
        add(
            "scale maps",
            model_figures.scale_maps,
            maps,
            "output of the scaling layer",
            f"Activation over time for kernels of {len(maps['lengths'])} lengths",
            f"Fit {found['fit']}. Of each class the test sample that the network is surest of. "
            "Means over electrodes, of each kernel relative to its mean over time. Rows are "
            "kernels, longest first, as a spectrogram's rows are bands.",
        )
    if stages := found.get("attention"):
        add(
            "attention",
            model_figures.attention_maps,
            stages,
            "attention",
            f"Attention over the scalp and over bands or time, {len(stages)} blocks",
            f"Fit {found['fit']}. Left: over the maps' plane, nose up, per true class; right: over "
            "bands or time. Means over test samples. Row titles: stream, and number of the block.",
        )
    if attention := found.get("temporal_attention"):
        add(
            "attention over time",
            model_figures.temporal_attention,
            attention,
            "attention over time",
            "Share of attention on each step of the sequence, per head and class",
            f"Fit {found['fit']}. Means over test samples by true class. Dashed: all steps alike.",
        )
    return figures
