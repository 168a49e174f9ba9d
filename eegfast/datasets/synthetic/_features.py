# SPDX-License-Identifier: BSD-3-Clause
"""The features that SEED's relatives supply, over eegfast's own operators."""

from __future__ import annotations

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS, mirror_map
from eegfast.datasets.synthetic.signals import BANDS

# Pairs of electrodes from front to back, as Duan et al. 2013 subtract them.
_CAUDAL_PAIRS = (
    "FT7-TP7 FC5-CP5 FC3-CP3 FC1-CP1 FCZ-CPZ FC2-CP2 FC4-CP4 FC6-CP6 FT8-TP8 F7-P7 F5-P5 F3-P3 "
    "F1-P1 FZ-PZ F2-P2 F4-P4 F6-P6 F8-P8 FP1-O1 FP2-O2 FPZ-OZ AF3-CB1 AF4-CB2"
)
_CAUDAL = np.array(
    [[SEED_CHANNELS.index(name) for name in pair.split("-")] for pair in _CAUDAL_PAIRS.split()]
)


def band_features(signal: np.ndarray, sfreq: int, window: int) -> dict[str, np.ndarray]:
    """Differential entropy and power, each smoothed in both ways.

    Parameters
    ----------
    signal : ndarray, shape (n_chans, n_times)
        Microvolts.
    sfreq, window : int
        Hertz, and seconds per window.

    Returns
    -------
    dict
        ``de``, ``psd``, and both with ``_movingAve`` and ``_LDS``: (windows, n_chans, bands).
    """
    import torch

    from eegfast.ops import band_bins, band_power

    x = torch.from_numpy(np.ascontiguousarray(signal, np.float64))
    length = sfreq * window
    bins = band_bins(BANDS, sfreq, length, rule="half_open")
    psd = band_power(x, window=length, bins=bins).numpy()
    return smoothed({"de": np.log2(100 * psd), "psd": psd})


def smoothed(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each feature as it is, with a moving average and with the linear dynamical system."""
    import torch

    from eegfast.ops import lds_smooth

    every = {}
    for name, values in features.items():
        every[name] = values
        every[f"{name}_movingAve"] = _moving_average(values)
        every[f"{name}_LDS"] = lds_smooth(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return every


def seed_features(signal: np.ndarray, sfreq: int) -> dict[str, np.ndarray]:
    """SEED's twelve features of a trial, by the names in its files: (rows, windows, 5)."""
    basic = band_features(signal, sfreq, window=1)
    de = basic["de"]
    mirror = mirror_map(SEED_CHANNELS)
    left = [i for i, name in enumerate(SEED_CHANNELS) if name[-1] in "13579"]
    right = [mirror[i] for i in left]
    dasm, rasm = de[:, left] - de[:, right], de[:, left] / de[:, right]
    derived = {
        "dasm": dasm,
        "rasm": rasm,
        "asm": np.concatenate([dasm, rasm], axis=1),
        "dcau": de[:, _CAUDAL[:, 0]] - de[:, _CAUDAL[:, 1]],
    }
    every = {**basic, **smoothed(derived)}
    return {name: np.swapaxes(values, 0, 1) for name, values in every.items()}


def _moving_average(values: np.ndarray, length: int = 5) -> np.ndarray:
    """Centred, over the neighbours that exist."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    middle = np.arange(len(values))
    start = np.maximum(middle - length // 2, 0)
    stop = np.minimum(middle + length // 2 + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)[:, None, None]
