# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast evaluate`` on run folders."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
from typer.testing import CliRunner  # noqa: E402

from eegfast.cli import app  # noqa: E402
from eegfast.protocols import Samples  # noqa: E402
from eegfast.training import summarise  # noqa: E402
from eegfast.training.experiment import run_experiment  # noqa: E402
from eegfast.training.recipe import load_recipe  # noqa: E402
from eegfast.training.runs import Run, fit_folder, write_json, write_predictions  # noqa: E402


def make_run(path, *, right=0.7, seed=0, subjects="abcd", finished=None, **protocol):
    """Leave-one-subject-out of two sessions with six trials of three windows each."""
    finished = len(subjects) if finished is None else finished
    folders = [fit_folder(i, f"subject {name}") for i, name in enumerate(subjects)]
    about = {"name": "leave-one-subject-out", "options": {}, "mixes": "Clips.", "leaks": False}
    facts = {
        "format": "eegfast-run",
        "version": 1,
        "protocol": {**about, **protocol},
        "class_names": ["calm", "[red]wild[/]"],
        "fits": [
            {"folder": f, "split": f"subject {s}"} for f, s in zip(folders, subjects, strict=True)
        ],
    }
    write_json(path / "run.json", facts)
    load_recipe("resattentionet").save(path / "recipe.yaml")
    rng = np.random.default_rng(seed)
    for folder, subject in list(zip(folders, subjects, strict=True))[:finished]:
        label = np.tile(np.repeat([0, 1, 0, 1, 0, 1], 3), 2)
        answer = np.where(rng.random(36) < right, label, 1 - label)
        write_predictions(
            path / "fits" / folder / "predictions.npz",
            proba=np.where(np.arange(2) == answer[:, None], 0.8, 0.2),
            label=label,
            subject_id=np.repeat(subject, 36),
            session_id=np.repeat(["1", "2"], 18),
            trial_id=np.tile(np.repeat(np.arange(1, 7), 3), 2),
            sample=np.arange(36),
        )
        leaks = facts["protocol"]["leaks"]
        done = {
            "split": f"subject {subject}",
            "leaks": leaks,
            "leak_reasons": [facts["protocol"]["mixes"]] * leaks,
        }
        write_json(path / "fits" / folder / "done.json", done)
    return path


def evaluate(*arguments):
    result = CliRunner().invoke(
        app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False
    )
    return result.exit_code, " ".join(result.output.split())


def test_it_prints_and_writes_the_scores(tmp_path):
    run = make_run(tmp_path / "mine")
    code, output = evaluate(run, "--null", "50", "--level", "0.9")
    assert code == 0
    results = json.loads((run / "results.json").read_text())
    assert results["level"] == 0.9 and results["n_permutations"] == 50 and not results["leaks"]
    trial = results["units"]["trial"]
    assert trial["overall"]["n"] == 48 and results["units"]["sample"]["overall"]["n"] == 144
    low, high = trial["intervals"]["accuracy"]
    assert f"{trial['overall']['accuracy']:.3f}" in output and f"{low:.2f}–{high:.2f}" in output
    assert f"{trial['null']['accuracy']['p_value']:.2g}" in output
    assert "[red]wild[/]" in output and "90%" in output and "leaks" not in output
    (first, *_) = load_recipe("resattentionet").paper.leaks
    assert f"mine, its recipe on leakage: - {first}" in output
    with (run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"mine"} and {row["dataset"] for row in rows} == {"seed"}
    assert {row["subject_id"] for row in rows} == {"", "a", "b", "c", "d"}


def test_leakage_is_named_in_red(tmp_path):
    run = make_run(tmp_path / "bad", leaks=True, mixes="Windows of [one] trial on both sides.")
    result = CliRunner().invoke(
        app, ["evaluate", str(run)], env={"FORCE_COLOR": "1", "COLUMNS": "200"}, color=True
    )
    assert "\x1b[1;31mbad leaks.\x1b[0m" in result.output
    assert "\x1b[31mWindows of [one] trial on both sides.\x1b[0m" in result.output
    assert json.loads((run / "results.json").read_text())["leaks"] is True


