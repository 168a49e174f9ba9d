# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.protocols import CustomSplit, SEEDTrials, SubjectHoldout, SubjectKFold

pytest.importorskip("sklearn")


@pytest.fixture
def x(seed_windows):
    """Features that tell trials apart perfectly and classes not at all."""
    return np.random.default_rng(0).normal(size=(len(seed_windows.trials), 8))[seed_windows.trial]


def test_scores_are_those_of_the_splits(seed_windows, x):
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    model, y = KNeighborsClassifier(1), seed_windows.label
    cv = SEEDTrials().as_sklearn(seed_windows)
    assert cv.get_n_splits() == 45
    expected = [
        model.fit(x[split.train], y[split.train]).score(x[split.test], y[split.test])
        for split in SEEDTrials().splits(seed_windows)
    ]
    assert cross_val_score(model, x, y, cv=cv).tolist() == expected
    assert np.mean(expected) < 0.6


def test_grid_search(seed_windows, x):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    cv = SubjectKFold(3).as_sklearn(seed_windows)
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=cv)
    search.fit(x, seed_windows.label)
    assert search.n_splits_ == 3
    with pytest.raises(ValueError, match=r"has 9 rows, .*as_sklearn\(samples.take\(part\)\)"):
        search.fit(x[:9], seed_windows.label[:9])


def test_validation_side_is_in_neither_role(seed_windows):
    splitter = SubjectHoldout().as_sklearn(seed_windows)
    ((train, test),) = splitter.split(np.zeros((len(seed_windows), 1)))
    assert len({*train, *test}) == len(train) + len(test) < len(seed_windows)


def test_what_leaks_is_refused_when_the_splitter_is_made(seed_windows):
    with pytest.raises(ValueError, match="on both sides"):
        CustomSplit([0], [1]).as_sklearn(seed_windows.take(np.argsort(seed_windows.trial)))
