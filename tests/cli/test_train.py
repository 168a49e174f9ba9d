# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import signal
import sys

import pytest
import torch

for package in ("lightning", "sklearn", "mne"):
    pytest.importorskip(package)

from typer.testing import CliRunner  # noqa: E402

from eegfast.cli import app  # noqa: E402
from eegfast.training import Run  # noqa: E402
from eegfast.training.stages import Checkpoints  # noqa: E402

RECIPE = """
name: small
data:
  dataset: eegmat
  inputs: resattentionet
  seconds: 58
  select: {subjects: [1, 3, 4, 5]}
  options: {n_windows: 14}
model: {name: resattentionet, options: {base_width: 4}}
protocols:
  paper: {name: subject-k-fold, options: {n_splits: 2}}
  honest: {name: leave-one-subject-out}
normalization: {name: train_zscore}
training:
  stages:
    - {name: only, epochs: 2, batch_size: 4, optimizer: {name: adam, lr: 0.001}}
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    return [str(path), "--root", "bundled", "--device", "cpu", "--cache", str(folder / "cache")]


def train(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_interrupted_it_says_how_to_go_on_and_does(common, tmp_path, monkeypatch):
    save, saved = Checkpoints._save, []

    def interrupt(self, *arguments):
        save(self, *arguments)
        saved.append(1)
        if len(saved) == 3:  # the first fit is done, the second has run one of two epochs
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "_save", interrupt)
    before = signal.getsignal(signal.SIGINT)
    result = train(*common, "-o", tmp_path / "run")
    assert result.exit_code == 130
    assert "Stopped with 1 of 2 fits done; the same command goes on." in result.stderr
    assert signal.getsignal(signal.SIGINT) is before
    result = train(*common, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert len(saved) == 4  # only the missing epoch was run
    run = Run(tmp_path / "run")
    assert [fit.name for fit in run.fits] == ["fold 1", "fold 2"] and not run.unfinished
    words = " ".join(result.stdout.split())
    assert "fold 2 4 - 4 2 last" in words and "2 fits, accuracy per sample" in words
    assert "waiting for data" in words and "Leaks" not in words
    results = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    assert results["n_splits"] == 2 and results["unfinished"] == []


def test_settings_protocol_and_splits(common, tmp_path):
    change = ["--set", "training.stages.0.epochs=1", "--set", "training.validation.level=test"]
    result = train(*common, "-o", tmp_path / "run", "--protocol", "honest", "--splits", 1, *change)
    assert result.exit_code == 0, result.output
    assert "Leaks: The validation side is the test side" in " ".join(result.stdout.split())
    run = Run(tmp_path / "run")
    assert run.protocol["name"] == "leave-one-subject-out" and len(run.fits) == 1
    assert run.recipe.training.stages[0].epochs == 1 and run.fits[0].leaks


def test_what_makes_no_sense_is_one_sentence(common, tmp_path, monkeypatch, capsys):
    result = train(*common[:3], "--device", "gpu", "-o", tmp_path / "run")
    assert result.exit_code == 2 and "--device must be auto, cpu or cuda" in result.output
    from eegfast.cli import main

    arguments = ["train", *common, "-o", str(tmp_path / "run"), "--protocol", "subject-k-fld"]
    monkeypatch.setattr(sys, "argv", ["eegfast", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("eegfast: create: no protocol is named 'subject-k-fld'; known: ")
    assert not (tmp_path / "run").exists()
