# SPDX-License-Identifier: BSD-3-Clause
"""FIR bank, batch normalisation and mean power in one layer, without the filtered signals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eegfast import ops
from eegfast.ops.filter_bank_power import padding_of

Bands = Mapping[str, tuple[float, float]] | Sequence[tuple[float, float]]


def fir_bank(bands: Bands, sfreq: float, n_taps: int) -> Tensor:
    """Linear-phase band-passes: windowed inverse Fourier transforms of ideal ones.

    With ``m = k - (n_taps - 1) / 2`` and a Hamming window ``w``, the taps of a band (f1, f2) are
    ``w[k] (sin(2 pi f2 m / sfreq) - sin(2 pi f1 m / sfreq)) / (pi m)``, scaled to unit gain at the
    band's centre.

    Parameters
    ----------
    bands : dict of str to (float, float), or sequence of (float, float)
        Lower and upper edge of each band in Hz.
    sfreq : float
        Sampling rate in Hz.
    n_taps : int
        Length of the filters. They tell frequencies apart that lie about ``3.3 sfreq / n_taps``
        from each other, however narrow the band.

    Returns
    -------
    Tensor, shape (bands, n_taps), float64

    Raises
    ------
    ValueError
        If ``n_taps`` or a band is malformed, there is no band, or one ends above the Nyquist
        frequency.
    """
    if int(n_taps) != n_taps or n_taps < 1:
        raise ValueError(f"fir_bank: n_taps must be a whole number >= 1, got {n_taps!r}")
    edges = list(bands.values()) if isinstance(bands, Mapping) else list(bands)
    if not edges:
        raise ValueError("fir_bank: expected at least one band, got none")
    for low, high in edges:
        if not 0 <= low < high <= sfreq / 2:
            raise ValueError(
                f"fir_bank: a band must have 0 <= low < high <= {sfreq / 2:g} Hz, "
                f"got ({low}, {high})"
            )
    k = torch.arange(int(n_taps), dtype=torch.float64)
    m = k - (n_taps - 1) / 2
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * k / max(n_taps - 1, 1))
    low, high = (torch.tensor(e, dtype=torch.float64) for e in zip(*edges, strict=True))
    low, high = (2 * f[:, None] / sfreq for f in (low, high))
    taps = window * (high * torch.sinc(high * m) - low * torch.sinc(low * m))
    centre = torch.cos(math.pi * (low + high) / 2 * m)
    return taps / (taps * centre).sum(1, keepdim=True)


class FilterBankPower(nn.Module):
    """Mean power of each row behind each filter of an FIR bank, batch-normalised in between.

    The same as ``norm(conv(x.unsqueeze(1))).square().mean(-1)``, training, gradients and running
    statistics included, but the filtered signals are never stored: see
    :func:`eegfast.ops.filter_bank_power`. This is the middle of HAMNet.

    Parameters
    ----------
    bands : dict of str to (float, float), or sequence of (float, float)
        Lower and upper edge in Hz of the band-pass that each filter starts as.
    sfreq : float
        Sampling rate in Hz.
    n_taps : int
        Length of the filters.
    padding : {"same", "valid"} or int
        Zeros at both ends of a row, as in ``nn.Conv2d``.
    norm : bool
        Normalise each filter's output over samples, rows and batch; without, plain mean power.
    log : bool
        Return the natural logarithm of the power.

    Attributes
    ----------
    conv : nn.Conv2d
        Holds the taps, ``conv.weight`` (filters, 1, 1, n_taps), without bias. To freeze them:
        ``layer.conv.requires_grad_(False)``, which also saves computing their gradient.
    norm : nn.BatchNorm2d or None
        Any of its options may be set, or another put in its place. It is in training mode or not
        on its own, as in a network of the two modules.

    Notes
    -----
    ``conv`` and ``norm`` load the state of such modules; they are not called, so their hooks do not
    run.

    Examples
    --------
    >>> layer = FilterBankPower([(f, f + 2) for f in range(40, 76, 2)], sfreq=200)
    >>> layer(torch.randn(100, 16, 200)).shape
    torch.Size([100, 18, 16])
    """

    def __init__(
        self,
        bands: Bands,
        sfreq: float,
        n_taps: int = 41,
        *,
        padding: str | int = "same",
        norm: bool = True,
        log: bool = False,
    ):
        super().__init__()
        taps = fir_bank(bands, sfreq, n_taps)
        padding_of(padding, n_taps)
        self.padding = padding
        self.log = log
        self.conv = nn.Conv2d(1, len(taps), (1, n_taps), bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(taps[:, None, None])
        self.norm = nn.BatchNorm2d(len(taps)) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the power, (N, filters, rows), of ``x``, (N, rows, n_times)."""
        if x.dim() != 3:
            raise ValueError(f"FilterBankPower: x must be (N, rows, n_times), got {tuple(x.shape)}")
        taps = self.conv.weight.flatten(1)
        total, squares = ops.filter_bank_power(x, taps, self.padding, dtype=torch.float64)
        n_outputs = x.shape[-1] + sum(padding_of(self.padding, taps.shape[1])) - taps.shape[1] + 1
        power = squares / n_outputs
        if self.norm is not None:
            power = self._normalised(total / n_outputs, power, n_outputs)
        power = power.to(x.dtype)
        return power.log() if self.log else power

    def _normalised(self, mean: Tensor, power: Tensor, n_outputs: int) -> Tensor:
        """The mean power of a y + b, given the mean and the mean power of y."""
        norm = self.norm
        if norm.training or norm.running_mean is None:
            count = mean.shape[0] * mean.shape[2] * n_outputs
            centre, variance = self._batch_statistics(mean, power, count)
        else:
            centre, variance = norm.running_mean.double(), norm.running_var.double()
        a = (variance + norm.eps).rsqrt()
        if norm.affine:
            a = a * norm.weight
        b = -a * centre
        if norm.affine:
            b = b + norm.bias
        a, b = a[:, None], b[:, None]
        return a * a * power + 2 * a * b * mean + b * b

    def _batch_statistics(self, mean: Tensor, power: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of each filter's output over the batch; the running ones are moved towards them."""
        norm = self.norm
        if norm.training and count == 1:
            raise ValueError(
                "FilterBankPower: expected more than 1 value per filter when training, got 1"
            )
        rows = max(mean.shape[0] * mean.shape[2], 1)
        centre = mean.sum((0, 2)) / rows
        variance = (power.sum((0, 2)) / rows - centre.square()).clamp(min=0)
        if not (norm.training and norm.track_running_stats):
            return centre, variance
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            if count == 0:
                return centre, variance
            factor = norm.momentum
            if factor is None:
                factor = 1 / norm.num_batches_tracked.double()
            for running, batch in (
                (norm.running_mean, centre),
                (norm.running_var, variance * (count / (count - 1))),
            ):
                running.copy_((1 - factor) * running.double() + factor * batch)
        return centre, variance
