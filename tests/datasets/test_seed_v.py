# SPDX-License-Identifier: BSD-3-Clause
import pickle
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest

from eegfast.datasets import SEED_CHANNELS, SEEDV, Recording, TrialFeatures

LABELS = """4 1 3 2 0 4 1 3 2 0 4 1 3 2 0 2 1 3 0 4 4 0 3 2 1 3 4 1 2 0
            2 1 3 0 4 4 0 3 2 1 3 4 1 2 0"""
LABELS = [int(label) for label in LABELS.split()]
TIMES = """30 132 287 555 773 982 1271 1628 1730 2025 2227 2435 2667 2932 3204
           30 299 548 646 836 1000 1091 1392 1657 1809 1966 2186 2333 2490 2741
           30 353 478 674 825 908 1200 1346 1451 1711 2055 2307 2457 2726 2888""".split()
ENDS = """102 228 524 742 920 1240 1568 1697 1994 2166 2401 2607 2901 3172 3359
          267 488 614 773 967 1059 1331 1622 1777 1908 2153 2302 2428 2709 2817
          321 418 643 764 877 1147 1284 1418 1679 1996 2275 2425 2664 2857 3066""".split()
WINDOWS = [(int(end) - int(start)) // 4 for start, end in zip(TIMES, ENDS, strict=True)]
RNG = np.random.default_rng(5)


def contents(windows=WINDOWS, labels=LABELS):
    data = {k: RNG.normal(size=(n, 310)) for k, n in enumerate(windows)}
    return data, {k: np.full(n, labels[k]) for k, n in enumerate(windows)}


def write_features(root, number, data, label, protocol=3, outer=object):
    folder = root / "EEG_DE_features"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.array(pickle.dumps(value, protocol), dtype=outer)
        for name, value in (("data", data), ("label", label))
    }
    np.savez(folder / f"{number}_123.npz", **arrays)
    return folder / f"{number}_123.npz"


