# SPDX-License-Identifier: BSD-3-Clause
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("zarr", "3")

import fake_dataset
from fake_dataset import Fake, write_files

from eegfast.cli import app
from eegfast.datasets.registry import DATASETS, dataset_names, open_dataset
from eegfast.features.dataset import extract_dataset
from eegfast.features.extract import ExtractOptions
from eegfast.features.store import FeatureStore

LDS = ExtractOptions(smooth="lds")


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setitem(DATASETS, "fake", "fake_dataset:Fake")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def root(tmp_path):
    write_files(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def undisturbed(root, tmp_path):
    list(extract_dataset(Fake(root), tmp_path / "undisturbed", LDS, workers=1))
    return tree(tmp_path / "undisturbed")


@pytest.fixture
def run():
    def run(*arguments):
        return CliRunner().invoke(app, ["extract", *map(str, arguments)])

    return run


def test_a_data_set_goes_to_a_store(run, root, tmp_path, undisturbed):
    command = ("--dataset", "fake", "--root", root, "-o", tmp_path / "s", "--smooth", "lds")
    result = run(*command, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert tree(tmp_path / "s") == undisturbed
    assert "4 done, 0 skipped, 0 failed" in result.output
    assert "sub-02_ses-1" in result.output and "windows/s" in result.output
    assert "4 skipped" in run(*command, "--workers", 1).output
    assert "4 done" in run(*command, "--workers", 0, "--overwrite").output


def test_kind_and_what_is_missing(run, root, tmp_path, monkeypatch):
    def init(self, root, kind=None):
        Fake.__init__(self, root, kind)
        self.missing = ["subject [03]: no file"]

    partial = type("Partial", (Fake,), {"__init__": init})
    monkeypatch.setattr(fake_dataset, "Partial", partial, raising=False)
    monkeypatch.setitem(DATASETS, "fake", "fake_dataset:Partial")
    command = ("--dataset", "fake", "--root", root, "-o", tmp_path / "s", "--workers", 1)
    result = run(*command, "--kind", "features")
    assert result.exit_code == 0 and "missing: subject [03]: no file" in result.output
    assert FeatureStore(tmp_path / "s")["sub-01_ses-1"].metadata["feature"] == "de_LDS"
    result = run(*command, "--kind", "features", "--smooth", "lds")
    assert "stored as they are" in str(result.exception)


def test_options_reach_the_data_set(run, root, tmp_path, undisturbed):
    command = ("--dataset", "fake", "--root", root, "--smooth", "lds", "--workers", 1)
    assert run(*command, "-o", tmp_path / "one", "--option", "gain=1.0").exit_code == 0
    assert tree(tmp_path / "one") == undisturbed
    assert run(*command, "-o", tmp_path / "two", "--option", "gain=2.0").exit_code == 0
    one, two = (FeatureStore(tmp_path / name)["sub-01_ses-1"].read() for name in ("one", "two"))
    np.testing.assert_allclose(two - one, 2.0, atol=1e-4)  # log2 of four times the power
    result = run(*command, "-o", tmp_path / "three", "--option", "gian=2")
    assert "fake has no option gian; it has kind, gain" in str(result.exception)
    assert not (tmp_path / "three").exists()
    result = run(*command, "-o", tmp_path / "three", "--option", "gain")
    assert result.exit_code == 2 and "must be NAME=VALUE, got 'gain'" in result.output


def test_failures_are_told_at_the_end(run, root, tmp_path):
    np.save(root / "01_2.npy", np.zeros((3, 2, 2000)))
    result = run("--dataset", "fake", "--root", root, "-o", tmp_path / "s", "--workers", 1)
    assert result.exit_code == 1
    assert "3 done, 0 skipped, 1 failed" in result.output
    assert "01_2.npy: Recording: ch_names must name each of the signal's 2" in result.output
    assert FeatureStore(tmp_path / "s").groups == ["sub-01_ses-1", "sub-02_ses-1", "sub-02_ses-2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "x"), "there must be a FILE, or --dataset"),
        (("a.edf", "-o", "x", "--dataset", "fake", "--root", "."), "FILE or --dataset, not both"),
        (("-o", "x", "--dataset", "fake"), "--dataset needs --root"),
        (("a.edf", "-o", "x", "--root", "."), "--root is for --dataset"),
        (("a.edf", "-o", "x", "--workers", "2"), "--workers is for --dataset"),
        (("a.edf", "-o", "x", "--option", "a=b"), "--option is for --dataset"),
        (("a.edf", "-o", "x", "--scheduler", "tcp://a:1"), "--scheduler is for --dataset"),
    ],
)
def test_commands_that_make_no_sense(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output.replace("\n", " ")


def test_data_sets_by_name(root):
    assert "fake" in dataset_names()
    assert open_dataset("FAKE", root, kind=None).kind == "preprocessed"
    assert open_dataset("fake", root, kind="features").root == root.resolve()
    with pytest.raises(ValueError, match="dataset must be one of .*fake.*, got 'none'"):
        open_dataset("none", root)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        open_dataset("fake", root / "none")


def test_a_data_set_whose_reader_is_not_there_is_not_offered(root, monkeypatch):
    monkeypatch.setitem(DATASETS, "absent", "eegfast.datasets.absent:Absent")
    assert "absent" not in dataset_names()
    with pytest.raises(ValueError, match="dataset must be one of"):
        open_dataset("absent", root)


def test_scheduler(run, root, tmp_path, undisturbed, monkeypatch):
    distributed = pytest.importorskip("distributed")
    command = ("--dataset", "fake", "--root", root, "-o", tmp_path / "s", "--smooth", "lds")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        result = run(*command, "--scheduler", cluster.scheduler_address)
        assert result.exit_code == 0, result.output
        assert "4 done" in result.output
        np.save(root / "01_1.npy", np.zeros((3, 2, 2000)))
        result = run(*command, "--scheduler", cluster.scheduler_address)
        assert result.exit_code == 1 and "3 skipped, 1 failed" in result.output
        monkeypatch.setattr("eegfast.features.dataset.store_file", lambda *_: 1 / 0)
        result = run(*command, "--scheduler", cluster.scheduler_address)
        assert result.exit_code == 1 and "4 failed" in result.output
        assert "ZeroDivisionError: division by zero" in result.output
    assert tree(tmp_path / "s") == undisturbed


def test_scheduler_without_workers(root, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("eegfast._processes._WORKERS_SECONDS", 0.2)
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(OSError, match=f"the Dask scheduler {address} has no workers"):
            list(extract_dataset(Fake(root), tmp_path / "s", LDS, scheduler=address))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from fake_dataset import Fake
from eegfast.features.dataset import extract_dataset
from eegfast.features.extract import ExtractOptions
from eegfast.features.store import FeatureStore

root, out, options = Path(sys.argv[1]), Path(sys.argv[2]), ExtractOptions(smooth="lds")

def start(store, options=options):
    child = os.fork()
    if child == 0:
        statuses = {o.status for o in extract_dataset(Fake(root), store, options, workers=1)}
        os._exit(0 if statuses <= {"done", "skipped"} else 1)
    return child

begin = time.perf_counter()
assert os.waitpid(start(out / "undisturbed"), 0)[1] == 0
seconds = time.perf_counter() - begin
for k in range(1, 9):
    store = out / "again"
    if k == 5:  # from here on there is something to replace
        assert os.waitpid(start(store, ExtractOptions()), 0)[1] == 0
    child = start(store)
    time.sleep(seconds * (k % 5) / 5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (store / "zarr.json").exists():
        groups = FeatureStore(store)
        assert groups.verify() == [], groups.verify()
    left = [p.name for p in store.glob(".*")] if store.exists() else []
    assert len(left) <= 3, left
    print(k, len(list(store.glob("sub-*"))), left)
assert os.waitpid(start(out / "again"), 0)[1] == 0
"""


def test_killed_at_any_time_it_goes_on_to_the_same_store(root, tmp_path, undisturbed):
    result = subprocess.run(
        [sys.executable, "-c", KILLED, root, tmp_path / "out"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "out/undisturbed") == undisturbed
    assert tree(tmp_path / "out/again") == undisturbed


COMMAND = "import fake_dataset, eegfast.cli; fake_dataset.register(); eegfast.cli.main()"


def test_the_command_is_killed_and_then_one_of_its_processes(run, root, tmp_path, undisturbed):
    pytest.importorskip("distributed")
    (root / "02_1.slow").touch()
    command = ["--dataset", "fake", "--root", str(root), "-o", str(tmp_path / "s")]
    command += ["--smooth", "lds", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "extract", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "s/.lock-sub-02_ses-1").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    (root / "02_1.slow").unlink()
    FeatureStore(tmp_path / "s").verify()
    (root / "02_2.kill").touch()
    result = run(*command, "--overwrite")
    assert result.exit_code == 0, result.output
    assert not (root / "02_2.kill").exists()
    assert "0 failed" in result.output and "sub-02_ses-2" in result.output
    assert tree(tmp_path / "s") == undisturbed
