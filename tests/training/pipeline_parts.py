# SPDX-License-Identifier: BSD-3-Clause
"""Small pipelines, and a small run, for the tests of pipelines and of ``eegfast predict``."""

from dataclasses import replace

import torch

from eegfast import models
from eegfast.datasets import EEGMAT
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
    whole = EEGMAT(subjects=[1, 3, 4])[number]
    return replace(whole, signal=whole.signal[:, : int(seconds * 200)])


def run(folder, name="hamnet", normalization="channel_zscore", splits=None):
    """Train a small network for an epoch on three subjects, one left out at a time."""
    from eegfast.training import Recipe, prepare, run_experiment

    recipe = Recipe.from_dict(
        {
            "name": f"small-{name}",
            "data": {
                "dataset": "eegmat",
                "select": {"subjects": [1, 3, 4]},
                "seconds": SECONDS,
                "inputs": name,
                "options": SMALL[name][1],
            },
            "model": {"name": name, "options": SMALL[name][0]},
            "protocols": {"honest": {"name": "leave-one-subject-out"}},
            "normalization": {"name": normalization},
            "training": {"stages": [{"name": "only", "epochs": 1, "batch_size": 16}]},
        }
    )
    prepared = prepare(recipe, "bundled")
    return run_experiment(
        recipe, prepared, folder, protocol="honest", splits=splits, accelerator="cpu"
    )
