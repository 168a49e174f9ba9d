# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.protocols import Samples


def test_a_trial_is_subject_session_and_number():
    samples = Samples(["b", "a", "a", "a", "a"], [1, 1, 2, 2, 2], [1, 1, 1, 10, 2], [0, 1, 2, 3, 4])
    assert len(samples.trials) == 5
    assert samples.trials.groups("trial").tolist() == ["a/1/1", "a/2/1", "a/2/2", "a/2/10", "b/1/1"]
    assert samples.trial.tolist() == [4, 0, 1, 3, 2]
    assert samples.groups("session").tolist() == ["b/1", "a/1", "a/2", "a/2", "a/2"]
    assert samples.groups("subject").tolist() == ["b", "a", "a", "a", "a"]


def test_trials_are_repeated_per_window(table):
    rows = table(2, 1, [0, 1])
    samples = Samples.from_trials(rows, [3, 0, 1, 2])
    expected = [rows[i] for i in (0, 0, 0, 2, 3, 3)]
    assert samples.trial_id.tolist() == [row.trial_id for row in expected]
    assert samples.label.tolist() == [row.label for row in expected]
    assert samples.groups("session").tolist() == [f"{row.subject_id}/1" for row in expected]
    assert len(Samples.from_trials(rows, 5)) == 20
    assert len(samples.trials) == 3


def test_a_data_sets_table_is_used_and_no_signal_read(table):
    class DataSet(list):
        trials = table(2, 1, [0, 1])

        def __iter__(self):
            raise AssertionError("read a signal")

    assert len(Samples.from_trials(DataSet())) == 4


def test_recordings_without_a_session_are_one_session(table):
    rows = table(2, 1, [0, 1])
    for row in rows:
        row.session_id = None
    assert set(Samples.from_trials(rows).session_id) == {"1"}
    rows[0].session_id = "1"
    with pytest.raises(ValueError, match="session_id must be text or whole numbers, got None"):
        Samples.from_trials(rows)


def test_bundled_recordings_are_samples():
    from eegfast.datasets import EEGMAT

    samples = Samples.from_trials(EEGMAT(subjects=[1, 3]))
    assert samples.groups("trial").tolist() == ["01/1/1", "01/1/2", "03/1/1", "03/1/2"]
    assert samples.label.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"subject_id": ["a", None, "b"]}, "subject_id .* got None"),
        ({"subject_id": ["a", float("nan"), "b"]}, "subject_id .* got nan"),
        ({"session_id": [1.0, 1.0, 2.0]}, "session_id .* got 1.0"),
        ({"trial_id": ["1", "2", "3"]}, "trial_id must hold whole numbers"),
        ({"label": [0.0, 1.0, 2.0]}, "label must hold whole numbers, got float64"),
        ({"label": [-1, 0, 1]}, "class number from 0, got -1"),
        ({"label": [0, 1]}, r"one length, .* label \(2,\)"),
        (dict.fromkeys(("subject_id", "session_id", "trial_id", "label"), []), "at least 1"),
        ({"trial_id": [1, 1, 2], "subject_id": ["a"] * 3}, "a/1/1 .* labels 0 and 1"),
    ],
)
def test_what_cannot_be_split_safely_is_refused(change, message):
    good = {
        "subject_id": ["a", "a", "b"],
        "session_id": ["1", "1", "1"],
        "trial_id": [1, 2, 1],
        "label": [0, 1, 2],
    }
    Samples(**good)
    with pytest.raises(ValueError, match=message):
        Samples(**{**good, **change})


@pytest.mark.parametrize("windows", [[1, 2], [1, 2, 3, -1], [1.0] * 4])
def test_counts_of_windows_must_fit(table, windows):
    with pytest.raises(ValueError, match="one for each of the 4 trials"):
        Samples.from_trials(table(2, 1, [0, 1]), windows)


def test_columns_cannot_be_changed_behind_a_check():
    trial_id = np.array([1, 2])
    samples = Samples(["a", "a"], ["1", "1"], trial_id, [0, 1])
    trial_id[0] = 2
    assert samples.trial_id.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        samples.trial_id[0] = 2


def test_part_of_the_samples():
    samples = Samples(["a", "a", "b"], [1, 1, 1], [1, 2, 1], [0, 1, 2])
    for part in ([2, 0], np.array([True, False, True])):
        assert sorted(samples.take(part).groups("trial")) == ["a/1/1", "b/1/1"]
    assert repr(samples) == "<Samples: 3 of 2 subjects, 2 sessions, 3 trials>"
