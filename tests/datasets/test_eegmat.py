# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.datasets import EEGMAT


def test_is_complete():
    recordings = EEGMAT()
    assert len(recordings) == 48
    assert len(recordings.subjects) == len(set(recordings.subjects)) == 24
    assert [row["Subject"] for row in recordings.metadata] == [
        f"Subject{subject}" for subject in recordings.subjects
    ]
    assert {row["Count quality"] for row in recordings.metadata} == {"0", "1"}
    for i, recording in enumerate(recordings):
        assert recording.subject_id == recordings.subjects[i // 2]
        assert recording.label == i % 2
        assert recording.class_names == ("rest", "arithmetic")
        assert (recording.n_chans, recording.n_times, recording.sfreq) == (19, 12000, 200.0)
        assert set(recording.positions) == set(recording.ch_names)
        rms = recording.signal.std(axis=1)
        assert rms.min() > 1 and rms.max() < 100  # microvolts of EEG


def test_rest_and_task_differ():
    rest, task = EEGMAT(["01"])
    assert not np.array_equal(rest.signal, task.signal)


def test_values_are_the_stored_counts_in_microvolts():
    recording = EEGMAT()[0]
    assert recording.signal.dtype == np.float32
    counts = recording.signal / np.float32(0.02)
    np.testing.assert_allclose(counts, np.round(counts), atol=2e-3)


def test_subjects_by_number_or_text():
    recordings = EEGMAT([3, "01"])
    assert recordings.subjects == ["03", "01"]
    assert [r.subject_id for r in recordings] == ["03", "03", "01", "01"]
    assert [r.subject_id for r in recordings[1:3]] == ["03", "01"]
    assert recordings[-1].label == 1


def test_unknown_subject():
    with pytest.raises(ValueError, match="no subject 02; there are 01, 03"):
        EEGMAT(["02"])


def test_index_out_of_range():
    with pytest.raises(IndexError, match="index 4"):
        EEGMAT(["01", "03"])[4]


def test_says_whom_to_cite_and_the_licence():
    assert "Zyma" in EEGMAT.citation and "Goldberger" in EEGMAT.citation
    assert "ODC-By" in EEGMAT.license


def test_folder_without_the_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no subjects\.csv"):
        EEGMAT(path=tmp_path)
    (tmp_path / "subjects.csv").write_text("Subject,Age\nSubject01,18\nSubject02,19\n")
    recordings = EEGMAT(path=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no sub-01\.npz"):
        recordings[0]
    (tmp_path / "sub-02.npz").write_bytes(b"PK\3\4 not whole")
    with pytest.raises(ValueError, match=r"sub-02\.npz is damaged"):
        recordings[2]


def test_matches_the_original_edf():
    """The bundled minute is the first of the original task file, resampled from 500 Hz."""
    from pathlib import Path

    from eegfast.datasets import read_recording

    original = Path(__file__).parents[3] / "shared/data/eegmat_edf/Subject01_2.edf"
    if not original.is_file():
        pytest.skip("the original EDF files are not here")
    bundled = EEGMAT(["01"])[1]
    whole = read_recording(original).resample(200).pick(bundled.ch_names)
    difference = (whole.signal[:, : bundled.n_times] - bundled.signal)[:, 200:-200]
    assert np.abs(difference).max() < 0.05
