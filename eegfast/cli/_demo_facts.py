# SPDX-License-Identifier: BSD-3-Clause
"""What the demo says about itself: limits, versions, the machine, the speed of one kernel."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eegfast
from eegfast import reference
from eegfast.ops import band_bins, band_power

_BANDS = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 14), "beta": (14, 31), "gamma": (31, 50)}
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "lightning", "mne", "matplotlib")
_TOLERANCE = 5e-7  # norm of the difference over norm, float32 against float64

NOTES = [
    {
        "title": "How to read the two accuracies",
        "text": (
            "“Recordings right” pools all windows or sequences of a one-minute recording into one "
            "answer. “Single units right” counts each of them. Smoothing makes the windows of a "
            "recording nearly alike, so after it single windows are as good as whole recordings: "
            "that is pooling by another name, not a better classifier. However many windows there "
            "are, the independent cases are the subjects."
        ),
    },
    {
        "title": "What the per-subject z-score gives away",
        "text": (
            "It uses both of a test subject's recordings, without labels. With one recording per "
            "class they become mirror images about zero, so the question turns into “which of the "
            "two is the arithmetic?”, which is easier than judging one recording alone. The rows "
            "named “training-side z” do without."
        ),
    },
    {
        "title": "Which null",
        "text": (
            "Labels are permuted within each subject (swapped or not), since under “labels mean "
            "nothing” a subject's two recordings are exchangeable and those of different "
            "subjects are not. The refit null runs the whole cross-validation again on permuted "
            "labels and is the right one for the procedure. The swap null keeps the trained models "
            "and permutes the labels their answers are compared with; it is exact within a fold "
            "but ignores that folds share training subjects. The network has the swap null only, "
            "since training it a hundred times would take most of an hour."
        ),
    },
]


def shows(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the demo is evidence for, given its results."""
    above = sum(model["nulls"][0]["p_value"] <= 0.05 for model in models)
    return [
        "The whole path runs: recordings, features by our kernels, smoothing, folds over subjects, "
        "two classifiers, this page.",
        f"{above} of {len(models)} rows of the table tell rest from mental arithmetic better than "
        "permuted labels do (p at most 0.05), on subjects that the model never saw.",
        "How a small network compares with a logistic regression on the same features and folds.",
    ]


