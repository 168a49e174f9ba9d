# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.datasets import Recording


def make(**changes):
    arguments = {
        "signal": np.zeros((3, 400), np.float32),
        "sfreq": 200,
        "ch_names": ["Fp1", "T3", "X"],
    }
    return Recording(**{**arguments, **changes})


def test_properties_and_default_positions():
    recording = make(subject_id="01", label=1)
    assert (recording.n_chans, recording.n_times, recording.duration) == (3, 400, 2.0)
    assert list(recording.positions) == ["Fp1", "T3"]
    assert repr(recording) == "<Recording: 3 channels, 2 s at 200 Hz, subject 01, label 1>"


def test_keeps_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 400), np.float32))
    signal = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(make(signal=signal).signal, np.memmap)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal": np.zeros(400, np.float32)}, r"shape \(n_chans, n_times\), got \(400,\)"),
        ({"ch_names": ["Fp1", "T3"]}, "3 channels, got 2 names"),
        ({"ch_names": ["Fp1", "Fp1", "X"]}, "must differ, got more than one Fp1"),
        ({"sfreq": 0}, "sfreq must be a positive"),
        ({"sfreq": float("nan")}, "sfreq must be a positive"),
        ({"positions": {"Oz": (0, 0, 0)}}, "'Oz', which is not one of the channels"),
        ({"positions": {"X": (0, 0)}}, "position of X must be three"),
        ({"positions": {"X": (0, 0, np.nan)}}, "position of X must be three"),
        ({"label": 2, "class_names": ("a", "b")}, "from 0 to 1, got 2"),
        ({"label": -1}, "got -1"),
    ],
)
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_refuses_counts():
    with pytest.raises(TypeError, match="float32 or float64 microvolts, got int16"):
        make(signal=np.zeros((3, 400), np.int16))


def test_pick_orders_and_matches_by_electrode():
    signal = np.arange(12, dtype=np.float32).reshape(3, 4)
    picked = make(signal=signal, subject_id="07").pick(["T7", "FP1"])
    assert picked.ch_names == ["T3", "Fp1"]
    assert list(picked.positions) == ["T3", "Fp1"]
    assert picked.subject_id == "07"
    np.testing.assert_array_equal(picked.signal, signal[[1, 0]])


def test_pick_names_what_is_missing():
    with pytest.raises(ValueError, match="no channel Oz, Pz among Fp1, T3, X of rec.edf"):
        make(source="rec.edf").pick(["Fp1", "Oz", "Pz"])


@pytest.mark.parametrize(("old", "new"), [(500, 200), (1000, 200), (128, 200), (2048, 200)])
def test_resample_keeps_what_is_below_and_removes_what_is_above(old, new):
    t = np.arange(4 * old) / old
    high = 0.4 * old if old > new else 0.0
    signal = 5000 + 10 * np.sin(2 * np.pi * 10 * t) + 10 * np.sin(2 * np.pi * high * t)
    low = make(signal=signal[None].astype(np.float32), sfreq=old, ch_names=["Cz"]).resample(new)
    assert (low.sfreq, low.n_times, low.signal.dtype) == (new, 4 * new, np.float32)
    expected = 5000 + 10 * np.sin(2 * np.pi * 10 * np.arange(4 * new) / new)
    inner = slice(new // 2, -new // 2)
    assert np.abs(low.signal[0] - expected)[inner].max() < 0.05
    assert np.abs(low.signal[0] - expected).max() < 10  # no ringing of the 5 mV offset


def test_resample_to_its_own_rate_is_itself():
    recording = make()
    assert recording.resample(200) is recording


@pytest.mark.parametrize("sfreq", [0, -1, float("inf"), 200 * np.pi])
def test_resample_refuses(sfreq):
    with pytest.raises(ValueError, match="Recording.resample"):
        make().resample(sfreq)
