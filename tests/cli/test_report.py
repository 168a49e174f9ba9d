# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast report``."""

import shutil
import sys

import pytest

for needed in ("typer", "jinja2", "matplotlib", "mne", "lightning", "sklearn", "safetensors"):
    pytest.importorskip(needed)

from run_folders import write_run  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from eegfast.cli import app, main  # noqa: E402
from eegfast.cli._report_gather import gather, role_of  # noqa: E402
from eegfast.training.runs import Run  # noqa: E402

NETWORK = {"n_chans": 4, "base_width": 2, "n_windows": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for name, role in (("one", "paper"), ("two", "honest"), ("three", "honest")):
        names = ["Fp1", "Fp2", "O1", "O2"]
        run = {"role": role, "ch_names": names, "trials": 3, "windows": 1}
        write_run(folder / name, "resattentionet", NETWORK, **run)
    return folder


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_one_page_and_its_figures(folder, tmp_path):
    page, figures = tmp_path / "new" / "page.html", tmp_path / "figures"
    done = report(
        folder / "one", folder / "two", "-o", page, "--figures", figures, "--format", "svg"
    )
    assert done.exit_code == 0, done.output
    assert "resattentionet, the paper's split" in page.read_text(encoding="utf-8").replace(
        "&#39;", "'"
    )
    assert {path.suffix for path in figures.iterdir()} == {".svg"}
    assert f"{len(list(figures.iterdir()))} figures" in done.output.replace("\n", " ")


def test_a_null_on_request(folder, tmp_path):
    page = tmp_path / "page.html"
    assert report(folder / "two", "-o", page).exit_code == 0
    assert "labels permuted" not in page.read_text(encoding="utf-8")
    assert report(folder / "two", "-o", page, "--null", 19).exit_code == 0
    text = page.read_text(encoding="utf-8")
    null = gather([Run(folder / "two")], n_permutations=19)["runs"][0]["results"]["units"]
    p = null["trial"]["null"]["accuracy"]["p_value"]
    assert p >= 1 / 20 and f"<small>p = {p:.2g}</small>" in text and "labels permuted" in text


def test_without_data_the_page_says_what_is_missing(folder):
    comparison = gather([Run(folder / "one")])
    assert comparison["runs"][0]["missing"] == [
        "what the network makes of data (give --root, the data's folder)"
    ]


def test_runs_of_one_split_are_told_apart_by_their_folders(folder):
    comparison = gather([Run(folder / name) for name in ("two", "three")])
    labels = [run["label"] for run in comparison["runs"]]
    assert [label.rsplit(" ", 1)[1] for label in labels] == ["(two)", "(three)"]
    again = gather([Run(folder / "two")] * 2)
    assert len({run["label"] for run in again["runs"]}) == 2


def test_the_roles_are_the_recipes(folder):
    assert [role_of(Run(folder / name)) for name in ("one", "two")] == ["paper", "honest"]


def test_where_the_data_were_is_not_told(folder):
    run = Run(folder / "one")
    run.facts["data"] |= {"root": "/home/someone/SEED", "notes": ["Trials are cut."]}
    told = gather([run])["runs"][0]["provenance"]
    assert "someone" not in " ".join(told.values())
    assert told["About the data"] == "Trials are cut."


def test_another_fit_is_looked_into(folder):
    comparison = gather([Run(folder / "one")], fit="02-fit")
    assert comparison["runs"][0]["explained"]["fit"] == "subject 02"
    with pytest.raises(ValueError, match="no run has a finished fit of this name"):
        gather([Run(folder / "one")], fit="nobody")


def test_other_data_than_the_runs_are_refused(folder, tmp_path):
    prepared = write_run(tmp_path / "x", "resattentionet", NETWORK, trials=3, windows=1)
    prepared.samples.label = prepared.samples.label[::-1]
    with pytest.raises(ValueError, match="one: the data given are not those of this run"):
        gather([Run(folder / "one")], prepare=lambda run: prepared)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--unit", "window"], "--unit must be sample or trial"),
        (["--format", "gif"], "--format must be png, pdf, svg"),
        (["-o", "."], "-o must be a file"),
    ],
)
def test_bad_options_make_one_error(folder, arguments, message):
    done = report(folder / "one", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize("broken", ["missing", "unfinished", "damaged"])
def test_a_bad_run_makes_one_error_and_no_page(folder, tmp_path, monkeypatch, capsys, broken):
    run = tmp_path / broken
    if broken != "missing":
        shutil.copytree(folder / "one", run)
        for fit in (run / "fits").iterdir():
            if broken == "unfinished":
                (fit / "done.json").unlink()
            else:
                (fit / "predictions.npz").write_bytes(b"no zip")
    monkeypatch.setattr(sys, "argv", ["eegfast", "report", str(run), "-o", str(tmp_path / "p")])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 1 and error.startswith("eegfast: ") and broken in error
    assert not (tmp_path / "p").exists()
