# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def study():
    """8 subjects, one recording per class, 12 windows; the classes differ within each subject."""
    rng = np.random.default_rng(0)
    subjects = np.repeat([f"s{i}" for i in range(8)], 2)
    labels = np.tile([0, 1], 8)
    features = rng.normal(size=(16, 12, 3, 2)) + 2 * rng.normal(size=(8, 1, 3, 2)).repeat(2, 0)
    features[labels == 1, :, 0] += 3
    return features.astype(np.float32), labels, subjects


class Experiment:
    """HAMNet in two stages on four subjects' noise, whose power is the class."""

    def recipe(self, epochs=3, stages=2, **changes):
        from eegfast.training.recipe import Recipe

        adam = {"name": "adam", "lr": 1e-2}
        plateau = {"name": "plateau", "factor": 0.5, "patience": 0}
        training = {
            "stages": [
                {
                    "name": "pre",
                    "epochs": epochs,
                    "batch_size": 15,
                    "optimizer": adam,
                    "schedule": plateau,
                    "model": {"stage": "pretrain"},
                },
                {
                    "name": "fine",
                    "epochs": epochs,
                    "batch_size": 15,
                    "optimizer": adam,
                    "schedule": {"name": "steps", "milestones": [2], "factor": 0.5},
                    "model": {"stage": "finetune"},
                    "freeze": ["spatial"],
                },
            ][:stages],
            "validation": {"level": "trial", "n": 2},
            "selection": "best",
            "loss": {"balance_classes": True, "label_smoothing": 0.1},
        }
        top = {key: changes.pop(key) for key in ("protocols", "normalization") if key in changes}
        model = {"n_spatial": 3, "n_taps": 9, "bands": [[4, 8], [8, 13]], "drop_prob": 0.1}
        return Recipe.from_dict(
            {
                "name": "toy",
                "data": {"dataset": "eegmat", "inputs": "hamnet"},
                "model": {"name": "hamnet", "options": model},
                "protocols": {"paper": {"name": "subject-k-fold", "options": {"n_splits": 2}}},
                "training": training | changes,
                "seed": 3,
                **top,
            }
        )

    def alone(self):
        """A network without BatchNorm and dropout, whose steps depend on whole batches only."""
        training = self.recipe(stages=1, gradient_clip=1.0).as_dict()
        training["model"] = {
            "name": "scalingnet",
            "options": {"filters": [3, 2], "kernel_length": 9},
        }
        training["training"]["stages"][0]["model"] = {}
        return type(self.recipe()).from_dict(training)

    def prepared(self, seed=0):
        from types import SimpleNamespace

        from eegfast.protocols import Samples

        subjects = np.repeat(["01", "02", "03", "04"], 40)
        trials = np.tile(np.repeat(np.arange(8), 5), 4)
        labels = (trials % 3 == 0).astype(int)
        x = np.random.default_rng(seed).normal(size=(160, 4, 40)).astype(np.float32)
        x[labels == 1] *= 1.5
        return SimpleNamespace(
            inputs=(torch.from_numpy(x),),
            samples=Samples(subjects, ["1"] * 160, trials, labels),
            class_names=["quiet", "loud"],
            ch_names=["F3", "F4", "C3", "C4"],
            sfreq=64.0,
            facts={"dataset": "toy", "root": "/somewhere"},
        )

    def run(self, out, recipe=None, prepared=None, **options):
        from eegfast.training import Run, run_experiment

        recipe = self.recipe() if recipe is None else recipe
        prepared = self.prepared() if prepared is None else prepared
        return Run(run_experiment(recipe, prepared, out, accelerator="cpu", **options))


@pytest.fixture(scope="session")
def experiment():
    return Experiment()


@pytest.fixture(scope="session")
def finished(experiment, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield experiment.run(tmp_path_factory.mktemp("runs") / "finished")
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def assert_same():
    """Two runs have the same weights, answers and learning curves, to the bit."""

    def check(a, b):
        assert len(a.fits) == len(b.fits) > 0 and not b.unfinished
        for x, y in zip(a.fits, b.fits, strict=True):
            there, here = x.model().state_dict(), y.model().state_dict()
            assert list(there) == list(here)
            assert all(torch.equal(there[name], here[name]) for name in there)
            for name, values in x.predictions().items():
                assert np.array_equal(values, y.predictions()[name]), name
            curves = [
                {name: v for name, v in fit.history().items() if "seconds" not in name}
                for fit in (x, y)
            ]
            assert curves[0] == curves[1]
            assert not (y.path / "checkpoints").exists()
            assert not [p for p in y.path.rglob("*") if ".part" in p.name]

    return check
