# SPDX-License-Identifier: BSD-3-Clause
import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from eegfast.training import (
    ClassificationModule,
    TrainingOptions,
    balanced_class_weights,
    evaluate,
    fit,
    predict_proba,
)

QUICK = TrainingOptions(max_epochs=3, lr=1e-2, batch_size=8, accelerator="cpu")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    y = np.arange(40) % 2
    return (rng.normal(size=(40, 4)) + 2 * y[:, None]).astype(np.float32), y


def test_it_learns(samples):
    x, y = samples
    options = TrainingOptions(max_epochs=20, lr=1e-2, batch_size=8, accelerator="cpu")
    result = fit(network(), x, y, n_outputs=2, options=options)
    assert evaluate(result.model, x, y)["accuracy"] > 0.9
    assert result.history["train_loss"][-1] < result.history["train_loss"][0]
    assert result.stopped_epoch == 20 and result.best_epoch is None
    assert not result.model.training


def test_it_repeats_by_seed_and_leaves_the_global_generator_alone(samples):
    x, y = samples
    runs = []
    for seed in (5, 5, 6):
        model = network()
        torch.manual_seed(123)
        expected = torch.rand(3)
        torch.manual_seed(123)
        fit(model, x, y, n_outputs=2, options=QUICK, validation=(x, y), seed=seed)
        assert torch.equal(torch.rand(3), expected)
        runs.append(predict_proba(model, x))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_it_is_quiet_leaves_no_file_and_restores_what_it_sets(
    samples, tmp_path, monkeypatch, capfd, caplog
):
    x, y = samples
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        fit(network(), x, y, n_outputs=2, options=QUICK, validation=(x, y))
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in caught] == []
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []
    assert logger.level == level
    assert not torch.are_deterministic_algorithms_enabled()


def test_history_has_a_value_per_epoch(samples):
    x, y = samples
    history = fit(network(), x, y, n_outputs=2, options=QUICK, validation=(x, y)).history
    assert set(history) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"}
    assert {len(values) for values in history.values()} == {3}
    assert history["lr"][0] == pytest.approx(1e-2)


def test_plateau_halves_the_rate_on_the_validation_loss(samples):
    x, y = samples
    options = TrainingOptions(
        max_epochs=8, lr=0.5, plateau_patience=0, batch_size=8, min_lr=0.1, accelerator="cpu"
    )
    wrong = (x, 1 - y)  # learning makes this validation loss grow
    history = fit(network(), x, y, n_outputs=2, options=options, validation=wrong).history
    assert history["lr"][-1] == pytest.approx(0.1)
    assert 0.25 in np.round(history["lr"], 6)


def test_early_stopping_restores_the_best_epoch(samples):
    x, y = samples
    options = TrainingOptions(
        max_epochs=50, lr=0.05, patience=2, batch_size=8, balance_classes=False, accelerator="cpu"
    )
    model = network()
    result = fit(model, x, y, n_outputs=2, options=options, validation=(x, 1 - y))
    losses = result.history["val_loss"]
    assert result.stopped_epoch == len(losses) == result.best_epoch + 2 < 50
    assert result.best_epoch == 1 + int(np.argmin(losses))
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(
            model(torch.from_numpy(x)), torch.from_numpy(1 - y), label_smoothing=0.1
        )
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)


def test_early_stopping_without_a_validation_side_is_refused(samples):
    with pytest.raises(ValueError, match="early stopping needs a validation side"):
        fit(network(), *samples, n_outputs=2, options=TrainingOptions(patience=3))


def test_a_last_batch_of_one_sample_is_left_out(samples):
    x, y = samples
    fit(network(), x[:33], y[:33], n_outputs=2, options=QUICK)


def test_the_optimizer_is_the_published_one():
    module = ClassificationModule(network(), 2)
    configured = module.configure_optimizers()
    group = configured["optimizer"].param_groups[0]
    assert isinstance(configured["optimizer"], torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"]) == (5e-5, 1e-4)
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert (scheduler.factor, scheduler.patience, scheduler.min_lrs) == (0.5, 5, [1e-6])
    assert configured["lr_scheduler"]["monitor"] == "val_loss"
    assert module.loss.label_smoothing == 0.1


def test_feature_offset_is_constant_over_windows_and_only_in_training():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            seen.append((self.training, x.detach().clone()))
            return self.scale * x.mean((1, 2))

    x = np.zeros((64, 5, 3, 2), np.float32)
    options = TrainingOptions(
        max_epochs=1, batch_size=64, feature_offset=2.0, accelerator="cpu", balance_classes=False
    )
    fit(Spy(), x, np.arange(64) % 2, n_outputs=2, options=options, validation=(x, x[:, 0, 0, 0]))
    training = [batch for train, batch in seen if train]
    assert len(training) == 1 and all(not batch.any() for train, batch in seen if not train)
    assert torch.equal(training[0], training[0][:, :1].expand_as(training[0]))
    assert float(training[0].std()) == pytest.approx(2.0, rel=0.15)
    assert len(training[0][:, 0].unique()) == 64 * 6


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 2), nn.Linear(1, 2, bias=False)

    def forward(self, x, y):
        return self.first(x) + self.second(y)


