# SPDX-License-Identifier: BSD-3-Clause
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from eegfast.models import create
from eegfast.protocols import create as protocol
from eegfast.training import ClassificationModule, predict_proba
from eegfast.training.stages import model_options


def test_the_folder_holds_the_whole_run(finished, experiment):
    assert sorted(p.name for p in finished.path.iterdir()) == ["fits", "recipe.yaml", "run.json"]
    assert finished.recipe == experiment.recipe().for_protocol("paper")
    assert finished.class_names == ["quiet", "loud"] and not finished.leaks
    assert finished.facts["data"] == {"dataset": "toy", "root": "/somewhere"}
    assert finished.protocol["name"] == "subject-k-fold"
    prepared = experiment.prepared()
    splits = list(protocol("subject-k-fold", n_splits=2).splits(prepared.samples))
    for number, (fit, split) in enumerate(zip(finished.fits, splits, strict=True)):
        files = ["done.json", "history.csv", "model.safetensors", "predictions.npz"]
        assert sorted(p.name for p in fit.path.iterdir()) == files
        assert (fit.name, fit.facts["seed"]) == (split.name, 3 + number)
        assert (fit.facts["n_train"], fit.facts["n_validation"]) == (70, 10)
        answers = fit.predictions()
        assert np.array_equal(answers["sample"], split.test)
        assert np.array_equal(answers["label"], prepared.samples.label[split.test])
        expected = predict_proba(fit.model(), prepared.inputs[0][split.test])
        assert np.array_equal(answers["proba"], expected.astype(np.float32))
        history = fit.history()
        assert history["stage"] == ["pre"] * 3 + ["fine"] * 3
        assert history["epoch"] == [1, 2, 3, 1, 2, 3]
        assert history["lr"][3:] == [0.01, 0.01, 0.005]
        assert fit.facts["best_epoch"] == 1 + int(np.argmin(history["val_loss"][3:]))
        assert all(
            0 < d < s for d, s in zip(history["data_seconds"], history["seconds"], strict=True)
        )


def killed_at(out, what, n, experiment):
    """Run until the n-th call of something, then be killed."""
    calls = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if what == "step":
        ClassificationModule.training_step = counted(ClassificationModule.training_step)
    elif what == "move":
        os.replace = counted(os.replace)
    experiment.run(out, progress=counted(lambda _: None) if what == "epoch" else None)


@pytest.mark.parametrize(
    "what, n",
    [
        ("move", 1),  # before there is a recipe
        ("step", 3),  # before the first checkpoint
        ("step", 12),  # within an epoch
        ("epoch", 3),  # at a stage's end
        ("epoch", 4),  # after the next one's first epoch
        ("move", 9),  # while a checkpoint is written
        ("move", 16),  # between answers and done.json
        ("epoch", 7),  # between two fits
    ],
)
def test_killed_anywhere_it_ends_with_the_same_weights(
    tmp_path, experiment, finished, assert_same, what, n
):
    out = tmp_path / "run"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=killed_at, args=(out, what, n, experiment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert_same(finished, experiment.run(out))


def test_only_what_is_missing_is_computed(tmp_path, experiment, finished, assert_same):
    out = tmp_path / "run"

    def stop(news):
        if news.fits_done == 1 and news.epoch == 4 and news.row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(out, progress=stop)
    before = {p: p.stat().st_mtime_ns for p in (out / "fits" / "01-fold-1").iterdir()}
    assert (out / "fits" / "02-fold-2" / "checkpoints" / "last.pt").is_file()
    seen = []
    run = experiment.run(out, progress=seen.append)
    assert [(p.fits_done, p.epoch) for p in seen] == [(1, 6), (1, 5), (1, 6), (2, 6)]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same(finished, run)
    seen.clear()
    experiment.run(out, progress=seen.append)
    assert not any(news.row for news in seen)


def test_a_damaged_checkpoint_is_told_and_the_fit_begins_anew(
    tmp_path, experiment, finished, assert_same
):
    def stop(news):
        if news.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path / "run", progress=stop)
    path = tmp_path / "run" / "fits" / "01-fold-1" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.warns(RuntimeWarning, match="last.pt: cannot be read, the fit begins anew"):
        assert_same(finished, experiment.run(tmp_path / "run"))


