# SPDX-License-Identifier: BSD-3-Clause
"""Transforms for torcheeg's ``Compose`` and data sets."""

from __future__ import annotations

import numpy as np
import torch

from eegfast.features import DifferentialEntropy
from eegfast.features.recipes import Bands

__all__ = ["BandDE"]


class BandDE:
    """Differential entropy of a chunk of EEG, by any of eegfast's recipes.

    Stands where torcheeg has ``BandDifferentialEntropy``. Called with named arguments, it gives a
    dict of the same names: ``eeg`` is transformed, ``baseline`` too if asked for, the rest is
    passed on; what is None is left out.

    Parameters
    ----------
    sfreq : float
        Sampling rate of the chunks in Hz.
    recipe : str
        One of :data:`eegfast.features.RECIPES`.
    bands : dict of str to (float, float), optional
        Name to edges in Hz. Default: the recipe's.
    window : float, optional
        Seconds per window. Default: the whole chunk is one.
    unit : {"uV", "V"}
        Unit of the chunks.
    apply_to_baseline : bool
        Transform ``baseline`` as well, as subtracting one from the other needs.

    Notes
    -----
    ``(n_chans, n_times)`` becomes ``(n_chans, bands)``; with several windows
    ``(n_chans, windows * bands)``, window after window, as torcheeg has them. float32 stays
    float32, all else becomes float64.

    Examples
    --------
    >>> transform = BandDE(sfreq=128, recipe="torcheeg_v1")
    >>> transform(eeg=20 * np.random.randn(32, 128))["eeg"].shape
    (32, 4)
    """

    def __init__(
        self,
        sfreq: float,
        recipe: str = "bcmi",
        bands: Bands | None = None,
        *,
        window: float | None = None,
        unit: str = "uV",
        apply_to_baseline: bool = False,
    ):
        self.apply_to_baseline = apply_to_baseline
        self._options = {"sfreq": float(sfreq), "recipe": recipe, "bands": bands, "unit": unit}
        self._window = window
        self._modules: dict[float, DifferentialEntropy] = {}
        # any window will do to refuse bad options here
        self._module(round(sfreq) / sfreq if window is None else window)

    def _module(self, window: float) -> DifferentialEntropy:
        if window not in self._modules:
            self._modules[window] = DifferentialEntropy(window=window, **self._options)
        return self._modules[window]

    def apply(self, eeg: np.ndarray, **kwargs) -> np.ndarray:
        """Features of one chunk.

        Parameters
        ----------
        eeg : ndarray, shape (n_chans, n_times)
            A chunk.
        **kwargs
            Not used.

        Returns
        -------
        ndarray, shape (n_chans, windows * bands)
            Differential entropy.

        Raises
        ------
        ValueError
            If the chunk is not 2-D or too short for a window.
        """
        chunk = np.asarray(eeg)
        if chunk.ndim != 2:
            raise ValueError(f"BandDE: expected a chunk (n_chans, n_times), got {chunk.shape}")
        dtype = np.float32 if chunk.dtype == np.float32 else np.float64
        seconds = chunk.shape[1] / self._options["sfreq"] if self._window is None else self._window
        features = self._module(seconds)(torch.from_numpy(np.array(chunk, dtype)))
        return features.transpose(0, 1).flatten(1).numpy()

    def __call__(self, **data) -> dict[str, object]:
        wanted = {"eeg", "baseline"} if self.apply_to_baseline else {"eeg"}
        return {
            name: self.apply(value) if name in wanted else value
            for name, value in data.items()
            if value is not None
        }

    def __repr__(self) -> str:
        options = {**self._options, "window": self._window}
        listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return f"BandDE({listed}, apply_to_baseline={self.apply_to_baseline})"
