# SPDX-License-Identifier: BSD-3-Clause
"""Classification of a signal while it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from eegfast.datasets import Recording
from eegfast.datasets.montage import find_channel
from eegfast.training.pipeline import Pipeline
from eegfast.training.prediction import Prediction


class Stream:
    """Chunks of a signal in, windows out, as soon as they are complete.

    Gives what the pipeline says of the whole recording, to rounding. That is only possible where a
    window depends on nothing but its own samples, so other pipelines are refused.

    Parameters
    ----------
    pipeline : Pipeline
        What classifies.
    sfreq : float
        Rate in hertz; the pipeline's, as chunks cannot be resampled one by one.
    ch_names : sequence of str
        Channels of the chunks; those that the network was trained on must be there.

    Raises
    ------
    ValueError
        If the pipeline resamples, filters, or looks beyond a window, or a channel is missing.

    Examples
    --------
    >>> from eegfast.models import HAMNet
    >>> from eegfast.training.pipeline import InputsBuilder, Pipeline
    >>> inputs = InputsBuilder("hamnet", {"statistics": None})
    >>> names = ["C3", "C4"]
    >>> network = HAMNet(n_chans=2, ch_names=names, n_outputs=2).eval()
    >>> stream = Pipeline(network, inputs, 200, names, ["left", "right"]).stream(200, names)
    >>> chunks = np.random.default_rng(0).normal(0, 20, (5, 2, 130))
    >>> [len(stream.push(chunk)) for chunk in chunks]
    [0, 1, 0, 1, 1]
    """

    def __init__(self, pipeline: Pipeline, sfreq: float, ch_names: Sequence[str]):
        why = pipeline.inputs.looks_beyond_row
        if pipeline.transductive:
            why = "recordings are normalised by their own numbers"
        elif pipeline.band is not None or pipeline.notch is not None:
            why = "band and notch filter the whole recording"
        elif sfreq != pipeline.sfreq:
            why = f"the network takes {pipeline.sfreq:g} Hz, not {sfreq:g}"
        if why:
            raise ValueError(f"stream: this pipeline cannot be fed piece by piece: {why}")
        missing = [name for name in pipeline.ch_names if find_channel(name, ch_names) is None]
        if missing:
            raise ValueError(f"stream: no channel {', '.join(missing)}")
        step = None if pipeline.inputs.fills_up else pipeline.inputs.options.get("step")
        self.pipeline, self.sfreq, self.ch_names = pipeline, sfreq, list(ch_names)
        self._length = round(pipeline.row_seconds * sfreq)
        self._hop = self._length if step is None else round(step * sfreq)
        self._begin = self._next = 0  # samples: of what is kept, and of the next window
        self._kept = np.empty((len(ch_names), 0), np.float32)

    def push(self, chunk: ArrayLike) -> Prediction:
        """Take the next samples.

        Parameters
        ----------
        chunk : array_like, shape (n_chans, any number)
            Microvolts, in the order of ``ch_names``.

        Returns
        -------
        Prediction
            The windows that are complete now; it may be empty.

        Raises
        ------
        ValueError
            If the chunk has another number of channels.
        """
        chunk = np.asarray(chunk, np.float32)
        if chunk.ndim != 2 or len(chunk) != len(self.ch_names):
            raise ValueError(
                f"push: a chunk ({len(self.ch_names)}, n_times) expected, got shape {chunk.shape}"
            )
        kept = np.concatenate([self._kept, chunk], 1)
        fresh = kept[:, max(0, self._next - self._begin) :]
        count = max(0, (fresh.shape[1] - self._length) // self._hop + 1)
        start = self._next
        self._next += count * self._hop
        drop = min(self._next - self._begin, kept.shape[1])
        self._kept, self._begin = kept[:, drop:].copy(), self._begin + drop
        if not count:
            none = np.empty(0)
            classes = self.pipeline.class_names
            return Prediction(np.empty((0, len(classes))), classes, none, none)
        signal = fresh[:, : (count - 1) * self._hop + self._length]
        answer = self.pipeline(Recording(signal, self.sfreq, self.ch_names))
        shift = start / self.sfreq
        return replace(answer, start=answer.start + shift, stop=answer.stop + shift)
