# SPDX-License-Identifier: BSD-3-Clause
"""What each protocol gives on a table of SEED's shape, and that it keeps its promises."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegfast.protocols import (
    CrossSession,
    CustomSplit,
    LeakageError,
    LeakageWarning,
    LeaveOneSessionOut,
    LeaveOneSubjectOut,
    PooledTrialKFold,
    RandomWindows,
    Samples,
    SEEDIVTrials,
    SEEDTrials,
    SubjectHoldout,
    SubjectKFold,
    WithinSessionTrialKFold,
    WithinSessionWindows,
    create,
    names,
)

SESSIONS = [f"subject {subject:02d}, session {s}" for subject in range(1, 16) for s in (1, 2, 3)]


def trials_of(samples, side):
    """Trials of a side, and that all their samples are there."""
    found = set(samples.groups("trial")[side])
    assert sorted(side) == sorted(np.flatnonzero(np.isin(samples.groups("trial"), list(found))))
    return found


def leaky(protocol, samples):
    with pytest.warns(LeakageWarning, match="Windows of one trial are on both sides"):
        return list(protocol.splits(samples))


@pytest.mark.parametrize(
    "protocol, n_trials, last", [(SEEDTrials(), 15, 9), (SEEDIVTrials(), 24, 16)]
)
def test_first_trials_of_each_session_are_trained_on(table, protocol, n_trials, last):
    samples = Samples.from_trials(table(labels=[i % 3 for i in range(n_trials)]), 3)
    splits = list(protocol.splits(samples))
    assert [split.name for split in splits] == SESSIONS
    for i, split in enumerate(splits):
        session = f"{i // 3 + 1:02d}/{i % 3 + 1}"
        assert trials_of(samples, split.train) == {f"{session}/{k}" for k in range(1, last + 1)}
        expected = {f"{session}/{k}" for k in range(last + 1, n_trials + 1)}
        assert trials_of(samples, split.test) == expected


def test_seed_splits_refuse_another_data_sets_trials(table):
    rows = table(1, 1, [0] * 24)
    with pytest.raises(ValueError, match="numbered 1 to 15 in each session, got 1 to 24"):
        list(SEEDTrials().splits(Samples.from_trials(rows)))
    with pytest.raises(ValueError, match="subject 01, session 1: the test side has no sample"):
        list(SEEDTrials().splits(Samples.from_trials([r for r in rows if r.trial_id < 10])))


def test_whole_trials_are_dealt_out_within_each_session(seed_windows):
    splits = list(WithinSessionTrialKFold(5, seed=1).splits(seed_windows))
    assert len(splits) == 45 * 5
    for start in range(0, len(splits), 5):
        folds = splits[start : start + 5]
        sessions = set()
        tested = [trials_of(seed_windows, fold.test) for fold in folds]
        for fold in folds:
            labels = seed_windows.trials.label[np.unique(seed_windows.trial[fold.test])]
            assert sorted(labels) == [0, 1, 2]  # three trials, one of each class
            assert len(trials_of(seed_windows, fold.train)) == 12
            sides = np.concatenate([fold.train, fold.test])
            sessions |= set(seed_windows.groups("session")[sides])
        assert len(sessions) == 1
        assert len(set.union(*tested)) == 15


def test_folds_of_a_session_do_not_depend_on_the_others(table):
    alone = Samples.from_trials([row for row in table() if row.subject_id == "02"], 2)
    every = Samples.from_trials(table(), 2)
    for protocol in (
        WithinSessionTrialKFold(3),
        WithinSessionWindows(3, allow_leakage=True),
        RandomWindows(allow_leakage=True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakageWarning)
            wanted = {s.name: alone.groups("trial")[s.test] for s in protocol.splits(alone)}
            found = {s.name: every.groups("trial")[s.test] for s in protocol.splits(every)}
        for name, trials in wanted.items():
            assert sorted(found[name]) == sorted(trials)


def test_sessions_are_dealt_out_differently(seed_windows):
    folds = list(WithinSessionTrialKFold(5, stratify=False).splits(seed_windows))
    first = {tuple(sorted(seed_windows.trial_id[folds[i].test])) for i in range(0, 225, 5)}
    assert len(first) > 10


def test_pooled_folds_have_trials_of_every_subject_on_both_sides(table):
    deap = Samples.from_trials(table(32, 1, [0, 1] * 20), 2)
    splits = list(PooledTrialKFold(5).splits(deap))
    assert [len(trials_of(deap, split.test)) for split in splits] == [256] * 5
    assert set.union(*(trials_of(deap, split.test) for split in splits)) == set(
        deap.groups("trial")
    )
    for split in splits:
        assert set(deap.subject_id[split.train]) == set(deap.subject_id[split.test])
    shares = [deap.label[s.test].mean() for s in PooledTrialKFold(5, stratify=True).splits(deap)]
    assert shares == [0.5] * 5
    assert "every subject is trained on" in PooledTrialKFold().mixes


@pytest.mark.parametrize(
    "n_subjects, sizes", [(15, (10, 2, 3)), (16, (11, 2, 3)), (20, (14, 3, 3))]
)
def test_resattentionets_shares_of_the_subjects(table, n_subjects, sizes):
    samples = Samples.from_trials(table(n_subjects), 2)
    (split,) = SubjectHoldout().splits(samples)
    sides = [split.train, split.validation, split.test]
    subjects = [set(samples.subject_id[side]) for side in sides]
    assert tuple(map(len, subjects)) == sizes
    assert len(set.union(*subjects)) == n_subjects
    assert sum(map(len, sides)) == len(samples)


def test_every_side_of_a_holdout_has_every_class(table):
    rows = table(10, 1, [0, 1])
    for row in rows:  # class 1 in three subjects only
        row.label = int(row.label and row.subject_id in ("03", "05", "09"))
    samples = Samples.from_trials(rows)
    for seed in range(10):
        (split,) = SubjectHoldout(0.5, 0.2, seed=seed).splits(samples)
        for side in (split.train, split.validation, split.test):
            assert set(samples.label[side]) == {0, 1}
    for row in rows:
        row.label = int(row.label and row.subject_id == "03")
    with pytest.raises(ValueError, match="no draw of 100"):
        list(SubjectHoldout().splits(Samples.from_trials(rows)))
    with pytest.raises(ValueError, match="6 subjects are too few, 4 would be .* 0 validate"):
        list(SubjectHoldout().splits(Samples.from_trials(table(6))))


def test_every_subject_is_tested_alone(seed_windows):
    splits = list(LeaveOneSubjectOut().splits(seed_windows))
    assert [split.name for split in splits] == [f"subject {i:02d}" for i in range(1, 16)]
    for i, split in enumerate(splits, 1):
        assert set(seed_windows.subject_id[split.test]) == {f"{i:02d}"}
        assert len(split.train) + len(split.test) == len(seed_windows)


def test_folds_of_subjects(seed_windows):
    splits = list(SubjectKFold(5, seed=2).splits(seed_windows))
    tested = [set(seed_windows.subject_id[split.test]) for split in splits]
    assert [len(subjects) for subjects in tested] == [3] * 5
    assert len(set.union(*tested)) == 15
    for split, subjects in zip(splits, tested, strict=True):
        assert set(seed_windows.subject_id[split.train]).isdisjoint(subjects)


def test_every_session_is_tested_by_the_subjects_others(seed_windows):
    splits = list(LeaveOneSessionOut().splits(seed_windows))
    assert [split.name for split in splits] == SESSIONS
    for i, split in enumerate(splits):
        subject, session = f"{i // 3 + 1:02d}", i % 3 + 1
        others = {f"{subject}/{s}" for s in (1, 2, 3) if s != session}
        assert set(seed_windows.groups("session")[split.test]) == {f"{subject}/{session}"}
        assert set(seed_windows.groups("session")[split.train]) == others
        assert len(trials_of(seed_windows, split.train)) == 30


@pytest.mark.parametrize(
    "arguments, train, test",
    [
        ({}, {"1", "2"}, {"3"}),
        ({"train": 1}, {"1"}, {"2", "3"}),
        ({"train": [1], "test": "2"}, {"1"}, {"2"}),
    ],
)
def test_given_sessions_are_trained_on_and_tested(seed_windows, arguments, train, test):
    splits = list(CrossSession(**arguments).splits(seed_windows))
    assert len(splits) == 15
    for i, split in enumerate(splits, 1):
        sides = np.concatenate([split.train, split.test])
        assert set(seed_windows.subject_id[sides]) == {f"{i:02d}"}
        assert set(seed_windows.session_id[split.train]) == train
        assert set(seed_windows.session_id[split.test]) == test


def test_sessions_that_are_not_there_are_named(table):
    samples = Samples.from_trials(table(2, 2))
    with pytest.raises(ValueError, match="subject 01 has the sessions 1, 2, but 3 is asked for"):
        list(CrossSession([1, 3]).splits(samples))
    with pytest.raises(ValueError, match="needs at least 2 sessions of each subject, got 1"):
        list(LeaveOneSessionOut().splits(Samples.from_trials(table(2, 1))))
    for sides in (([1, 2], [2]), ([], [2]), ([1], [])):
        with pytest.raises(ValueError, match="must be different sessions"):
            CrossSession(*sides)


def test_random_windows_divide_each_session(table):
    samples = Samples.from_trials(table(2, 3), 10)
    splits = leaky(RandomWindows(seed=1, allow_leakage=True), samples)
    assert [split.name for split in splits] == SESSIONS[:6]
    for split in splits:
        assert (len(split.train), len(split.test)) == (90, 60)
        sides = np.concatenate([split.train, split.test])
        assert len(set(sides)) == 150
        assert len(set(samples.groups("session")[sides])) == 1
        assert set(samples.trial[split.train]) & set(samples.trial[split.test])
    (pooled,) = leaky(RandomWindows(0.8, within=None, allow_leakage=True), samples)
    assert (len(pooled.train), len(pooled.test)) == (720, 180)


def test_hamnets_seconds_are_dealt_out_within_each_session(table):
    samples = Samples.from_trials(table(2, 1), 10)
    splits = leaky(WithinSessionWindows(5, allow_leakage=True), samples)
    assert [len(split.test) for split in splits] == [30] * 10
    assert sorted(np.concatenate([split.test for split in splits[:5]])) == sorted(
        np.flatnonzero(samples.subject_id == "01")
    )


@pytest.mark.parametrize("name", ["random-windows", "session-window-k-fold"])
def test_windows_of_one_trial_are_kept_apart_unless_asked_for_by_name(seed_windows, name):
    refused = create(name)
    with pytest.raises(LeakageError, match=r"01/1/15.*allow_leakage=True runs it") as caught:
        list(refused.splits(seed_windows))
    assert "01/1/15" in caught.value.shared
    with pytest.raises(LeakageError):
        refused.as_sklearn(seed_windows)
    assert refused.leaks
    allowed = create(name, allow_leakage=True)
    splits = leaky(allowed, seed_windows)
    assert all(split.leaks for split in splits)
    assert allowed.leaks and allowed.describe()["leaks"]
    with pytest.warns(LeakageWarning):
        assert allowed.as_sklearn(seed_windows).leaks
    validated = splits[0].hold_out(seed_windows.groups("trial"), 2)
    assert validated.leaks


def test_own_indices_are_checked_too(seed_windows):
    first = seed_windows.trial == 0
    window = np.flatnonzero(first)[0]
    others = np.flatnonzero(~first)
    (split,) = CustomSplit(others, first).splits(seed_windows)
    assert not split.leaks
    assert split.test.tolist() == np.flatnonzero(first).tolist()
    for sides in (
        ([*others, window], np.flatnonzero(first)[1:]),
        (others[5:], first, others[:5]),
        (others[5:], others[:5], first),
    ):
        with pytest.raises(LeakageError, match="on both sides"):
            list(CustomSplit(*sides).splits(seed_windows))
        if window not in sides[0]:
            continue
        allowed = CustomSplit(*sides, allow_leakage=True)
        with pytest.warns(LeakageWarning, match="by hand, unchecked"):
            (split,) = allowed.splits(seed_windows)
        assert split.leaks and allowed.leaks
    with pytest.raises(LeakageError, match="2 samples on both sides"):
        list(CustomSplit([0, 1, 2], [1, 2], allow_leakage=True).splits(seed_windows))
    with pytest.raises(LeakageError, match="1 subject on both sides"):
        list(CustomSplit(others, first, apart="subject").splits(seed_windows))


def test_own_indices_must_be_indices(seed_windows):
    with pytest.raises(ValueError, match="train has indices outside"):
        list(CustomSplit([-1], [0]).splits(seed_windows))
    with pytest.raises(ValueError, match="mask test has shape"):
        list(CustomSplit([0], [True]).splits(seed_windows))
    with pytest.raises(ValueError, match="apart must be one of subject, session, trial"):
        CustomSplit([0], [1], apart="window")


HONEST = [name for name in names() if not create(name).leaks]


@pytest.mark.parametrize("name", HONEST)
@settings(max_examples=8, deadline=None)
@given(
    missing=st.sets(st.integers(1, 15), max_size=4),
    windows=st.integers(1, 3),
    shuffle=st.randoms(use_true_random=False),
    n_subjects=st.integers(7, 9),
)
def test_promises_are_kept(name, missing, windows, shuffle, n_subjects):
    rows = [
        (f"{subject:02d}", session, trial)
        for subject in range(n_subjects)
        for session in (1, 2, 3)
        for trial in range(1, 1 + getattr(create(name), "n_trials", 15))
        if trial not in missing
    ] * windows
    shuffle.shuffle(rows)
    samples = Samples(*zip(*rows, strict=True), [trial % 3 for *_, trial in rows])
    protocol = create(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = list(protocol.splits(samples))
    assert splits
    for split in splits:
        assert not split.leaks
        sides = [split.train, split.test]
        if split.validation is not None:
            sides.append(split.validation)
        for level in ("subject", "session", "trial")[
            ("subject", "session", "trial").index(protocol.apart) :
        ]:
            groups = [set(samples.groups(level)[side]) for side in sides]
            assert sum(map(len, groups)) == len(set.union(*groups))
        for side in sides:
            assert len(side) and (np.diff(side) > 0).all()


@pytest.mark.parametrize("name", [name for name in names() if hasattr(create(name), "seed")])
def test_seeds_decide(name, seed_windows):
    options = {"allow_leakage": True} if create(name).leaks else {}

    def tests(seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakageWarning)
            splits = create(name, seed=seed, **options).splits(seed_windows)
            return [split.test.tolist() for split in splits]

    assert tests(3) == tests(3)
    assert tests(3) != tests(4)


def test_validation_is_taken_from_the_training_side(seed_windows):
    split = next(LeaveOneSubjectOut().splits(seed_windows))
    held = split.hold_out(seed_windows.subject_id, 2, seed=1)
    assert len(set(seed_windows.subject_id[held.validation])) == 2
    assert sorted([*held.train, *held.validation]) == split.train.tolist()
    assert held.test is split.test
    with pytest.raises(ValueError, match="has a validation side already"):
        held.hold_out(seed_windows.subject_id, 2)


def test_names_and_options():
    assert names() == sorted(names()) and len(names()) == 11
    for name in names():
        about = create(name.upper()).describe()
        assert about["name"] == name
        assert about["mixes"].endswith(".")
    assert create("pooled-trial-k-fold", n_splits=3).describe()["options"]["n_splits"] == 3
    with pytest.raises(ValueError, match="no protocol is named 'loso'; known: .*seed-9-6"):
        create("loso")
    with pytest.raises(ValueError, match="create: seed-9-6: SEEDTrials.* takes no arguments"):
        create("seed-9-6", n_splits=3)


def test_bad_requests_are_refused(seed_windows):
    with pytest.raises(TypeError, match="must be eegfast.protocols.Samples, got list"):
        list(SEEDTrials().splits([1, 2]))
    with pytest.raises(ValueError, match="16 folds need as many trials, .* session 1 has 15"):
        list(WithinSessionTrialKFold(16).splits(seed_windows))
    with pytest.raises(ValueError, match="676 folds need as many trials, got 675"):
        list(PooledTrialKFold(676).splits(seed_windows))
    for make in (WithinSessionTrialKFold, PooledTrialKFold, WithinSessionWindows):
        with pytest.raises(ValueError, match="n_splits must be at least 2, got 1"):
            make(1)
    with pytest.raises(ValueError, match="shares above 0"):
        SubjectHoldout(0.9, 0.2)
    with pytest.raises(ValueError, match="share between 0 and 1, got 60"):
        RandomWindows(60)
    with pytest.raises(ValueError, match="within must be 'session' or None"):
        RandomWindows(within="trial")
