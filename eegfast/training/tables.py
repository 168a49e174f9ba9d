# SPDX-License-Identifier: BSD-3-Clause
"""Results as a tidy table, as files, and compared with each other."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eegfast.training.answers import AnswerTable
from eegfast.training.results import Results
from eegfast.training.runs import write_file
from eegfast.training.scores import CLASS_METRICS, METRICS, intervals, scores

COLUMNS = {
    "run": str,
    "recipe": str,
    "model": str,
    "dataset": str,
    "protocol": str,
    "leaks": bool,
    "split": str,
    "unit": str,
    "subject_id": str,
    "class": str,
    "metric": str,
    "value": float,
    "ci_low": float,
    "ci_high": float,
    "n": int,
}
TABLE_FORMATS = ("csv", "json", "parquet")
_NOWHERE = (math.nan, math.nan)


def rows(results: Results) -> list[dict[str, Any]]:
    """The results as a tidy table: one score per row.

    Parameters
    ----------
    results : Results
        Of one run.

    Returns
    -------
    list of dict
        With the columns :data:`COLUMNS`. ``split``, ``subject_id`` and ``class`` are empty where a
        row is about all of them. ``n`` counts the units (of the class, in its rows) a score is of;
        in the rows ``<score>_mean_over_<splits|sessions|subjects>`` and ``<score>_std_over_...``
        the groups, in those of the null (``<score>_null_mean``, ``_null_p95``, ``_null_p``) the
        permutations. Undefined numbers are NaN.
    """
    about, table = results.about, []
    common = {name: about[name] for name in ("run", "recipe", "model", "dataset", "protocol")}

    def add(metric, value, n, unit, *, split="", subject="", label="", ci=_NOWHERE, leaks=None):
        table.append(
            {
                **common,
                "leaks": results.leaks if leaks is None else leaks,
                "split": split,
                "unit": unit,
                "subject_id": subject,
                "class": label,
                "metric": metric,
                "value": float(value),
                "ci_low": float(ci[0]),
                "ci_high": float(ci[1]),
                "n": int(n),
            }
        )

    def add_all(part, unit, drawn=None, **where):
        for metric in METRICS:
            ci = drawn[metric] if drawn else _NOWHERE
            add(metric, part[metric], part["n"], unit, ci=ci, **where)
        for label, found in part["classes"].items():
            for metric in CLASS_METRICS:
                ci = drawn["classes"][label][metric] if drawn else _NOWHERE
                add(metric, found[metric], found["n"], unit, label=label, ci=ci, **where)

    for unit, found in results.units.items():
        add_all(found["overall"], unit, found["intervals"])
        add("unanswered", found["overall"]["unanswered"], found["overall"]["n"], unit)
        for groups in ("splits", "sessions", "subjects"):
            for metric, spread in found[f"over_{groups}"].items():
                for name in ("mean", "std"):
                    add(f"{metric}_{name}_over_{groups}", spread[name], spread["n"], unit)
        for metric, null in found.get("null", {}).items():
            for name, key in (("mean", "mean"), ("p95", "p95"), ("p", "p_value")):
                add(f"{metric}_null_{name}", null[key], null["n_permutations"], unit)
        for split, part in found["splits"].items():
            add_all(part, unit, split=split, leaks=part["leaks"])
        for subject, part in found["subjects"].items():
            add_all(part, unit, subject=subject)
    return table


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow


def write_table(
    table: Iterable[Mapping[str, Any]], path: str | os.PathLike, format: str | None = None
) -> Path:
    """Write a tidy table, as a whole or not at all.

    Parameters
    ----------
    table : iterable of mapping
        As :func:`rows` returns it; those of several runs can be put together.
    path : path-like
        The file; one of that name is replaced.
    format : {"csv", "json", "parquet"}, optional
        Default: what the file's name ends in.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the format is none of them.
    ImportError
        If it is Parquet and pyarrow is not installed.
    """
    path, table = Path(path), list(table)
    format = table_format(path, format)
    if format == "parquet":
        pyarrow = _pyarrow()
        kinds = {str: pyarrow.string(), bool: pyarrow.bool_(), float: pyarrow.float64()}
        schema = pyarrow.schema(
            [(name, kinds.get(kind, pyarrow.int64())) for name, kind in COLUMNS.items()]
        )
        arrow = pyarrow.Table.from_pylist(table, schema)
        return write_file(path, lambda part: pyarrow.parquet.write_table(arrow, part))
    if format == "json":
        plain = [{name: _or_none(row[name]) for name in COLUMNS} for row in table]
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return write_file(path, lambda part: part.write_text(text, encoding="utf-8"))

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([_cell(row[name]) for name in COLUMNS] for row in table)

    return write_file(path, write)


def table_format(path: str | os.PathLike, format: str | None = None) -> str:
    """The format a table is written in: as named, or as the file's name ends."""
    chosen = Path(path).suffix.lower().removeprefix(".") if format is None else format
    if chosen not in TABLE_FORMATS:
        raise ValueError(
            f"{path}: a table is written as {', '.join(TABLE_FORMATS)}, got {chosen or 'no suffix'}"
        )
    if chosen == "parquet":
        _pyarrow()
    return chosen


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}" if math.isfinite(value) else ""
    return str(value)


