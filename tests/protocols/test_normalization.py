# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.protocols import (
    NORMALIZATIONS,
    ChannelZScore,
    NoNormalization,
    SubjectZScore,
    TrainZScore,
    make_normalization,
)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, (8, 10, 4, 5)), np.repeat(["a", "b", "c", "d"], 2)


def test_train_zscore_uses_the_training_side_only(features):
    x, _ = features
    scaler = TrainZScore().fit(x[:4])
    assert np.allclose(scaler.transform(x[:4]).mean((0, 1)), 0)
    assert np.allclose(scaler.transform(x[:4]).std((0, 1)), 1)
    mean, std = x[:4].mean((0, 1)), x[:4].std((0, 1))
    assert np.allclose(scaler.transform(x[4:]), (x[4:] - mean) / std)
    changed = x.copy()
    changed[4:] += 100
    assert np.array_equal(scaler.transform(x[:4]), TrainZScore().fit(changed[:4]).transform(x[:4]))


def test_channel_zscore_is_over_samples_and_time():
    signals = np.random.default_rng(0).normal(3, 2, (6, 3, 50)) * np.array([[1], [5], [0]])
    scaler = ChannelZScore().fit(signals[:4])
    z = scaler.transform(signals[:4])
    assert np.allclose(z.mean((0, 2)), 0) and np.allclose(z.std((0, 2)), [1, 1, 0])
    assert scaler.mean_.shape == scaler.std_.shape == (3, 1)
    mean, std = signals[:4].mean((0, 2)), signals[:4].std((0, 2))
    expected = (signals[4:] - mean[:, None]) / np.array([*std[:2], 1])[:, None]
    assert np.allclose(scaler.transform(signals[4:]), expected)


def test_subject_zscore_is_within_each_subject(features):
    x, groups = features
    z = SubjectZScore().fit(x[:4], groups[:4]).transform(x, groups)
    for subject in "abcd":
        assert np.allclose(z[groups == subject].mean((0, 1)), 0)
        assert np.allclose(z[groups == subject].std((0, 1)), 1)
    alone = SubjectZScore().transform(x[:2], groups[:2])
    assert np.allclose(alone, z[:2])


def test_subject_zscore_mirrors_two_recordings(features):
    x, groups = features
    means = SubjectZScore().transform(x, groups).mean(1)
    assert np.allclose(means[::2], -means[1::2])


def test_constant_features_stay_finite():
    x = np.ones((2, 3, 1, 1))
    assert np.array_equal(TrainZScore().fit(x).transform(x), np.zeros_like(x))
    assert np.array_equal(SubjectZScore().transform(x, ["a", "a"]), np.zeros_like(x))


def test_what_is_transductive_is_declared():
    assert {n: c.transductive for n, c in NORMALIZATIONS.items()} == {
        "none": False,
        "channel_zscore": False,
        "train_zscore": False,
        "subject_zscore": True,
    }
    assert "transductive" in SubjectZScore.statement
    assert isinstance(make_normalization("none"), NoNormalization)


def test_bad_requests_are_refused(features):
    x, _ = features
    with pytest.raises(RuntimeError, match="fit"):
        TrainZScore().transform(x)
    with pytest.raises(ValueError, match="groups"):
        SubjectZScore().transform(x)
    with pytest.raises(ValueError, match="n_chans, n_bands"):
        TrainZScore().fit(x[0, 0])
    with pytest.raises(ValueError, match="unknown name 'z'; known: none, train_zscore"):
        make_normalization("z")
