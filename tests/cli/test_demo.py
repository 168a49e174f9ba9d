# SPDX-License-Identifier: BSD-3-Clause
import json
import re

import numpy as np
import pytest
import torch

for package in ("lightning", "sklearn", "mne", "matplotlib", "jinja2"):
    pytest.importorskip(package)

from typer.testing import CliRunner  # noqa: E402

from eegfast.cli import _demo_facts as facts  # noqa: E402
from eegfast.cli import _demo_run as demo_run  # noqa: E402
from eegfast.cli import app  # noqa: E402


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    arguments = ["demo", "-o", str(folder), "--fast", "--subjects", "6", "--folds", "2"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output, json.loads((folder / "results.json").read_text()), folder


def test_it_writes_the_three_files(finished):
    assert sorted(p.name for p in finished[2].iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
    ]


def test_it_prints_a_table_and_says_it_is_not_emotion(finished):
    output = " ".join(finished[0].split())
    assert "not emotion" in output
    assert "ResAttentioNet" in output and "Logistic" in output
    assert "Chance 0.50" in output
    for subject in ("01", "03", "04", "05", "08", "09", "mean"):
        assert re.search(rf"│ {subject} +│", finished[0]), subject


def test_results_hold_both_models_on_like_terms(finished):
    models = finished[1]["models"]
    rows = [(m["name"], m["features"], m["normalization"], m["transductive"]) for m in models]
    assert rows == [
        (name, features, normalization, normalization == "per-subject z")
        for name, features in (
            ("Logistic regression", "DE"),
            ("Logistic regression", "DE + LDS"),
            ("ResAttentioNet", "DE + LDS"),
        )
        for normalization in ("training-side z", "per-subject z")
    ]
    for model in models:
        assert sorted(model["subjects"]) == ["01", "03", "04", "05", "08", "09"]
        assert np.sum(model["confusion"]) == 12
        assert model["nulls"][-1]["kind"] == "swap"
    assert [m["nulls"][0]["kind"] for m in models] == ["swap", "swap", "refit", "refit"] + [
        "swap"
    ] * 2
    assert all(len(m["histories"]) == 2 for m in models[4:])


def test_the_page_says_what_it_does_not_show(finished):
    html = (finished[2] / "report.html").read_text(encoding="utf-8")
    for sentence in (
        "Nothing about emotion",
        "looks ahead",
        "transductive",
        "Open Data Commons Attribution License",
        "Zyma",
        "first 58 s",
    ):
        assert sentence in html, sentence


def test_speed_was_told_after_a_value_check(finished):
    speed = finished[1]["speed"]
    assert speed["max_error"] <= speed["tolerance"]
    assert [row["label"] for row in speed["rows"]] == ["eegfast.ops", "PyTorch reference"]


def test_no_time_is_told_of_wrong_values(monkeypatch):
    monkeypatch.setattr(facts, "band_power", lambda x, **kwargs: torch.ones(1, 1, 2, 5))
    with pytest.raises(RuntimeError, match="differs from its float64 reference"):
        facts.time_band_power(torch.randn(1, 2, 200), 200.0)


def test_recordings_are_used_up_to_where_rest_ends_in_zeros(monkeypatch):
    lengths = []

    class Stop(Exception):
        pass

    def spy(signals, sfreq):
        lengths.append(signals.shape[-1] / sfreq)
        flat = (signals.diff() == 0).float().unfold(-1, 100, 100).mean(-1)
        assert flat.max() < 0.9
        raise Stop

    monkeypatch.setattr(demo_run, "time_band_power", spy)
    with pytest.raises(Stop):
        demo_run.run(demo_run.DemoOptions())
    assert lengths == [58]


@pytest.mark.parametrize(
    "gap, expected", [(0.0, "reaches"), (0.25, "reaches"), (-0.25, "does not reach")]
)
def test_verdict_compares_like_with_like(gap, expected):
    def row(name, normalization, accuracy, features="f"):
        return {
            "name": name,
            "normalization": normalization,
            "features": features,
            "accuracy": accuracy,
            "confusion": [[2, 2], [2, 2]],
            "subjects": {"x": {"accuracy": accuracy}, "y": {"accuracy": accuracy}},
        }

    models = [
        row("Base", "a", 0.9, features="other"),
        row("Base", "a", 0.5),
        row("Base", "b", 0.5),
        row("Net", "a", 0.5),
        row("Net", "b", 0.5 + gap),
    ]
    first, second = facts.verdict(models, "Net", "Base", "f", "b")
    assert first.startswith(f"With b, Net {expected} the base")
    assert f"{0.5 + gap:.2f} against 0.50" in first and f"({8 * gap:+.0f} of 8;" in first
    assert f"{gap:+.2f} to {gap:+.2f}" in first
    assert second.startswith("With a, Net reaches")


def test_only_what_beats_permuted_labels_is_said_to_show_something():
    models = [{"nulls": [{"p_value": p}, {"p_value": 0.0}]} for p in (0.01, 0.05, 0.2)]
    assert "2 of 3 rows" in " ".join(facts.shows(models))


def test_calls_are_timed_in_turn():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = facts.interleaved_times(calls, runs=3, warm_ups=1)
    assert order == ["a", "b"] * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_wrong_options_are_told_in_a_sentence(tmp_path):
    too_many = ["demo", "-o", str(tmp_path / "x"), "--fast", "--subjects", "6", "--folds", "7"]
    with pytest.raises(ValueError, match="7 folds need as many subjects, got 6"):
        CliRunner().invoke(app, too_many, catch_exceptions=False)
    with pytest.raises(ValueError, match="recipe must be one of"):
        demo_run.run(demo_run.DemoOptions(recipe="nope", subjects=6))
    assert not (tmp_path / "x").exists()
