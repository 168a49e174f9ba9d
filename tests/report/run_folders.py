# SPDX-License-Identifier: BSD-3-Clause
"""Run folders as an experiment leaves them, of numbers that are drawn and networks not trained."""

from types import SimpleNamespace

import numpy as np
import torch
import yaml

from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.models import create
from eegfast.training.runs import write_file, write_history, write_json, write_predictions

EMOTIONS = ("negative", "neutral", "positive")
PROTOCOLS = {
    "paper": {
        "name": "random-windows",
        "options": {"seed": 0, "allow_leakage": True},
        "mixes": "Windows are dealt out at random: windows of one trial are on both sides.",
        "apart": None,
        "leaks": True,
        "citation": "The paper",
    },
    "honest": {
        "name": "session-trial-k-fold",
        "options": {"n_splits": 5, "seed": 0},
        "mixes": "Training and test come from the same subject on the same day.",
        "apart": "trial",
        "leaks": False,
        "citation": None,
    },
}


def recipe_of(model, options=None, name=None, dataset="SEED", claims=None):
    """A recipe as plain data."""
    return {
        "name": name or model,
        "paper": {
            "citation": "A. Author, A paper, 2023.",
            "claims": claims
            if claims is not None
            else [{"dataset": "SEED", "metric": "accuracy", "mean": 95.18, "std": 2.13}],
            "readings": ["The rate is not in the text: 5e-4 is our reading."],
            "leaks": ["Windows of one trial are on both sides of the paper's split."],
        },
        "data": {"dataset": dataset, "kind": "synthetic", "inputs": model, "options": {}},
        "model": {"name": model, "options": options or {}},
        "protocols": {
            role: {"name": protocol["name"], "options": protocol["options"]}
            for role, protocol in PROTOCOLS.items()
        },
        "normalization": {"name": "none"},
        "training": {"stages": [{"name": "only", "epochs": 3}]},
        "seed": 0,
    }


def write_run(
    folder,
    model="hamnet",
    options=None,
    *,
    role="honest",
    subjects=("01", "02", "03"),
    class_names=EMOTIONS,
    ch_names=SEED_CHANNELS,
    trials=6,
    windows=4,
    skill=1.0,
    stages=("only",),
    recipe=None,
    unfinished=0,
    sfreq=200.0,
    seed=0,
):
    """Write a run with one fit per subject; return what ``prepare`` would give for it."""
    rng = np.random.default_rng(seed)
    n_outputs = len(class_names)
    network = create(model, n_outputs=n_outputs, **(options or {})).eval()
    recipe = dict(recipe or recipe_of(model, options))
    recipe["protocols"] = {role: recipe["protocols"][role]}
    write_file(
        folder / "recipe.yaml", lambda part: part.write_text(yaml.safe_dump(recipe), "utf-8")
    )
    fits = []
    for number, subject in enumerate(subjects):
        name = f"{number + 1:02d}-fit"
        fits.append({"folder": name, "split": f"subject {subject}"})
        if number >= len(subjects) - unfinished:
            continue
        fit = folder / "fits" / name
        n = trials * windows
        trial = np.repeat(np.arange(trials), windows)
        label = trial % n_outputs
        logits = (
            rng.normal(size=(n, n_outputs))
            + 0.6 * rng.normal(size=(trials, 1, n_outputs))[trial, 0]
        )
        logits[np.arange(n), label] += skill * rng.uniform(0.4, 1.6)
        proba = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        write_predictions(
            fit / "predictions.npz",
            proba=proba,
            label=label,
            subject_id=[subject] * n,
            session_id=["1"] * n,
            trial_id=trial + 1,
            sample=np.arange(number * n, (number + 1) * n),
        )
        write_history(fit / "history.csv", _history(rng, stages, skill))
        network.save_pretrained(fit / "model.safetensors")
        write_json(
            fit / "done.json",
            {
                "split": f"subject {subject}",
                "leaks": PROTOCOLS[role]["leaks"],
                "leak_reasons": [PROTOCOLS[role]["mixes"]] * PROTOCOLS[role]["leaks"],
                "n_train": 4 * n,
                "n_validation": 0,
                "n_test": n,
                "seconds": 12.5,
                "seed": number,
            },
        )
    write_json(
        folder / "run.json",
        {
            "format": "eegfast-run",
            "version": 1,
            "protocol": PROTOCOLS[role],
            "fits": fits,
            "data": {
                "dataset": recipe["data"]["dataset"],
                "kind": "synthetic",
                "n_files": 45,
                "synthetic": True,
            },
            "content": "5f1c0a9e" * 8,
            "class_names": list(class_names),
            "ch_names": list(ch_names),
            "sfreq": sfreq,
            "software": {"eegfast": "0.1", "torch": "2.13.0"},
            "machine": {"processor": "A processor", "cores": 2},
            "command": f"eegfast train {model} --root data --protocol {role}",
            "seed": 0,
            "created": "2026-11-21 20:00 UTC",
        },
    )
    torch.manual_seed(seed)
    inputs = network.example_inputs(len(subjects) * trials * windows)
    every = np.repeat(np.arange(len(subjects)), trials * windows)
    label = np.tile(np.repeat(np.arange(trials), windows) % n_outputs, len(subjects))
    samples = SimpleNamespace(subject_id=np.array(subjects)[every], label=label)
    return SimpleNamespace(inputs=inputs, samples=samples)


def _history(rng, stages, skill):
    rows, accuracy = [], 1 / 3
    for stage in stages:
        for epoch in range(1, 9 + int(rng.integers(4))):
            accuracy += 0.12 * skill * (1 - accuracy) * rng.uniform(0.5, 1)
            held = 0.33 + 0.6 * (accuracy - 0.33) + rng.normal(0, 0.01)
            row = {"stage": stage, "epoch": epoch, "train_loss": 1.2 - accuracy}
            row |= {"train_accuracy": accuracy, "val_loss": 1.3 - held, "val_accuracy": held}
            rows.append(row | {"lr": 1e-3, "seconds": 1.5})
    return rows
