# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zarr", "3")

import fake_dataset
import zarr
from fake_dataset import Fake, write_files

from eegfast.datasets import Trial
from eegfast.datasets.registry import DATASETS
from eegfast.features import _store_layout
from eegfast.features._store_layout import chunk_windows, group_names, prepare_store, writing
from eegfast.features.dataset import extract_dataset
from eegfast.features.extract import ExtractOptions, extract_features
from eegfast.features.store import FeatureStore, StoredFeatures

LDS = ExtractOptions(smooth="lds")


def tree(folder):
    """Every file under a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def features_of(recording, options=LDS):
    """The store computes in float32."""
    signal = recording.signal.astype(np.float32)
    return extract_features(replace(recording, signal=signal), options).values


def statuses(dataset, store, options=LDS, **more):
    outcomes = list(extract_dataset(dataset, store, options, **{"workers": 1, **more}))
    return {o.output.name: o.status for o in sorted(outcomes, key=lambda o: o.output)}


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """What would have been flushed to the disk, which takes most of the time."""
    paths = []
    monkeypatch.setattr(_store_layout, "_sync", lambda path: paths.append(str(path)))
    return paths


@pytest.fixture
def data(tmp_path):
    write_files(tmp_path / "data")
    return Fake(tmp_path / "data")


@pytest.fixture
def store(data, tmp_path):
    assert set(statuses(data, tmp_path / "store").values()) == {"done"}
    return FeatureStore(tmp_path / "store")


def test_holds_the_features_of_each_trial(data, store):
    names = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2"]
    assert store.groups == names == list(store)
    group = store["sub-02_ses-1"]
    recordings = [r for r in data if (r.subject_id, r.session_id) == ("02", "1")]
    expected = [features_of(r) for r in recordings]
    assert [len(values) for values in expected] == [7, 8, 9]
    np.testing.assert_array_equal(group.read(), np.concatenate(expected))
    for i, values in enumerate(expected):
        np.testing.assert_array_equal(group.read(i), values)
    assert group.features.dtype == np.float32 and isinstance(group.features, zarr.Array)
    assert group.trial_start.tolist() == [0, 7, 15] and len(group) == 3
    assert group.trial_id.tolist() == [1, 2, 3] and group.label.tolist() == [0, 1, 0]
    assert group.subject_id.tolist() == ["02"] * 3 and group.session_id.tolist() == ["1"] * 3
    assert group.ch_names == fake_dataset.NAMES and list(group.bands)[0] == "delta"
    assert group.class_names == ("low", "high")


def test_says_what_it_is_and_comes_from(data, store, tmp_path):
    about = store["sub-01_ses-1"].metadata
    content = (data.root / "01_1.npy").read_bytes()
    assert about["source"] == {
        "name": "01_1.npy",
        "files": ["01_1.npy"],
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert about["recipe"] == "bcmi" and about["explain"].startswith("recipe     bcmi")
    assert about["window"] == about["step"] == 1.0 and about["unit"] == "log2(uV^2)"
    assert about["smoothing"].startswith("lds") and about["options"]["smooth"] == "lds"
    assert len(about["key"]) == 64
    assert str(tmp_path) not in json.dumps(about)
    assert all(key in zarr.open_group(store.path / "sub-01_ses-1", mode="r").attrs for key in about)


def test_load_gives_every_window_its_trial(data, store):
    windows = store.load()
    assert windows.features.shape == (4 * 24, 3, 5) and len(windows) == 96
    assert windows.features.dtype == np.float32
    assert windows.class_names == ("low", "high") and windows.ch_names == fake_dataset.NAMES
    for i, recording in enumerate(data):
        mine = (
            (windows.subject_id == recording.subject_id)
            & (windows.session_id == recording.session_id)
            & (windows.trial_id == recording.trial_id)
        )
        assert set(windows.label[mine]) == {data.trials[i].label}
        np.testing.assert_array_equal(windows.features[mine], features_of(recording))
    part = store.load(["sub-02_ses-2"])
    assert set(part.subject_id) == {"02"} and len(part) == 24
    with pytest.raises(KeyError):
        store.load(["../data"])


def test_what_is_there_is_not_computed_again(data, store, monkeypatch):
    before = tree(store.path)
    monkeypatch.setattr(Fake, "_read_file", None)
    assert set(statuses(data, store.path).values()) == {"skipped"}
    assert tree(store.path) == before


@pytest.mark.parametrize(
    "options",
    [
        ExtractOptions(),
        replace(LDS, recipe="matlab"),
        replace(LDS, bands={"alpha": (8, 14)}),
        replace(LDS, window=2.0),
        replace(LDS, step=0.5),
        replace(LDS, resample=100.0, bands={"alpha": (8, 14)}),
        replace(LDS, picks=("O2", "Cz")),
    ],
)
def test_another_option_is_another_key(data, store, options):
    assert set(statuses(data, store.path, options).values()) == {"done"}
    group = store["sub-01_ses-1"]
    expected = data[0] if options.picks is None else data[0].pick(options.picks)
    np.testing.assert_array_equal(group.read(0), features_of(expected, options))
    assert group.ch_names == expected.ch_names
    assert store.verify() == []


def test_a_changed_file_is_computed_again_even_if_size_and_time_are_the_same(data, store):
    path = data.root / "02_1.npy"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert statuses(data, store.path) == {
        "sub-01_ses-1": "skipped",
        "sub-01_ses-2": "skipped",
        "sub-02_ses-1": "done",
        "sub-02_ses-2": "skipped",
    }


def test_what_the_data_set_was_told_labels_and_version_count(data, store, monkeypatch):
    assert set(statuses(Fake(data.root, gain=2.0), store.path).values()) == {"done"}
    told = Fake(data.root, gain=2.0)
    told.electrodes = ["A", "B", "C"]
    assert set(statuses(told, store.path).values()) == {"done"}
    told.missing = ["much"]
    assert set(statuses(told, store.path).values()) == {"skipped"}
    relabelled = Fake(data.root, gain=2.0)
    relabelled.trials[0] = replace(relabelled.trials[0], label=1)
    read = Fake._read_file
    monkeypatch.setattr(Fake, "_read_file", lambda self, path, trials: read(self, path, trials))
    assert statuses(relabelled, store.path)["sub-01_ses-1"] == "done"
    assert store["sub-01_ses-1"].label.tolist() == [1, 1, 0]
    monkeypatch.setattr(_store_layout, "__version__", "999")
    assert set(statuses(relabelled, store.path).values()) == {"done"}


def test_overwrite_computes_again(data, store):
    before = tree(store.path)
    assert set(statuses(data, store.path, overwrite=True).values()) == {"done"}
    assert tree(store.path) == before


def test_supplied_features_are_stored_as_they_are(data, tmp_path):
    supplied = Fake(data.root, kind="features")
    assert set(statuses(supplied, tmp_path / "store", None).values()) == {"done"}
    group = FeatureStore(tmp_path / "store")["sub-01_ses-2"]
    values = [item.values.astype(np.float32) for item in supplied if item.session_id == "2"][:3]
    np.testing.assert_array_equal(group.read(), np.concatenate(values))
    assert group.metadata["feature"] == "de_LDS" and group.metadata["options"] is None
    assert list(group.bands) == list("abcde")
    with pytest.raises(ValueError, match="supplied features are stored as they are"):
        statuses(supplied, tmp_path / "store", LDS)


def test_windows_without_any_value_are_there(data, tmp_path):
    for path in data.root.glob("*.npy"):
        np.save(path, np.full((3, 3, 2000), np.nan))
    statuses(Fake(data.root, kind="features"), tmp_path / "store", None)
    assert np.isnan(FeatureStore(tmp_path / "store").load().features).all()


def test_a_file_that_fails_does_not_stop_the_others(data, tmp_path):
    (data.root / "01_2.npy").write_bytes(b"\x93NUMPY\x01\x00 rubbish")
    outcomes = {o.output.name: o for o in extract_dataset(data, tmp_path / "s", LDS, workers=1)}
    assert [o.status for o in outcomes.values()] == ["done", "failed", "done", "done"]
    assert outcomes["sub-01_ses-2"].notes and outcomes["sub-01_ses-2"].error is not None
    store = FeatureStore(tmp_path / "s")
    assert store.groups == ["sub-01_ses-1", "sub-02_ses-1", "sub-02_ses-2"]
    assert not [path for path in store.path.iterdir() if path.name.startswith(".")]


def test_a_failure_keeps_the_old_group_and_names_the_trial(data, store):
    before = tree(store.path)
    outcomes = list(extract_dataset(data, store.path, replace(LDS, window=8.0), workers=1))
    assert {o.status for o in outcomes} == {"failed"}
    assert outcomes[0].notes[0].startswith("trial 1: ")
    assert tree(store.path) == before


def test_a_file_that_changes_while_it_is_read_fails(data, tmp_path, monkeypatch):
    read = Fake._read_file

    def touching(self, path, trials):
        yield from read(self, path, trials)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(Fake, "_read_file", touching)
    outcomes = list(extract_dataset(data, tmp_path / "s", LDS, workers=1))
    assert {o.notes for o in outcomes} == {("the file changed while it was read",)}


def test_trials_that_do_not_fit_together_fail(data, tmp_path, monkeypatch):
    read = Fake._read_file

    def swapped(self, path, trials):
        yield from read(self, path, trials[::-1])

    monkeypatch.setattr(Fake, "_read_file", swapped)
    (note,) = next(extract_dataset(data, tmp_path / "s", LDS, workers=1)).notes
    assert note.startswith("expected (subject, session, trial, label) ['01', '1', 1, 0], read")

    def other_rate(self, path, trials):
        for i, recording in enumerate(read(self, path, trials)):
            yield replace(recording, sfreq=200 - 10 * i)

    monkeypatch.setattr(Fake, "_read_file", other_rate)
    (note,) = next(extract_dataset(data, tmp_path / "s", LDS, workers=1)).notes
    assert note.startswith("trial 2: explain differs from that of the trials before")


def test_notes_are_kept(data, tmp_path):
    signals = np.load(data.root / "01_1.npy")
    signals[1, 0, 400:800] = 0
    np.save(data.root / "01_1.npy", signals)
    for status in ("done", "skipped"):
        outcome = next(extract_dataset(data, tmp_path / "s", LDS, workers=1))
        assert outcome.status == status
        assert outcome.notes[0].startswith("trial 2: 10 of 120 values, in 2 windows, are not fin")
    assert not np.isfinite(FeatureStore(tmp_path / "s")["sub-01_ses-1"].read(1)).all()


def test_what_the_reader_warns_of_is_kept(data, tmp_path, monkeypatch):
    read = Fake._read_file

    def warning(self, path, trials):
        for recording in read(self, path, trials):
            if recording.trial_id == 2:
                warnings.warn(f"{path}: odd", RuntimeWarning, stacklevel=1)
            yield recording

    monkeypatch.setattr(Fake, "_read_file", warning)
    outcomes = list(extract_dataset(data, tmp_path / "s", LDS, workers=1))
    assert {o.notes for o in outcomes} == {("trial 2: odd",)}


def test_another_data_set_or_folder_is_refused(data, store, tmp_path):
    other = Fake(data.root)
    other.name = "other"
    with pytest.raises(ValueError, match="holds features of fake .*, not of other"):
        statuses(other, store.path)
    with pytest.raises(ValueError, match=r"or an empty folder, it holds 01_1\.npy"):
        statuses(data, data.root)
    with pytest.raises(ValueError, match="expected a folder for the feature store, got a file"):
        statuses(data, data.root / "01_1.npy")
    assert sorted(path.name for path in data.root.iterdir())[0] == "01_1.npy"


def test_a_store_of_two_kinds_is_not_loaded_as_one(data, store):
    jobs = extract_dataset(data, store.path, ExtractOptions(), workers=1)
    next(jobs)
    jobs.close()
    with pytest.raises(ValueError, match="sub-01_ses-1 and sub-01_ses-2 differ in options"):
        store.load()
    assert len(store.load(["sub-01_ses-2", "sub-02_ses-1"])) == 48


def test_names(data):
    def names(*rows):
        data.trials = [Trial(s, e, t, 0, Path(path)) for s, e, t, path in rows]
        return list(group_names(data).values())

    assert names(("01", "1", 1, "a"), ("01", "2", 1, "a")) == ["sub-01"]
    assert names(("01", "1", 1, "a"), ("02", "1", 1, "a")) == ["sub-01_ses-1_trial-1"]
    files = [("01", "1", 1, "a"), ("01", "1", 2, "b"), ("02", "1", 1, "c")]
    assert names(*files) == ["sub-01_ses-1_trial-1", "sub-01_ses-1_trial-2", "sub-02_ses-1"]
    assert names(("../x", "/", 1, "a")) == ["sub-..%2Fx_ses-%2F"]


@pytest.mark.parametrize("windows", [1, 7, 3394, 200_000])
def test_chunks_hold_whole_windows_and_little_padding(windows):
    chunk = chunk_windows((windows, 62, 5))
    assert 1 <= chunk <= windows and chunk * 62 * 5 * 4 <= 4e6
    assert -(-windows // chunk) * chunk - windows < 0.01 * windows + 1


# Readers meet whatever is on disk.


def edit(path, **changes):
    about = json.loads(path.read_text())
    about.update(changes)
    path.write_text(json.dumps(about))


def attributes(path, **changes):
    edit(path, attributes={**json.loads(path.read_text())["attributes"], **changes})


def pad(path, size):
    path.write_text(path.read_text() + " " * size)


def first(path):
    return path / "sub-01_ses-1"


HARM = {
    "no metadata": lambda g: (g / "zarr.json").unlink(),
    "no array": lambda g: (g / "features/zarr.json").unlink(),
    "bad JSON": lambda g: (g / "zarr.json").write_text("{"),
    "deep JSON": lambda g: (g / "zarr.json").write_text("[" * 100_000),
    "huge JSON": lambda g: pad(g / "zarr.json", 2**24),
    "device": lambda g: [(g / "zarr.json").unlink(), (g / "zarr.json").symlink_to("/dev/zero")],
    "list": lambda g: (g / "zarr.json").write_text("[]"),
    "no attribute": lambda g: edit(g / "zarr.json", attributes={}),
    "names": lambda g: attributes(g / "zarr.json", ch_names=["Cz"]),
    "texts": lambda g: attributes(g / "zarr.json", ch_names=[1, 2, 3]),
    "bands": lambda g: attributes(g / "zarr.json", band_edges=[[1, 2]]),
    "layout": lambda g: attributes(g / "zarr.json", layout=2),
    "trials": lambda g: attributes(g / "zarr.json", trials={"label": [1]}),
    "no file": lambda g: (g / "features/c/0/0/0").unlink(),
    "short": lambda g: os.truncate(g / "features/c/0/0/0", 100),
    "long": lambda g: os.truncate(g / "features/c/0/0/0", 2**40),
    "shape": lambda g: edit(g / "features/zarr.json", shape=[10**15, 3, 5]),
    "wide": lambda g: edit(g / "features/zarr.json", shape=[24, 10**9, 10**9]),
    "negative": lambda g: edit(g / "features/zarr.json", shape=[-24, 3, 5]),
    "flat": lambda g: edit(g / "features/zarr.json", shape=[24, 15]),
    "type": lambda g: edit(g / "features/zarr.json", data_type="float64"),
    "codec": lambda g: edit(
        g / "features/zarr.json",
        codecs=[
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 1}},
        ],
    ),
    "unknown codec": lambda g: edit(
        g / "features/zarr.json",
        codecs=[{"name": "numcodecs.pickle", "configuration": {"protocol": 4}}],
    ),
    "keys": lambda g: edit(
        g / "features/zarr.json",
        chunk_key_encoding={"name": "default", "configuration": {"separator": "."}},
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_damaged_groups_are_one_clear_error_and_are_replaced(data, store, harm):
    before = tree(store.path)
    HARM[harm](first(store.path))
    with pytest.raises(ValueError, match=r"sub-01_ses-1.*: expected a group of a feature store: "):
        store["sub-01_ses-1"]
    with pytest.raises(ValueError, match="expected a group of a feature store"):
        store.load()
    (problem,) = store.verify()
    assert "sub-01_ses-1" in problem
    assert statuses(data, store.path)["sub-01_ses-1"] == "done"
    assert tree(store.path) == before


@pytest.mark.parametrize(
    "trials",
    [{"trial_start": [0, 15, 7]}, {"trial_start": [1, 7, 15]}, {"trial_start": [0, 7, 24]},
     {"label": [0, 1, 2]}, {"label": [0, 1]}, {"label": [0, 1, True]}, {"subject_id": [1, 1, 1]}],
)  # fmt: skip
def test_tables_that_make_no_sense_are_refused(store, trials):
    path = first(store.path) / "zarr.json"
    old = json.loads(path.read_text())["attributes"]["trials"]
    attributes(path, trials={**old, **trials})
    with pytest.raises(ValueError, match="expected a group of a feature store"):
        StoredFeatures(path.parent)


def test_verify_finds_flipped_bits_and_edited_attributes(data, store):
    assert store.verify() == []
    chunk = first(store.path) / "features/c/0/0/0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 4
    chunk.write_bytes(content)
    path = store.path / "sub-02_ses-1/zarr.json"
    attributes(path, source={"sha256": "0" * 64})
    problems = store.verify()
    assert len(problems) == 2 and "features: expected whole chunks" in problems[0]
    assert "sub-02_ses-1: its key is not that of its attributes" in problems[1]
    with pytest.raises(ValueError, match="expected whole chunks"):
        store.load()


def test_what_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FeatureStore(tmp_path / "none")
    with pytest.raises(ValueError, match="expected a feature store of eegfast: there is no zarr"):
        FeatureStore(tmp_path)
    zarr.create_group(tmp_path / "other")
    with pytest.raises(ValueError, match="its format is None"):
        FeatureStore(tmp_path / "other")
    attributes(tmp_path / "other/zarr.json", format="eegfast-store", layout=2)
    with pytest.raises(ValueError, match="its layout is 2, not 1"):
        FeatureStore(tmp_path / "other")
    prepare_store(tmp_path / "empty")
    with pytest.raises(ValueError, match="no features in it"):
        FeatureStore(tmp_path / "empty").load()
    with pytest.raises(FileNotFoundError, match="no such group"):
        StoredFeatures(tmp_path / "empty/sub-01")


# Killed, and while others write.

HOLD = """
import sys, time
from pathlib import Path
from eegfast.features._store_layout import writing
store = Path(sys.argv[1])
with writing(store, "sub-01_ses-1"):
    (store / ".new-sub-01_ses-1").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(data, store):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.path], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"ready\n"
    prepare_store(store.path)
    hidden = sorted(path.name for path in store.path.iterdir() if path.name.startswith("."))
    assert hidden == [".lock-sub-01_ses-1", ".new-sub-01_ses-1"]
    assert len(store) == 4
    process.kill()
    process.wait()
    process.stdout.close()
    prepare_store(store.path)
    assert not [path for path in store.path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("stage", range(7))
def test_killed_at_any_step_of_writing_it_holds_the_old_the_new_or_nothing(
    data, store, stage, monkeypatch
):
    """Files and groups come to their place by renaming; stop before the n-th, as a kill would."""
    old = tree(first(store.path))
    statuses(data, (other := store.path.with_name("other")), ExtractOptions())
    new = tree(first(other))
    calls = iter(range(stage))

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*arguments, **more):
            if next(calls, None) is None:
                raise Killed
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(_store_layout, "_remove_leftovers", lambda *_: None)
        with pytest.raises(Killed):
            list(extract_dataset(data, store.path, ExtractOptions(), workers=1))
    there = tree(first(store.path)) if first(store.path).exists() else None
    assert there in (old, new, None)
    assert set(statuses(data, store.path, ExtractOptions()).values()) <= {"done", "skipped"}
    assert tree(store.path) == tree(other)


