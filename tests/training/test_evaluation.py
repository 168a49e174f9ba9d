# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold

from eegfast.models import ResAttentioNet
from eegfast.protocols import LeakageError, LeaveOneSubjectOut, SubjectKFold
from eegfast.training import (
    Evaluation,
    LogisticBaseline,
    NetworkEstimator,
    TrainingOptions,
    cross_validate,
    cut_sequences,
)


class Spy:
    """Remembers what it is given; answers class 0."""

    unit, history = "window", None
    seen: list = []

    def fit(self, features, labels, *, validation=None, seed=0):
        self.seen.append({"train": features, "validation": validation, "seed": seed})
        return self

    def predict_proba(self, features):
        self.seen[-1]["test"] = features
        return np.tile([1.0, 0.0], (*features.shape[:2], 1))


@pytest.fixture
def spy(monkeypatch):
    monkeypatch.setattr(Spy, "seen", [])
    return Spy


def test_baseline_finds_the_difference(study):
    result = cross_validate(*study, LogisticBaseline, protocol=SubjectKFold(4))
    assert result.accuracy > 0.8
    assert result.unit_proba.shape == (16, 12, 2)
    assert np.allclose(result.unit_proba.sum(2), 1)
    assert sorted(np.bincount(result.folds)) == [4, 4, 4, 4]
    assert result.histories == []


def test_network_runs_through_and_repeats(study):
    def make():
        return NetworkEstimator(
            lambda: ResAttentioNet(n_chans=3, n_bands=2, n_windows=4, n_outputs=2, base_width=4),
            2,
            sequence_length=4,
            options=TrainingOptions(max_epochs=2, lr=1e-3, accelerator="cpu"),
        )

    runs = [
        cross_validate(
            *study,
            make,
            protocol=SubjectKFold(2),
            normalization="subject_zscore",
            n_validation_subjects=1,
            seed=3,
        )
        for _ in range(2)
    ]
    assert runs[0].unit == "sequence" and runs[0].unit_proba.shape == (16, 3, 2)
    assert [len(history["val_loss"]) for history in runs[0].histories] == [2, 2]
    assert np.array_equal(runs[0].unit_proba, runs[1].unit_proba)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_a_split_that_mixes_subjects_is_refused(study):
    with pytest.raises(LeakageError, match="both sides"):
        cross_validate(*study, LogisticBaseline, protocol=KFold(2, shuffle=True, random_state=0))
    cross_validate(*study, LogisticBaseline, protocol=GroupKFold(2))


def test_training_normalisation_never_sees_test_or_validation_subjects(study, spy):
    features, labels, subjects = study
    cross_validate(
        features, labels, subjects, spy, protocol=LeaveOneSubjectOut(), n_validation_subjects=2
    )
    for i, seen in enumerate(spy.seen):
        assert len(seen["train"]) == 10 and len(seen["validation"][0]) == 4
        assert np.allclose(seen["train"].mean((0, 1)), 0, atol=1e-5)
        assert not np.allclose(seen["test"].mean((0, 1)), 0, atol=1e-2)
        assert seen["seed"] == i


def test_subject_zscore_reaches_the_test_side(study, spy):
    cross_validate(
        *study, spy, protocol=LeaveOneSubjectOut(), normalization="subject_zscore", seed=7
    )
    for i, seen in enumerate(spy.seen):
        assert np.allclose(seen["test"].mean((0, 1)), 0, atol=1e-5)
        assert seen["validation"] is None and seen["seed"] == 7 + i


def test_scores_by_hand():
    proba = np.array(
        [
            [[0.9, 0.1], [0.4, 0.6]],  # pooled 0: right
            [[0.4, 0.6], [0.9, 0.1]],  # pooled 0: wrong
            [[0.8, 0.2], [0.8, 0.2]],  # right
            [[0.1, 0.9], [0.2, 0.8]],  # right
        ]
    )
    result = Evaluation(
        labels=np.array([0, 1, 0, 1]),
        subjects=np.array(["a", "a", "b", "b"]),
        folds=np.array([0, 0, 1, 1]),
        unit_proba=proba,
        unit="window",
        normalization="none",
    )
    assert result.predictions.tolist() == [0, 0, 0, 1]
    assert result.accuracy == 0.75
    assert result.unit_accuracy == 6 / 8
    assert result.per_subject() == {
        "a": {"accuracy": 0.5, "unit_accuracy": 0.5},
        "b": {"accuracy": 1.0, "unit_accuracy": 1.0},
    }
    assert result.confusion().tolist() == [[2, 0], [1, 1]]
    assert result.interval() == (0.5, 1.0)


class Twice:
    def split(self, X, y, groups):
        half = np.arange(8)
        for _ in range(2):
            yield half + 8, half


@pytest.mark.parametrize("protocol", [Twice(), type("None_", (), {"split": lambda *a: []})()])
def test_every_recording_must_be_tested_exactly_once(study, protocol):
    with pytest.raises(ValueError, match="exactly once|no fold"):
        cross_validate(*study, LogisticBaseline, protocol=protocol)


def test_bad_arrays_are_refused(study):
    features, labels, subjects = study
    with pytest.raises(ValueError, match="expected features"):
        cross_validate(features, labels[1:], subjects, Spy, protocol=SubjectKFold(2))
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        cross_validate(features, labels, subjects, Spy, protocol=SubjectKFold(2))


def test_sequences_are_cut_in_order():
    x = np.arange(2 * 7 * 3).reshape(2, 7, 3)
    cut = cut_sequences(x, 3)
    assert cut.shape == (2, 2, 3, 3)
    assert np.array_equal(cut[1, 1], x[1, 3:6])
    assert cut_sequences(x, 3, step=2).shape == (2, 3, 3, 3)
    assert np.array_equal(cut_sequences(x, 3, step=2)[0, 2], x[0, 4:7])


def test_short_recordings_are_padded_only_on_request():
    x = np.ones((2, 7, 3))
    with pytest.raises(ValueError, match="sequences of 10 windows do not fit"):
        cut_sequences(x, 10)
    padded = cut_sequences(x, 10, pad=True)
    assert padded.shape == (2, 1, 10, 3)
    assert padded[:, :, :7].all() and not padded[:, :, 7:].any()
    with pytest.raises(ValueError, match="at least 1"):
        cut_sequences(x, 0)
