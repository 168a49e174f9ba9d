# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from eegfast.training import ResidentLoader, WindowDataset

X = np.arange(10 * 3 * 2, dtype=np.float64).reshape(10, 3, 2)
Y = np.arange(10) % 3


def test_items_are_samples_and_labels():
    data = WindowDataset(X, Y, indices=[7, 2], transform=lambda x: -x)
    assert len(data) == 2
    x, y = data[0]
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal(x, -torch.from_numpy(X[7]).float()) and y == 1
    assert len(WindowDataset(X, Y)) == 10


def test_samples_are_read_one_at_a_time():
    class Stored:
        """Like a Zarr array: it knows its length and gives rows."""

        read = []

        def __len__(self):
            return 10

        def __getitem__(self, i):
            self.read.append(i)
            return X[i]

    stored = Stored()
    batches = list(DataLoader(WindowDataset(stored, Y, indices=[9, 1, 4]), batch_size=2))
    assert [tuple(x.shape) for x, _ in batches] == [(2, 3, 2), (1, 3, 2)]
    assert stored.read == [9, 1, 4]


def test_items_do_not_write_into_the_features(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    x, _ = WindowDataset(mapped, Y)[3]
    x.zero_()
    assert np.array_equal(mapped, X)


def collect(loader):
    return [y.tolist() for _, y in loader]


def test_batches_hold_every_sample_once():
    loader = ResidentLoader(X, np.arange(10), batch_size=4)
    assert collect(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3
    shuffled = ResidentLoader(X, np.arange(10), batch_size=4, shuffle=True)
    assert sorted(sum(collect(shuffled), [])) == list(range(10))
    for x, y in shuffled:
        assert torch.equal(x, torch.from_numpy(X).float()[y])


@pytest.mark.parametrize("batch_size, n_batches", [(4, 2), (5, 2), (11, 0)])
def test_a_last_batch_can_be_left_out(batch_size, n_batches):
    loader = ResidentLoader(X, Y, batch_size, drop_last=True)
    assert len(loader) == n_batches
    assert [len(y) for y in collect(loader)] == [batch_size] * n_batches


def test_seed_decides_the_order():
    def epochs(seed):
        generator = torch.Generator().manual_seed(seed)
        loader = ResidentLoader(X, np.arange(10), 4, shuffle=True, generator=generator)
        return [collect(loader) for _ in range(2)]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    assert epochs(1)[0] != epochs(1)[1]


def test_sides_of_a_split_share_the_tensor():
    features = torch.randn(10, 3)
    train = ResidentLoader(features, Y, 2, indices=[0, 5, 6], shuffle=True)
    test = ResidentLoader(features, Y, 2, indices=np.array([9, 1]))
    assert train.features.data_ptr() == test.features.data_ptr() == features.data_ptr()
    (x, y), *rest = test
    assert not rest and torch.equal(x, features[[9, 1]]) and y.tolist() == [0, 1]
    seen = torch.cat([x for x, _ in train])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, features[[0, 5, 6]].tolist()))


def test_tensors_stay_on_the_device():
    loader = ResidentLoader(torch.zeros(4, 2), torch.arange(4), 2, device="meta", shuffle=True)
    assert all(x.device.type == y.device.type == "meta" for x, y in loader)


def test_lightning_trains_from_it():
    import lightning.pytorch as pl

    from eegfast.training import ClassificationModule, TrainingOptions
    from eegfast.training.trainer import quiet

    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 4)).astype(np.float32) + 4 * np.eye(3, 4)[labels]
    module = ClassificationModule(torch.nn.Linear(4, 3), 3, TrainingOptions(lr=0.05))
    loader = ResidentLoader(
        features, labels, 16, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    with quiet():
        trainer = pl.Trainer(
            max_epochs=8,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, ResidentLoader(features, labels, 60))
    assert trainer.global_step == 8 * 4
    assert module.history["val_accuracy"][-1] > 0.95


@pytest.mark.parametrize("make", [WindowDataset, lambda *a, **k: ResidentLoader(*a, 4, **k)])
def test_what_does_not_fit_is_refused(make):
    with pytest.raises(ValueError, match="one class number for each of the 10 samples"):
        make(X, Y[:9])
    with pytest.raises(ValueError, match="one class number"):
        make(X, Y / 2)
    with pytest.raises(ValueError, match=r"within 0\.\.9, got 2\.\.10"):
        make(X, Y, indices=[2, 10])
    with pytest.raises(ValueError, match=r"within 0\.\.9, got -1\.\.3"):
        make(X, Y, indices=[3, -1])
    with pytest.raises(ValueError, match="1-D array of whole numbers"):
        make(X, Y, indices=Y > 0)


def test_empty_and_senseless_loaders_are_refused():
    with pytest.raises(ValueError, match="there is no sample"):
        ResidentLoader(X[:0], Y[:0], 4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ResidentLoader(X, Y, 0)
