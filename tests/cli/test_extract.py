# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import eegfast
from eegfast.cli import app, main
from eegfast.datasets import Recording, read_recording
from eegfast.features import DifferentialEntropy, LDSSmoother, moving_average
from eegfast.features.batch import extract_file, plan_outputs
from eegfast.features.extract import ExtractOptions, extract_features, parse_bands
from eegfast.features.files import load_features

mne = pytest.importorskip("mne")
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def run():
    def run(*arguments):
        return CliRunner().invoke(app, ["extract", *map(str, arguments)])

    return run


@pytest.fixture
def write(tmp_path):
    """Write seconds of noise as FIF."""

    def write(name, sfreq=200, seconds=5, seed=0, names=("Fp1", "T3", "CB2")):
        x = np.random.default_rng(seed).normal(0, 20e-6, (len(names), sfreq * seconds))
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = mne.io.RawArray(x, mne.create_info(list(names), sfreq, "eeg"), verbose="ERROR")
            raw.save(path, overwrite=True, verbose="ERROR", fmt="double")
        return path

    return write


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_features_are_those_of_the_modules(run, write, tmp_path):
    source = write("a_raw.fif", seconds=20)
    out = tmp_path / "out"
    bands = "theta:4-8,high:20-45.5"
    result = run(
        source, "-o", out, "--recipe", "clean", "--window", 2, "--step", 0.5, "--bands", bands
    )
    assert result.exit_code == 0, result.output
    assert files_in(out) == ["a_raw.de.npz"]
    features = load_features(out / "a_raw.de.npz")
    recording = read_recording(source)
    de = DifferentialEntropy(200, "clean", {"theta": (4, 8), "high": (20, 45.5)}, 2, 0.5)
    expected = de(torch.from_numpy(recording.signal)).numpy()
    np.testing.assert_allclose(features.values, expected, rtol=1e-6)
    assert features.values.shape == (37, 3, 2) and features.values.dtype == np.float32
    np.testing.assert_allclose(features.times, np.arange(37) * 0.5)
    assert features.ch_names == ["Fp1", "T3", "CB2"]
    assert features.bands == {"theta": (4, 8), "high": (20, 45.5)}
    assert features.band_names == ["theta", "high"]
    assert features.positions == recording.positions and len(features.positions) == 3
    assert features.unit == de.feature_unit


