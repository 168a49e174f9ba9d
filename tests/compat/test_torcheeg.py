# SPDX-License-Identifier: BSD-3-Clause
import pickle

import numpy as np
import pytest
import torch

from eegfast.compat.torcheeg import BandDE
from eegfast.features import RECIPES, DifferentialEntropy

CHUNK = 20 * np.random.default_rng(0).normal(size=(4, 256))


def compose(*transforms):
    """torcheeg's chain: named data in, a dict out, which is the next one's named data."""

    def run(**data):
        for transform in transforms:
            data = transform(**data)
        return data

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_chunk_is_a_window(recipe):
    transform = BandDE(128, recipe)
    de = DifferentialEntropy(128, recipe, window=2.0)
    assert np.array_equal(transform(eeg=CHUNK)["eeg"], de(torch.from_numpy(CHUNK))[0].numpy())
    shorter = BandDE(128, recipe)(eeg=CHUNK[:, :200])["eeg"]
    assert np.array_equal(transform(eeg=CHUNK[:, :200])["eeg"], shorter)


def test_several_windows_lie_one_after_another():
    transform = BandDE(128, "torcheeg_v1", {"alpha": (8, 14), "beta": (14, 31)}, window=0.5)
    features = transform(eeg=CHUNK)["eeg"]
    assert features.shape == (4, 4 * 2)
    for k in range(4):
        single = transform(eeg=CHUNK[:, 64 * k : 64 * (k + 1)])["eeg"]
        assert np.allclose(features[:, 2 * k : 2 * k + 2], single)


def test_the_baseline_is_transformed_if_asked_for():
    data = {"eeg": CHUNK, "baseline": CHUNK[:, :128], "y": 3, "note": None}
    left = BandDE(128, "clean")(**data)
    assert set(left) == {"eeg", "baseline", "y"}
    assert left["baseline"] is data["baseline"] and left["y"] == 3
    both = BandDE(128, "clean", apply_to_baseline=True)(**data)
    assert np.array_equal(both["baseline"], BandDE(128, "clean")(eeg=data["baseline"])["eeg"])
    assert np.array_equal(both["eeg"], left["eeg"])


def test_it_stands_in_a_chain():
    chain = compose(
        BandDE(128, apply_to_baseline=True),
        lambda eeg, baseline: {"eeg": eeg - baseline},
        lambda eeg: {"eeg": torch.from_numpy(eeg)},
    )
    result = chain(eeg=CHUNK, baseline=CHUNK)["eeg"]
    assert torch.equal(result, torch.zeros(4, 5, dtype=torch.float64))


def test_types_and_units():
    assert BandDE(128)(eeg=CHUNK.astype(np.float32))["eeg"].dtype == np.float32
    counts = CHUNK.round().astype(np.int16)
    expected = BandDE(128)(eeg=counts.astype(float))["eeg"]
    assert np.array_equal(BandDE(128)(eeg=counts)["eeg"], expected)
    volts = BandDE(128, unit="V")(eeg=CHUNK * 1e-6)["eeg"]
    assert np.allclose(volts, BandDE(128)(eeg=CHUNK)["eeg"])


def test_workers_get_a_copy():
    transform = BandDE(128)
    copy = pickle.loads(pickle.dumps(transform))
    assert np.array_equal(copy(eeg=CHUNK)["eeg"], transform(eeg=CHUNK)["eeg"])
    assert repr(transform).startswith("BandDE(sfreq=128.0, recipe='bcmi'")


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="recipe must be one of"):
        BandDE(128, "de")
    with pytest.raises(ValueError, match=r"n_chans, n_times\), got \(4, 2, 128\)"):
        BandDE(128)(eeg=CHUNK.reshape(4, 2, 128))


def test_in_torcheegs_own_compose():
    transforms = pytest.importorskip("torcheeg.transforms")
    ours = transforms.Compose([BandDE(128, apply_to_baseline=True), transforms.BaselineRemoval()])
    assert not ours(eeg=CHUNK, baseline=CHUNK)["eeg"].any()
    theirs = transforms.BandDifferentialEntropy(sampling_rate=128)
    mine = BandDE(128, "torcheeg")
    assert np.allclose(mine(eeg=CHUNK)["eeg"], theirs(eeg=CHUNK)["eeg"], atol=1e-4)