def expect(path_or_root, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        list(SEEDV(path_or_root, **options))
    return str(caught.value)


@pytest.mark.parametrize("outer", (object, "S"))
@pytest.mark.parametrize("protocol", (2, 4))
def test_features_without_running_the_pickles_in_them(tmp_path, outer, protocol):
    data, label = contents()
    path = write_features(tmp_path / "SEED-V", 2, data, label, protocol, outer)
    for root in (tmp_path, tmp_path / "SEED-V", tmp_path / "SEED-V" / "EEG_DE_features"):
        dataset = SEEDV(root)
        assert (dataset.kind, len(dataset), dataset.subjects) == ("features", 45, ["02"])
    assert dataset.labels.tolist() == LABELS
    assert list(dataset.files) == [path]
    item = dataset[31]  # session 3, trial 2
    assert isinstance(item, TrialFeatures)
    assert (item.subject_id, item.session_id, item.trial_id) == ("02", "3", 2)
    assert (item.label, item.class_names[item.label]) == (1, "fear")
    assert item.values.shape == (16, 62, 5)
    # 310 is 62 channels of 5 bands, the channel first
    np.testing.assert_array_equal(item.values[3, 61, 4], data[31][3, 309])
    np.testing.assert_array_equal(item.values[3, 1, 2], data[31][3, 7])
    assert item.ch_names == list(SEED_CHANNELS)
    assert list(item.bands.values()) == [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
    assert (item.feature, item.window, item.source) == ("de", 4, str(path))
    assert [one.trial_id for one in dataset] == [*range(1, 16)] * 3


def test_going_through_a_data_set_opens_each_file_once(tmp_path, monkeypatch):
    write_features(tmp_path, 1, *contents())
    opened = []
    monkeypatch.setattr(
        SEEDV, "_read_file", lambda self, path, trials: opened.append(path) or iter(trials)
    )
    assert len(list(SEEDV(tmp_path))) == 45
    assert len(opened) == 1


def test_says_what_a_partial_download_lacks(tmp_path):
    data, label = contents()
    for number in (1, 10):
        write_features(tmp_path, number, data, label)
    dataset = SEEDV(tmp_path)
    assert dataset.subjects == ["01", "10"]
    assert dataset.missing == ["subjects 2-9, 11-16: no features file"]
    some = SEEDV(tmp_path, subjects=[10], sessions="2")
    assert [(t.subject_id, t.session_id) for t in some.trials] == [("10", "2")] * 15
    assert some.missing == []
    np.testing.assert_array_equal(some[0].values.reshape(-1, 310), data[15])


def test_refuses_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="EEG_DE_features/{subject}_123.npz"):
        SEEDV(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        SEEDV(tmp_path / "none")
    data, label = contents()
    write_features(tmp_path, 1, data, label)
    with pytest.raises(FileNotFoundError, match="EEG_raw"):
        SEEDV(tmp_path, "raw")
    with pytest.raises(ValueError, match="kind must be one of features, raw, got 'clean'"):
        SEEDV(tmp_path, "clean")
    with pytest.raises(ValueError, match="subjects: expected some of 1-16, got 17"):
        SEEDV(tmp_path, subjects=["1", 17])
    write_features(tmp_path / "copy", 1, data, label)
    with pytest.raises(ValueError, match="one folder with features files.*give one"):
        SEEDV(tmp_path)


def test_two_files_of_one_subject(tmp_path):
    path = write_features(tmp_path, 1, *contents())
    path.with_name("01_123.npz").write_bytes(path.read_bytes())
    with pytest.raises(
        ValueError, match="one file for subject 01, session 1, got 01_123.npz and 1_123.npz"
    ):
        SEEDV(tmp_path)


def wrong_label(data, label):
    label[3] = np.full(WINDOWS[3], 4)


def mixed_labels(data, label):
    label[3][1] = 0


def short_labels(data, label):
    label[3] = label[3][:-1]


def few_windows(data, label):
    data[3], label[3] = data[3][:40], label[3][:40]


def other_axes(data, label):
    data[3] = data[3].reshape(-1, 5, 62)


def narrow(data, label):
    data[3] = data[3][:, :300]


def not_finite(data, label):
    data[3][5, 6] = np.nan


def whole_numbers(data, label):
    data[3] = data[3].astype(int)


def no_array(data, label):
    data[3] = data[3].tolist()


def missing_trial(data, label):
    del data[44]


FAULTS = {
    wrong_label: "trial 4: expected label 2 .sad. for all windows, got 4",
    mixed_labels: "trial 4: expected label 2 .sad. for all windows, got 0, 2",
    short_labels: "trial 4: expected a label for each of 46 windows",
    few_windows: "trial 4: expected 46 windows of 4 s, got 40",
    other_axes: r"trial 4: expected real numbers \(windows, 310\), got float64 of shape",
    narrow: r"got float64 of shape \(46, 300\)",
    not_finite: "trial 4: expected finite",
    whole_numbers: "got int64 of shape",
    no_array: "got list",
    missing_trial: "data: expected a dict of trials 0 to 44, got 44 others",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_checks_what_it_reads(tmp_path, fault):
    data, label = contents()
    fault(data, label)
    path = write_features(tmp_path, 1, data, label)
    assert expect(tmp_path, FAULTS[fault]).startswith(f"{path}: ")


def test_lengths_of_a_synthetic_tree_are_its_own(tmp_path):
    (tmp_path / "SYNTHETIC.json").write_text(
        '{"format": "eegfast-synthetic", "version": 1, "scale": 0.05, "seed": 0}'
    )
    write_features(tmp_path, 1, *contents([3] * 45))
    assert [len(item.values) for item in SEEDV(tmp_path)] == [3] * 45


class Exploding:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_that_would_run_code(tmp_path, capsys):
    path = write_features(tmp_path, 1, Exploding(), {})
    message = expect(tmp_path, "asks for '(builtins|__builtin__).print'")
    assert message.startswith(f"{path}: data: ")
    outer = tmp_path / "EEG_DE_features" / "1_123.npz"
    np.savez(outer, data=np.array(Exploding(), dtype=object), label=np.array(b""))
    expect(tmp_path, "asks for 'builtins.print'")
    assert capsys.readouterr().out == ""


def test_hostile_archives(tmp_path):
    path = write_features(tmp_path, 1, *contents())
    whole = path.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "archive is damaged"),
        (b"PK\x03\x04", "archive is damaged"),
        (b"", "archive is damaged"),
    ):
        path.write_bytes(content)
        assert expect(tmp_path, message).startswith(f"{path}: ")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    path.write_bytes(flipped)
    expect(tmp_path, "archive is damaged: Bad CRC-32")
    np.savez(path, data=np.zeros(3), label=np.zeros(3))
    expect(tmp_path, "data: expected one pickled object, got float64 of shape")
    np.savez(path, other=np.zeros(3))
    expect(tmp_path, "expected an entry data.npy, got other.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("data.npy", "w") as stream:
            for _ in range(65):
                stream.write(bytes(2**20))
    assert path.stat().st_size < 2**17
    expect(tmp_path, "expected up to 67108864 bytes in data.npy, it holds more")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': exec()}")
    expect(tmp_path, "expected an array of NumPy's")


# Raw files

STARTS = {session: 0.5 + 0.4 * np.arange(15) + 0.01 * int(session) for session in "123"}


def write_times(folder, starts=STARTS):
    blocks = [
        f"Session {session}:\nstart_second: {[round(float(s), 3) for s in start]}\n"
        f"end_second: {[round(float(s) + 0.25, 3) for s in start]}\n"
        for session, start in starts.items()
    ]
    (folder / "trial_start_end_timestamp.txt").write_text("\n".join(blocks))


NAMES = [*SEED_CHANNELS[:40], "M1", *SEED_CHANNELS[40:50], "M2", *SEED_CHANNELS[50:], "VEO", "HEO"]


@pytest.fixture
def raw(tmp_path, write_cnt):
    pytest.importorskip("mne")
    folder = tmp_path / "EEG_raw"
    folder.mkdir()
    write_times(tmp_path)
    counts = RNG.integers(-300, 300, (66, 7000))

    def write(name="3_2_20180514.cnt", **options):
        options = {"names": NAMES, "counts": counts, **options}
        write_cnt("x.cnt", **options).rename(folder / name)
        return folder / name

    write.counts = counts
    return write


def test_raw_trials_by_name_of_channel_and_second(raw, tmp_path):
    path = raw()
    dataset = SEEDV(tmp_path)
    assert (dataset.kind, len(dataset), dataset.subjects) == ("raw", 15, ["03"])
    assert dataset.missing[1] == "subject 3, session 1, 3: no raw file"
    order = [NAMES.index(name) for name in SEED_CHANNELS]
    items = list(dataset)
    assert [item.label for item in items] == LABELS[15:30]
    for item in items:
        assert isinstance(item, Recording) and item.signal.dtype == np.float32
        assert (item.sfreq, item.ch_names, item.session_id) == (1000, list(SEED_CHANNELS), "2")
        start = round(1000 * STARTS["2"][item.trial_id - 1])
        expected = 0.1 * raw.counts[order, start : start + 250]
        np.testing.assert_allclose(item.signal, expected, rtol=1e-5, atol=1e-4)
    assert item.source == str(path) and set(item.positions) == set(SEED_CHANNELS)


def test_features_come_first(raw, tmp_path):
    raw()
    write_features(tmp_path, 1, *contents())
    assert SEEDV(tmp_path).kind == "features"
    assert SEEDV(tmp_path, "raw").subjects == ["03"]


def test_known_times_without_the_file(raw, tmp_path):
    raw()
    (tmp_path / "trial_start_end_timestamp.txt").unlink()
    expect(tmp_path, "trial 1: expected samples 30000 to 267000, the file has 7000")


def test_raw_files_that_are_not_seed_v(raw, tmp_path):
    raw(sfreq=500)
    expect(tmp_path, "expected 1000 Hz, got 500 Hz")
    raw(names=["X1" if name == "CB1" else name for name in NAMES])
    expect(tmp_path, "3_2_20180514.cnt: expected SEED.s 62 channels, there is no CB1")
    raw(counts=raw.counts[:, :6000])
    expect(tmp_path, "trial 15: expected samples")
    raw(microvolts_per_count=1e-7)
    expect(tmp_path, "trial 1: expected EEG in microvolts, got")
    path = raw()
    path.write_bytes(path.read_bytes()[:5000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert str(path) in expect(tmp_path, re.escape(str(path)))


def test_raw_files_beyond_2_gib_are_not_loaded(raw, tmp_path):
    """The header's place of the event table has wrapped around; all but one stretch is a hole."""
    n_times = 8_200_000
    counts = np.zeros((66, 0), int)
    path = raw(counts=counts)
    header = bytearray(path.read_bytes()[: 900 + 75 * 66])
    start = 8_150_000
    late = {**STARTS, "2": np.append(STARTS["2"][:14], start / 1000)}
    write_times(tmp_path, late)
    end = len(header) + 4 * 66 * n_times
    struct.pack_into("<i", header, 864, n_times)
    struct.pack_into("<I", header, 886, end & 0xFFFFFFFF)
    with path.open("wb") as stream:
        stream.write(header)
        stream.seek(len(header) + 4 * 66 * start)
        stream.write(raw.counts[:, :250].T.astype("<i4").tobytes())
        stream.seek(end)
        stream.write(struct.pack("<Bii", 1, 0, 0))
    assert path.stat().st_size > 2**31 and path.stat().st_blocks * 512 < 2**22
    item = SEEDV(tmp_path)[14]
    order = [NAMES.index(name) for name in SEED_CHANNELS]
    np.testing.assert_allclose(item.signal, 0.1 * raw.counts[order, :250], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("starts", "message"),
    (
        ({"1": STARTS["1"]}, "sessions 1, 2 and 3, got 1"),
        ({**STARTS, "2": STARTS["2"][:14]}, "session 2: expected 15 starts and ends"),
        ({**STARTS, "3": STARTS["3"][::-1]}, "session 3: .* each later than"),
        ({}, "got none"),
    ),
)
def test_times_that_make_no_sense(raw, tmp_path, starts, message):
    raw()
    write_times(tmp_path, starts)
    with pytest.raises(ValueError, match=f"trial_start_end_timestamp.txt: .*{message}"):
        SEEDV(tmp_path)
