# SPDX-License-Identifier: BSD-3-Clause
import csv
import json
from pathlib import Path

import numpy as np
import pytest

for package in ("lightning", "sklearn", "mne"):
    pytest.importorskip(package)

import pipeline_parts  # noqa: E402
from pipeline_parts import CH_NAMES, pipeline, recording  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from eegfast.cli import app, main  # noqa: E402
from eegfast.training.pipeline import Pipeline  # noqa: E402
from eegfast.training.runs import Run  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
EDF = DATA / "eeguana_bv_export_edfplus.edf"  # 30 channels, 512 Hz, 10 s
BDF = DATA / "mnepy_test.bdf"  # 64 channels, 2048 Hz, 1 s


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pipeline_parts.run(tmp_path_factory.mktemp("run") / "hamnet")


@pytest.fixture
def saved(tmp_path):
    return pipeline().save(tmp_path / "pipeline")


def predict(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def proba(rows):
    return np.array([[float(row["p_rest"]), float(row["p_task"])] for row in rows])


def test_it_writes_what_the_pipeline_says_of_each_file(saved, tmp_path):
    out = tmp_path / "deep" / "answers.csv"
    result = predict(saved, EDF, BDF, "-o", out)
    assert result.exit_code == 0
    rows = table(out)
    expected = [Pipeline.load(saved)(path) for path in (EDF, BDF)]
    assert [len(answer) for answer in expected] == [10, 1]
    assert list(rows[0])[:5] == ["file", "window", "start_s", "stop_s", "predicted"]
    assert [row["file"] for row in rows] == [str(EDF)] * 10 + [str(BDF)]
    assert [row["predicted"] for row in rows] == [*expected[0].labels, *expected[1].labels]
    assert (rows[2]["window"], rows[2]["start_s"], rows[2]["stop_s"]) == ("2", "2.0", "3.0")
    got = np.concatenate([answer.proba for answer in expected])
    np.testing.assert_allclose(proba(rows), got, rtol=1e-8)
    assert "resampled from 512 to 200 Hz" in result.output
    assert "2 done, 0 failed" in result.output


def test_channels_of_an_array_are_picked_by_name(saved, tmp_path):
    mine = recording()
    names = [f"X{i}" for i in range(43)] + CH_NAMES[::-1]
    noise = np.zeros((43, mine.n_times), np.float32)
    np.save(tmp_path / "wide.npy", np.concatenate([noise, mine.signal[::-1]]))
    arguments = ("--sfreq", 200, "--ch-names", ",".join(names))
    result = predict(saved, tmp_path / "wide.npy", *arguments, "-o", tmp_path / "a.csv")
    np.testing.assert_allclose(proba(table(tmp_path / "a.csv")), pipeline()(mine).proba, atol=1e-8)
    assert "19 of its 62 channels" in result.output
    mixed = predict(saved, tmp_path / "wide.npy", EDF, *arguments, "-o", tmp_path / "a.csv")
    assert mixed.exit_code == 0 and len(table(tmp_path / "a.csv")) == 18


def test_one_bad_file_does_not_stop_the_others(saved, tmp_path):
    (tmp_path / "no[red]t.edf").write_text("this is no EDF")
    bare = tmp_path / "bare.npy"
    np.save(bare, np.zeros((19, 400)))
    few = DATA / "resting_EO_200Hz_raw.fif"
    arguments = (tmp_path / "no[red]t.edf", EDF, bare, few, tmp_path / "gone.bdf")
    result = predict(saved, *arguments, "-o", tmp_path / "a.csv")
    assert result.exit_code == 1
    assert {row["file"] for row in table(tmp_path / "a.csv")} == {str(EDF)}
    output = " ".join(result.output.split())
    assert "1 done, 4 failed" in output
    assert "no[red]t.edf failed" in output and "gone.bdf failed" in output
    assert "bare.npy failed: expected sfreq=" in output
    assert "Fp1, Fp2" in output.partition("_raw.fif failed")[2].partition("needs them all")[0]


def test_where_all_fail_the_old_table_stays(saved, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    result = predict(saved, tmp_path / "gone.edf", "-o", tmp_path / "a.csv")
    assert result.exit_code == 1 and "nothing is written" in result.output
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "pipeline"]


def test_a_fit_is_named_or_all_are_averaged(run, tmp_path):
    out, file = tmp_path / "a.csv", tmp_path / "x.npy"
    np.save(file, recording().signal)
    npy = ("--sfreq", 200, "--ch-names", ",".join(CH_NAMES))
    fits = Run(run).fits
    answers = [Pipeline.from_run(Run(run), fit)(recording()) for fit in fits]
    assert np.abs(answers[0].proba - answers[1].proba).max() > 1e-3
    with pytest.raises(ValueError, match=f"3 fits.*--fit.*{fits[1].path.name}"):
        predict(run, file, *npy, "-o", out)
    assert not out.exists()
    for name in (fits[1].path.name, fits[1].name):
        predict(run, file, *npy, "-o", out, "--fit", name)
        rows = table(out)
        got = np.array([[float(r["p_rest"]), float(r["p_arithmetic"])] for r in rows])
        np.testing.assert_allclose(got, answers[1].proba, rtol=1e-8)
    result = predict(run, file, *npy, "-o", out, "--ensemble")
    assert "small-hamnet, mean of 3 fits: 19 channels at 200 Hz" in result.output
    got = [float(row["p_rest"]) for row in table(out)]
    np.testing.assert_allclose(got, np.mean([a.proba[:, 0] for a in answers], 0), rtol=1e-8)
    with pytest.raises(ValueError, match="no finished fit 'x'"):
        predict(run, file, "-o", out, "--fit", "x")


def test_a_fit_can_be_passed_on_without_its_run(run, tmp_path):
    fit = Run(run).fits[2]
    folder = tmp_path / "shared"
    result = predict(run, "--fit", fit.path.name, "--export", folder)
    assert result.exit_code == 0 and "shared" in result.output
    assert sorted(p.name for p in folder.iterdir()) == [
        "model.safetensors",
        "normalization.json",
        "normalization.safetensors",
        "pipeline.json",
    ]
    predict(folder, EDF, "-o", tmp_path / "a.csv")
    predict(run, EDF, "--fit", fit.path.name, "-o", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_leaks_and_filters_of_the_training_are_said(tmp_path):
    about = {
        "leaks": True,
        "leak_reasons": ["Windows of one trial are on both sides."],
        "dataset": "deap",
        "kind": "preprocessed",
    }
    folder = pipeline(about=about).save(tmp_path / "p")
    plain = predict(folder, EDF, "-o", tmp_path / "a.csv")
    assert "Windows of one trial are on both sides." in plain.output
    assert "--band 4-45" in plain.output
    filtered = predict(folder, EDF, "-o", tmp_path / "b.csv", "--band", "4-45", "--notch", "50")
    assert "--band 4-45" not in filtered.output
    gap = np.abs(proba(table(tmp_path / "a.csv")) - proba(table(tmp_path / "b.csv")))
    assert gap.max() > 1e-4
    expected = pipeline(band=(4, 45), notch=50)(EDF).proba
    np.testing.assert_allclose(proba(table(tmp_path / "b.csv")), expected, rtol=1e-8)


def test_windows_without_an_answer_have_an_empty_label(tmp_path):
    mine = recording()
    signal = mine.signal.copy()
    signal[0, :200] = 0
    np.save(tmp_path / "x.npy", signal)
    folder = pipeline("sst-emotionnet").save(tmp_path / "p")
    arguments = ("--sfreq", 200, "--ch-names", ",".join(CH_NAMES), "-o", tmp_path / "a.csv")
    result = predict(folder, tmp_path / "x.npy", *arguments)
    rows = table(tmp_path / "a.csv")
    assert (rows[0]["predicted"], rows[0]["p_rest"]) == ("", "nan") and rows[1]["predicted"]
    assert "1 of 8 windows have no answer" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "FILE, or --export"),
        ((EDF, "--fit", "a", "--ensemble"), "not both"),
        ((EDF, "--fit", "a"), "this is a pipeline"),
        ((EDF, "--band", "45-4"), "LO-HI"),
        ((EDF, "--band", "x"), "LO-HI"),
        ((EDF, "--device", "abacus"), "--device abacus"),
        ((EDF, "-o", DATA), "must be a file"),
    ],
)
def test_commands_that_make_no_sense(saved, arguments, message):
    result = predict(saved, *arguments)
    assert result.exit_code == 2 and message in result.output


def test_what_is_no_run_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eegfast", "predict", str(tmp_path), str(EDF)])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith(f"eegfast: {tmp_path}: no ")
    folder = pipeline().save(tmp_path / "p")
    content = json.loads((folder / "pipeline.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps({**content, "sfreq": "200"}))
    monkeypatch.setattr("sys.argv", ["eegfast", "predict", str(folder), str(EDF)])
    with pytest.raises(SystemExit):
        main()
    assert "sfreq is of the wrong kind" in capsys.readouterr().err