def test_a_fit_that_looked_at_the_test_side_leaks(tmp_path):
    run = make_run(tmp_path / "run")
    done = {"split": "subject b", "leaks": True, "leak_reasons": ["It saw the test side."]}
    write_json(run / "fits" / "02-subject-b" / "done.json", done)
    code, output = evaluate(run)
    assert "run leaks. In 1 of 4 fits: It saw the test side." in output
    with (run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    leaking = {row["split"] for row in rows if row["leaks"] == "true"}
    assert leaking == {"", "subject b"}


def test_unfinished_fits_are_not_counted_and_told(tmp_path):
    run = make_run(tmp_path / "run", finished=3)
    code, output = evaluate(run)
    assert "1 of 4 fits are not finished" in output
    assert json.loads((run / "results.json").read_text())["unfinished"] == ["04-subject-d"]
    with pytest.raises(ValueError, match="no fit is finished"):
        evaluate(make_run(tmp_path / "empty", finished=0))


def test_runs_are_compared_with_the_first(tmp_path):
    first, second = make_run(tmp_path / "one", right=0.5), make_run(tmp_path / "two", right=0.95)
    other = make_run(tmp_path / "three", name="subject-k-fold")
    code, output = evaluate(first, second, other, "-o", tmp_path / "all.csv")
    accuracy = [
        json.loads((run / "results.json").read_text())["units"]["trial"]["overall"]["accuracy"]
        for run in (first, second)
    ]
    assert f"{accuracy[1] - accuracy[0]:+.3f}" in output
    assert "three is not compared with one: another protocol." in output
    with (tmp_path / "all.csv").open(newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"one", "two", "three"}


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [make_run(tmp_path / name / "run") for name in "ab"]
    evaluate(*paths, "-o", tmp_path / "all.json")
    rows = json.loads((tmp_path / "all.json").read_text())
    assert {row["run"] for row in rows} == {str(path) for path in paths}
    for path in paths:
        assert json.loads((path / "results.json").read_text())["run"] == "run"


def test_one_subject_has_no_interval_and_nan_is_told(tmp_path):
    run = make_run(tmp_path / "run", subjects="a")
    fit = Run(run).fits[0]
    found = fit.predictions()
    found["proba"][0] = np.nan
    write_predictions(fit.path / "predictions.npz", **found)
    code, output = evaluate(run)
    assert code == 0 and "they draw subjects and there is one" in output
    assert "1 of 36 samples got NaN" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "95"], "--level must be between 0 and 1, got 95"),
        (["--interval", "t"], "--interval must be percentile or bca"),
        (["--format", "csv"], "file that -o names"),
        (["-o", "x.xlsx"], "csv, json, parquet"),
        (["--null", "-1"], "'--null'"),
    ],
)
def test_commands_that_make_no_sense_are_refused(tmp_path, arguments, message):
    run = make_run(tmp_path / "run")
    result = CliRunner().invoke(app, ["evaluate", str(run), *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not (run / "results.json").exists()
    assert CliRunner().invoke(app, ["evaluate", str(run), f"{run}/."]).exit_code == 2


def test_bad_answers_name_their_file_and_nothing_is_written(tmp_path):
    good, bad = make_run(tmp_path / "good"), make_run(tmp_path / "bad")
    fit = Run(bad).fits[1]
    write_predictions(
        fit.path / "predictions.npz", **{**fit.predictions(), "proba": np.full((36, 2), 3.0)}
    )
    with pytest.raises(ValueError, match="bad/fits/02-subject-b/predictions.npz: .*sum 1"):
        evaluate(good, bad)
    assert not (good / "results.json").exists()


def test_the_same_run_gives_the_same_results(tmp_path):
    run = Run(make_run(tmp_path / "run"))
    found = [summarise(run, n_permutations=20, seed=seed).as_dict() for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_an_experiment_can_be_evaluated(tmp_path):
    recipe = load_recipe("resattentionet").override(
        ["training.stages.0.epochs=1", "model.options.base_width=4", "training.validation.n=1"]
    )
    subjects, trials = np.repeat(list("abcdefg"), 4), np.tile([1, 2, 3, 4], 7)
    prepared = SimpleNamespace(
        inputs=(torch.randn(28, 8, 3, 2, generator=torch.Generator().manual_seed(0)),),
        samples=Samples(subjects, ["1"] * 28, trials, trials % 2),
        class_names=["even", "odd"],
        ch_names=["C3", "Cz", "C4"],
        sfreq=1.0,
        facts={"dataset": "seed"},
    )
    run = run_experiment(recipe, prepared, tmp_path / "run", accelerator="cpu")
    code, output = evaluate(run, "--null", "20")
    assert code == 0
    results = json.loads((run / "results.json").read_text())
    assert (results["protocol"], results["model"]) == ("subject-70-15-15", "resattentionet")
    assert results["units"]["trial"]["overall"]["n"] == 8 and not results["leaks"]
    assert results["units"]["trial"]["overall"] == results["units"]["sample"]["overall"]
