# SPDX-License-Identifier: BSD-3-Clause
"""Smoothing of features along their windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eegfast.ops import lds_smooth

LDS_VARIANTS: dict[str, str] = {
    "bcmi": "SEED's: Kalman filter and RTS smoother, Q = 0.001, R = 1, prior variance 0.1",
    "torcheeg": "torcheeg's after_hook_linear_dynamical_system: filter only, Q = 0.0001, R = 1, "
    "prior variance 0.01",
    "libeer": "LibEER's lds: as torcheeg, but the first step subtracts the prior variance where "
    "the prior mean belongs",
}

_CONSTANTS = {
    "bcmi": {"q": 1e-3, "r": 1.0, "p0": 0.1},
    "torcheeg": {"q": 1e-4, "r": 1.0, "p0": 0.01},
    "libeer": {"q": 1e-4, "r": 1.0, "p0": 0.01},
}


class LDSSmoother(nn.Module):
    """Smooth features along their windows with a linear dynamical system, per channel and band.

    A scalar random walk seen in noise, with the fixed variances that SEED's features have.

    Parameters
    ----------
    causal : bool
        ``False`` (default): the smoother, which uses all windows of the trial. ``True``: the Kalman
        filter alone, whose window t uses windows 0..t, and the prior.
    variant : {"bcmi", "torcheeg", "libeer"}
        Whose LDS; :data:`eegfast.features.LDS_VARIANTS` describes each in a line. ``"torcheeg"``
        and ``"libeer"`` only have the filter, so they are causal whatever ``causal`` says.
    prior : {"mean", "first"}
        Prior mean of each series. ``"mean"`` (default, as in all the originals): its mean over the
        whole trial, so that even the filter looks ahead. ``"first"``: its first window; with
        ``causal=True`` nothing then looks ahead. Only for ``"bcmi"``.

    Attributes
    ----------
    causal : bool
        Whether the filter alone runs.

    Raises
    ------
    ValueError
        If ``variant`` or ``prior`` is none of the above.

    Notes
    -----
    ``"libeer"`` starts at ``mean + K (y[0] - 0.01)``, K = 0.0099, where 0.01 is the prior variance;
    right would be ``mean + K (y[0] - mean)``. Its first window is off by 0.0099 of the mean's
    distance from 0.01; a hundred windows later a third of that is left.

    A NaN or infinite window spoils its whole series.

    Examples
    --------
    >>> LDSSmoother()(torch.randn(240, 62, 5)).shape
    torch.Size([240, 62, 5])
    """

    def __init__(self, causal: bool = False, variant: str = "bcmi", prior: str = "mean"):
        super().__init__()
        if variant not in LDS_VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(LDS_VARIANTS)}, got {variant!r}")
        if prior not in ("mean", "first"):
            raise ValueError(f"prior must be 'mean' or 'first', got {prior!r}")
        if prior == "first" and variant != "bcmi":
            raise ValueError(f"prior='first' is for variant 'bcmi', got variant={variant!r}")
        self.causal = bool(causal) or variant != "bcmi"
        self.variant = variant
        self.prior = prior

    def forward(self, features: Tensor) -> Tensor:
        """Smooth ``features``, shape (..., windows, n_chans, bands), to the same shape."""
        constants = _CONSTANTS[self.variant]
        prior = None
        if self.prior == "first":
            prior = features[..., :1, :, :].sum(-3)  # the sum over no window is 0
        elif self.variant == "libeer":
            # Filtering mixes (1 - K) prior + K y[0], K = p0 / (p0 + r): solve for the prior that
            # gives mean + K (y[0] - p0).
            p0, r = constants["p0"], constants["r"]
            prior = features.mean(-3) * (p0 + r) / r - p0 * p0 / r
        return lds_smooth(features, causal=self.causal, prior=prior, **constants)

    def extra_repr(self) -> str:
        return f"causal={self.causal}, variant={self.variant!r}, prior={self.prior!r}"


def moving_average(features: Tensor, length: int = 5) -> Tensor:
    """Average each feature over ``length`` neighbouring windows, centred.

    Near the ends the average is over the neighbours that exist. (SEED ships features named
    ``movingAve`` and does not say how it treats the ends; ports use 5 windows.)

    Parameters
    ----------
    features : Tensor, shape (..., windows, n_chans, bands)
        Features.
    length : int
        Windows per average, odd.

    Returns
    -------
    Tensor, shape of ``features``

    Raises
    ------
    ValueError
        If ``length`` is not an odd positive number or ``features`` has under three dimensions.
    """
    if length != int(length) or length < 1 or length % 2 == 0:
        raise ValueError(f"length must be an odd number of windows >= 1, got {length!r}")
    if features.dim() < 3:
        raise ValueError(
            f"features must be (..., windows, n_chans, bands), got shape {tuple(features.shape)}"
        )
    if features.numel() == 0:
        return features.clone()
    series = features.movedim(-3, -1)
    averaged = torch.nn.functional.avg_pool1d(
        series.flatten(0, -2).unsqueeze(1),
        int(length),
        stride=1,
        padding=int(length) // 2,
        count_include_pad=False,
    )
    return averaged.reshape(series.shape).movedim(-1, -3)