def test_a_run_of_something_else_is_refused(tmp_path, experiment, finished):
    out = tmp_path / "run"
    shutil.copytree(finished.path, out)
    there = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"training.stages.0.epochs is 3 there and 4 here"):
        experiment.run(out, experiment.recipe().override(["training.stages.0.epochs=4"]))
    with pytest.raises(ValueError, match=r"run that differs: content is '\w+' there"):
        experiment.run(out, prepared=experiment.prepared(seed=1))
    with pytest.raises(ValueError, match="protocol.name is 'subject-k-fold' there"):
        experiment.run(out, protocol="leave-one-subject-out")
    moved = experiment.prepared()
    moved.facts["root"] = "/elsewhere"  # the same data in another place
    experiment.run(out, prepared=moved)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not a run, and not empty: thesis.tex"):
        experiment.run(tmp_path / "mine")


def test_two_processes_do_not_share_a_run(tmp_path, experiment):
    from eegfast._processes import locked

    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / ".lock"), pytest.raises(OSError, match="another process"):
        experiment.run(tmp_path / "run")


def test_validating_on_the_test_side_leaks_and_says_so(tmp_path, experiment):
    recipe = experiment.recipe(epochs=1, stages=1, validation={"level": "test"})
    (fit,) = experiment.run(tmp_path / "run", recipe, splits=1).fits
    assert fit.leaks and "was chosen on the samples that are scored" in fit.facts["leak_reasons"][0]
    assert fit.facts["n_validation"] == fit.facts["n_test"] == 80


def test_leaking_protocols_mark_their_fits(tmp_path, experiment):
    windows = {"name": "random-windows", "options": {"allow_leakage": True}}
    recipe = experiment.recipe(epochs=1, stages=1, protocols={"paper": windows})
    run = experiment.run(tmp_path / "run", recipe, splits=[1])
    assert run.leaks and [fit.path.name[:3] for fit in run.fits] == ["02-"]


def test_early_stopping_needs_a_validation_side(tmp_path, experiment):
    recipe = experiment.recipe(validation={"level": "none"}, patience=2)
    with pytest.raises(ValueError, match="fold 1: early stopping and the best epoch need"):
        experiment.run(tmp_path / "run", recipe)


def test_early_stopping_ends_a_stage_also_when_resumed(tmp_path, experiment, assert_same):
    recipe = experiment.recipe(epochs=30, patience=1).override(
        ["training.stages.0.optimizer.lr=0.5"]
    )
    whole = experiment.run(tmp_path / "whole", recipe, splits=1)
    history = whole.fits[0].history()
    n = history["stage"].count("pre")
    assert 1 < n < 30

    def stop(news):
        if news.row and news.row["stage"] == "fine":
            raise KeyboardInterrupt
        if len(rows) == n - 1:
            raise KeyboardInterrupt
        rows.append(news.row)

    rows = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            experiment.run(tmp_path / "parts", recipe, splits=1, progress=stop)
        rows = []
    assert_same(whole, experiment.run(tmp_path / "parts", recipe, splits=1))


def test_frozen_parts_and_the_way_between_stages(tmp_path, experiment):
    free = {"validation": {"level": "none"}, "selection": "last"}
    one = experiment.run(tmp_path / "one", experiment.recipe(2, 1, **free), splits=1).fits[0]
    two = experiment.run(tmp_path / "two", experiment.recipe(2, **free), splits=1).fits[0]
    first, second = one.model().state_dict(), two.model().state_dict()
    for name in ("spatial.weight", "filter_bank.conv.weight"):  # frozen by recipe and by network
        assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first["spatial.weight"], second["spatial_mirrored.weight"])
    assert two.facts["best_epoch"] is None and "val_loss" not in two.history()
    recipe = experiment.recipe().override(["training.stages.1.freeze=[spatal]"])
    with pytest.raises(ValueError, match="no parameter below 'spatal'; its parts: spatial, "):
        experiment.run(tmp_path / "wrong", recipe, splits=1)


