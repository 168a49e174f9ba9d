# SPDX-License-Identifier: BSD-3-Clause
"""The networks' input builders by name, and what their options mean in seconds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eegfast import features
from eegfast.features import ModelInputs
from eegfast.features.recipes import SPECS, Spectral


@dataclass(frozen=True)
class InputsBuilder:
    """One of the ``*_inputs`` functions of :mod:`eegfast.features`, with all its options.

    Parameters
    ----------
    name : str
        One of :data:`BUILDERS`.
    options : mapping
        Keyword arguments, all of them plain values. Defaults are filled in.

    Raises
    ------
    ValueError
        If the name or an option is not known.

    Examples
    --------
    >>> builder = InputsBuilder("hamnet", {"statistics": "trial"})
    >>> builder.row_seconds
    1.0
    """

    name: str
    options: Mapping[str, Any]

    def __post_init__(self):
        if not isinstance(self.name, str) or self.name not in BUILDERS:
            raise ValueError(
                f"inputs: name must be one of {', '.join(BUILDERS)}, got {self.name!r}"
            )
        known = known_options(self.name)
        for key in self.options:
            if key not in known:
                raise ValueError(
                    f"inputs: {self.name} has no option {key!r}; it has {', '.join(known)}"
                )
        # As JSON has them, so that a builder is the same before and behind a file.
        options = json.loads(json.dumps({**known, **self.options}))
        object.__setattr__(self, "options", options)

    def __call__(self, signal: torch.Tensor, sfreq: float, ch_names: Sequence[str]) -> ModelInputs:
        """Inputs of one trial ``(n_chans, n_times)``, or of trials of one length."""
        mapped = "ch_names" in inspect.signature(BUILDERS[self.name]).parameters
        names = (tuple(ch_names),) if mapped else ()
        return BUILDERS[self.name](signal, sfreq, *names, **self.options)

    @property
    def row_seconds(self) -> float | None:
        """Seconds of signal in a row; None where a row is a whole trial."""
        window, step = self.options["window"], self.options.get("step")
        if self.name == "ldm-eeg":
            return window * self.options["n_steps"]
        if self.name == "resattentionet":
            return window + (self.options["n_windows"] - 1) * (window if step is None else step)
        return window

    @property
    def fills_up(self) -> bool:
        """Whether a trial shorter than a row ends in zeros instead of being refused."""
        return self.name == "resattentionet"

    def pieces(self, n_times: int, sfreq: float, seconds: float | None) -> list[slice]:
        """Samples of a recording that are each treated as one trial, back to back.

        ``seconds`` is the length of a piece, None makes the recording one. What is left behind the
        last whole piece is one too if the builder fills it up.
        """
        if seconds is None:
            return [slice(0, n_times)]
        length = round(seconds * sfreq)
        whole, rest = divmod(n_times, length)
        pieces = [slice(i * length, (i + 1) * length) for i in range(whole)]
        if self.fills_up and rest >= round(self.options["window"] * sfreq):
            pieces.append(slice(whole * length, n_times))
        return pieces

    @property
    def looks_beyond_row(self) -> str | None:
        """What makes a row depend on the signal around it; None if nothing does."""
        statistics = self.options.get("statistics")
        if isinstance(statistics, str) and self.options["window"] is not None:
            return f"statistics={statistics!r} standardises by the whole trial"
        recipe = self.options.get("recipe")
        if recipe in SPECS and not isinstance(SPECS[recipe], Spectral):
            return f"recipe={recipe!r} filters the whole trial"
        return None


BUILDERS: dict[str, Callable[..., ModelInputs]] = {
    "ldm-eeg": features.ldm_eeg_inputs,
    "sst-emotionnet": features.sst_emotionnet_inputs,
    "hamnet": features.hamnet_inputs,
    "scalingnet": features.scalingnet_inputs,
    "resattentionet": features.resattentionet_inputs,
}
"""The builders, under the names of their networks."""


def known_options(name: str) -> dict[str, Any]:
    """Options of a builder, with their defaults."""
    return {
        key: parameter.default
        for key, parameter in inspect.signature(BUILDERS[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