def test_a_group_is_on_the_disk_before_it_is_in_its_place(data, tmp_path, monkeypatch, synced):
    moved = []
    rename = os.replace

    def watching(source, target):
        moved.append((str(target), list(synced)))
        rename(source, target)

    monkeypatch.setattr(os, "replace", watching)
    next(extract_dataset(data, tmp_path / "s", LDS, workers=1))
    place = tmp_path / "s/sub-01_ses-1"
    ((_, before),) = [move for move in moved if move[0] == str(place)]
    new = str(place.with_name(".new-sub-01_ses-1"))
    assert {new + "/" + name for name in tree(place)} <= set(before)
    assert {new, f"{new}/features", f"{new}/features/c/0/0"} <= set(before)
    assert synced[-1] == str(place.parent)


def test_a_writer_waits_for_the_one_before(store):
    import threading

    order = []

    def second():
        with writing(store.path, "x"):
            order.append("second")

    with writing(store.path, "x"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not (store.path / ".lock-x").exists()


def test_jobs_can_be_sent_to_other_processes(data):
    assert pickle.loads(pickle.dumps(data)).trials == data.trials


def test_the_pages_code_runs(data, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs/store.md"
    reading, writing_ = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "seed", "fake_dataset:Fake")
    data.root.rename("SEED_EEG")
    serial = writing_.replace("workers=2", "workers=1")
    exec(compile(serial, page, "exec"), {"__name__": "__main__"})
    assert "02_2.npy done" in capsys.readouterr().out
    exec(compile(reading, page, "exec"), {})
    assert capsys.readouterr().out.startswith("recipe     bcmi")