def test_normalisation_knows_the_training_side_only(tmp_path, experiment):
    from safetensors.numpy import load_file

    recipe = experiment.recipe(epochs=1, stages=1, normalization={"name": "channel_zscore"})
    prepared = experiment.prepared()
    (fit,) = experiment.run(tmp_path / "run", recipe, splits=1).fits
    split = next(protocol("subject-k-fold", n_splits=2).splits(prepared.samples))
    train = split.hold_out(prepared.samples.groups("trial"), 2, 0).train
    numbers = load_file(fit.pipeline_path / "normalization.safetensors")
    x = prepared.inputs[0].numpy()[train]
    assert np.allclose(numbers["0.mean"].ravel(), x.mean((0, 2)), atol=1e-6)
    assert np.allclose(numbers["0.std"].ravel(), x.std((0, 2)), atol=1e-6)
    about = json.loads((fit.pipeline_path / "normalization.json").read_text())
    assert about["name"] == "channel_zscore" and about["transductive"] is False


@pytest.mark.parametrize(
    "change",
    [{"precision": "bf16-mixed"}, {"gradient_clip": 0.01}, {"augmentation": {"noise": 1.0}}],
)
def test_precision_clipping_and_noise_are_used(tmp_path, experiment, finished, change):
    fit = experiment.run(tmp_path / "run", experiment.recipe(**change), splits=1).fits[0]
    weights, others = (f.model().state_dict()["classifier.weight"] for f in (fit, finished.fits[0]))
    assert torch.isfinite(weights).all() and not torch.equal(weights, others)


def test_mixed_precision_goes_on_where_it_was(tmp_path, experiment, assert_same):
    recipe = experiment.recipe(precision="16-mixed", gradient_clip=0.5)

    def stop(news):
        if news.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path / "parts", recipe, splits=1, progress=stop)
    whole = experiment.run(tmp_path / "whole", recipe, splits=1)
    assert_same(whole, experiment.run(tmp_path / "parts", recipe, splits=1))


def test_every_epoch_has_an_order_of_its_own(tmp_path, experiment, monkeypatch):
    step, seen = ClassificationModule.training_step, []

    def spy(self, batch, index):
        seen.append(batch[0][0][:, 0, 0].clone())
        return step(self, batch, index)

    monkeypatch.setattr(ClassificationModule, "training_step", spy)
    experiment.run(tmp_path / "run", splits=1)
    epochs = [torch.cat(seen[i : i + 5]) for i in range(0, 30, 5)]
    assert all(torch.equal(epoch.sort()[0], epochs[0].sort()[0]) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6


def test_tensorboard_gets_every_epoch(tmp_path, experiment, monkeypatch):
    from eegfast.training import fitting

    logged = []

    class Logger:
        def log_metrics(self, figures, step):
            logged.append((step, sorted(figures)))

        def finalize(self, status):
            logged.append(status)

    monkeypatch.setattr(fitting, "_logger", lambda folder: Logger())
    experiment.run(tmp_path / "run", experiment.recipe(epochs=1), splits=1)
    names = ["data_seconds", "lr", "seconds", "train_accuracy", "train_loss"]
    names += ["val_accuracy", "val_loss"]
    assert logged == [(1, names), (2, names), "success"]


def test_seeds_matter(tmp_path, experiment, finished):
    recipe = experiment.recipe().override(["seed=4"])
    other = experiment.run(tmp_path / "run", recipe, splits=1).fits[0].model().state_dict()
    here = finished.fits[0].model().state_dict()
    assert not torch.equal(here["spatial.weight"], other["spatial.weight"])


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("hamnet", [(4, 100)]),
        ("scalingnet", [(4, 300)]),
        ("resattentionet", [(30, 4, 3)]),
        ("ldm-eeg", [(1, 4, 32, 32), (1, 6, 32, 32)]),
        ("sst-emotionnet", [(1, 4, 16, 16), (1, 12, 16, 16)]),
    ],
)
def test_networks_take_from_the_data_what_recipes_leave_open(name, shapes):
    inputs = [torch.randn(3, *shape) for shape in shapes]
    channels = ["F3", "F4", "C3", "C4"]
    options = model_options(name, {"n_outputs": 7}, inputs, ["a", "b"], channels, 100.0)
    if name == "hamnet":
        options["bands"] = [[8, 13]]
    with torch.no_grad():
        assert create(name, **options)(*inputs).shape == (3, 7)
