# SPDX-License-Identifier: BSD-3-Clause
"""What the demo computes: it only calls the other rooms and gathers their results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from eegfast.cli._demo_facts import (
    NOTES,
    does_not_show,
    provenance,
    shows,
    time_band_power,
    verdict,
)
from eegfast.datasets import EEGMAT
from eegfast.features import DifferentialEntropy, LDSSmoother
from eegfast.models import create
from eegfast.protocols import SubjectKFold, make_normalization
from eegfast.training import (
    LogisticBaseline,
    NetworkEstimator,
    TrainingOptions,
    cross_validate,
    refit_null,
    swap_null,
)

REGRESSION, NETWORK = "Logistic regression", "ResAttentioNet"
PLAIN, SMOOTHED = "DE", "DE + LDS"
VALIDATION_SHARE = 0.15  # of all subjects, taken from the training side, as the paper does
# The rest recordings of this set end in up to a second of zeros (padding of their last EDF record),
# the task recordings do not. That alone would tell the classes apart: the end of all is left out.
USED_SECONDS = 58
NORMALIZATIONS = {"train_zscore": "training-side z", "subject_zscore": "per-subject z"}


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo.

    Parameters
    ----------
    recipe : str
        Of differential entropy.
    folds, sequence_length, epochs, seed : int
        See ``eegfast demo --help``.
    subjects : int or None
        Use the first so many.
    permutations : int
        Of the refit null; the swap null takes 100 times as many.
    """

    recipe: str = "bcmi"
    folds: int = 6
    sequence_length: int = 14
    epochs: int = 20
    seed: int = 0
    subjects: int | None = None
    permutations: int = 99


def _network(options: DemoOptions, n_chans: int, n_bands: int) -> NetworkEstimator:
    def factory():
        return create(
            "resattentionet",
            n_chans=n_chans,
            n_bands=n_bands,
            n_windows=options.sequence_length,
            n_outputs=2,
        )

    return NetworkEstimator(
        factory,
        2,
        sequence_length=options.sequence_length,
        options=TrainingOptions(
            max_epochs=options.epochs, lr=1e-3, feature_offset=1.0, accelerator="cpu"
        ),
    )


def _validation_subjects(n_subjects: int) -> int:
    return max(1, int(VALIDATION_SHARE * n_subjects))


def _evaluate(
    name: str,
    features_name: str,
    normalization: str,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: DemoOptions,
) -> dict[str, Any]:
    """Cross-validate one model and describe it the way the report takes it."""
    features, labels, subjects = data
    is_network = name == NETWORK
    make = partial(_network, options, *features.shape[2:]) if is_network else LogisticBaseline
    protocol = SubjectKFold(options.folds, seed=options.seed)
    start = time.perf_counter()
    evaluation = cross_validate(
        features,
        labels,
        subjects,
        make,
        protocol=protocol,
        normalization=normalization,
        n_validation_subjects=_validation_subjects(len(set(subjects))) if is_network else 0,
        seed=options.seed,
    )
    seconds = time.perf_counter() - start
    nulls = [swap_null(evaluation, 100 * options.permutations + 99, options.seed)]
    if not is_network and features_name == SMOOTHED:
        refit = refit_null(
            evaluation,
            features,
            make,
            protocol=protocol,
            n_permutations=options.permutations,
            seed=options.seed,
        )
        nulls.insert(0, refit)
    return {
        "name": name,
        "features": features_name,
        "normalization": NORMALIZATIONS[normalization],
        "transductive": make_normalization(normalization).transductive,
        "unit": evaluation.unit,
        "accuracy": evaluation.accuracy,
        "interval": evaluation.interval(),
        "unit_accuracy": evaluation.unit_accuracy,
        "subjects": evaluation.per_subject(),
        "confusion": evaluation.confusion(),
        "nulls": [null.summary() for null in nulls],
        "histories": evaluation.histories,
        "seconds": seconds,
    }


