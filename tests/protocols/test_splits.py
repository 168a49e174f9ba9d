# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegfast.protocols import LeaveOneSubjectOut, SubjectKFold, check_split, hold_out_subjects


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda g: len(set(g)) >= 3),
    n_splits=st.integers(2, 3),
    seed=st.integers(0, 5),
)
def test_folds_are_disjoint_by_subject_and_cover_everything_once(groups, n_splits, seed):
    tested = []
    for train, test in SubjectKFold(n_splits, seed=seed).split(groups=groups):
        check_split(train, test, groups)
        assert sorted([*train, *test]) == list(range(len(groups)))
        tested += list(test)
    assert sorted(tested) == list(range(len(groups)))


def test_folds_differ_by_at_most_one_subject():
    groups = np.repeat(np.arange(23), 2)
    sizes = [len(np.unique(groups[test])) for _, test in SubjectKFold(6).split(groups=groups)]
    assert sorted(sizes) == [3, 4, 4, 4, 4, 4]


def test_seed_decides_the_folds():
    groups = np.repeat(np.arange(24), 2)

    def folds(seed):
        return [tuple(test) for _, test in SubjectKFold(6, seed=seed).split(groups=groups)]

    assert folds(3) == folds(3)
    assert folds(3) != folds(4)


def test_stratify_spreads_the_classes():
    groups = np.arange(12)
    y = np.array([0] * 9 + [1] * 3)
    for seed in range(5):
        folds = SubjectKFold(3, seed=seed, stratify=True).split(groups, y, groups)
        assert [int(y[test].sum()) for _, test in folds] == [1, 1, 1]
    with pytest.raises(ValueError, match="stratify=True needs y"):
        list(SubjectKFold(3, stratify=True).split(groups=groups))


def test_stratify_takes_the_most_frequent_class_of_a_subject():
    groups = np.repeat(np.arange(4), 3)
    y = np.array(["b", "b", "a", "a", "a", "b", "b", "b", "b", "a", "a", "a"])
    for _, test in SubjectKFold(2, stratify=True).split(groups, y, groups):
        main = {g: max(set(y[groups == g]), key=list(y[groups == g]).count) for g in groups[test]}
        assert sorted(main.values()) == ["a", "b"]


def test_leave_one_subject_out():
    groups = ["c", "a", "b", "a"]
    protocol = LeaveOneSubjectOut()
    assert protocol.get_n_splits(groups=groups) == 3
    assert [list(test) for _, test in protocol.split(groups=groups)] == [[1, 3], [2], [0]]


def test_works_inside_scikit_learn():
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import cross_val_score

    groups = np.repeat(np.arange(6), 2)
    scores = cross_val_score(
        DummyClassifier(), np.zeros((12, 1)), np.arange(12) % 2, groups=groups, cv=SubjectKFold(3)
    )
    assert scores.tolist() == [0.5, 0.5, 0.5]


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        SubjectKFold(1)
    with pytest.raises(ValueError, match="4 folds need as many subjects, got 3"):
        list(SubjectKFold(4).split(groups=[1, 2, 3, 3]))
    with pytest.raises(ValueError, match="groups"):
        list(SubjectKFold(2).split(np.zeros(4)))
    with pytest.raises(ValueError, match="at least 2 subjects"):
        list(LeaveOneSubjectOut().split(groups=[1, 1]))


def test_hold_out_takes_whole_subjects_of_the_training_side():
    groups = np.repeat(np.arange(8), 3)
    side = np.flatnonzero(groups < 6)
    train, held = hold_out_subjects(side, groups, 2, seed=1)
    assert sorted([*train, *held]) == list(side)
    assert len(np.unique(groups[held])) == 2
    check_split(train, held, groups)
    again = hold_out_subjects(side, groups, 2, seed=1)
    assert np.array_equal(held, again[1])
    assert hold_out_subjects(side, groups, 0)[1].size == 0
    with pytest.raises(ValueError, match="between 0 and 5, got 6"):
        hold_out_subjects(side, groups, 6)