def test_networks_with_several_inputs(samples):
    x, y = samples
    told = (2.0 * y[:, None] - 1).astype(np.float32)
    torch.manual_seed(0)
    options = TrainingOptions(max_epochs=20, lr=5e-2, batch_size=8, accelerator="cpu")
    inputs = (np.zeros_like(x), told)
    model = fit(TwoInputs(), inputs, y, n_outputs=2, options=options, validation=(inputs, y)).model
    assert evaluate(model, inputs, y)["accuracy"] == 1.0
    assert predict_proba(model, inputs, batch_size=3).shape == (40, 2)
    with pytest.raises(ValueError, match="as many labels"):
        fit(TwoInputs(), (x, told[:5]), y, n_outputs=2, options=options)


@pytest.mark.parametrize(
    "schedule, rates",
    [
        ({"schedule": "none"}, [0.1] * 4),
        ({"schedule": "steps", "milestones": (1, 3), "step_factor": 0.5}, [0.1, 0.05, 0.05, 0.025]),
        ({"schedule": "cosine", "min_lr": 0.0}, [0.1, 0.0853553, 0.05, 0.0146447]),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_schedules_and_optimizers(samples, schedule, rates, optimizer):
    options = TrainingOptions(
        max_epochs=4, lr=0.1, batch_size=8, optimizer=optimizer, accelerator="cpu", **schedule
    )
    module = ClassificationModule(network(), 2, options)
    configured = module.configure_optimizers()
    made = configured["optimizer"] if isinstance(configured, dict) else configured
    assert type(made).__name__.lower() == optimizer
    history = fit(network(), *samples, n_outputs=2, options=options).history
    assert history["lr"] == pytest.approx(rates, rel=1e-4)


def test_penalties_are_the_networks_own():
    class Penalised(nn.Linear):
        def parameter_groups(self, l2):
            return [{"params": [self.weight], "weight_decay": 2 * l2}, {"params": [self.bias]}]

    options = TrainingOptions(optimizer="adam", l2=0.1, weight_decay=0.0)
    groups = ClassificationModule(Penalised(4, 2), 2, options).configure_optimizers()["optimizer"]
    assert [g["weight_decay"] for g in groups.param_groups] == [0.2, 0.0]
    with pytest.raises(ValueError, match="Linear does not say which of its weights are penalised"):
        ClassificationModule(nn.Linear(4, 2), 2, options).configure_optimizers()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"optimizer": "adamax"}, "optimizer must be one of adamw, adam, sgd, got 'adamax'"),
        ({"selection": "first"}, "selection must be one of best, last, got 'first'"),
        ({"precision": "64-true"}, "precision must be one of"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
    ],
)
def test_options_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**wrong)


def test_statistics_of_several_processes_need_gpus_and_plain_layers(samples, monkeypatch):
    options = TrainingOptions(max_epochs=1, sync_batchnorm=True, accelerator="cpu")
    with pytest.raises(ValueError, match="on GPUs only"):
        fit(network(), *samples, n_outputs=2, options=options)
    from eegfast.models import HAMNet

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="FilterBankPower normalises inside a fused operator"):
        fit(HAMNet(), np.zeros((4, 62, 200)), [0, 1, 0, 1], n_outputs=3, options=options)


def test_balanced_class_weights():
    weights = balanced_class_weights(torch.tensor([0, 0, 0, 1]), 2)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])
    assert balanced_class_weights(torch.tensor([0, 0, 2]), 3).tolist() == pytest.approx(
        [0.75, 0, 1.5]
    )
    with pytest.raises(ValueError, match=r"0\.\.1"):
        balanced_class_weights(torch.tensor([0, 2]), 2)


def test_class_weights_are_used(samples):
    x, _ = samples
    y = (np.arange(40) < 4).astype(int)
    noise = np.random.default_rng(0).normal(size=x.shape)
    losses = [
        fit(
            network(),
            noise,
            y,
            n_outputs=2,
            options=TrainingOptions(
                max_epochs=30, lr=1e-2, balance_classes=balance, accelerator="cpu"
            ),
        )
        for balance in (True, False)
    ]
    rates = [predict_proba(result.model, noise)[:, 1].mean() for result in losses]
    assert rates[0] > rates[1] + 0.1


def test_predict_proba_is_a_softmax_in_evaluation_mode(samples):
    x, _ = samples
    model = network().train()
    proba = predict_proba(model, x, batch_size=7)
    assert model.training
    assert np.allclose(proba.sum(1), 1) and proba.dtype == np.float64
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(x)).double().softmax(1)
    assert np.allclose(proba, expected)


def test_evaluate_counts():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return torch.nn.functional.one_hot(x[:, 0].long(), 2).float() + self.zero

    scores = evaluate(Fixed(), np.array([[0], [0], [1], [1]]), [0, 1, 1, 1])
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["precision"] == pytest.approx(0.25 * 0.5 + 0.75 * 1)
    assert scores["recall"] == 0.75


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((3, 4)), [0, 1], "as many labels"),
        (np.zeros((0, 4)), [], "as many labels"),
        (np.zeros((1, 4)), [0], "at least 2"),
        (np.full((2, 4), np.nan), [0, 1], "NaN"),
        (np.zeros((2, 4)), [0, 2], r"0\.\.1"),
    ],
)
def test_bad_samples_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), x, y, n_outputs=2, options=QUICK)