def _topomaps(features: np.ndarray, labels: np.ndarray, de, recording) -> dict[str, Any]:
    return {
        "ch_names": recording.ch_names,
        "positions": recording.positions,
        "bands": [f"{name}\n{low:g}–{high:g} Hz" for name, (low, high) in de.bands.items()],
        "unit": de.feature_unit.replace("uV^2", "µV²").replace("uV", "µV"),
        "conditions": {
            name: features[labels == label].mean((0, 1))
            for label, name in enumerate(recording.class_names)
        },
    }


def run(options: DemoOptions, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Compute everything the table and the report show.

    Parameters
    ----------
    options : DemoOptions
        What to do.
    say : callable
        Is told in a few words what is being done.

    Returns
    -------
    dict
        Results as :func:`eegfast.report.write_report` takes them.

    Raises
    ------
    ValueError
        If an option does not fit: an unknown recipe, more folds than subjects.
    """
    dataset = EEGMAT()
    if options.subjects is not None:
        dataset = EEGMAT(subjects=dataset.subjects[: options.subjects])
    recordings = list(dataset)
    first = recordings[0]
    labels = np.array([recording.label for recording in recordings])
    subjects = np.array([recording.subject_id for recording in recordings])
    n_times = round(USED_SECONDS * first.sfreq)
    signals = torch.from_numpy(np.stack([r.signal[:, :n_times] for r in recordings]))

    say("differential entropy and smoothing")
    de = DifferentialEntropy(first.sfreq, recipe=options.recipe)
    features = de(signals)
    inputs = {PLAIN: features.numpy(), SMOOTHED: LDSSmoother()(features).numpy()}

    say("timing the kernel")
    speed = time_band_power(signals, first.sfreq)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network's tensors are too small to share
    models = []
    try:
        pairs = ((REGRESSION, PLAIN), (REGRESSION, SMOOTHED), (NETWORK, SMOOTHED))
        for name, features_name in pairs:
            for normalization, described in NORMALIZATIONS.items():
                say(f"{name} on {features_name}, {described}")
                data = (inputs[features_name], labels, subjects)
                models.append(_evaluate(name, features_name, normalization, data, options))
    finally:
        torch.set_num_threads(threads)

    return {
        "title": "Rest or mental arithmetic?",
        "subtitle": (
            f"{len(dataset.subjects)} subjects, one minute of rest and one of serial subtraction "
            f"each, {len(first.ch_names)} electrodes. Every answer is about a subject the model "
            "never saw. Not emotion."
        ),
        "shows": shows(models),
        "does_not_show": does_not_show(),
        "verdict": verdict(models, NETWORK, REGRESSION, SMOOTHED, NORMALIZATIONS["subject_zscore"]),
        "class_names": list(first.class_names),
        "chance": 0.5,
        "models": models,
        "featured": [3, 5],
        "topomaps": _topomaps(inputs[PLAIN], labels, de, first),
        "speed": speed,
        "notes": NOTES,
        "options": {
            "Signal": f"first {USED_SECONDS} s of each recording (rest recordings end in zeros)",
            "Recipe": f"{options.recipe}, windows of {de.window:g} s",
            "Smoothing": "LDS over each recording (Kalman and RTS; looks ahead within it)",
            "Protocol": f"{options.folds} folds over subjects, seed {options.seed}",
            "Logistic regression": "C = 0.01 on single windows, fixed beforehand",
            "ResAttentioNet": (
                f"{options.sequence_length} windows per sequence, {options.epochs} epochs, AdamW "
                "1e-3, weight decay 1e-4, batch 32, label smoothing 0.1, balanced classes, random "
                "offset of 1 per feature and training sequence, rate halved on the loss of "
                f"{_validation_subjects(len(dataset.subjects))} training subjects, last epoch kept"
            ),
            "Pooling": "mean probability of a recording's windows or sequences",
            **{
                f"“{described}”": make_normalization(name).statement
                for name, described in NORMALIZATIONS.items()
            },
        },
        "explain": de.explain(),
        "provenance": provenance(),
        "dataset": {
            "name": "EEG During Mental Arithmetic Tasks (PhysioNet eegmat 1.0.0), development part",
            "citation": dataset.citation,
            "license": dataset.license,
        },
    }
