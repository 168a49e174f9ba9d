# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from eegfast.training.scores import (
    METRICS,
    answers_of,
    count_answers,
    drawn_tables,
    intervals,
    scores,
)

NAN = np.nan


def draw(seed, n=60, classes=4, missing=()):
    """Labels and answers, better than chance; classes in ``missing`` never occur."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([k for k in range(classes) if k not in missing], n)
    return labels, np.where(rng.random(n) < 0.5, labels, rng.integers(0, classes, n))


def from_sklearn(labels, answers, classes):
    per_class = metrics.precision_recall_fscore_support(
        labels, answers, labels=range(classes), zero_division=0.0
    )
    return {
        "accuracy": metrics.accuracy_score(labels, answers),
        "balanced_accuracy": metrics.recall_score(
            labels, answers, labels=np.unique(labels), average="macro", zero_division=0.0
        ),
        "macro_f1": metrics.f1_score(labels, answers, average="macro", zero_division=0.0),
        "weighted_f1": metrics.f1_score(labels, answers, average="weighted", zero_division=0.0),
        "kappa": metrics.cohen_kappa_score(labels, answers),
        **dict(zip(("precision", "recall", "f1"), per_class, strict=False)),
    }


@pytest.mark.parametrize("missing", [(), (2,), (0, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed, missing):
    labels, answers = draw(seed, missing=missing)
    ours = scores(count_answers(labels, answers, 4)[0])
    for name, theirs in from_sklearn(labels, answers, 4).items():
        assert np.nan_to_num(ours[name]) == pytest.approx(theirs, abs=1e-12), name
    assert np.isnan(ours["recall"]).tolist() == [k in missing for k in range(4)]


def test_many_tables_are_scored_at_once():
    tables = np.stack([count_answers(*draw(seed), 4)[0] for seed in range(6)]).reshape(2, 3, 4, 5)
    together = scores(tables)
    assert together["kappa"].shape == (2, 3) and together["f1"].shape == (2, 3, 4)
    for at in np.ndindex(2, 3):
        for name, value in scores(tables[at]).items():
            assert np.array_equal(together[name][at], value), name


def test_what_is_undefined_is_nan_and_left_out_of_means():
    found = scores([[3, 1, 0], [0, 0, 0], [2, 0, 0]])  # class 1 never occurs, 2 is never answered
    assert found["recall"] == pytest.approx([0.75, NAN, 0], nan_ok=True)
    assert found["precision"] == pytest.approx([0.6, 0, 0])
    assert found["balanced_accuracy"] == pytest.approx(0.375)
    assert found["f1"] == pytest.approx([2 / 3, 0, 0])
    neither = scores([[3, 0, 1], [0, 0, 0], [1, 0, 3]])  # class 1 neither occurs nor is answered
    assert np.isnan([neither["precision"][1], neither["recall"][1], neither["f1"][1]]).all()
    assert neither["macro_f1"] == pytest.approx(0.75)
    one = scores([[5, 0], [0, 0]])
    assert one["accuracy"] == 1 and np.isnan(one["kappa"])


def test_no_answer_is_wrong_and_nobodys_precision_suffers():
    proba = [[0.9, 0.1], [NAN, NAN], [0.2, 0.8], [np.inf, 0.0], [0.5, 0.5]]
    assert answers_of(proba).tolist() == [0, 2, 1, 2, 0]
    counts = count_answers([0, 0, 1, 1, 1], answers_of(proba), 2)[0]
    assert counts.tolist() == [[1, 0, 1], [1, 1, 1]]
    found = scores(counts)
    assert found["accuracy"] == pytest.approx(2 / 5)
    assert found["recall"] == pytest.approx([1 / 2, 1 / 3])
    assert found["precision"] == pytest.approx([1 / 2, 1])
    assert found["kappa"] == pytest.approx(
        metrics.cohen_kappa_score([0, 0, 1, 1, 1], [0, 2, 1, 2, 0])
    )


def subjects(n=12, seed=0, per_subject=20):
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n), per_subject)
    labels = rng.integers(0, 3, n * per_subject)
    right = rng.random(n * per_subject) < rng.beta(4, 1.5, n)[subject]
    return count_answers(labels, np.where(right, labels, (labels + 1) % 3), 3, subject)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_are_those_of_scipy(method):
    counts = subjects()
    ours = intervals(counts, 0.9, method=method, n_draws=999, seed=3)
    for name in ("accuracy", "macro_f1", "kappa"):

        def statistic(chosen, axis, name=name):
            return scores(counts[chosen].sum(-3))[name]

        theirs = stats.bootstrap(
            (np.arange(len(counts)),),
            statistic,
            confidence_level=0.9,
            n_resamples=999,
            method=method,
            rng=np.random.default_rng(3),
        ).confidence_interval
        assert ours[name] == pytest.approx([theirs.low, theirs.high], abs=1e-12), name


def test_intervals_draw_subjects_not_samples():
    counts = subjects()
    once, tenfold = intervals(counts), intervals(10 * counts)
    for name in METRICS:
        assert once[name] == pytest.approx(tenfold[name]), name
    total = drawn_tables(counts, n_draws=50).sum((1, 2))
    assert (total == counts.sum()).all()  # as many subjects, each whole


def test_bca_without_spread_is_the_percentile_interval():
    right = np.zeros((4, 2, 3))
    right[:, 0, 0] = right[:, 1, 1] = 5
    assert intervals(right, method="bca")["accuracy"].tolist() == [1, 1]


def test_one_subject_has_no_interval():
    found = intervals(subjects(1))
    assert all(np.isnan(value).all() for value in found.values())


def test_a_score_undefined_in_all_is_undefined_in_the_interval():
    found = intervals([[[3, 1, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0]]])
    assert np.isnan(found["recall"][1]).all() and not np.isnan(found["recall"][0]).any()


def test_draws_in_which_a_score_is_undefined_are_left_out():
    only_first = intervals([[[3, 1, 0], [1, 2, 0]], [[2, 2, 0], [0, 0, 0]]])
    assert only_first["recall"][1] == pytest.approx([2 / 3, 2 / 3])


def test_differences_pair_the_subjects():
    first = subjects(seed=1, per_subject=100)
    same = intervals(first, minus=first)
    assert all((value == 0).all() for value in same.values())
    better = first.copy()  # one more right in every subject
    rows = better[:, 0, 1] > 0
    better[rows, 0, 1] -= 1
    better[rows, 0, 0] += 1
    assert rows.all() and np.ptp(scores(first)["accuracy"]) > 0.1
    assert intervals(better, minus=first)["accuracy"] == pytest.approx([1 / 100, 1 / 100])
    low, high = intervals(first)["accuracy"]
    assert high - low > 0.05


@pytest.mark.parametrize("bad", [{"level": 0}, {"level": 95}, {"method": "normal"}])
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="between 0 and 1|percentile, bca"):
        intervals(subjects(), **bad)
