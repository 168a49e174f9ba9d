# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.protocols import LeakageError, check_split

GROUPS = ["anna", "anna", "ben", "ben", "cleo", "cleo"]


def test_clean_splits_pass_as_indices_and_masks():
    check_split([0, 1, 2, 3], [4, 5], GROUPS)
    check_split(np.array([1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 1, 1, 0, 0], bool), GROUPS)


def test_meeting_subjects_are_refused_and_named():
    with pytest.raises(LeakageError, match="2 subjects on both sides of the split: anna, ben") as e:
        check_split([0, 2], [1, 3, 4], GROUPS)
    assert e.value.shared == ["anna", "ben"]
    assert isinstance(e.value, ValueError)


def test_subjects_are_compared_as_text():
    with pytest.raises(LeakageError, match="1 subject .*: 7"):
        check_split([0], [1], [7, "7"])


def test_meeting_trials_are_refused():
    trials = ["a1", "a2", "b1", "b2", "a1", "c2"]
    check_split([0, 1], [2, 3], GROUPS, trials=trials)
    with pytest.raises(LeakageError, match="1 trial .*: a1"):
        check_split([0, 1], [4], GROUPS, trials=trials)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_samples_without_a_subject_cannot_be_checked(missing):
    with pytest.raises(ValueError, match="no subject"):
        check_split([0], [1], ["anna", missing])


@pytest.mark.parametrize(
    "train, test, message",
    [
        ([], [0], "train is empty"),
        ([0], [6], r"test has indices outside 0\.\.5"),
        ([-1], [0], "train has indices outside"),
        ([0.5], [1], "train must be"),
        (np.zeros(3, bool), [1], r"shape \(3,\), expected \(6,\)"),
    ],
)
def test_malformed_sides_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        check_split(train, test, GROUPS)


def test_many_names_are_cut():
    groups = [f"s{i:02d}" for i in range(20)] * 2
    with pytest.raises(LeakageError, match=r"20 subjects .*s09, \.\.\.$"):
        check_split(range(20), range(20, 40), groups)
