# SPDX-License-Identifier: BSD-3-Clause
"""The file of benchmark results: rows of other settings stay, those of the same are replaced."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("harness"), __import__("table")
    for name in ("harness", "table"):
        del sys.modules[name]


def row(harness, seconds, threads=2, **options):
    times = {"ours": [seconds] * 3, "eager": [8 * seconds] * 3, "ours again": [seconds] * 3}
    times["compile"] = [3 * seconds] * 3
    facts = {**harness.environment(cold=False), "threads": threads}
    return harness.Row("some_op a", "(2, 3)", 1e-7, 1e-6, times, facts, **options)


def test_rows_of_the_same_settings_are_replaced(modules, tmp_path):
    harness, _ = modules
    path = tmp_path / "cpu.json"
    harness.merge_results(path, [row(harness, 1e-3), row(harness, 2e-3, threads=1)])
    harness.merge_results(path, [row(harness, 4e-3)])
    rows = json.loads(path.read_text())["rows"]
    medians = {r["threads"]: r["contenders"]["ours"]["median_ms"] for r in rows}
    assert medians == {2: 4.0, 1: 2.0}


def test_the_table_names_the_best_rival(modules, tmp_path):
    harness, table = modules
    path = tmp_path / "cpu.json"
    harness.merge_results(path, [row(harness, 1e-3, predicted_ms=0.9, goal=(7, 2.5))])
    last = table.table(path).splitlines()[-1]
    settings = f"2 threads, {harness.environment(cold=False)['isa']}"
    assert last == (
        f"| a | (2, 3) | {settings} | 1 | 8.0 | 3.0 | compile | 7 / 2.5 | 0.9 | 1.0e-07 | yes |"
    )


@pytest.mark.parametrize("results", sorted((BENCHMARKS / "results").glob("*.json")))
def test_results_in_the_repository_are_the_table(modules, results):
    _, table = modules
    assert results.with_suffix(".md").read_text() == table.table(results)
