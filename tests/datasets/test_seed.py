# SPDX-License-Identifier: BSD-3-Clause
import json
import pickle

import numpy as np
import pytest

from eegfast.datasets import SEED, SEED_CHANNELS, Recording, TrialFeatures
from eegfast.datasets import seed as module

sio = pytest.importorskip("scipy.io")

LABELS = [1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1]
SHORT = (5, 3, 6, 8, 4, 2, 7, 3, 9, 5, 7, 4, 8, 6, 3)
TWELVE = [
    f"{kind}_{smoother}"
    for kind in ("de", "psd", "dasm", "rasm", "asm", "dcau")
    for smoother in ("movingAve", "LDS")
]
ROWS = {"de": 62, "psd": 62, "dasm": 27, "rasm": 27, "asm": 54, "dcau": 23}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Trials of seconds, which still differ from their neighbours by more than one."""
    assert all(abs(a - b) > 1 for a, b in zip(module.SECONDS, module.SECONDS[1:], strict=False))
    monkeypatch.setattr(module, "SECONDS", SHORT)


def signal(trial, extra=1, mark=0):
    """Channel c, sample t, of a trial: recognisable microvolts."""
    t = np.arange(200 * SHORT[trial - 1] + extra)
    return (t % 50 - 25.0) + np.arange(62)[:, None] + 100 * trial + mark


def save(path, variables, compress=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    sio.savemat(path, variables, do_compression=compress, appendmat=False)
    return path


def write_preprocessed(path, prefix="djc", trials=range(1, 16), **options):
    return save(path, {f"{prefix}_eeg{i}": signal(i, **options) for i in trials})


def write_features(path, seconds=1, trials=range(1, 16)):
    rng = np.random.default_rng(0)
    return save(
        path,
        {
            f"{name}{i}": rng.random((ROWS[name.split("_")[0]], SHORT[i - 1] // seconds, 5)) + 10
            for i in trials
            for name in TWELVE
        },
    )


def write_labels(folder, labels=LABELS, dtype=np.int8):
    return save(folder / "label.mat", {"label": np.array([labels]).astype(dtype)})


@pytest.fixture
def root(tmp_path):
    """Two subjects; the first has all three files, of which the text order is not by date."""
    folder = tmp_path / "SEED_EEG" / "Preprocessed_EEG"
    for mark, (name, prefix) in enumerate(
        [("1_20131030", "djc"), ("1_20131107", "xy"), ("1_20140101", "djc"), ("10_20131204", "ww")]
    ):
        write_preprocessed(folder / f"{name}.mat", prefix, mark=1000 * mark)
    write_labels(folder)
    return tmp_path


def test_trials_in_numeric_order_with_sessions_by_date(root):
    data = SEED(root)
    assert (data.kind, data.root.name, len(data)) == ("preprocessed", "Preprocessed_EEG", 60)
    rows = [(t.subject_id, t.session_id, t.trial_id) for t in data.trials]
    visits = [("01", "1"), ("01", "2"), ("01", "3"), ("10", "1")]
    assert rows == [(*visit, trial) for visit in visits for trial in range(1, 16)]
    assert [t.path.stem for t in data.trials[::15]] == [
        "1_20131030",
        "1_20131107",
        "1_20140101",
        "10_20131204",
    ]
    assert data.trials[1].key == "djc_eeg2" and data.trials[24].key == "xy_eeg10"
    assert data.labels.tolist() == [label + 1 for label in LABELS] * 4
    assert pickle.loads(pickle.dumps(data)).trials == data.trials


def test_items_are_recordings(root):
    data = SEED(root)
    for index in (0, 9, 14, 30, -1):
        item, row = data[index], data.trials[index]
        assert isinstance(item, Recording) and item.signal.dtype == np.float32
        truth = signal(row.trial_id, mark=1000 * (index % 60 // 15))
        np.testing.assert_array_equal(item.signal, truth)
        assert (item.sfreq, item.ch_names) == (200, list(SEED_CHANNELS))
        assert (item.subject_id, item.session_id) == (row.subject_id, row.session_id)
        assert (item.trial_id, item.label) == (row.trial_id, LABELS[row.trial_id - 1] + 1)
        assert item.class_names[item.label] == ("negative", "neutral", "positive")[item.label]
        assert item.source == str(row.path)
    assert [item.trial_id for item in data.read([14, 0, 15])] == [15, 1, 1]


def test_one_opening_for_neighbours(root, monkeypatch):
    data, opened = SEED(root), []
    original = module.MatTrials._read_file
    monkeypatch.setattr(
        module.MatTrials, "_read_file", lambda *a: opened.append(a[1]) or original(*a)
    )
    assert len(list(data.read(range(13, 17)))) == 4
    assert [path.stem for path in opened] == ["1_20131030", "1_20131107"]


@pytest.mark.parametrize("below", ["", "SEED_EEG", "SEED_EEG/Preprocessed_EEG"])
def test_root_may_be_any_of_the_folders(root, below):
    assert len(SEED(root / below)) == 60


def test_says_what_is_missing(root):
    lines = SEED(root).missing
    assert lines == [
        "subjects 2-9, 11-15",
        "subject 10: 2 of 3 files; 10_20131204.mat counted as session 1 by date, which may be too "
        "low",
    ]
    assert SEED(root, subjects=[1]).missing == []
    folder = root / "SEED_EEG" / "Preprocessed_EEG"
    (folder / "label.mat").unlink()
    write_preprocessed(folder / "1_20131030.mat", "a", [1, 2, 3, 12])
    data = SEED(root, subjects=["01"])
    assert len(data) == 34 and [t.trial_id for t in data.trials[:4]] == [1, 2, 3, 12]
    assert data.missing == [
        "label.mat; labels are the published ones",
        "1_20131030.mat of session 1: trials 4-11, 13-15",
    ]


def test_subjects_and_sessions(root):
    data = SEED(root, subjects=["10", 1], sessions=1)
    assert {(t.subject_id, t.session_id) for t in data.trials} == {("01", "1"), ("10", "1")}
    with pytest.raises(ValueError, match="subjects: expected some of 1, 10, got 2"):
        SEED(root, subjects=[1, 2])
    with pytest.raises(ValueError, match="sessions: expected some of 1-3, got 4"):
        SEED(root, sessions=["4"])
    with pytest.raises(ValueError, match="subjects: expected numbers"):
        SEED(root, subjects=["x"])
    with pytest.raises(ValueError, match="subjects: expected some"):
        SEED(root, subjects=[])


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint8])
def test_labels_of_any_type(root, dtype):
    write_labels(root / "SEED_EEG" / "Preprocessed_EEG", dtype=dtype)
    assert SEED(root).labels[:15].tolist() == [label + 1 for label in LABELS]


@pytest.mark.parametrize(
    "labels", [LABELS[::-1], [label + 1 for label in LABELS], LABELS[:14], [np.nan] * 15]
)
def test_other_labels_are_refused(root, labels):
    write_labels(root / "SEED_EEG" / "Preprocessed_EEG", labels, np.float64)
    with pytest.raises(ValueError, match=r"label\.mat: .*expected .*, got "):
        SEED(root)


@pytest.mark.parametrize("extra", [0, 1, 200, -199])
def test_lengths_may_be_off_by_a_second(tmp_path, extra):
    write_preprocessed(tmp_path / "1_20131027.mat", extra=extra)
    assert SEED(tmp_path)[0].n_times == 1000 + extra


@pytest.mark.parametrize(
    ("trials", "change"),
    [
        (1, lambda x: x[:, :-202]),
        (1, lambda x: np.pad(x, ((0, 0), (0, 201)))),
        (3, lambda x: x[:61]),
        (3, lambda x: x.T),
        (3, lambda x: x[None]),
    ],
)
def test_other_shapes_are_refused_at_opening(tmp_path, trials, change):
    variables = {f"djc_eeg{i}": signal(i) for i in range(1, 16)}
    variables[f"djc_eeg{trials}"] = change(signal(trials))
    save(tmp_path / "1_20131027.mat", variables)
    with pytest.raises(
        ValueError, match=rf"1_20131027.mat: variable djc_eeg{trials}: expected shape \(62, "
    ):
        SEED(tmp_path)


def test_trials_numbered_by_text_order_are_noticed(tmp_path):
    """A file rewritten by a tool that sorted _eeg10 before _eeg2."""
    text_order = sorted(range(1, 16), key=str)
    save(
        tmp_path / "1_20131027.mat",
        {f"djc_eeg{i}": signal(trial) for i, trial in enumerate(text_order, start=1)},
    )
    with pytest.raises(ValueError, match="variable djc_eeg2: expected shape"):
        SEED(tmp_path)


def test_only_a_synthetic_tree_escapes_the_lengths(root):
    folder = root / "SEED_EEG" / "Preprocessed_EEG"
    save(folder / "1_20131030.mat", {f"a_eeg{i}": signal(2) for i in range(1, 16)})
    with pytest.raises(ValueError, match="expected shape"):
        SEED(root)
    marker = {"format": "eegfast-synthetic", "version": 1, "scale": 0.02, "seed": 0}
    (root / "SYNTHETIC.json").write_text(json.dumps(marker))
    assert SEED(root)[0].n_times == 601
    save(folder / "1_20131030.mat", {f"a_eeg{i}": signal(2)[:61] for i in range(1, 16)})
    with pytest.raises(ValueError, match="expected shape"):
        SEED(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a_eeg1", "b_eeg1"], "one variable of trial 1, got a_eeg1 and b_eeg1"),
        (["a_eeg0", "a_eeg1"], "got trials 0-1"),
        ([f"a_eeg{i}" for i in range(1, 25)], "got trials 1-24"),
    ],
)
def test_other_variables_are_refused(tmp_path, names, message):
    save(tmp_path / "1_20131027.mat", {name: signal(1) for name in names})
    with pytest.raises(ValueError, match=f"1_20131027.mat: expected .*{message}"):
        SEED(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x == x[3, 7], np.nan, x), "expected finite values"),
        (lambda x: np.where(x == x[3, 7], -np.inf, x), "expected finite values"),
        (lambda x: x * 1e-6, "microvolts.*as if in volts"),
        (lambda x: x * 1e6, "microvolts, got 2.85e\\+08"),
        (lambda x: x * 0, "microvolts, got 0"),
    ],
)
def test_implausible_signals_are_refused(tmp_path, change, message):
    variables = {f"djc_eeg{i}": signal(i) for i in range(1, 16)}
    variables["djc_eeg2"] = change(variables["djc_eeg2"])
    save(tmp_path / "1_20131027.mat", variables)
    data = SEED(tmp_path)
    assert data[0].trial_id == 1
    with pytest.raises(ValueError, match=f"1_20131027.mat: variable djc_eeg2: .*{message}"):
        data[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1_20130101", "1_20130102", "1_20130103", "1_20130104"], "expected 3 files of each"),
        (["16_20130101"], "subjects 1 to 15"),
        (["1_20130101", "01_20130101"], "one file a subject and date"),
    ],
)
def test_files_too_many(tmp_path, names, message):
    for name in names:
        write_preprocessed(tmp_path / f"{name}.mat", trials=[2])
    with pytest.raises(ValueError, match=message):
        SEED(tmp_path)


def test_cut_off_file(root):
    path = root / "SEED_EEG" / "Preprocessed_EEG" / "1_20131107.mat"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="1_20131107.mat: is cut off or damaged"):
        SEED(root)
    assert len(SEED(root, subjects=[10])) == 15


def test_nothing_or_too_much_to_find(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="SEED: there is no folder"):
        SEED(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"1_20131027\.mat or 1_1\.cnt in .*empty"):
        SEED(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="expected features: .*kinds preprocessed"):
        SEED(root, "features")
    write_preprocessed(root / "copy" / "1_20131027.mat", trials=[2])
    with pytest.raises(ValueError, match="more than one folder holds preprocessed: .*make root"):
        SEED(root)
    with pytest.raises(ValueError, match="kind must be one of preprocessed, features, raw"):
        SEED(root, "eyes")


@pytest.fixture
def supplied(tmp_path):
    folder = tmp_path / "ExtractedFeatures"
    write_features(folder / "1_20131027.mat")
    write_labels(folder)
    return folder


@pytest.mark.parametrize("feature", [name for name in TWELVE if not name.startswith("asm")])
def test_supplied_features(supplied, feature):
    data = SEED(supplied.parent, feature=feature)
    assert (data.kind, len(data)) == ("features", 15)
    item = data[9]
    assert isinstance(item, TrialFeatures)
    truth = sio.loadmat(supplied / "1_20131027.mat")[f"{feature}10"]
    np.testing.assert_array_equal(item.values, truth.transpose(1, 0, 2))
    assert item.values.shape == (SHORT[9], ROWS[feature.split("_")[0]], 5)
    assert list(item.bands.items())[0::4] == [("delta", (1, 4)), ("gamma", (31, 50))]
    assert (item.feature, item.window, item.trial_id, item.label) == (feature, 1, 10, 2)
    assert len(set(item.ch_names)) == len(item.ch_names)


def test_rows_of_the_asymmetries_are_pairs(supplied):
    pairs = [name.split("-") for name in SEED(supplied, feature="dasm_LDS")[0].ch_names]
    assert pairs[0] == ["FP1", "FP2"] and pairs[-1] == ["O1", "O2"]
    both = [name for pair in pairs for name in pair]
    assert set(SEED_CHANNELS) - set(both) == set("FPZ FZ FCZ CZ CPZ PZ POZ OZ".split())
    for pair in (name.split("-") for name in SEED(supplied, feature="dcau_LDS")[0].ch_names):
        assert set(pair) <= set(SEED_CHANNELS)


def test_features_that_are_refused(supplied):
    with pytest.raises(ValueError, match="asm_LDS is dasm and rasm"):
        SEED(supplied, feature="asm_LDS")
    with pytest.raises(ValueError, match="feature must be one of de_movingAve, .* got 'de'"):
        SEED(supplied, feature="de")
    write_features(supplied / "1_20131027.mat", seconds=2)
    with pytest.raises(ValueError, match=r"variable de_LDS1: expected shape \(62, 4 to 6, 5\)"):
        SEED(supplied)
    variables = {f"de_LDS{i}": np.full((62, SHORT[i - 1], 5), np.inf) for i in range(1, 16)}
    save(supplied / "1_20131027.mat", variables)
    with pytest.raises(ValueError, match="variable de_LDS1: expected finite"):
        SEED(supplied)[0]


def test_windows_of_four_seconds(tmp_path):
    write_features(tmp_path / "ExtractedFeatures_4s" / "1_20131027.mat", seconds=4, trials=[4, 9])
    item = SEED(tmp_path)[1]
    assert (item.window, item.values.shape) == (4, (2, 62, 5))


def test_preprocessed_comes_before_features(root, tmp_path):
    write_features(tmp_path / "SEED_EEG" / "ExtractedFeatures" / "1_20131027.mat")
    assert SEED(root).kind == "preprocessed"
    assert SEED(root, "features").kind == "features"


def test_version_73(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "1_20131027.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for i in range(1, 16):
            file[f"djc_eeg{i}"] = signal(i).T
            file[f"djc_eeg{i}"].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    data = SEED(tmp_path)
    assert [trial.trial_id for trial in data.trials] == list(range(1, 16))
    np.testing.assert_array_equal(data[9].signal, signal(10))
