# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise 3-D convolution as a layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from eegfast import ops


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d(channels, channels, kernel_size, stride, padding, groups=channels)``.

    Weights, their initialisation and the state dict are those of ``nn.Conv3d``.

    Parameters
    ----------
    channels : int
        Channels in and out.
    kernel_size, stride, padding : int or sequence of three int
        Kernel sizes of 1 to 5; ``padding`` also ``"same"`` or ``"valid"``.
    bias : bool
        Whether to learn a bias.
    device, dtype
        As in ``nn.Conv3d``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        bias: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__(
            channels,
            channels,
            kernel_size,
            stride,
            padding,
            groups=channels,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor, **fused) -> Tensor:
        """Apply :func:`eegfast.ops.depthwise_conv3d`, which also takes the keywords ``fused``."""
        return ops.depthwise_conv3d(x, self.weight, self.bias, self.stride, self.padding, **fused)
