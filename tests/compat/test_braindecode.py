# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from eegfast.compat.braindecode import TrialWindows
from eegfast.datasets import Recording
from eegfast.models import create
from eegfast.protocols import LeaveOneSubjectOut

SFREQ = 64.0


def recording(subject, trial, n_times=200, n_chans=4, sfreq=SFREQ):
    rng = np.random.default_rng([subject, trial])
    label = trial % 2
    signal = rng.normal(size=(n_chans, n_times)) + 20 * label * np.sin(np.arange(n_times))
    return Recording(
        signal,
        sfreq,
        [f"E{i}" for i in range(n_chans)],
        subject_id=f"{subject:02d}",
        session_id="1",
        trial_id=trial,
        label=label,
        class_names=("calm", "joy"),
    )


@pytest.fixture
def trials():
    """Three subjects, four trials each; one is too short for a window of 1 s."""
    trials = [recording(s, t, 200 + 10 * t) for s in (1, 2, 3) for t in (1, 2, 3, 4)]
    trials[5] = recording(2, 2, 63)
    return trials


class Folder(list):
    """Trials that are read from files, one of which holds a subject."""

    opened = 0

    def read(self, indices):
        self.opened += 1
        yield from (list.__getitem__(self, i) for i in indices)

    def __getitem__(self, i):
        self.opened += 1
        return super().__getitem__(i)

    def __iter__(self):
        raise AssertionError("opens a file for each trial")


@pytest.mark.parametrize("preload", [False, True])
def test_items_are_windows_of_trials(trials, preload):
    windows = TrialWindows(trials, 1.0, 0.5, preload=preload)
    counts = [(t.signal.shape[1] - 64) // 32 + 1 if t.signal.shape[1] >= 64 else 0 for t in trials]
    assert len(windows) == sum(counts) == len(windows.samples)
    index = 0
    for trial, count in zip(trials, counts, strict=True):
        for k in range(count):
            x, y, crop = windows[index]
            assert crop == [k, 32 * k, 32 * k + 64]
            assert x.dtype == np.float32
            assert np.array_equal(x, trial.signal[:, crop[1] : crop[2]].astype(np.float32))
            name = f"{trial.subject_id}/1/{trial.trial_id}"
            assert y == trial.label and windows.samples.groups("trial")[index] == name
            index += 1


def test_files_are_read_once_then_when_needed(trials):
    folder = Folder(trials)
    windows = TrialWindows(folder, 1.0)
    assert folder.opened == 1
    first = windows.samples.trial == 0
    for i in np.flatnonzero(first):
        windows[i]
    assert folder.opened == 2
    windows[np.flatnonzero(~first)[0]]
    assert folder.opened == 3
    folder.opened = 0
    kept = TrialWindows(folder, 1.0, preload=True)
    for i in range(len(kept)):
        kept[i]
    assert folder.opened == 1


def test_batches_are_what_braindecode_unpacks(trials):
    windows = TrialWindows(trials, 1.0)
    x, y, crop = next(iter(DataLoader(windows, batch_size=5)))
    assert x.shape == (5, 4, 64) and x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert [tuple(c.tolist()) for c in crop] == [
        (0, 1, 2, 0, 1),
        (0, 64, 128, 0, 64),
        (64, 128, 192, 64, 128),
    ]


def test_what_does_not_fit_is_refused(trials):
    with pytest.raises(ValueError, match="trial 13 has 5 channels at 64 Hz, those before 4 at 64"):
        TrialWindows([*trials, recording(4, 1, n_chans=5)], 1.0)
    with pytest.raises(ValueError, match="4 channels at 128 Hz"):
        TrialWindows([*trials, recording(4, 1, sfreq=128.0)], 1.0)
    with pytest.raises(ValueError, match="window=0.51 s is 32.64 samples"):
        TrialWindows(trials, 0.51)
    with pytest.raises(ValueError, match="there is no trial"):
        TrialWindows([], 1.0)
    with pytest.raises(TypeError, match="must hold signals, got str"):
        TrialWindows(["trial"], 1.0)


def network():
    torch.manual_seed(0)
    return create("scalingnet", n_chans=4, n_times=64, n_outputs=2, sfreq=SFREQ, kernel_length=9)


def test_networks_train_on_such_batches(trials):
    windows = TrialWindows(trials, 1.0, 0.5, preload=True)
    split = next(LeaveOneSubjectOut().splits(windows.samples))
    train, test = Subset(windows, split.train), Subset(windows, split.test)
    model, loss = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(15):
        for x, y, _ in DataLoader(train, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    x, y, _ = next(iter(DataLoader(test, batch_size=len(test))))
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.9


def test_networks_run_in_skorch(trials):
    skorch = pytest.importorskip("skorch")
    windows = TrialWindows(trials, 1.0, 0.5, preload=True)
    x = np.stack([windows[i][0] for i in range(len(windows))])
    y = windows.samples.label
    net = skorch.NeuralNetClassifier(
        type(network()),
        module__n_chans=4,
        module__n_times=64,
        module__n_outputs=2,
        module__sfreq=SFREQ,
        module__kernel_length=9,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.02,
        max_epochs=15,
        train_split=None,
        verbose=0,
    )
    from sklearn.model_selection import cross_val_score

    torch.manual_seed(0)
    cv = LeaveOneSubjectOut().as_sklearn(windows.samples)
    scores = cross_val_score(net, x, y, cv=cv)
    assert scores.shape == (3,) and scores.mean() > 0.9


def test_networks_run_in_braindecode(trials):
    pytest.importorskip("braindecode")
    from braindecode import EEGClassifier

    windows = TrialWindows(trials, 1.0, 0.5, preload=True)
    split = next(LeaveOneSubjectOut().splits(windows.samples))
    torch.manual_seed(0)
    net = EEGClassifier(
        type(network()),
        module__n_outputs=2,
        module__sfreq=SFREQ,
        module__kernel_length=9,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__lr=0.02,
        batch_size=16,
        max_epochs=15,
        train_split=None,
        verbose=0,
        classes=[0, 1],
    )
    net.fit(Subset(windows, split.train), y=None)
    assert net.module_.config["n_chans"] == 4 and net.module_.config["n_times"] == 64
    answers = net.predict(Subset(windows, split.test))
    assert (answers == windows.samples.label[split.test]).mean() > 0.9
