# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.features.files import Features, load_features, save_features


def features(**changes):
    arguments = {
        "values": np.zeros((4, 2, 1), np.float32),
        "times": np.arange(4.0),
        "ch_names": ["Cz", "µ"],
        "bands": {"alpha": (8.0, 14.0)},
        "positions": {"Cz": (0.0, 0.0, 0.1)},
    }
    return Features(**{**arguments, **changes})


def test_feature_files_round_trip(tmp_path):
    path = tmp_path / "[a] ü.de.npz"
    save_features(features(metadata={"unit": "ü", "x": [1, None]}), path)
    loaded = load_features(path)
    assert loaded.ch_names == ["Cz", "µ"]
    assert loaded.positions == {"Cz": (0.0, 0.0, 0.1)}
    assert loaded.metadata["unit"] == loaded.unit == "ü" and loaded.metadata["x"] == [1, None]
    save_features(features(values=np.zeros((0, 2, 1), np.float32), times=np.zeros(0)), path)
    assert load_features(path).values.shape == (0, 2, 1)


def test_features_that_do_not_fit():
    with pytest.raises(ValueError, match=r"float32 of shape \(4, 2, 1\).*got float32 of shape \(3"):
        features(values=np.zeros((3, 2, 1), np.float32))


def test_load_features_runs_nothing_and_refuses_the_rest(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_features(path)
    np.savez(path, features=np.array([{"a": 1}], dtype=object), metadata="{}")
    with pytest.raises(ValueError, match=r"x\.npz: expected a feature file.*allow_pickle"):
        load_features(path)
    np.savez(path, data=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a feature file of eegfast: no 'metadata'"):
        load_features(path)
    save_features(features(metadata={"format_version": 2}), path)
    with pytest.raises(ValueError, match=r"newer"):
        load_features(path)
