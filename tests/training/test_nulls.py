# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.protocols import SubjectKFold
from eegfast.training import (
    Evaluation,
    LogisticBaseline,
    NullResult,
    cross_validate,
    permute_within,
    refit_null,
    swap_null,
)


def answers(predictions, labels, subjects):
    proba = np.eye(2)[np.asarray(predictions)][:, None]
    return Evaluation(
        np.asarray(labels), np.asarray(subjects), np.zeros(len(labels)), proba, "window", "none"
    )


def test_labels_stay_within_their_subject():
    groups = np.array(["b", "a", "a", "c", "b", "b", "c", "a"])
    labels = np.arange(8)
    seen = set()
    for seed in range(200):
        permuted = permute_within(labels, groups, np.random.default_rng(seed))
        for group in "abc":
            assert sorted(permuted[groups == group]) == sorted(labels[groups == group])
        seen.add(tuple(permuted[groups == "c"]))
    assert seen == {(3, 6), (6, 3)}


def test_swap_null_of_paired_answers_is_binomial():
    subjects = np.repeat(np.arange(10), 2)
    labels = np.tile([0, 1], 10)
    null = swap_null(answers(labels, labels, subjects), n_permutations=4000, seed=1)
    assert null.observed == 1
    assert null.values.mean() == pytest.approx(0.5, abs=0.02)
    assert null.values.var() == pytest.approx(0.25 / 10, rel=0.1)
    assert null.p_value == pytest.approx(1 / 1024, abs=0.002)


def test_one_class_answers_have_no_spread():
    subjects = np.repeat(np.arange(10), 2)
    labels = np.tile([0, 1], 10)
    null = swap_null(answers(np.zeros(20, int), labels, subjects), n_permutations=50)
    assert (null.values == 0.5).all()
    assert null.p_value == 1


def test_p_value_is_never_zero_and_counts_ties():
    assert NullResult("swap", 0.9, np.full(99, 0.5)).p_value == 0.01
    assert NullResult("swap", 0.5, np.full(99, 0.5)).p_value == 1
    summary = NullResult("swap", 0.9, np.array([0.4, 0.5, 0.5])).summary()
    assert summary["levels"] == [0.4, 0.5] and summary["counts"] == [1, 2]
    assert summary["n_permutations"] == 3


def test_refit_null_trains_on_permuted_labels(study):
    features, labels, subjects = study
    protocol = SubjectKFold(4)
    result = cross_validate(features, labels, subjects, LogisticBaseline, protocol=protocol)
    trained_on = []

    class Spy(LogisticBaseline):
        def fit(self, features, labels, **kwargs):
            trained_on.append(tuple(labels))
            return super().fit(features, labels, **kwargs)

    null = refit_null(result, features, Spy, protocol=protocol, n_permutations=19)
    assert len(trained_on) == 4 * 19
    assert len(set(trained_on)) > 19
    assert abs(null.values.mean() - 0.5) < 0.15
    assert null.observed == result.accuracy > null.values.mean() + 0.2
    assert null.p_value <= 0.1
    again = refit_null(result, features, LogisticBaseline, protocol=protocol, n_permutations=19)
    assert np.array_equal(null.values, again.values)
