# SPDX-License-Identifier: BSD-3-Clause
import json

import pytest
from typer.testing import CliRunner

from eegfast.cli import app, main

pytest.importorskip("scipy")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def run():
    def run(*arguments):
        return CliRunner().invoke(app, ["synth", *map(str, arguments)])

    return run


def small(tmp_path, *more):
    return (
        "seed",
        "--out",
        tmp_path / "x",
        "--subjects",
        1,
        "--sessions",
        1,
        "--scale",
        0.01,
        *more,
    )


def test_it_writes_a_tree_and_says_how_large(run, tmp_path):
    result = run(*small(tmp_path, "--kind", "preprocessed", "--seed", 3))
    assert result.exit_code == 0, result.output
    assert "4 files to write, about 3.6 MB" in result.output
    assert "Written to" in result.output
    assert len(list((tmp_path / "x/Preprocessed_EEG").glob("1_*.mat"))) == 1
    marker = json.loads((tmp_path / "x/SYNTHETIC.json").read_text())
    assert (marker["dataset"], marker["scale"], marker["seed"]) == ("seed", 0.01, 3)


def test_the_same_command_keeps_what_is_there(run, tmp_path):
    arguments = small(tmp_path, "--kind", "preprocessed")
    run(*arguments)
    [path] = (tmp_path / "x/Preprocessed_EEG").glob("1_*.mat")
    before = path.stat().st_mtime_ns
    (tmp_path / "x/Preprocessed_EEG/label.mat").unlink()
    result = run(*arguments)
    assert "1 files to write" in result.output and "3 are there" in result.output
    assert path.stat().st_mtime_ns == before
    assert (tmp_path / "x/Preprocessed_EEG/label.mat").exists()


def test_a_dry_run_writes_nothing(run, tmp_path):
    result = run("seed-vii", "--out", tmp_path / "x", "--subjects", 20, "--dry-run")
    assert result.exit_code == 0 and "GB" in result.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["seed-iv", "seed-v", "seed-vii", "deap"])
def test_every_layout_has_its_name(run, tmp_path, name):
    options = [] if name == "deap" else ["--sessions", 1]
    result = run(name, "-o", tmp_path, "--subjects", 1, "--scale", 0.001, "--dry-run", *options)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "more, words",
    [
        (["--kind", "cooked"], "kinds must be among"),
        (["--subjects", 99], "subjects must be a number from 1 to 15"),
        (["--scale", 3], "scale must be above 0"),
        (["--seed", -1], "seed must be"),
    ],
)
def test_options_that_make_no_sense(run, tmp_path, more, words):
    result = run(*small(tmp_path), *more)
    assert result.exit_code == 2 and words in result.output
    assert not (tmp_path / "x").exists()


def test_deap_has_no_sessions(run, tmp_path):
    result = run("deap", "--out", tmp_path / "x", "--sessions", 2)
    assert result.exit_code == 2 and "DEAP has no sessions" in result.output


def test_a_folder_with_something_else_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/precious.mat").write_text("y")
    monkeypatch.setattr("sys.argv", ["eegfast", "synth", *map(str, small(tmp_path))])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "expected an empty folder or a synthetic tree" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["precious.mat"]


def test_help_has_examples(run):
    output = run("--help").output
    assert "Examples" in output and "eegfast synth seed --out seed --scale 0.1" in output
