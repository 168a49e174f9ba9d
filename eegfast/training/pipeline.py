# SPDX-License-Identifier: BSD-3-Clause
"""A trained network with everything in front of it: from a recording to probabilities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from eegfast.datasets import Recording, read_recording
from eegfast.datasets.montage import find_channel
from eegfast.training.builders import InputsBuilder
from eegfast.training.fit import predict_proba
from eegfast.training.prediction import Prediction

if TYPE_CHECKING:
    from eegfast.training.runs import Fit, Run
    from eegfast.training.streaming import Stream

PUBLISHED_FILTERS = {
    ("seed", "preprocessed"): "0-75",
    ("seed-iv", "preprocessed"): "1-75",
    ("seed-vii", "preprocessed"): "0.1-70",
    ("deap", "preprocessed"): "4-45",
}
"""Band in hertz to which a data set's publishers had filtered its signals."""


@dataclass(eq=False)
class Pipeline:
    """Channels by name, filter, rate, features, normalisation, network, names of classes.

    Parameters
    ----------
    model : torch.nn.Module
        The trained network, in evaluation mode. It may be compiled: ``pipeline.model =
        torch.compile(pipeline.model)``.
    inputs : InputsBuilder
        What makes the network's inputs of a signal.
    sfreq : float
        Rate in hertz that recordings are brought to.
    ch_names : sequence of str
        Channels that are taken, in this order, in any spelling.
    class_names : sequence of str
        Names of the classes, by the network's outputs.
    normalization : sequence, optional
        A fitted normalisation for each of the network's inputs; default none.
    band : (float, float), optional
        Band-pass in hertz, applied forwards and backwards to the recording before all else: to be
        given where the training signals had been filtered and new ones are not. Low 0: low-pass.
    notch : float, optional
        Mains frequency in hertz to take out, the same way.
    about : mapping, optional
        Where it comes from: plain values, which :meth:`remarks` puts into words.

    Raises
    ------
    ValueError
        If the parts do not fit together: one row of noise is sent through to see.

    Examples
    --------
    >>> from eegfast.models import HAMNet
    >>> from eegfast.training.pipeline import InputsBuilder, Pipeline
    >>> network = HAMNet(n_chans=2, ch_names=["C3", "C4"], n_outputs=2).eval()
    >>> inputs = InputsBuilder("hamnet", {"statistics": "trial"})
    >>> pipeline = Pipeline(network, inputs, 200, ["C3", "C4"], ["left", "right"])
    >>> noise = np.random.default_rng(0).normal(0, 20, (3, 1024)).astype("float32")
    >>> pipeline.predict_proba(noise, 256, ["Cz", "C4", "C3"]).shape
    (4, 2)
    """

    model: nn.Module
    inputs: InputsBuilder
    sfreq: float
    ch_names: Sequence[str]
    class_names: Sequence[str]
    normalization: Sequence = ()
    band: tuple[float, float] | None = None
    notch: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.sfreq = float(self.sfreq)
        self.ch_names, self.class_names = tuple(self.ch_names), tuple(self.class_names)
        self.filter(self.band, self.notch)
        self._try_out()

    @classmethod
    def from_run(cls, run: Run, fit: Fit) -> Pipeline:
        """Make the pipeline of one finished fit.

        Parameters
        ----------
        run : Run
            The run's folder.
        fit : Fit
            One of its finished fits.

        Returns
        -------
        Pipeline

        Raises
        ------
        ValueError
            If the run's recipe takes features that a data set supplies: there is nothing then that
            makes them of a recording.
        """
        from eegfast.training._pipeline_files import pipeline_of_fit

        return pipeline_of_fit(run, fit)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``model.safetensors``, ``pipeline.json`` and, if needed, the normalisation.

        Parameters
        ----------
        folder : path-like
            A new folder, or one that holds a pipeline, which is replaced as a whole.

        Returns
        -------
        Path
            The folder.
        """
        from eegfast.training._pipeline_files import save

        return save(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "cpu") -> Pipeline:
        """Read what :meth:`save` wrote. Nothing in the folder is executed.

        Parameters
        ----------
        folder : path-like
            The folder.
        device : str
            Where features and network are computed.

        Returns
        -------
        Pipeline

        Raises
        ------
        FileNotFoundError, ValueError
            If the folder holds no pipeline, or one that is damaged or makes no sense; the message
            names the file.
        """
        from eegfast.training._pipeline_files import load

        return load(folder).to(device)

    @property
    def classes_(self) -> np.ndarray:
        """Names of the classes, as scikit-learn's classifiers have them."""
        return np.array(self.class_names)

    @property
    def device(self) -> torch.device:
        """Where features and network are computed."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Pipeline:
        """Move features and network to a device; returns the pipeline itself."""
        self.model.to(device)
        return self

    def filter(self, band: tuple[float, float] | None, notch: float | None = None) -> Pipeline:
        """Filter recordings from now on: ``band`` and ``notch`` of the class; returns itself."""
        if band is not None:
            band = (float(band[0]), float(band[1]))
            if not 0 <= band[0] < band[1] <= 1e6:
                raise ValueError(f"Pipeline: band must be 0 <= low < high hertz, got {band}")
        if notch is not None and not 0 < notch <= 1e6:
            raise ValueError(f"Pipeline: notch must be a positive frequency, got {notch}")
        self.band, self.notch = band, notch
        return self

    @property
    def transductive(self) -> bool:
        """Whether a recording is normalised by its own numbers."""
        return any(part.transductive for part in self.normalization)

    def remarks(self) -> list[str]:
        """What should be known of its answers, whatever the recording."""
        about, found = self.about, []
        if about.get("leaks"):
            reasons = about.get("leak_reasons") or ["something of the test side was at hand"]
            found.append(
                "it was trained under a split that leaks, so the scores of its run say little "
                f"about new people: {' '.join(map(str, reasons))}"
            )
        if about.get("synthetic"):
            found.append("it was trained on invented data: its answers mean nothing")
        band = PUBLISHED_FILTERS.get((about.get("dataset"), about.get("kind")))
        if band and self.band is None:
            found.append(
                f"the signals it was trained on had been filtered to {band} Hz by their "
                f"publishers: give raw recordings the same (band, --band {band})"
            )
        return found

    def __call__(self, recording: Recording | str | os.PathLike, **options) -> Prediction:
        """Classify a recording.

        Parameters
        ----------
        recording : Recording or path-like
            The recording, or a file that :func:`eegfast.datasets.read_recording` reads.
        **options
            Of that function: ``sfreq`` and ``ch_names`` for an ``.npy`` file.

        Returns
        -------
        Prediction

        Raises
        ------
        FileNotFoundError, ValueError
            If the file cannot be read, a channel is missing, or the recording is too short.
        """
        return predict_together([self], recording, **options)

    def predict_proba(
        self, signal: np.ndarray, sfreq: float, ch_names: Sequence[str]
    ) -> np.ndarray:
        """Probabilities of a signal in microvolts.

        Parameters
        ----------
        signal : ndarray, shape (n_chans, n_times)
            Float32 or float64.
        sfreq : float
            Its rate in hertz.
        ch_names : sequence of str
            Its channels.

        Returns
        -------
        ndarray of float64, shape (windows, n_outputs)
        """
        return self(Recording(signal, sfreq, list(ch_names))).proba

    def stream(self, sfreq: float, ch_names: Sequence[str]) -> Stream:
        """Classify a signal while it comes in: see :class:`~eegfast.training.streaming.Stream`."""
        from eegfast.training.streaming import Stream

        return Stream(self, sfreq, ch_names)

    def prepare(
        self, recording: Recording | str | os.PathLike, **options
    ) -> tuple[tuple[torch.Tensor, ...], np.ndarray, np.ndarray, list[str]]:
        """Make inputs of a recording, with start and stop of each row in seconds, and notes.

        They are not normalised yet: those of one run's fits are the same. Arguments as for a call.
        """
        notes = []
        if not isinstance(recording, Recording):
            # Straight from the file: a channel that is none of the scalp's may be one of ours.
            npy = str(recording).lower().endswith(".npy")
            try:
                recording = read_recording(
                    recording, picks=None if npy else self.ch_names, **options
                )
            except ValueError as error:
                if "picks names" not in str(error):
                    raise
                raise ValueError(
                    f"{str(error).removesuffix('.')}; the network was trained on the "
                    f"{len(self.ch_names)} channels {', '.join(self.ch_names)} and needs them all"
                ) from None
        where = "" if recording.source is None else f"{recording.source}: "
        missing = [name for name in self.ch_names if find_channel(name, recording.ch_names) is None]
        if missing:
            raise ValueError(
                f"{where}no channel {', '.join(missing)}; the network was trained on "
                f"{len(self.ch_names)} channels and needs them all; the recording has "
                f"{', '.join(recording.ch_names)}"
            )
        if recording.n_chans > len(self.ch_names):
            notes.append(
                f"{len(self.ch_names)} of its {recording.n_chans} channels are used, which are "
                "those the network was trained on"
            )
        recording = self._filtered(recording.pick(self.ch_names))
        if recording.sfreq != self.sfreq:
            notes.append(f"resampled from {recording.sfreq:g} to {self.sfreq:g} Hz")
            recording = recording.resample(self.sfreq)
        try:
            inputs, start, stop = self._rows(recording.signal)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
        if round(float(stop[-1]) * self.sfreq) > recording.n_times:
            notes.append("its last row is filled up with zeros")
            stop[-1] = recording.duration
        return inputs, start, stop, notes

    def classify(self, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
        """Probabilities (rows, n_outputs) of inputs of :meth:`prepare`, normalised here."""
        inputs = self._normalized(inputs)
        proba = predict_proba(self.model, tuple(inputs))
        proba[~_finite(inputs).cpu().numpy()] = np.nan
        return proba

    @property
    def row_seconds(self) -> float | None:
        """Seconds of signal behind an answer; None if that is the whole recording."""
        return self.inputs.row_seconds or self._trial_seconds

    @property
    def _trial_seconds(self) -> float | None:
        """Seconds of a recording that are treated as a trial was; None: all of it."""
        if self.inputs.row_seconds is None:
            n_times = getattr(self.model, "config", {}).get("n_times")
            return n_times / self.sfreq if n_times else None
        return self.inputs.row_seconds if self.inputs.fills_up else None

    def _rows(self, signal: np.ndarray) -> tuple[tuple[torch.Tensor, ...], np.ndarray, np.ndarray]:
        signal = torch.from_numpy(np.array(signal, np.float32)).to(self.device)
        pieces = self.inputs.pieces(signal.shape[1], self.sfreq, self._trial_seconds)
        if not pieces:
            raise ValueError(
                f"it has {signal.shape[1] / self.sfreq:g} s, the network takes "
                f"{self._trial_seconds:g} s at a time"
            )
        made, start = [], []
        with torch.inference_mode():
            for piece in pieces:
                rows = self.inputs(signal[:, piece], self.sfreq, self.ch_names)
                made.append(tuple(rows))
                start.append(piece.start / self.sfreq + rows.start.cpu().numpy())
            inputs = tuple(torch.cat(parts) for parts in zip(*made, strict=True))
        start = np.concatenate(start)
        seconds = self.row_seconds or signal.shape[1] / self.sfreq
        return inputs, start, start + seconds

    def _normalized(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if not self.normalization:
            return inputs
        one = np.zeros(len(inputs[0]), int)  # a recording is one person's
        return tuple(
            torch.from_numpy(part.transform(x.cpu().numpy(), one)).float().to(x.device)
            for part, x in zip(self.normalization, inputs, strict=True)
        )

    def _filtered(self, recording: Recording) -> Recording:
        if self.band is None and self.notch is None:
            return recording
        from scipy import signal

        low, high = self.band or (0.0, 0.0)
        if max(high, self.notch or 0) >= recording.sfreq / 2:
            raise ValueError(
                f"{recording.source or 'recording'}: it has {recording.sfreq:g} Hz, so a filter "
                f"must end below {recording.sfreq / 2:g} Hz, got band {self.band}, "
                f"notch {self.notch}"
            )
        values = recording.signal.astype(np.float64)
        if self.band is not None:
            kind, edges = ("bandpass", (low, high)) if low else ("lowpass", high)
            sections = signal.butter(4, edges, kind, fs=recording.sfreq, output="sos")
            values = signal.sosfiltfilt(sections, values)
        if self.notch is not None:
            values = signal.filtfilt(*signal.iirnotch(self.notch, 30, recording.sfreq), values)
        return replace(recording, signal=values.astype(np.float32))

    def _try_out(self) -> None:
        n_times = round((self.row_seconds or 1.0) * self.sfreq)
        noise = np.random.default_rng(0).normal(0, 20, (len(self.ch_names), n_times))
        inputs, _, _ = self._rows(noise)
        if self.transductive:  # without numbers, and so the same for each
            self.normalization = (self.normalization[0],) * len(inputs)
        for part, x in zip(self.normalization, inputs, strict=False):
            shape = getattr(part, "mean_", np.empty((1, 1))).shape
            if any(n not in (1, m) for n, m in zip(shape, x.shape[-2:], strict=True)):
                raise ValueError(
                    f"Pipeline: the normalization has numbers of shape {shape} for inputs of "
                    f"shape {tuple(x.shape)}"
                )
        if len(self.normalization) not in (0, len(inputs)):
            raise ValueError(
                f"Pipeline: expected a normalization for each of {len(inputs)} inputs, "
                f"got {len(self.normalization)}"
            )
        proba = predict_proba(self.model, self._normalized(inputs))
        if proba.shape[1] != len(self.class_names):
            raise ValueError(
                f"Pipeline: the network has {proba.shape[1]} outputs, class_names has "
                f"{len(self.class_names)} names"
            )


def _finite(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack([x.isfinite().flatten(1).all(1) for x in inputs]).all(0)


def predict_together(
    pipelines: Sequence[Pipeline], recording: Recording | str | os.PathLike, **options
) -> Prediction:
    """Mean probabilities of several fits of one run.

    Parameters
    ----------
    pipelines : sequence of Pipeline
        They differ in network and normalisation only: inputs are made once, by the first.
    recording, **options
        As for a call of :class:`Pipeline`.

    Returns
    -------
    Prediction
    """
    inputs, start, stop, notes = pipelines[0].prepare(recording, **options)
    proba = np.mean([pipeline.classify(inputs) for pipeline in pipelines], axis=0)
    if any(pipeline.transductive for pipeline in pipelines):
        notes.append(
            "normalised by its own numbers, which only makes sense if all classes occur in it, and "
            "uses later windows for earlier ones"
        )
    broken = int(np.isnan(proba).any(1).sum())
    if broken:
        notes.append(
            f"{broken} of {len(start)} windows have no answer: their features are not finite "
            "(flat or missing signal)"
        )
    return Prediction(proba, pipelines[0].class_names, start, stop, tuple(notes))
