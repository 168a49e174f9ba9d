# SPDX-License-Identifier: BSD-3-Clause
import json

import pytest
from typer.testing import CliRunner

from eegfast.cli import app

for needed in ("lightning", "sklearn", "scipy", "safetensors"):
    pytest.importorskip(needed)

FEW = ["--set", "training.stages.0.epochs=1", "--set", "training.stages.1.epochs=1"]


def run(*arguments):
    runner = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"})
    return runner.invoke(app, ["reproduce", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundled") / "out"
    result = run("hamnet", "--quick", "--root", "bundled", "-o", out, *FEW)
    assert result.exit_code == 0, result.output
    return out, result


def test_both_protocols_side_by_side(bundled):
    out, result = bundled
    told = json.loads((out / "reproduction.json").read_text())
    assert (told["recipe"], told["dataset"], told["quick"]) == ("hamnet", "eegmat", True)
    paper, honest = told["protocols"]["paper"], told["protocols"]["honest"]
    assert paper["leaks"] and not honest["leaks"]
    assert honest["protocol"]["name"] == "subject-k-fold"
    assert paper["per"] == "sessions" and paper["scores"]["accuracy"]["n"] == 3
    assert 0 <= honest["scores"]["accuracy"]["mean"] <= 1
    assert paper["most_frequent"] == 0.5
    assert told["paper"]["claims"] == [] and told["paper"]["leaks"]
    assert {claim["mean"] for claim in told["paper"]["all_claims"]} == {96.45, 93.53}
    for name in ("paper", "honest"):
        assert (out / name / "results.json").is_file()


def test_says_what_leaks_and_what_it_is_not(bundled):
    _, result = bundled
    for words in (
        "none on this data",
        "The paper's split leaks: Five folds within each session",
        "the paper's split (leaks)",
        "no emotion",
        "its figures mean nothing",
    ):
        assert words in result.output
    assert "honest split (leaks)" not in result.output


def test_both_stages_ran_and_the_network_fits_the_data(bundled):
    from eegfast.training import Run

    out, _ = bundled
    fit = Run(out / "honest").fits[0]
    assert fit.history()["stage"] == ["pretrain", "finetune"]
    assert fit.model().config["n_chans"] == 19 and fit.model().config["stage"] == "finetune"


def test_page_of_both_runs(bundled):
    for needed in ("jinja2", "matplotlib", "mne"):
        pytest.importorskip(needed)
    page = (bundled[0] / "report.html").read_text()
    assert "session-window-k-fold" in page and "subject-k-fold" in page


def test_the_same_command_goes_on(bundled):
    out, _ = bundled
    done = sorted(out.glob("*/fits/*/done.json"))
    before = [path.stat().st_mtime_ns for path in done]
    (out / "reproduction.json").unlink()
    assert run("hamnet", "--quick", "--root", "bundled", "-o", out, *FEW).exit_code == 0
    assert [path.stat().st_mtime_ns for path in done] == before and len(done) == 9
    assert (out / "reproduction.json").is_file()


def test_another_recipe_in_the_same_folder_is_refused(bundled):
    out, _ = bundled
    before = (out / "reproduction.json").read_bytes()
    result = run("hamnet", "--quick", "--root", "bundled", "-o", out, *FEW, "--set", "seed=1")
    assert result.exit_code != 0 and "differs" in str(result.exception)
    assert (out / "reproduction.json").read_bytes() == before


def test_quick_writes_its_own_data(tmp_path):
    result = run(
        "resattentionet",
        "--quick",
        "-o",
        tmp_path / "out",
        "--protocol",
        "honest",
        "--splits",
        1,
        *["--set", "training.stages.0.epochs=1"],
        *["--set", "quick.synthetic={subjects: 4, sessions: 1, scale: 0.01}"],
        *["--set", "data.options.window=1"],
    )
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    assert list(told["protocols"]) == ["honest"]
    assert [claim["mean"] for claim in told["paper"]["claims"]] == [100.0]
    assert "invented" in result.output and "Only the first splits" in result.output
    assert (tmp_path / "out" / "data" / "SYNTHETIC.json").is_file()
    assert "100.00 %" in result.output and "ours, the paper's split" not in result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["hamnet"], "give --root"),
        (["hamnett", "--quick"], "did you mean 'hamnet'"),
        (["hamnet", "--quick", "--set", "training.epochs=1"], "training.epochs: unknown key"),
        (["hamnet", "--quick", "--protocol", "papr"], "must be one of paper, honest, both"),
        (["hamnet", "--quick", "--device", "tpu"], "auto, cpu or cuda"),
    ],
)
def test_commands_that_make_no_sense(arguments, message, tmp_path):
    result = run(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "out").exists()


def test_plan_on_real_data_is_small_too():
    from eegfast.training import load_recipe
    from eegfast.training.reproduction import plan_reproduction

    recipe = load_recipe("scalingnet")
    plan = plan_reproduction(recipe, "/data/deap", quick=True, settings=["seed=3"])
    assert plan.data.select["subjects"] == [1, 2, 3] and plan.data.select["baseline"] == "keep"
    assert plan.training.stages[0].epochs == 4 and plan.seed == 3
    assert plan_reproduction(recipe, "/data/deap") == recipe


def test_claims_go_by_data_set_and_question():
    from eegfast.training import load_recipe
    from eegfast.training.reproduction import claims_for

    recipe = load_recipe("scalingnet").override(["data.select.target=arousal"])
    assert [claim["mean"] for claim in claims_for(recipe, "deap")] == [69.99]
    assert claims_for(recipe, "seed") == []