def write_results(results: Results, folder: str | os.PathLike) -> list[Path]:
    """Write ``results.json`` and ``results.csv``, and ``results.parquet`` where pyarrow is at hand.

    Parameters
    ----------
    results : Results
        Of one run.
    folder : path-like
        Its folder. Files of these names are replaced.

    Returns
    -------
    list of Path
        What was written.
    """
    folder, table = Path(folder), rows(results)
    text = json.dumps(results.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    written = [
        write_file(folder / "results.json", lambda part: part.write_text(text, encoding="utf-8")),
        write_table(table, folder / "results.csv"),
    ]
    parquet = folder / "results.parquet"
    try:
        written.append(write_table(table, parquet))
    except ImportError:
        parquet.unlink(missing_ok=True)  # of an older evaluation
    return written


def compare(
    first: Results,
    second: Results,
    *,
    unit: str = "trial",
    level: float = 0.95,
    method: str = "percentile",
    n_draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Second run minus first, paired by subject.

    Parameters
    ----------
    first, second : Results
        Of two runs.
    unit : {"trial", "sample"}
        What is counted.
    level, method, n_draws, seed
        Of the intervals; each draw takes the same subjects from both runs.

    Returns
    -------
    dict
        ``first``, ``second`` (runs), ``unit``, ``n_subjects``, ``differences`` ``{score: {value,
        low, high}}``, and ``unpaired``: why there are no differences, or ``None``. There are some
        only if both runs split the same trials in the same way.
    """
    found = {
        "first": first.about["run"],
        "second": second.about["run"],
        "unit": unit,
        "unpaired": _unpaired(first, second),
        "n_subjects": first.about["n_subjects"],
        "differences": {},
    }
    if found["unpaired"] is None:
        ours, theirs = (
            table.counts(table.subject)
            for table in (AnswerTable(results.answers, unit) for results in (second, first))
        )
        drawn = intervals(ours, level, method=method, n_draws=n_draws, seed=seed, minus=theirs)
        after, before = scores(ours.sum(0)), scores(theirs.sum(0))
        found["differences"] = {
            name: {
                "value": float(after[name] - before[name]),
                "low": float(drawn[name][0]),
                "high": float(drawn[name][1]),
            }
            for name in METRICS
        }
    return found


def _unpaired(first: Results, second: Results) -> str | None:
    """Why two runs cannot be paired."""
    same = {
        "dataset": "another data set",
        "select": "another part of the data set, or other labels",
        "protocol": "another protocol",
        "protocol_options": "other options of the protocol",
    }
    for what, why in same.items():
        if first.about[what] != second.about[what]:
            return why
    tested = [_tested(results.answers) for results in (first, second)]
    if tested[0].keys() != tested[1].keys():
        return "other splits, or not all of them are finished"
    if any(not np.array_equal(tested[0][split], tested[1][split]) for split in tested[0]):
        return "other trials in the splits, or with other labels"
    return None


def _tested(answers: Sequence) -> dict[str, np.ndarray]:
    return {
        part.split: np.char.add(
            np.char.add(part.samples.trials.groups("trial"), " "),
            part.samples.trials.label.astype(str),
        )
        for part in answers
    }
