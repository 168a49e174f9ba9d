# SPDX-License-Identifier: BSD-3-Clause
import json

import numpy as np
import pytest

from eegfast.datasets import SEED, SEED_CHANNELS, SEEDIV

sio = pytest.importorskip("scipy.io")

LABELS = [
    [1, 2, 3, 0, 2, 0, 0, 1, 0, 1, 2, 1, 1, 1, 2, 3, 2, 2, 3, 3, 0, 3, 0, 3],
    [2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 2, 3, 2, 0, 1, 1, 2, 1, 0, 3, 0, 1, 3, 1],
    [1, 2, 2, 1, 3, 3, 3, 1, 1, 2, 1, 0, 2, 3, 3, 0, 2, 3, 0, 0, 2, 0, 1, 0],
]
FILES = {1: ["1_20160518", "10_20151014"], 2: ["1_20161125", "10_20151021"], 3: ["2_20151012"]}


def signal(trial):
    t = np.arange(800 + trial)
    return (t % 50 - 25.0) + np.arange(62)[:, None] + 100 * trial


def save(path, variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    sio.savemat(path, variables, appendmat=False)


def feature(name, trial):
    seed = sum(map(ord, name)) + trial
    return np.random.default_rng(seed).random((62, trial, 5)) + 10


def read_me(labels=LABELS):
    lists = ";\n".join(f"session{i}_label = {row}" for i, row in enumerate(labels, start=1))
    return f"The labels with 0, 1, 2, 3 are:\n\n{lists};\n"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "SEED_IV"
    names = ("de_movingAve", "de_LDS", "psd_movingAve", "psd_LDS")
    for session, files in FILES.items():
        for name in files:
            save(
                folder / f"eeg_raw_data/{session}/{name}.mat",
                {f"cz_eeg{i}": signal(i) for i in range(1, 25)},
            )
            save(
                folder / f"eeg_feature_smooth/{session}/{name}.mat",
                {f"{n}{i}": feature(n, i) for i in range(1, 25) for n in names},
            )
            save(folder / f"eye_raw_data/{session}/{name}.mat", {"eye_1": np.ones((3, 4))})
    (folder / "ReadMe.txt").write_text(read_me())
    return tmp_path


def test_the_session_is_the_folder(root):
    data = SEEDIV(root)
    assert (data.kind, data.root.name, len(data)) == ("preprocessed", "eeg_raw_data", 120)
    visits = [("01", "1"), ("01", "2"), ("02", "3"), ("10", "1"), ("10", "2")]
    rows = [(t.subject_id, t.session_id, t.trial_id) for t in data.trials]
    assert rows == [(*visit, trial) for visit in visits for trial in range(1, 25)]
    truth = [LABELS[int(session) - 1] for _, session in visits]
    np.testing.assert_array_equal(data.labels.reshape(-1, 24), truth)
    item = data[24 + 9]
    np.testing.assert_array_equal(item.signal, signal(10))
    assert (item.sfreq, item.ch_names) == (200, list(SEED_CHANNELS))
    assert (item.subject_id, item.session_id, item.trial_id, item.label) == ("01", "2", 10, 3)
    assert item.class_names == ("neutral", "sad", "fear", "happy")
    assert item.source.endswith("1_20161125.mat")
    assert data.missing[:2] == ["session 1: subjects 2-9, 11-15", "session 2: subjects 2-9, 11-15"]


@pytest.mark.parametrize("below", ["", "SEED_IV", "SEED_IV/eeg_feature_smooth"])
def test_features(root, below):
    for name in ("de_movingAve", "de_LDS", "psd_movingAve", "psd_LDS"):
        data = SEEDIV(root / below, "features", feature=name, sessions=[1])
        assert len(data) == 48 and {t.session_id for t in data.trials} == {"1"}
        item = data[11]
        np.testing.assert_array_equal(item.values, feature(name, 12).transpose(1, 0, 2))
        assert (item.window, item.feature, item.label) == (4, name, LABELS[0][11])
    with pytest.raises(ValueError, match="SEEDIV: feature must be one of"):
        SEEDIV(root, "features", feature="dasm_LDS")


def test_labels_are_held_against_the_read_me(root):
    path = root / "SEED_IV" / "ReadMe.txt"
    path.write_text(read_me([LABELS[0], LABELS[2], LABELS[1]]))
    with pytest.raises(ValueError, match=r"ReadMe\.txt: expected .* of session 2, got 1 2 2"):
        SEEDIV(root)
    path.rename(root / "SEED_IV" / "eeg_raw_data" / "readme.txt")
    with pytest.raises(ValueError, match=r"readme\.txt: expected"):
        SEEDIV(root)
    (root / "SEED_IV" / "eeg_raw_data" / "readme.txt").unlink()
    assert "ReadMe.txt with the labels; they are the published ones" in SEEDIV(root).missing


def test_partial_download(root):
    folder = root / "SEED_IV" / "eeg_raw_data"
    for path in (folder / "3").iterdir():
        path.unlink()
    save(folder / "1" / "1_20160518.mat", {f"a_eeg{i}": signal(i) for i in (2, 11, 24)})
    data = SEEDIV(root, subjects=[1])
    assert [t.trial_id for t in data.trials[:4]] == [2, 11, 24, 1]
    assert data.missing == ["session 3", "1_20160518.mat of session 1: trials 1, 3-10, 12-23"]
    path = folder / "2" / "1_20161125.mat"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="1_20161125.mat: is cut off"):
        SEEDIV(root)


def test_lengths(root):
    folder = root / "SEED_IV" / "eeg_raw_data"
    target = folder / "1" / "1_20160518.mat"
    for n_times in (799, 200 * 260 + 2):
        save(target, {"a_eeg1": np.ones((62, n_times), np.int8)})
        with pytest.raises(ValueError, match=r"a_eeg1: expected shape \(62, 800 to 52001\)"):
            SEEDIV(root)
    marker = {"format": "eegfast-synthetic", "version": 1, "scale": 0.1}
    (root / "SYNTHETIC.json").write_text(json.dumps(marker))
    assert SEEDIV(root).trials[0].trial_id == 1


def test_refuses_other_files(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="SEEDIV: expected eeg_raw_data or .* folders 1, 2"):
        SEEDIV(root / "SEED_IV" / "eeg_raw_data" / "1")
    with pytest.raises(ValueError, match="more than one folder|1_20160518.mat: expected variables"):
        SEED(root / "SEED_IV")
    with pytest.raises(ValueError, match="kind must be one of preprocessed, features"):
        SEEDIV(root, "raw")
    save(root / "SEED_IV" / "eeg_raw_data" / "1" / "01_20160519.mat", {"a_eeg1": signal(1)})
    with pytest.raises(ValueError, match="one file of each of subjects 1 to 15"):
        SEEDIV(root)