def does_not_show() -> list[str]:
    """What the demo must not be taken for."""
    return [
        "Nothing about emotion. The task is rest against serial subtraction.",
        "Not that mental arithmetic as such is detected: rest always came first, in its own file, "
        "and the data's authors cleaned the recordings. Time, muscle tension, eye movements and "
        "cleaning differ along with the task.",
        "No ranking of models. With one recording per class and subject a difference of a few "
        "recordings is noise; see the intervals.",
        "No real-time accuracy. Smoothing uses the future within a recording, and the per-subject "
        "z-score needs all recordings of a subject before the first answer.",
    ]


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float]:
    """Percentile bootstrap over subjects of the paired difference in accuracy."""
    gaps = np.array([ours[name]["accuracy"] - theirs[name]["accuracy"] for name in ours])
    draws = np.random.default_rng(0).integers(len(gaps), size=(10_000, len(gaps)))
    low, high = np.quantile(gaps[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def verdict(
    models: Sequence[Mapping[str, Any]],
    network: str,
    baseline: str,
    features: str,
    normalization: str,
) -> list[str]:
    """One sentence for each normalisation: does the network reach the baseline on like terms?

    Parameters
    ----------
    models : sequence of mapping
        The results.
    network, baseline : str
        Names of the two models.
    features : str
        The features both must have.
    normalization : str
        The normalisation to begin with.

    Returns
    -------
    list of str
        Sentences with both accuracies and the difference in recordings.
    """
    rows = {(m["name"], m["normalization"]): m for m in models if m["features"] == features}
    kinds = sorted({kind for _, kind in rows}, key=lambda kind: kind != normalization)
    sentences = []
    for kind in kinds:
        ours, theirs = rows[network, kind], rows[baseline, kind]
        total = int(np.sum(ours["confusion"]))
        gap = round((ours["accuracy"] - theirs["accuracy"]) * total)
        low, high = _difference(ours["subjects"], theirs["subjects"])
        sentences.append(
            f"With {kind}, {network} {'reaches' if gap >= 0 else 'does not reach'} the "
            f"{baseline.lower()} on the same features: {ours['accuracy']:.2f} against "
            f"{theirs['accuracy']:.2f} of recordings right ({gap:+d} of {total}; 95 % interval of "
            f"the difference {low:+.2f} to {high:+.2f}, drawing subjects)."
            + (" So small a gap is within the noise." if gap < 0 <= high else "")
        )
    return sentences


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def provenance() -> dict[str, str]:
    """Versions, processor, threads, kernels in use and the time, as texts."""
    build = eegfast.build_info()
    kernels = f"yes, {build.get('isa', '')}" if build["kernels"] else f"no: {build['reason']}"
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "eegfast": eegfast.__version__,
        "Compiled kernels": kernels,
        "Python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "Processor": f"{_cpu_model()}, {os.cpu_count()} logical cores",
        "Threads": f"{torch.get_num_threads()} for features, 1 for training",
        "System": f"{platform.system()} {platform.release()}",
        "Made": now.strftime("%Y-%m-%d %H:%M UTC"),
    }


def interleaved_times(
    calls: Mapping[str, Callable[[], object]], runs: int, warm_ups: int = 2
) -> dict[str, np.ndarray]:
    """Time several calls in turn, so that a slow moment of the machine hits all of them.

    Parameters
    ----------
    calls : mapping of str to callable
        What to time.
    runs : int
        Timed rounds.
    warm_ups : int
        Rounds before that are not counted.

    Returns
    -------
    dict of str to ndarray, shape (runs,)
        Milliseconds of every round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(warm_ups + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i >= warm_ups:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def time_band_power(signals: torch.Tensor, sfreq: float, runs: int = 11) -> dict[str, Any]:
    """Time ``eegfast.ops.band_power`` beside its reference on real signals, values checked.

    Parameters
    ----------
    signals : torch.Tensor, shape (n_recordings, n_chans, n_times)
        Microvolts.
    sfreq : float
        Sampling rate in hertz.
    runs : int
        Timed rounds.

    Returns
    -------
    dict
        As the report's ``speed`` section takes it.

    Raises
    ------
    RuntimeError
        If kernel and float64 reference disagree: no time is told then.
    """
    window, n_fft = round(sfreq), 256
    bins = band_bins(_BANDS, sfreq, n_fft)
    flat = [edge for pair in bins for edge in pair]
    taper = torch.hann_window(window, periodic=False, dtype=torch.float64)

    def kernel():
        return band_power(signals, window=window, n_fft=n_fft, bins=bins)

    def plain(x=signals):
        return reference.band_power(x, taper.to(x.dtype), window, window, n_fft, flat, 1.0, False)

    truth = plain(signals.double())
    error = float((kernel().double() - truth).norm() / truth.norm())
    if not error <= _TOLERANCE:
        raise RuntimeError(f"band_power differs from its float64 reference by {error:.1e}")
    times = interleaved_times({"eegfast.ops": kernel, "PyTorch reference": plain}, runs)
    n, n_chans, n_times = signals.shape
    return {
        "what": f"band_power ({len(bins)} bands, windows of 1 s, float32)",
        "shape": f"all {n} recordings at once ({n} × {n_chans} electrodes × {n_times} samples)",
        "kernel": bool(eegfast.build_info()["kernels"]),
        "rows": [
            {
                "label": label,
                "median_ms": float(np.median(values)),
                "low_ms": float(np.quantile(values, 0.25)),
                "high_ms": float(np.quantile(values, 0.75)),
            }
            for label, values in times.items()
        ],
        "ratio": float(np.median(times["PyTorch reference"] / times["eegfast.ops"])),
        "max_error": error,
        "tolerance": _TOLERANCE,
        "threads": torch.get_num_threads(),
        "runs": runs,
    }
