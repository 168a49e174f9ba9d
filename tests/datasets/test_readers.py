# SPDX-License-Identifier: BSD-3-Clause
import shutil
import warnings

import numpy as np
import pytest

from eegfast.datasets import SEED_CHANNELS, files_of, positions_for, read_recording

mne = pytest.importorskip("mne")

REAL = {
    "eeguana_bv_export_edfplus.edf": (30, 512, 5120),
    "mnepy_test.bdf": (64, 2048, 2048),
    "resting_EO_200Hz_raw.fif": (2, 200, 72000),
    "brainvision/bv_export_bv_txt_bin_multi_16bit.vhdr": (30, 512, 4722),
    "brainvision/test.vhdr": (26, 1000, 7900),
}


def direct(path, names):
    """The same channels through MNE, in microvolts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw(path, verbose="ERROR")
        return raw.get_data(picks=names) * 1e6


@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_files_equal_a_direct_read(name, expected, data):
    recording = read_recording(data / name)
    assert (recording.n_chans, recording.sfreq, recording.n_times) == expected
    assert recording.signal.dtype == np.float32
    assert recording.source == str(data / name)
    assert list(recording.positions) == recording.ch_names
    truth = direct(data / name, recording.ch_names)
    np.testing.assert_allclose(recording.signal, truth, rtol=1e-6, atol=1e-6)


def test_reads_long_files_block_by_block(data, monkeypatch):
    path = data / "eeguana_bv_export_edfplus.edf"
    whole = read_recording(path).signal
    monkeypatch.setattr("eegfast.datasets.readers._BLOCK_VALUES", 34 * 700)
    np.testing.assert_array_equal(read_recording(path).signal, whole)


def test_memory_map_on_demand_and_for_large_files(data, monkeypatch):
    path = data / "resting_EO_200Hz_raw.fif"
    in_memory = read_recording(path).signal
    assert not isinstance(in_memory, np.memmap)
    mapped = read_recording(path, memmap=True).signal
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, in_memory)
    monkeypatch.setattr("eegfast.datasets.readers.MEMMAP_BYTES", 1000)
    assert isinstance(read_recording(path).signal, np.memmap)
    assert not isinstance(read_recording(path, memmap=False).signal, np.memmap)


def test_leaves_out_what_is_no_scalp_eeg(data):
    bdf = read_recording(data / "mnepy_test.bdf").ch_names
    assert not {"EXG1", "REOG", "M1", "M2", "EXG8", "Status"} & set(bdf)
    everything = read_recording(data / "mnepy_test.bdf", exclude_non_eeg=False).ch_names
    assert {"EXG1", "REOG", "M1"} <= set(everything) and "Status" not in everything


def test_picks_by_file_name_clean_name_and_electrode(write_edf, signal):
    x = signal(4, 300)
    labels = ["EEG Fp1", "EEG T3", "EEG A2-A1", "ECG ECG"]
    path = write_edf(
        "a.edf",
        [{"label": n, "rate": 100, "counts": c} for n, c in zip(labels, x, strict=True)],
    )
    assert read_recording(path).ch_names == ["Fp1", "T3"]
    picked = read_recording(path, picks=["ECG ECG", "T7", "A2-A1", "EEG Fp1"])
    assert picked.ch_names == ["ECG ECG", "T3", "A2-A1", "Fp1"]
    np.testing.assert_array_equal(picked.signal, x[[3, 1, 2, 0]])
    with pytest.raises(ValueError, match="a.edf: picks names Oz: expected one of EEG Fp1, EEG T3"):
        read_recording(path, picks=["Fp1", "Oz"])
    with pytest.raises(ValueError, match="sequence of channel names, got 'Fp1'"):
        read_recording(path, picks="Fp1")


def test_edf_units(write_edf, signal):
    x = signal(6, 200)
    units = ["uV", "mV", "", "nV", "%", "\u00b5V"]
    names = ["Fp1", "Fp2", "C3", "C4", "Pz", "Oz"]
    channels = [
        {"label": n, "rate": 100, "counts": c, "unit": u}
        for n, c, u in zip(names, x, units, strict=True)
    ]
    with pytest.warns(UserWarning, match="no unit is given for C3; taken for microvolts"):
        recording = read_recording(write_edf("a.edf", channels))
    assert recording.ch_names == ["Fp1", "Fp2", "C3", "C4", "Oz"]
    expected = x[[0, 1, 2, 3, 5]] * [[1], [1000], [1], [1e-3], [1]]
    np.testing.assert_allclose(recording.signal, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="picks names Pz: expected a voltage"):
        read_recording(write_edf("a.edf", channels), picks=["Pz"])


def test_edf_keeps_the_rate_of_the_eeg_when_other_signals_are_faster(write_edf, signal):
    x = signal(2, 300)
    channels = [
        {"label": "EEG Fp1", "rate": 100, "counts": x[0]},
        {"label": "EEG Fp2", "rate": 100, "counts": x[1]},
        {"label": "ECG", "rate": 400, "counts": signal(1, 1200)[0]},
    ]
    recording = read_recording(write_edf("a.edf", channels))
    assert (recording.sfreq, recording.n_times) == (100, 300)
    np.testing.assert_array_equal(recording.signal, x)
    with pytest.raises(ValueError, match="of one rate, got 100, 400 Hz; choose with picks"):
        read_recording(write_edf("a.edf", channels), exclude_non_eeg=False)


def test_edf_with_gaps_says_so(write_edf, signal):
    channels = [{"label": "Cz", "rate": 100, "counts": signal(1, 300)[0]}]
    with pytest.warns(UserWarning, match="as if there were no gaps"):
        read_recording(write_edf("a.edf", channels, reserved="EDF+D"))


def test_names_that_clean_to_the_same_stay_apart(write_edf, signal):
    x = signal(2, 100)
    labels = ["EEG C3", "EEG C3-Ref"]
    channels = [{"label": n, "rate": 100, "counts": c} for n, c in zip(labels, x, strict=True)]
    recording = read_recording(write_edf("a.edf", channels))
    assert recording.ch_names == labels
    assert list(recording.positions) == labels


def test_ears_are_left_out_but_not_biosemi_bundles(write_edf, signal):
    x = signal(3, 100)

    def names_read(labels):
        channels = [{"label": n, "rate": 100, "counts": c} for n, c in zip(labels, x, strict=True)]
        return read_recording(write_edf("a.edf", channels)).ch_names

    assert names_read(["Cz", "A1", "A2"]) == ["Cz"]
    assert names_read(["A1", "A2", "A3"]) == ["A1", "A2", "A3"]


def test_no_eeg_at_all(write_edf, signal):
    channels = [{"label": "ECG", "rate": 100, "counts": signal(1, 100)[0]}]
    with pytest.raises(ValueError, match=r"a\.edf: expected EEG channels, got only ECG \(EDF\)"):
        read_recording(write_edf("a.edf", channels))


def test_seed_like_cnt(write_cnt, signal):
    names = [*SEED_CHANNELS[:32], "M1", *SEED_CHANNELS[32:42], "M2", *SEED_CHANNELS[42:]]
    names += ["VEO", "HEO"]
    counts = signal(66, 3000) * 100
    path = write_cnt("1_1.cnt", names, counts, event_at=(1000, 2000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording = read_recording(path)
    assert recording.ch_names == list(SEED_CHANNELS)
    assert list(recording.positions) == list(SEED_CHANNELS)
    assert (recording.sfreq, recording.n_times) == (1000, 3000)
    rows = [names.index(name) for name in SEED_CHANNELS]
    np.testing.assert_allclose(recording.signal, counts[rows] * 0.1, rtol=1e-6)


@pytest.mark.parametrize("write", ["write_set", "write_hdf5_set"])
def test_eeglab_set(write, request, signal):
    x = signal(3, 500)
    path = request.getfixturevalue(write)("a.set", ["Fp1", "EOG1", "CB1"], x, 128)
    recording = read_recording(path)
    assert (recording.ch_names, recording.sfreq) == (["Fp1", "CB1"], 128)
    assert list(recording.positions) == ["Fp1", "CB1"]
    np.testing.assert_allclose(recording.signal, x[[0, 2]], rtol=1e-6)


def test_epoched_set_is_joined_end_to_end(write_set, signal):
    x = signal(2, 400)
    path = write_set("a.set", ["Fp1", "Cz"], x.reshape(2, 4, 100).transpose(0, 2, 1), 100)
    with pytest.warns(UserWarning, match="4 epochs of 1 s joined end to end") as caught:
        recording = read_recording(path)
    assert len(caught) == 1
    np.testing.assert_allclose(recording.signal, x, rtol=1e-6)


def test_positions_of_fif_come_first(tmp_path):
    places = {"Fp1": [-0.03, 0.1, 0.04], "E17": [0.0, 0.1, 0.05]}
    info = mne.create_info([*places, "Cz"], 100, "eeg")
    raw = mne.io.RawArray(np.zeros((3, 100)), info, verbose="ERROR")
    montage = mne.channels.make_dig_montage(places, coord_frame="head")
    raw.set_montage(montage, on_missing="ignore", verbose="ERROR")
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    positions = read_recording(tmp_path / "x_raw.fif").positions
    for name, place in places.items():
        assert positions[name] == pytest.approx(place)
    assert positions["Cz"] == positions_for(["Cz"])["Cz"]


def test_positions_of_other_formats_come_by_name(data):
    """This file's electrodes lie on a sphere around another origin."""
    path = data / "brainvision/bv_export_bv_txt_bin_multi_16bit.vhdr"
    recording = read_recording(path)
    assert recording.positions == positions_for(recording.ch_names)