def test_says_what_it_is_and_comes_from(run, write, tmp_path):
    source = write("a_raw.fif")
    assert run(source, "-o", tmp_path / "out", "--smooth", "lds").exit_code == 0
    metadata = load_features(tmp_path / "out/a_raw.de.npz").metadata
    content = source.read_bytes()
    assert metadata["source"]["name"] == "a_raw.fif"
    assert metadata["source"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert metadata["source"]["size"] == len(content)
    assert metadata["recipe"] == "bcmi"
    assert metadata["unit"] == "log2(uV^2)"
    assert metadata["explain"] == DifferentialEntropy(200, "bcmi").explain()
    assert metadata["options"]["smooth"] == "lds"
    assert metadata["software"]["eegfast"] == eegfast.__version__
    assert metadata["software"]["torch"] and metadata["software"]["mne"]
    assert metadata["date"].endswith("+00:00")
    assert str(tmp_path) not in json.dumps(metadata)


@pytest.mark.parametrize(
    ("smooth", "module"),
    [
        ("lds", LDSSmoother()),
        ("lds-causal", LDSSmoother(causal=True, prior="first")),
        ("ma", moving_average),
        ("none", lambda values: values),
    ],
)
def test_smoothing(smooth, module, write):
    recording = read_recording(write("a_raw.fif", seconds=12))
    plain = extract_features(recording, ExtractOptions()).values
    smoothed = extract_features(recording, ExtractOptions(smooth=smooth)).values
    np.testing.assert_allclose(smoothed, module(torch.from_numpy(plain)).numpy(), rtol=1e-5)


@pytest.mark.parametrize("smooth", ["lds", "lds-causal", "ma"])
def test_flat_stretch_does_not_spoil_the_rest(smooth):
    x = np.random.default_rng(0).normal(0, 20, (3, 4000)).astype(np.float32)
    options = ExtractOptions(recipe="matlab", smooth=smooth)
    x[1, 1000:1600] = 0.0  # windows 5, 6, 7 of 20
    features = extract_features(Recording(x, 200, ["Cz", "Pz", "Oz"]), options)
    finite = np.isfinite(features.values)
    assert finite[:, [0, 2]].all()
    assert not finite[5:8, 1].any() and finite[:5, 1].all() and finite[8:, 1].all()
    before = extract_features(Recording(x[:, :1000], 200, ["Cz", "Pz", "Oz"]), options).values
    after = extract_features(Recording(x[:, 1600:], 200, ["Cz", "Pz", "Oz"]), options).values
    np.testing.assert_allclose(features.values[:5, 1], before[:, 1], rtol=1e-5)
    np.testing.assert_allclose(features.values[8:, 1], after[:, 1], rtol=1e-5)
    (note,) = features.metadata["notes"]
    assert note.startswith("15 of 300 values, in 3 windows, are not finite") and "Pz" in note


def test_long_recordings_go_through_in_groups_of_channels(write, monkeypatch):
    recording = read_recording(write("a_raw.fif"))
    for recipe in ("bcmi", "clean", "libeer"):
        options = ExtractOptions(recipe=recipe)
        whole = extract_features(recording, options).values
        monkeypatch.setattr("eegfast.features.extract._CHUNK_VALUES", 2 * recording.n_times)
        grouped = extract_features(recording, options).values
        monkeypatch.undo()
        np.testing.assert_allclose(grouped, whole, rtol=1e-6)


def test_impossible_rate_says_how_to_go_on(run, write, tmp_path):
    source = write("a_raw.fif", sfreq=1000)
    result = run(source, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "bcmi" in result.output and "1000 Hz" in result.output
    assert "--resample 200" in result.output
    result = run(source, "-o", tmp_path / "out", "--resample", 200)
    assert result.exit_code == 0, result.output
    features = load_features(tmp_path / "out/a_raw.de.npz")
    assert features.values.shape == (5, 3, 5)
    np.testing.assert_allclose(features.times, np.arange(5))
    assert (features.metadata["original_sfreq"], features.metadata["sfreq"]) == (1000, 200)
    expected = DifferentialEntropy(200)(
        torch.from_numpy(read_recording(source).resample(200).signal)
    )
    np.testing.assert_allclose(features.values, expected.numpy(), rtol=1e-6)


def test_no_advice_where_resampling_would_not_help(run, write, tmp_path):
    source = write("a_raw.fif")
    result = run(source, "-o", tmp_path / "out", "--bands", "low:0.1-1")
    assert result.exit_code == 1
    assert "impossible" in result.output and "--resample" not in result.output


def test_one_bad_file_does_not_stop_the_rest(run, write, tmp_path):
    good, later = write("a_raw.fif"), write("b_raw.fif", seed=1)
    (tmp_path / "empty.edf").touch()
    short = write("short_raw.fif", names=["Cz"], seconds=1)
    bad = [tmp_path / "empty.edf", tmp_path / "absent.edf", DATA / "eeglab_test.cnt", tmp_path]
    result = run(good, *bad, short, later, "-o", tmp_path / "out", "--window", 2)
    assert result.exit_code == 1
    assert files_in(tmp_path / "out") == ["a_raw.de.npz", "b_raw.de.npz"]
    for part in (
        "the file is empty (0 bytes)",
        "there is no such file",
        "26080 samples of 2 channels",
        "got a folder",
        "too few for one window",
        "2 done, 0 skipped, 5 failed",
    ):
        assert part in result.output
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(run, tmp_path, monkeypatch, capfd):
    (tmp_path / "empty.edf").touch()
    monkeypatch.setenv("EEGFAST_DEBUG", "1")
    result = run(tmp_path / "empty.edf", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "Traceback" in result.output + capfd.readouterr().err


def test_second_run_skips_what_is_there(run, write, tmp_path):
    sources = [write("a_raw.fif"), write("b_raw.fif", seed=1)]
    out = tmp_path / "out"
    assert run(sources[0], "-o", out).exit_code == 0
    written = (out / "a_raw.de.npz").stat().st_mtime_ns
    result = run(*sources, "-o", out)
    assert result.exit_code == 0
    assert "1 done, 1 skipped, 0 failed" in result.output
    assert (out / "a_raw.de.npz").stat().st_mtime_ns == written


def test_recomputes_what_is_out_of_date(write, tmp_path, monkeypatch):
    source, output, options = write("a_raw.fif"), tmp_path / "a.de.npz", ExtractOptions()

    def status(options=options, **more):
        return extract_file(source, output, options, **more).status

    assert status() == "done"
    assert status() == "skipped"
    assert status(overwrite=True) == "done"
    for changes in ({"recipe": "matlab"}, {"smooth": "ma"}, {"step": 0.5}, {"picks": ["Fp1"]}):
        assert status(replace(options, **changes)) == "done"
        assert status(replace(options, **changes)) == "skipped"
    assert status() == "done"
    before = load_features(output).values
    write("a_raw.fif", seed=5)
    assert status() == "done"
    assert not np.array_equal(load_features(output).values, before)
    content = bytearray(output.read_bytes())
    for damaged in (
        content[: len(content) // 2],
        b"",
        content[:500] + b"\xff" * 50 + content[550:],
    ):
        output.write_bytes(damaged)
        assert status() == "done"
        assert status() == "skipped"
    monkeypatch.setattr("eegfast.features.batch.__version__", "9")
    assert status() == "done"


def test_notices_a_change_beside_the_file(tmp_path):
    for file in (DATA / "brainvision").glob("bv_export*"):
        shutil.copyfile(file, tmp_path / file.name)
    (source,) = tmp_path.glob("*.vhdr")
    output, options = tmp_path / "out" / "x.de.npz", ExtractOptions(resample=200)
    assert extract_file(source, output, options).status == "done"
    assert extract_file(source, output, options).status == "skipped"
    binary = source.with_suffix(".dat")
    binary.write_bytes(bytes(1000) + binary.read_bytes()[1000:])
    assert extract_file(source, output, options).status == "done"
    names = load_features(output).metadata["source"]["files"]
    assert names == [source.name, binary.name]


def test_does_not_replace_features_of_another_file(write, tmp_path):
    first, second = write("one/rec_raw.fif"), write("two/rec_raw.fif", seed=1)
    output, options = tmp_path / "rec.de.npz", ExtractOptions()
    assert extract_file(first, output, options).status == "done"
    content = output.read_bytes()
    outcome = extract_file(second, output, options)
    assert outcome.status == "failed"
    assert "already holds features of another rec_raw.fif" in outcome.notes[0]
    assert output.read_bytes() == content
    assert extract_file(second, output, options, overwrite=True).status == "done"
    moved = tmp_path / "three" / "rec_raw.fif"
    moved.parent.mkdir()
    shutil.copy(second, moved)
    assert extract_file(moved, output, options).status == "skipped"


def test_outputs_never_collide(tmp_path):
    def names(*files):
        plan = plan_outputs([tmp_path / file for file in files], "out")
        return [output.name.removesuffix(".de.npz") for _, output in plan]

    assert names("a.edf", "b.set", "c_raw.fif.gz") == ["a", "b", "c_raw"]
    assert names("a.edf", "a.bdf", "b.edf") == ["a.edf", "a.bdf", "b"]
    assert names("x/a.edf", "y/a.edf") == ["x_a.edf", "y_a.edf"]
    assert names("x/s/a.edf", "y/s/a.edf") == ["x_s_a.edf", "y_s_a.edf"]
    assert names("A.edf", "a.EDF") != ["A", "a"]
    assert names("a.edf", "./a.edf", "x/../a.edf") == ["a"]
    tricky = ["x/a.edf", "y/a.edf", "x_a.edf.edf", "a/x_a.edf.bdf", "x_a.edf"]
    found = [name.casefold() for name in names(*tricky)]
    assert len(set(found)) == len(tricky)


def test_failed_write_leaves_the_old_file_and_no_debris(run, write, tmp_path, monkeypatch):
    source, out = write("a_raw.fif"), tmp_path / "out"
    assert run(source, "-o", out).exit_code == 0
    content = (out / "a_raw.de.npz").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eegfast.features.files.os.fsync", full)
    result = run(source, "-o", out, "--smooth", "lds")
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert files_in(out) == ["a_raw.de.npz"]
    assert (out / "a_raw.de.npz").read_bytes() == content


def test_kill_while_writing_leaves_no_debris_and_can_go_on(run, write, tmp_path, monkeypatch):
    sources = [write(f"{name}_raw.fif", seed=ord(name)) for name in "abc"]
    out, fsync, calls = tmp_path / "out", os.fsync, []

    def killed_at_the_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        fsync(descriptor)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("eegfast.features.files.os.fsync", killed_at_the_second)
    result = run(*sources, "-o", out)
    assert result.exit_code == 130
    assert "Stopped after 1 of 3 files" in result.output
    assert files_in(out) == ["a_raw.de.npz"]
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    (out / ".b_raw.de.npz.12345.tmp").write_bytes(b"left by a process that was killed outright")
    assert "2 done, 1 skipped, 0 failed" in run(*sources, "-o", out).output
    assert files_in(out) == ["a_raw.de.npz", "b_raw.de.npz", "c_raw.de.npz"]


def test_remarks_of_the_reader_are_kept(run, tmp_path):
    content = (DATA / "eeguana_bv_export_edfplus.edf").read_bytes()
    (tmp_path / "cut.edf").write_bytes(content[: int(0.7 * len(content))])
    result = run(tmp_path / "cut.edf", "-o", tmp_path / "out", "--resample", 200)
    assert result.exit_code == 0
    assert "cut.edf: Number of records" in result.output
    (note,) = load_features(tmp_path / "out/cut.de.npz").metadata["notes"]
    assert note.startswith("Number of records from the header does not match the file size")


def test_picks(run, write, tmp_path):
    result = run(write("a_raw.fif"), "-o", tmp_path, "--picks", "T7, FP1")
    assert result.exit_code == 0
    assert load_features(tmp_path / "a_raw.de.npz").ch_names == ["T3", "Fp1"]
    result = run(write("a_raw.fif"), "-o", tmp_path, "--picks", "Oz")
    assert result.exit_code == 1 and "picks names Oz" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bands", "alpha"], "name:low-high"),
        (["--bands", "a:4-8,a:8-12"], "'a' twice"),
        (["--bands", "a:8-4"], "low < high"),
        (["--recipe", "de"], "recipe must be one of bcmi"),
        (["--smooth", "kalman"], "smooth must be one of none, lds"),
        (["--format", "mat"], "format must be npz"),
        (["--window", "0"], "window must be a positive"),
        (["--step", "nan"], "step must be a positive"),
        (["--resample", "-200"], "resample must be a positive"),
        (["--nonsense"], "No such option"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, run, tmp_path):
    result = run("a.edf", "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_more_usage_errors(run, tmp_path):
    (tmp_path / "file").touch()
    result = run("a.edf", "-o", tmp_path / "file")
    assert result.exit_code == 2 and "must be a folder" in result.output
    assert run("a.edf").exit_code == 2
    assert run("-o", tmp_path).exit_code == 2


def test_parse_bands():
    assert parse_bands(" theta:4-8, x : 0.5 - 45.5") == {"theta": (4.0, 8.0), "x": (0.5, 45.5)}


def test_help_has_examples(run):
    result = run("--help")
    assert result.exit_code == 0
    for part in ("Examples", "--resample 200 --smooth lds", "lds-causal", "exit code"):
        assert part in result.output


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"eegfast {eegfast.__version__}"


def test_missing_mne_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mne", None)
    arguments = ["eegfast", "extract", str(DATA / "mnepy_test.bdf"), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    error = capsys.readouterr().err
    assert "eegfast: Reading EEG files needs MNE-Python: pip install 'eegfast[io]'." in error
    assert "Traceback" not in error
    monkeypatch.setenv("EEGFAST_DEBUG", "1")
    with pytest.raises(ImportError):
        main()
