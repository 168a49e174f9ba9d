# SPDX-License-Identifier: BSD-3-Clause
"""Small pipelines, and a small run, for the tests of pipelines and of ``eegfast predict``."""

from dataclasses import dataclass

import numpy as np
import torch

from eegfast import models
from eegfast.datasets import EEGMAT
from eegfast.protocols import Samples
from eegfast.training.builders import InputsBuilder
from eegfast.training.pipeline import Pipeline

SECONDS = 8
CH_NAMES = EEGMAT(subjects=[1])[0].ch_names
SMALL = {
    "hamnet": (
        {"n_chans": 19, "ch_names": CH_NAMES, "n_spatial": 2, "n_taps": 5, "relation_width": 4},
        {"statistics": None},
    ),
    "ldm-eeg": ({"n": 1, "c": 1, "grid": 32}, {}),
    "sst-emotionnet": ({"frequency_depth": 10, "time_depth": 10, "n_blocks": 2}, {}),
    "scalingnet": ({"n_chans": 19, "n_times": 300, "sfreq": 200.0, "filters": [2, 2, 2]}, {}),
    "resattentionet": (
        {"n_chans": 19, "n_windows": 3, "base_width": 4},
        {"window": 1.0, "n_windows": 3},
    ),
}


def network(name, **options):
    """A small network whose weights are drawn by seed."""
    torch.manual_seed(0)
    return models.create(name, n_outputs=2, **{**SMALL[name][0], **options}).eval()


def pipeline(name="hamnet", options=None, **more):
    """A pipeline of 19 channels at 200 Hz, untrained."""
    inputs = InputsBuilder(name, {**SMALL[name][1], **(options or {})})
    return Pipeline(network(name), inputs, 200, CH_NAMES, ["rest", "task"], **more)


def recording(number=1, seconds=SECONDS):
    """The beginning of a bundled recording: of the first, third ... it is rest."""
    from dataclasses import replace

    whole = EEGMAT(subjects=[1, 3, 4])[number]
    return replace(whole, signal=whole.signal[:, : int(seconds * 200)])


@dataclass
class Prepared:
    inputs: tuple
    samples: Samples
    class_names: tuple
    ch_names: list
    sfreq: float
    facts: dict


def run(folder, name="hamnet", normalization="train_zscore", splits=None, protocol=None):
    """Train a small network for an epoch on three subjects, one left out at a time."""
    from eegfast.training.experiment import run_experiment
    from eegfast.training.recipe import Recipe

    inputs = InputsBuilder(name, SMALL[name][1])
    trials = [recording(i) for i in range(6)]
    made = [inputs(torch.from_numpy(t.signal), 200, CH_NAMES) for t in trials]
    windows = [len(rows[0]) for rows in made]
    prepared = Prepared(
        tuple(torch.cat(parts).float() for parts in zip(*made, strict=True)),
        Samples.from_trials(trials, windows),
        EEGMAT.class_names,
        CH_NAMES,
        200.0,
        {"dataset": "bundled", "kind": "raw"},
    )
    recipe = Recipe.from_dict(
        {
            "name": f"small-{name}",
            "data": {"dataset": "bundled", "inputs": name, "options": SMALL[name][1]},
            "model": {"name": name, "options": SMALL[name][0]},
            "protocols": {"honest": protocol or {"name": "leave-one-subject-out"}},
            "normalization": {"name": normalization},
            "training": {"stages": [{"name": "only", "epochs": 1, "batch_size": 16}]},
        }
    )
    path = run_experiment(
        recipe, prepared, folder, protocol="honest", splits=splits, accelerator="cpu"
    )
    return path, np.cumsum([0, *windows])