def test_npy_is_mapped_itself(tmp_path):
    signal = np.arange(20, dtype=np.float32).reshape(2, 10)
    np.save(tmp_path / "x.npy", signal)
    recording = read_recording(tmp_path / "x.npy", sfreq=200, ch_names=["FP1", "CB2"])
    assert isinstance(recording.signal, np.memmap)
    np.testing.assert_array_equal(recording.signal, signal)
    assert list(recording.positions) == ["FP1", "CB2"]
    with pytest.raises(ValueError, match=r"x\.npy: expected sfreq= and ch_names="):
        read_recording(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy: .*2 channels, got 1 names"):
        read_recording(tmp_path / "x.npy", sfreq=200, ch_names=["FP1"])


def test_npy_never_unpickles(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy: could not be read as NumPy"):
        read_recording(tmp_path / "x.npy", sfreq=200, ch_names=["Cz"])


def test_sfreq_is_for_npy_only(data):
    with pytest.raises(ValueError, match="a BDF file has its own"):
        read_recording(data / "mnepy_test.bdf", sfreq=200)


def test_the_contradictory_cnt(data):
    message = (
        r"eeglab_test\.cnt: could not be read as Neuroscan CNT: expected 2 or 4 bytes for each of "
        r"the 26080 samples of 2 channels in its header, got 102420 bytes"
    )
    with pytest.raises(ValueError, match=message) as caught:
        read_recording(data / "eeglab_test.cnt")
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_cut_off_cnt(write_cnt, signal):
    path = write_cnt("a.cnt", ["Fp1", "Cz"], signal(2, 1000))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="an event table at byte 9050, the file ends at 5000"):
        read_recording(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.mat", r"x\.mat: expected a file ending in \.edf, \.bdf, .*got '\.mat'"),
        ("x", "expected a file ending in .* got 'none'"),
        ("x.vmrk", r"It belongs to a \.vhdr file"),
        ("x.fdt", r"It belongs to a \.set file"),
    ],
)
def test_unknown_endings(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        read_recording(tmp_path / name)


def test_absent_empty_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.edf: there is no such file"):
        read_recording(tmp_path / "no.edf")
    (tmp_path / "empty.EDF").touch()
    with pytest.raises(ValueError, match=r"empty\.EDF: expected EDF data, the file is empty"):
        read_recording(tmp_path / "empty.EDF")
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        read_recording(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", [0.001, 0.01, 0.3])
@pytest.mark.parametrize(
    "name", ["mnepy_test.bdf", "resting_EO_200Hz_raw.fif", "eeglab_test.cnt", "a.set", "b.set"]
)
def test_cut_off_files_are_one_sentence_with_their_name(
    name, part, data, tmp_path, write_set, write_hdf5_set, signal
):
    match name:
        case "a.set":
            whole = write_set(name, ["Fp1", "Cz"], signal(2, 5000), 100)
        case "b.set":
            whole = write_hdf5_set(name, ["Fp1", "Cz"], signal(2, 5000), 100)
        case _:
            whole = data / name
    content = whole.read_bytes()
    cut = tmp_path / name
    cut.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError) as caught:
        read_recording(cut)
    assert str(caught.value).startswith(f"{cut}: ")
    assert "\n" not in str(caught.value)


def test_cut_off_edf_gives_whole_records_and_says_so(data, tmp_path):
    content = (data / "eeguana_bv_export_edfplus.edf").read_bytes()
    cut = tmp_path / "cut.edf"
    cut.write_bytes(content[: int(0.55 * len(content))])
    with pytest.warns(UserWarning, match=r"cut\.edf: Number of records .* does not match"):
        recording = read_recording(cut)
    whole = read_recording(data / "eeguana_bv_export_edfplus.edf")
    np.testing.assert_array_equal(recording.signal, whole.signal[:, : recording.n_times])


@pytest.fixture
def brainvision(data, tmp_path):
    for file in (data / "brainvision").glob("bv_export*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "bv_export_bv_txt_bin_multi_16bit.vhdr"


def test_cut_off_brainvision_data(brainvision):
    binary = brainvision.with_suffix(".dat")
    binary.write_bytes(binary.read_bytes()[: 34 * 2 * 1000])
    with pytest.warns(UserWarning, match="expected 321096 bytes .4722 samples. in .*got 68000"):
        assert read_recording(brainvision).n_times == 1000


def test_cut_off_vectorized_brainvision_data_is_an_error(brainvision):
    """Read on, every channel but the first would start at another channel's samples."""
    binary = brainvision.with_suffix(".dat")
    counts = np.frombuffer(binary.read_bytes(), "<i2").reshape(-1, 34).T
    header = brainvision.read_text("utf-8").replace("MULTIPLEXED\n", "VECTORIZED\n")
    brainvision.write_text(header, "utf-8")
    assert "DataOrientation=VECTORIZED" in header
    binary.write_bytes(counts.tobytes())
    recording = read_recording(brainvision)
    assert recording.n_times == 4722
    binary.write_bytes(counts.tobytes()[:-4722])
    with pytest.raises(ValueError, match="expected 321096 bytes"):
        read_recording(brainvision)


def test_missing_brainvision_data(brainvision):
    brainvision.with_suffix(".dat").unlink()
    with pytest.raises(ValueError, match=r"16bit\.vhdr: could not be read as BrainVision.*\.dat"):
        read_recording(brainvision)


def test_reader_options_go_to_mne(write_cnt, signal):
    path = write_cnt("a.cnt", ["Fp1", "Cz"], signal(2, 1000))
    assert read_recording(path, reader_options={"data_format": "int32"}).n_times == 1000
    with pytest.raises(ValueError, match=r"a\.cnt: could not be read .*nonsense"):
        read_recording(path, reader_options={"nonsense": 1})


def test_files_that_belong_together(brainvision, tmp_path):
    assert [f.name for f in files_of(brainvision)] == [
        brainvision.name,
        brainvision.with_suffix(".dat").name,
    ]
    for name in (
        "a.set",
        "a.fdt",
        "b_raw.fif",
        "b_raw-1.fif",
        "b_raw-2.fif",
        "b_raw-x.fif",
        "c.edf",
    ):
        (tmp_path / name).touch()
    assert [f.name for f in files_of(tmp_path / "a.set")] == ["a.set", "a.fdt"]
    parts = [f.name for f in files_of(tmp_path / "b_raw.fif")]
    assert parts == ["b_raw.fif", "b_raw-1.fif", "b_raw-2.fif"]
    assert files_of(tmp_path / "c.edf") == [tmp_path / "c.edf"]
