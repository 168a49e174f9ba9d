# SPDX-License-Identifier: BSD-3-Clause
"""Results in, three files out: ``report.html``, ``results.json``, ``results.csv``."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ReportFiles:
    """Paths of what :func:`write_report` wrote.

    Attributes
    ----------
    html, json, csv : pathlib.Path
        The page, all results, and the accuracies per model and subject.
    """

    html: Path
    json: Path
    csv: Path


def _plain(value: Any) -> Any:
    """NumPy values and paths as JSON's own types; NaN and infinities as ``null``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def _csv_text(results: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["model", "features", "normalization", "subject", "accuracy", "unit", "unit_accuracy"]
    )
    for model in results["models"]:
        rows = {"all": model, **model["subjects"]}
        for subject, row in rows.items():
            writer.writerow(
                [
                    model["name"],
                    model["features"],
                    model["normalization"],
                    subject,
                    f"{row['accuracy']:.6f}",
                    model["unit"],
                    f"{row['unit_accuracy']:.6f}",
                ]
            )
    return stream.getvalue()


def _write(path: Path, text: str) -> Path:
    """Write a whole file or none."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def write_report(results: Mapping[str, Any], folder: str | Path) -> ReportFiles:
    """Write the page and the numbers behind it.

    Parameters
    ----------
    results : mapping
        What was found; arrays may be NumPy's. Keys, of which only ``title`` and ``models`` are
        required (a missing section is left out of the page):

        ``title``, ``subtitle`` : str
        ``shows``, ``does_not_show`` : list of str
            Sentences of the plain-language box.
        ``verdict`` : list of str
            Sentences on which model is better; the first stands out.
        ``class_names`` : list of str
        ``chance`` : float
            Accuracy of guessing.
        ``models`` : list of dict
            ``name``, ``features``, ``normalization``, ``transductive`` (bool), ``unit``,
            ``accuracy``, ``interval`` ((low, high)), ``unit_accuracy``, ``subjects`` ({subject:
            {``accuracy``, ``unit_accuracy``}}), ``confusion`` (K x K counts, truth along rows),
            ``nulls`` (list of {``kind``, ``n_permutations``, ``mean``, ``p95``, ``p_value``,
            ``levels``, ``counts``}), ``histories`` (list of learning curves), ``seconds``.
        ``featured`` : list of int
            Models shown subject by subject; default all.
        ``topomaps`` : dict
            ``ch_names``, ``positions`` ({name: (x, y, z)} in metres), ``bands`` (list of labels),
            ``unit``, ``conditions`` ({name: (n_chans, n_bands)}), first and second are subtracted.
        ``speed`` : dict
            ``what``, ``shape``, ``kernel`` (bool), ``rows`` (list of {``label``, ``median_ms``,
            ``low_ms``, ``high_ms``}), ``ratio``, ``max_error``, ``tolerance``, ``threads``,
            ``runs``.
        ``notes`` : list of {``title``, ``text``}
        ``provenance``, ``options`` : dict of str to value
        ``explain`` : str
            The feature recipe, in full.
        ``dataset`` : dict
            ``name``, ``citation``, ``license``.
    folder : path-like
        Made if missing. Files of the same names are replaced.

    Returns
    -------
    ReportFiles
        The paths written.

    Raises
    ------
    ValueError
        If ``models`` is missing or empty, or the title is missing.
    ImportError
        If jinja2, matplotlib or mne is not installed.

    Notes
    -----
    The page loads nothing from anywhere: figures are SVG images inside it. All text is escaped.
    """
    if not results.get("title") or not results.get("models"):
        raise ValueError("write_report: results needs a title and at least one model")
    from eegfast.report.page import render

    html = render(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(_plain(results), indent=2, ensure_ascii=False, allow_nan=False)
    return ReportFiles(
        html=_write(folder / "report.html", html),
        json=_write(folder / "results.json", document + "\n"),
        csv=_write(folder / "results.csv", _csv_text(results)),
    )
