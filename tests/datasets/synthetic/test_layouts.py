# SPDX-License-Identifier: BSD-3-Clause
"""The layouts of SEED and its relatives; the facts are those that public readers agree on."""

import json
import pickle
import re
from datetime import datetime

import numpy as np
import pytest

from eegfast.datasets import SEED_CHANNELS, positions_for
from eegfast.datasets.synthetic import (
    PLANS,
    write_seed,
    write_seed_iv,
    write_seed_v,
    write_seed_vii,
)

scipy_io = pytest.importorskip("scipy.io")
mne = pytest.importorskip("mne")

SEED_SECONDS = [235, 233, 206, 238, 185, 195, 237, 216, 265, 237, 235, 233, 235, 238, 206]
TWELVE = (
    "de_movingAve de_LDS psd_movingAve psd_LDS dasm_movingAve dasm_LDS rasm_movingAve rasm_LDS "
    "asm_movingAve asm_LDS dcau_movingAve dcau_LDS"
).split()


def tree(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def read_cnt(path):
    return mne.io.read_raw_cnt(path, data_format="int32", verbose="ERROR")


def events_of(raw):
    return [(round(a["onset"] * 1000), int(a["description"])) for a in raw.annotations]


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    root = tmp_path_factory.mktemp("seed")
    return write_seed(root, 2, 3, ("preprocessed", "features"), scale=0.02)


def test_seed_files(seed):
    names = tree(seed)
    assert {"Preprocessed_EEG/label.mat", "Preprocessed_EEG/readme.txt"} <= set(names)
    assert {"ExtractedFeatures/label.mat", "SYNTHETIC.json", "channel-order.xlsx"} <= set(names)
    recordings = [n.split("/")[1] for n in names if re.search(r"EEG/\d+_\d{8}\.mat$", n)]
    assert len(recordings) == 6 and len(names) == 5 + 12
    assert recordings == [n.split("/")[1] for n in names if re.search(r"Features/\d+_", n)]
    for name in recordings:
        datetime.strptime(name.split("_")[1], "%Y%m%d.mat")
    for folder in ("Preprocessed_EEG", "ExtractedFeatures"):
        labels = scipy_io.loadmat(seed / folder / "label.mat")["label"]
        assert labels.tolist() == [[1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1]]


def test_seed_preprocessed(seed):
    prefixes = set()
    for path in sorted((seed / "Preprocessed_EEG").glob("*_*.mat")):
        variables = scipy_io.whosmat(path)
        prefix = {name.rsplit("_eeg", 1)[0] for name, _, _ in variables}
        assert len(prefix) == 1
        prefixes |= prefix
        assert [int(name.rsplit("_eeg", 1)[1]) for name, _, _ in variables] == [*range(1, 16)]
        shapes = [(62, 200 * max(4, round(0.02 * s)) + 1) for s in SEED_SECONDS]
        assert [shape for _, shape, _ in variables] == shapes
        assert {kind for _, _, kind in variables} == {"double"}
    assert len(prefixes) == 6
    trial = scipy_io.loadmat(path)[variables[3][0]]
    assert trial.dtype == np.float64 and np.isfinite(trial).all() and 3 < trial.std() < 60
    # Compressed, so that readers have to inflate.
    assert path.stat().st_size < 0.8 * 8 * 62 * sum(n for _, n in shapes)


def test_seed_features(seed):
    path = next((seed / "ExtractedFeatures").glob("2_*.mat"))
    names = [name for name, _, _ in scipy_io.whosmat(path)]
    assert names == [f"{name}{k}" for k in range(1, 16) for name in TWELVE]
    stored = scipy_io.loadmat(path)
    rows = {"de": 62, "psd": 62, "dasm": 27, "rasm": 27, "asm": 54, "dcau": 23}
    for k, seconds in enumerate(SEED_SECONDS, start=1):
        for name in TWELVE:
            expected = (rows[name.split("_")[0]], max(4, round(0.02 * seconds)), 5)
            assert stored[f"{name}{k}"].shape == expected
            assert stored[f"{name}{k}"].dtype == np.float64
    de = stored["de_LDS1"]
    assert np.isfinite(de).all() and 8 < de.min() < de.max() < 32
    at = SEED_CHANNELS.index
    # The first pair of each: FP1 - FP2, and FT7 - TP7. Both smoothers are linear.
    np.testing.assert_allclose(stored["dasm_LDS1"][0], de[at("FP1")] - de[at("FP2")], atol=1e-9)
    np.testing.assert_allclose(stored["dcau_LDS1"][0], de[at("FT7")] - de[at("TP7")], atol=1e-9)
    asm = np.concatenate([stored["dasm_LDS1"], stored["rasm_LDS1"]])
    np.testing.assert_allclose(stored["asm_LDS1"], asm, atol=1e-12)
    assert np.ptp(de, 1).mean() < np.ptp(stored["de_movingAve1"], 1).mean()


def test_seed_features_are_those_of_the_recordings(seed):
    name = next((seed / "ExtractedFeatures").glob("1_*.mat")).name
    recordings = scipy_io.loadmat(seed / "Preprocessed_EEG" / name)
    signal = next(value for key, value in recordings.items() if key.endswith("_eeg1"))
    windows = signal[:, :1000].reshape(62, 5, 200) * np.hanning(200)
    power = np.abs(np.fft.rfft(windows)) ** 2
    bands = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
    psd = np.stack([power[..., lo:hi].mean(-1) for lo, hi in bands], -1)
    stored = scipy_io.loadmat(seed / "ExtractedFeatures" / name)["psd_movingAve1"]
    middle = psd.mean(1)  # five windows: the third is the mean of all
    np.testing.assert_allclose(stored[:, 2], middle, rtol=1e-6)
    np.testing.assert_allclose(stored[:, 0], psd[:, :3].mean(1), rtol=1e-6)


def test_seed_raw_is_the_preprocessed_signal_at_1000_hz(tmp_path):
    write_seed(tmp_path, 1, 1, ("preprocessed", "raw"), scale=0.01)
    raw = read_cnt(tmp_path / "SEED_RAW_EEG/1_1.cnt")
    text = (tmp_path / "SEED_RAW_EEG/time.txt").read_text()
    starts, ends = (list(map(int, re.findall(r"\d+", line))) for line in text.splitlines())
    assert len(starts) == len(ends) == 15 and raw.info["sfreq"] == 1000
    assert events_of(raw) == sorted([(s, 1) for s in starts] + [(e, 2) for e in ends])
    assert len(raw.ch_names) == 66 and set(SEED_CHANNELS) < set(raw.ch_names)
    assert [name for name in raw.ch_names if name in SEED_CHANNELS] == list(SEED_CHANNELS)
    assert raw.ch_names.index("M1") < 62 and raw.ch_names.index("VEO") < 62
    stored = scipy_io.loadmat(next((tmp_path / "Preprocessed_EEG").glob("1_*.mat")))
    for k in (1, 10, 15):
        trial = next(value for name, value in stored.items() if name.endswith(f"_eeg{k}"))
        start, end = starts[k - 1], ends[k - 1]
        assert (trial.shape[1] - 1) * 5 == end - start
        cut = raw.get_data(list(SEED_CHANNELS), start, end)[:, ::5] * 1e6
        np.testing.assert_allclose(cut, trial[:, :-1], atol=0.016)


def test_full_size_is_the_official_one():
    files = {file.path: file for file in PLANS["seed"](15, kinds=("preprocessed", "raw"))}
    assert sum(path.endswith(".cnt") for path in files) == 45
    stored = files["SEED_RAW_EEG/1_1.cnt"].write.keywords
    assert [1000 * s for s in stored["starts"]][:4] == [27000, 290000, 551000, 784000]
    assert [1000 * s for s in stored["ends"]][-2:] == [3573000, 3805000]
    assert list(stored["visit"].seconds) == SEED_SECONDS
    assert files["SEED_RAW_EEG/1_1.cnt"].n_bytes == pytest.approx(1e9, rel=0.05)


def test_dates_give_the_sessions_and_cross_the_year():
    names = [file.path.split("/")[1] for file in PLANS["seed"](15, kinds=("preprocessed",))[3:]]
    visits = [re.fullmatch(r"(\d+)_(\d{8})\.mat", name).groups() for name in names]
    by_subject = [[day for subject, day in visits if int(subject) == s] for s in range(1, 16)]
    assert all(days == sorted(set(days)) and len(days) == 3 for days in by_subject)
    assert any(days[0][:4] != days[2][:4] for days in by_subject)


def test_seed_iv(tmp_path, read_xlsx):
    write_seed_iv(tmp_path, 1, 3, scale=0.04)
    text = (tmp_path / "ReadMe.txt").read_text()
    labels = [
        list(map(int, m.split(","))) for m in re.findall(r"session\d_label = \[(.*)\];", text)
    ]
    assert labels[0] == [1, 2, 3, 0, 2, 0, 0, 1, 0, 1, 2, 1, 1, 1, 2, 3, 2, 2, 3, 3, 0, 3, 0, 3]
    assert labels[1] == [2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1]
    assert labels[2] == [1, 2, 2, 1, 3, 3, 3, 1, 1, 2, 1, 0, 2, 3, 3, 0, 2, 3, 0, 0, 2, 0, 1, 0]
    for session in "123":
        [path] = (tmp_path / "eeg_raw_data" / session).iterdir()
        assert re.fullmatch(r"1_\d{8}\.mat", path.name)
        raw = scipy_io.whosmat(path)
        assert [name.rsplit("_eeg", 1)[1] for name, _, _ in raw] == [str(k) for k in range(1, 25)]
        assert all(shape[0] == 62 and shape[1] % 200 == 1 for _, shape, _ in raw)
        features = scipy_io.whosmat(tmp_path / "eeg_feature_smooth" / session / path.name)
        four = ("de_movingAve", "de_LDS", "psd_movingAve", "psd_LDS")
        assert [n for n, _, _ in features] == [f"{n}{k}" for k in range(1, 25) for n in four]
        windows = [shape[1] // 800 for _, shape, _ in raw for _ in four]
        assert [shape for _, shape, _ in features] == [(62, n, 5) for n in windows]
    assert read_xlsx(tmp_path / "Channel Order.xlsx") == [[name] for name in SEED_CHANNELS]
    montage = mne.channels.read_custom_montage(tmp_path / "channel_62_pos.locs")
    assert montage.ch_names == list(SEED_CHANNELS)
    theirs, ours = montage.get_positions()["ch_pos"], positions_for(SEED_CHANNELS)
    centre = np.array([0, 0.0146, 0.0363])
    for name in SEED_CHANNELS:
        a, b = theirs[name], np.array(ours[name]) - centre
        assert a @ b > 0.999 * np.linalg.norm(a) * np.linalg.norm(b)


def test_seed_iv_longest_trial_is_64_windows():
    [file] = [f for f in PLANS["seed-iv"](1, 1, ("features",)) if "smooth" in f.path]
    assert max(file.write.keywords["visit"].seconds) == 64 * 4


@pytest.mark.parametrize("object_arrays", [False, True])
def test_seed_v_features(tmp_path, object_arrays):
    write_seed_v(tmp_path, 1, kinds=("features",), scale=0.04, object_arrays=object_arrays)
    with np.load(tmp_path / "EEG_DE_features/1_123.npz", allow_pickle=object_arrays) as stored:
        assert sorted(stored.files) == ["data", "label"]
        assert stored["data"].shape == () == stored["label"].shape
        assert stored["data"].dtype.kind == ("O" if object_arrays else "S")
        data, label = (pickle.loads(stored[key].item()) for key in ("data", "label"))
    assert list(data) == list(label) == [*range(45)]
    labels = [int(label[k][0]) for k in range(45)]
    assert labels[:15] == [4, 1, 3, 2, 0, 4, 1, 3, 2, 0, 4, 1, 3, 2, 0]
    assert labels[15:30] == labels[30:] == [2, 1, 3, 0, 4, 4, 0, 3, 2, 1, 3, 4, 1, 2, 0]
    for k in range(45):
        assert data[k].ndim == 2 and data[k].shape[1] == 310 and len(data[k]) >= 1
        assert label[k].shape == (len(data[k]),) and len(set(label[k])) == 1
    # Channel after channel: within one, power falls from delta to gamma.
    assert (data[0].reshape(-1, 62, 5)[..., 0] > data[0].reshape(-1, 62, 5)[..., 4]).mean() > 0.9


def test_seed_v_raw(tmp_path):
    write_seed_v(tmp_path, 1, 2, kinds=("raw",), scale=0.01)
    names = [name for name in tree(tmp_path) if name.startswith("EEG_raw")]
    assert [re.fullmatch(r"EEG_raw/1_(\d)_\d{8}\.cnt", n)[1] for n in names] == ["1", "2"]
    text = (tmp_path / "trial_start_end_timestamp.txt").read_text()
    assert re.findall(r"Session (\d):", text) == ["1", "2", "3"]
    starts = [json.loads(m) for m in re.findall(r"start_second: (\[.*\])", text)]
    ends = [json.loads(m) for m in re.findall(r"end_second: (\[.*\])", text)]
    for session, name in enumerate(names):
        raw = read_cnt(tmp_path / name)
        events = events_of(raw)
        assert [at for at, code in events if code == 1] == [1000 * s for s in starts[session]]
        assert [at for at, code in events if code == 2] == [1000 * s for s in ends[session]]
        assert raw.n_times == 1000 * (ends[session][-1] + 1)


def test_seed_v_official_times_and_order_of_visits():
    files = [f for f in PLANS["seed-v"](16, kinds=("raw",)) if f.path.endswith(".cnt")]
    first = files[0].write.keywords
    assert first["starts"] == [
        *(30, 132, 287, 555, 773, 982, 1271, 1628, 1730, 2025, 2227, 2435, 2667, 2932, 3204)
    ]
    assert first["ends"][-1] == 3359
    days = [re.search(r"(\d+)_\d_(\d{8})", f.path).groups() for f in files]
    orders = [[day for s, day in days if int(s) == n] for n in range(1, 17)]
    assert any(order != sorted(order) for order in orders)


def test_seed_vii(tmp_path, read_xlsx):
    write_seed_vii(tmp_path, 1, 1, ("preprocessed", "features", "raw"), scale=0.02)
    recordings = scipy_io.whosmat(tmp_path / "EEG_preprocessed/1.mat")
    assert [name for name, _, _ in recordings] == [str(k) for k in range(1, 81)]
    assert all(shape[0] == 62 and shape[1] % 200 == 1 for _, shape, _ in recordings)
    features = scipy_io.whosmat(tmp_path / "EEG_features/1.mat")
    assert {f"de_LDS_{k}" for k in range(1, 81)} < {name for name, _, _ in features}
    for k, (_, shape, _) in enumerate(recordings, start=1):
        assert (f"de_LDS_{k}", (shape[1] // 800, 5, 62), "double") in features
    rows = read_xlsx(tmp_path / "emotion_label_and_stimuli_order.xlsx")
    assert len(rows) == 8 and {len(row) for row in rows} == {21}
    assert [n for row in rows[::2] for n in row[1:]] == [*range(1, 81)]
    words = [word for row in rows[1::2] for word in row[1:]]
    counts = {word: words.count(word) for word in words}
    assert counts.pop("Neutral") == 8 and set(counts.values()) == {12} and len(counts) == 6
    assert rows[1][1:6] == ["Happy", "Neutral", "Disgust", "Sad", "Anger"]
    [path] = (tmp_path / "EEG_raw").iterdir()
    assert re.fullmatch(r"1_\d{8}_1\.cnt", path.name)
    raw = read_cnt(path)
    events = events_of(raw)
    assert [code for _, code in events] == [1, 2] * 20
    lengths = [b - a for (a, _), (b, _) in zip(events[::2], events[1::2], strict=True)]
    assert [5 * (shape[1] - 1) for _, shape, _ in recordings[:20]] == lengths
    assert csv_times(tmp_path, raw) == events


def csv_times(root, raw, started=None):
    [path] = (root / "save_info").glob("*_trigger_info.csv")
    started = started or raw.info["meas_date"].replace(tzinfo=None)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    moments = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f") for _, text in lines]
    seconds = [(moment - started).total_seconds() for moment in moments]
    return [(round(1000 * s), int(code)) for s, (code, _) in zip(seconds, lines, strict=True)]


def test_seed_vii_has_the_two_files_with_wrong_triggers(tmp_path):
    from eegfast.datasets.synthetic import write_tree

    files = PLANS["seed-vii"](20, kinds=("raw",), scale=0.01)
    names = [file.path for file in files]
    assert "EEG_raw/14_20221015_1.cnt" in names
    wrong = [file for file in files if "9_20221111_3" in file.path]
    assert len(wrong) == 2
    write_tree(tmp_path, "seed-vii", 0.01, 0, wrong)
    raw = read_cnt(tmp_path / "EEG_raw/9_20221111_3.cnt")
    right = csv_times(tmp_path, raw, datetime(2022, 11, 11, 14, 1, 27))
    assert len(right) == 40 and right != events_of(raw)
    assert right[-1][0] < raw.n_times
