# SPDX-License-Identifier: BSD-3-Clause
import json
import pickle

import numpy as np
import pytest

from eegfast.training import Run
from eegfast.training.runs import (
    fit_folder,
    write_file,
    write_history,
    write_json,
    write_predictions,
)

ANSWERS = {
    "proba": np.full((2, 3), 1 / 3),
    "label": [0, 2],
    "subject_id": ["01", "Zoë"],
    "session_id": ["1", "1"],
    "trial_id": [4, 5],
    "sample": [10, 11],
}


@pytest.fixture
def folder(tmp_path):
    fits = [{"folder": name} for name in ("01-a", "02-b")]
    about = {"format": "eegfast-run", "version": 1, "protocol": {"leaks": False}}
    write_json(tmp_path / "run.json", {**about, "fits": fits, "class_names": ["x", "y", "z"]})
    return tmp_path


def test_what_is_written_is_read(folder):
    place = folder / "fits" / "01-a"
    write_history(
        place / "history.csv",
        [
            {"stage": "a", "epoch": 1, "lr": 0.1},
            {"stage": "a", "epoch": 2, "lr": 0.1, "val_loss": 2.0},
        ],
    )
    write_predictions(place / "predictions.npz", **ANSWERS)
    run = Run(folder)
    assert run.fits == [] and [fit.name for fit in run.unfinished] == ["01-a", "02-b"]
    write_json(place / "done.json", {"split": "subject 01", "leaks": True})
    (fit,) = Run(folder).fits
    assert fit.name == "subject 01" and fit.leaks and Run(folder).leaks
    history = fit.history()
    assert history["epoch"] == [1, 2] and history["stage"] == ["a", "a"]
    assert np.isnan(history["val_loss"][0]) and history["val_loss"][1] == 2.0
    answers = fit.predictions()
    assert answers["proba"].dtype == np.float32 and answers["subject_id"].tolist() == ["01", "Zoë"]
    assert sorted(p.name for p in place.iterdir()) == [
        "done.json",
        "history.csv",
        "predictions.npz",
    ]


@pytest.mark.parametrize(
    "split, name",
    [
        ("subject 01, session 2", "01-subject-01-session-2"),
        ("../../etc", "01-etc"),
        ("Zoë", "01-zoe"),
        ("被験者", "01"),
    ],
)
def test_folders_are_named_plainly(split, name):
    assert fit_folder(0, split) == name


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "run.json: not JSON"),
        ("[]", "run.json: a JSON object expected"),
        ("{}", "run.json: not a run"),
        ('{"format": "eegfast-run", "version": 9}', "a run of version 9"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Run(tmp_path)
    with pytest.raises(FileNotFoundError):
        Run(tmp_path / "nothing")


def test_a_run_cannot_point_outside_itself(folder):
    about = json.loads((folder / "run.json").read_text())
    about["fits"] = [{"folder": "../../elsewhere"}]
    write_json(folder / "run.json", about)
    with pytest.raises(ValueError, match="is no name of a folder"):
        _ = Run(folder).unfinished


def test_predictions_are_never_unpickled(folder):
    place = folder / "fits" / "01-a"
    place.mkdir(parents=True)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    fit = Run(folder).unfinished[0]
    path = place / "predictions.npz"
    np.savez(path, **{**ANSWERS, "label": np.array([Bomb(), 1], dtype=object)})
    with pytest.raises(ValueError, match="predictions.npz: expected arrays"):
        fit.predictions()
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="predictions.npz: expected arrays"):
        fit.predictions()
    write_predictions(path, **{**ANSWERS, "label": [1]})
    with pytest.raises(ValueError, match="not of one length"):
        fit.predictions()
