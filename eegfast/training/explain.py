# SPDX-License-Identifier: BSD-3-Clause
"""What a trained network sees and has learned, as arrays for figures.

Nothing here knows how it is drawn: :mod:`eegfast.report.model_figures` takes what these return.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eegfast.datasets.montage import positions_for
from eegfast.features import DEFAULT_BANDS, DifferentialEntropy
from eegfast.models import LDMEEG, HAMNet, ResAttentioNet, ScalingNet, SSTEmotionNet
from eegfast.models.base import Network
from eegfast.protocols.normalization import NORMALIZATIONS, make_normalization

COLUMNS = 600
FEWEST_POSITIONS = 4


def learned(network: Network, ch_names: Sequence[str]) -> dict[str, Any]:
    """What can be read from the weights alone.

    Parameters
    ----------
    network : Network
        In any mode.
    ch_names : sequence of str
        Electrodes in the order of the input.

    Returns
    -------
    dict
        For HAMNet ``filter_responses`` and, if electrodes have places, ``spatial_filters``, as the
        figures of these names take them. Empty for other networks.
    """
    if not isinstance(network, HAMNet):
        return {}
    frequencies, gains = network.filter_responses()
    start = type(network)(**network.config).filter_responses()[1]
    bands = network.config["bands"]
    if bands is None:
        from eegfast.models.hamnet import BANDS as bands
    edges = list(bands.values()) if isinstance(bands, Mapping) else list(bands)
    found: dict[str, Any] = {
        "filter_responses": {
            "frequencies": frequencies.cpu().numpy(),
            "learned": gains.cpu().numpy(),
            "start": start.cpu().numpy(),
            "bands": [tuple(edge) for edge in edges],
        }
    }
    places = positions_for(ch_names)
    if len(places) >= FEWEST_POSITIONS:
        weights = network.spatial_patterns().cpu().numpy()
        found["spatial_filters"] = {
            "weights": weights,
            "branches": ["original", "mirrored"][: len(weights)],
            "ch_names": list(ch_names),
            "positions": places,
        }
    return found


def pick_per_class(labels: np.ndarray, n_per_class: int) -> np.ndarray:
    """Indices of at most so many samples of each class, evenly over the order they come in."""
    picked = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        n = min(n_per_class, len(of_class))
        picked.append(of_class[np.linspace(0, len(of_class) - 1, n).round().astype(int)])
    return np.concatenate(picked)


def normalised(
    name: str,
    folder: Path,
    inputs: Sequence[Tensor],
    subjects: np.ndarray,
    index: np.ndarray,
) -> tuple[Tensor, ...]:
    """Some samples as a fit's network saw them.

    Parameters
    ----------
    name : str
        Of the normalisation.
    folder : Path
        A fit's ``pipeline_path``, where its numbers are.
    inputs : sequence of Tensor
        All prepared samples.
    subjects : ndarray of str, shape (n,)
        Whose they are.
    index : ndarray of int
        Which are asked for.

    Returns
    -------
    tuple of Tensor
        In the order of ``index``.
    """
    if name == "none":
        return tuple(x[index].float() for x in inputs)
    rows = index
    if NORMALIZATIONS[name].transductive:  # it depends on all samples of a subject
        rows = np.flatnonzero(np.isin(subjects, subjects[index]))
        normalizations = [make_normalization(name) for _ in inputs]
    else:
        from eegfast.training._pipeline_files import read_normalization

        normalizations = read_normalization(folder, name)
    place = np.searchsorted(rows, index) if rows is not index else np.arange(len(index))
    return tuple(
        torch.from_numpy(
            np.asarray(normalization.transform(x[rows].numpy(), subjects[rows])[place], np.float32)
        )
        for x, normalization in zip(inputs, normalizations, strict=True)
    )


@torch.no_grad()
def seen(
    network: Network,
    inputs: Sequence[Tensor],
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    bands: Sequence[str] | None = None,
    sfreq: float | None = None,
) -> dict[str, Any]:
    """What the network makes of given inputs, averaged over the samples of each class.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    inputs : sequence of Tensor
        Arguments of ``forward``, normalised as in training.
    labels : ndarray of int, shape (n,)
        True classes. Those without a sample are left out.
    class_names : sequence of str
        By label.
    bands : sequence of str, optional
        Names of the frequency maps' bands.
    sfreq : float, optional
        Rate of raw signals in Hz. Default: the network's.

    Returns
    -------
    dict
        ``attention`` (LDM-EEG, SST-EmotionNet), ``temporal_attention`` (ResAttentioNet) or
        ``scale_maps`` (ScalingNet), as the figures take them. Empty for other networks.
    """
    present = np.unique(labels)
    names = [str(class_names[label]) for label in present]

    def by_class(weights: Tensor) -> np.ndarray:
        array = weights.double().cpu().numpy()
        return np.stack([array[labels == label].mean(0) for label in present])

    if isinstance(network, (LDMEEG, SSTEmotionNet)):
        return {"attention": _attention(network, inputs, by_class, names, bands)}
    if isinstance(network, ResAttentioNet):
        weights = by_class(network.attention_maps(*inputs))
        n_windows = inputs[0].shape[1]
        per_step = math.ceil(n_windows / weights.shape[2])
        attention = {"weights": weights, "class_names": names, "windows": f"about {per_step}"}
        return {"temporal_attention": attention}
    if isinstance(network, ScalingNet):
        return {"scale_maps": _scale_maps(network, inputs[0], labels, present, names, sfreq)}
    return {}


def _attention(network, inputs, by_class, names, bands) -> list[dict[str, Any]]:
    bands = list(bands or DEFAULT_BANDS)
    stages = []
    for stream, stacks in network.attention_maps(*inputs).items():
        numbered = stacks.items() if isinstance(stacks, dict) else enumerate(stacks, 1)
        total = network.n_bands if stream == "frequency" else network.n_steps
        for number, weights in numbered:
            spatial, depth = by_class(weights["spatial"]), by_class(weights["depth"])
            n = depth.shape[1]
            # Softmax weights sum to 1; sigmoid gates do not.
            softmax = bool(np.allclose(depth.sum(1), 1) and np.allclose(spatial.sum((1, 2)), 1))
            if softmax:
                spatial, depth = spatial * spatial[0].size, depth * n
            whole = n == total
            labels = bands if stream == "frequency" and whole and len(bands) == n else None
            axis = "band" if stream == "frequency" else "time step"
            stages.append(
                {
                    "title": f"{'bands' if stream == 'frequency' else 'time'}, {number}",
                    "class_names": names,
                    "spatial": spatial,
                    "depth": depth,
                    "depth_labels": labels or [str(i + 1) for i in range(n)],
                    "depth_axis": axis if whole else f"{axis}s, {total} pooled to {n}",
                    "scale": "weight (1: even)" if softmax else "gate (0 to 1)",
                    "neutral": 1.0 if softmax else 0.5,
                }
            )
    return stages


def _scale_maps(network, signals, labels, present, names, sfreq) -> dict[str, Any]:
    sure = network(signals).softmax(1).cpu().numpy()
    sfreq = float(sfreq or network.sfreq)
    block = math.ceil(signals.shape[-1] / COLUMNS)
    examples = {}
    for label, name in zip(present, names, strict=True):
        of_class = np.flatnonzero(labels == label)
        best = of_class[sure[of_class, label].argmax()]
        image = network.scale_map(signals[best : best + 1])[0].mean(0)
        image = image[:, : image.shape[1] // block * block].unflatten(1, (-1, block)).mean(2)
        examples[name] = image.cpu().numpy()
    levels = [int(length) for length in network.scaling.levels]
    return {"examples": examples, "lengths": levels, "sfreq": sfreq, "step": block / sfreq}


@torch.no_grad()
def topographies(
    inputs: Sequence[Tensor],
    labels: np.ndarray,
    class_names: Sequence[str],
    ch_names: Sequence[str],
    sfreq: float | None,
    *,
    bands: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Differential entropy per class and band, of what networks take.

    Parameters
    ----------
    inputs : sequence of Tensor
        Before normalisation: features ``(n, windows, n_chans, n_bands)``, signals ``(n, n_chans,
        n_times)``, or maps ``(n, 1, n_bands, height, width)`` first.
    labels : ndarray of int, shape (n,)
        Classes; those without a sample are left out.
    class_names, ch_names : sequence of str
        By label; electrodes in the order of the input.
    sfreq : float or None
        Rate of signals in Hz.
    bands : sequence of str, optional
        Names of the bands of features and maps. Default: those of
        :data:`eegfast.features.DEFAULT_BANDS` if as many, else numbers.

    Returns
    -------
    dict or None
        As :func:`eegfast.report.model_figures.class_topographies` takes it, with ``what``, a
        sentence on the values. ``None`` where fewer than four electrodes have places.
    """
    x = inputs[0]
    places = positions_for(ch_names)
    on_grid = x.dim() == 5
    if not on_grid and len(places) < FEWEST_POSITIONS:
        return None
    if on_grid:
        values, what = x[:, 0], "maps as the network takes them"
    elif x.dim() == 4:
        # Windows of nothing but zeros fill up short sequences.
        filled = (x != 0).any(-1).any(-1)
        values = (x * filled[..., None, None]).sum(1) / filled.sum(1).clamp(min=1)[:, None, None]
        what = "differential entropy as the network takes it, before normalisation"
    else:
        length = x.shape[-1]
        de_bands = {name: edges for name, edges in DEFAULT_BANDS.items() if edges[1] < sfreq / 2}
        window = min(length, round(sfreq)) / sfreq
        de = DifferentialEntropy(sfreq, "matlab", de_bands, window)
        values, bands = de(x.float()).mean(1), list(de_bands)
        what = "differential entropy of the signals that the network takes"
    array = values.double().cpu().numpy()
    n_bands = array.shape[1] if on_grid else array.shape[-1]
    if bands is None or len(bands) != n_bands:
        bands = list(DEFAULT_BANDS) if len(DEFAULT_BANDS) == n_bands else range(1, n_bands + 1)
    found = {
        "bands": [str(band) for band in bands],
        "unit": "DE" if not on_grid else "DE, scaled",
        "what": what,
        "classes": {
            str(class_names[label]): np.nanmean(array[labels == label], 0)
            for label in np.unique(labels)
        },
    }
    if not on_grid:
        found |= {"ch_names": list(ch_names), "positions": places}
    return found
