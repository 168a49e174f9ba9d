# SPDX-License-Identifier: BSD-3-Clause
"""Windows of trials as braindecode's data sets give them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from torch.utils.data import Dataset

from eegfast.features.differential_entropy import samples
from eegfast.protocols import Samples

__all__ = ["TrialWindows"]

_FACTS = ("subject_id", "session_id", "trial_id", "label")  # kept when a signal is let go


class TrialWindows(Dataset):
    """Windows of raw signal, cut when asked for: items are ``(X, y, crop_inds)``.

    Serves as ``EEGClassifier.fit(windows, y=None)``. For one side of a split wrap it in
    ``torch.utils.data.Subset(windows, split.train)``, with splits of :attr:`samples`.

    Parameters
    ----------
    trials : sequence of Recording
        An eegfast data set of signals, or a list of recordings, with one rate and one number of
        channels. It is read through once, for the trials' lengths.
    window : float
        Seconds per window.
    step : float, optional
        Seconds from one window's start to the next. Default: ``window``.
    preload : bool
        Keep all signals in memory, as float32. Without it only the trial that was read last is
        kept, which suits windows in order; in random order nearly every window costs reading a
        trial.

    Attributes
    ----------
    samples : Samples
        Subject, session, trial and label of each window.

    Raises
    ------
    ValueError
        If rates or channels differ, or window and step are not whole numbers of samples.

    Notes
    -----
    ``X`` is float32 ``(n_chans, window)`` in microvolts, ``y`` an int, ``crop_inds`` the list of
    the window's number in its trial, its first sample and the one behind its last.
    A trial that is shorter than a window gives none.
    """

    def __init__(
        self,
        trials: Sequence,
        window: float,
        step: float | None = None,
        *,
        preload: bool = False,
    ):
        self.trials = trials
        self._signals: list[np.ndarray] | None = [] if preload else None
        self._last: tuple[int, np.ndarray | None] = (-1, None)
        facts, lengths = [], []
        # ``read`` opens each file of a data set once
        for trial in trials.read(range(len(trials))) if hasattr(trials, "read") else trials:
            if not hasattr(trial, "signal"):
                raise TypeError(
                    f"TrialWindows: trials must hold signals, got {type(trial).__name__}"
                )
            facts.append(SimpleNamespace(**{name: getattr(trial, name) for name in _FACTS}))
            lengths.append(trial.signal.shape[1])
            kind = (trial.sfreq, trial.signal.shape[0])
            if len(facts) == 1:
                self.sfreq, self.n_chans = kind
            elif kind != (self.sfreq, self.n_chans):
                raise ValueError(
                    f"TrialWindows: {trial.source or f'trial {len(facts)}'} has {kind[1]} channels "
                    f"at {kind[0]:g} Hz, those before {self.n_chans} at {self.sfreq:g} Hz"
                )
            if preload:
                self._signals.append(np.asarray(trial.signal, np.float32))
        if not facts:
            raise ValueError("TrialWindows: there is no trial")
        self.n_times = samples("window", window, self.sfreq)
        self.step = self.n_times if step is None else samples("step", step, self.sfreq)
        counts = np.maximum((np.array(lengths) - self.n_times) // self.step + 1, 0)
        self.samples = Samples.from_trials(facts, counts)
        self._trial = np.repeat(np.arange(len(facts)), counts)
        self._number = np.concatenate([np.arange(count) for count in counts])

    def _signal(self, trial: int) -> np.ndarray:
        if self._signals is not None:
            return self._signals[trial]
        if self._last[0] != trial:
            self._last = (trial, self.trials[trial].signal)
        return self._last[1]

    def __len__(self) -> int:
        return len(self._trial)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, list[int]]:
        number = int(self._number[index])
        start = number * self.step
        stop = start + self.n_times
        signal = self._signal(int(self._trial[index]))
        x = np.array(signal[:, start:stop], np.float32)
        return x, int(self.samples.label[index]), [number, start, stop]
