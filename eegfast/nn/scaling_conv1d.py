# SPDX-License-Identifier: BSD-3-Clause
"""ScalingNet's first layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eegfast import ops


class ScalingConv1d(nn.Module):
    """One learned kernel per filter, correlated with the signal at all its scales.

    See :func:`eegfast.ops.scaling_conv1d` for the formula.

    Parameters
    ----------
    n_chans : int
        Electrodes.
    filters : int
        Kernels, per electrode unless ``shared``.
    length : int
        Length of the kernels at the finest scale, odd.
    max_levels : int, optional
        Keep that many scales at most. Default: all, down to a kernel of length 1.
    relu : bool
        Whether ReLU follows.
    shared : bool
        True: all electrodes have the same kernels and biases; False (default, as in the paper):
        each has its own.
    count_include_pad : bool
        Whether a kernel's first tap is halved where pooling put a zero in front of it.

    Attributes
    ----------
    weight : Parameter, shape (n_chans, filters, length), or (filters, length) if shared
        Drawn uniformly within +-1 / sqrt(length), as is ``bias``.
    bias : Parameter, shape (n_chans, filters, levels), or (filters, levels) if shared
    levels : list of int
        Length of the kernel at each scale.

    Examples
    --------
    >>> layer = ScalingConv1d(32)
    >>> layer(torch.randn(4, 32, 8064)).shape
    torch.Size([4, 32, 1, 6, 8064])
    """

    def __init__(
        self,
        n_chans: int,
        filters: int = 1,
        length: int = 33,
        max_levels: int | None = None,
        relu: bool = True,
        shared: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        for name, value in (("n_chans", n_chans), ("filters", filters)):
            if int(value) != value or value < 1:
                raise ValueError(
                    f"ScalingConv1d: {name} must be a whole number >= 1, got {value!r}"
                )
        self.levels = ops.scaling_levels(length, max_levels)
        self.n_chans, self.filters, self.length = n_chans, filters, length
        self.relu, self.shared, self.count_include_pad = relu, shared, count_include_pad
        kernels = (filters,) if shared else (n_chans, filters)
        self.weight = nn.Parameter(torch.empty(*kernels, length))
        self.bias = nn.Parameter(torch.empty(*kernels, len(self.levels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.length)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map a signal (..., n_chans, n_times) to (..., n_chans, filters, levels, n_times)."""
        if x.dim() < 2 or x.shape[-2] != self.n_chans:
            raise ValueError(
                f"ScalingConv1d: x must be (..., n_chans = {self.n_chans}, n_times), "
                f"got {tuple(x.shape)}"
            )
        return ops.scaling_conv1d(
            x,
            self.weight,
            self.bias,
            max_levels=len(self.levels),
            relu=self.relu,
            count_include_pad=self.count_include_pad,
        )

    def extra_repr(self) -> str:
        text = f"n_chans={self.n_chans}, filters={self.filters}, levels={self.levels}"
        return (
            text
            + ("" if self.relu else ", relu=False")
            + (", shared=True" if self.shared else "")
            + ("" if self.count_include_pad else ", count_include_pad=False")
        )
