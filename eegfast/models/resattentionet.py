# SPDX-License-Identifier: BSD-3-Clause
"""ResAttentioNet: a 1-D residual network over a sequence of DE vectors, pooled by one query.

Layout of the tensors, for the published sizes (62 electrodes, 5 bands, 60 windows, width 16)::

    features      (N, 60, 62, 5)     windows x electrodes x bands
    flattened     (N, 310, 60)       band-major: index = band * 62 + electrode
    conv1         (N,  16, 30)       kernel 7, stride 2
    max-pool      (N,  16, 15)       kernel 3, stride 2
    layer1..4     (N, 16, 15) (N, 32, 8) (N, 64, 4) (N, 128, 2)
    pooled        (N, 128)           softmax over the 2 remaining steps, per head
    logits        (N, n_outputs)
"""

from __future__ import annotations

import torch
from torch import nn

from eegfast.models.base import Network
from eegfast.models.registry import register


class _BasicBlock(nn.Module):
    """conv3-BN-ReLU-conv3-BN plus a shortcut, then ReLU: ``(N, C_in, T)`` -> ``(N, C_out, T')``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm1d(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(out_channels)
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                nn.Conv1d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm1d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResidualEncoder(nn.Module):
    """Four stages of two residual blocks over time.

    Parameters
    ----------
    in_channels : int
        Features per window.
    base_width : int
        Channels of the first stage; each later stage doubles them.

    Notes
    -----
    Input ``(N, in_channels, windows)``, output ``(N, 8 * base_width, ceil(windows / 32))``.
    """

    def __init__(self, in_channels: int, base_width: int = 32):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, base_width, 7, 2, 3, bias=False),
            nn.BatchNorm1d(base_width),
            nn.ReLU(),
        )
        self.pool = nn.MaxPool1d(3, 2, 1)
        widths = [base_width * 2**i for i in range(4)]
        stages = []
        for i, width in enumerate(widths):
            previous = widths[max(i - 1, 0)]
            stages.append(
                nn.Sequential(
                    _BasicBlock(previous, width, 1 if i == 0 else 2), _BasicBlock(width, width, 1)
                )
            )
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return x


class TemporalAttentionPooling(nn.Module):
    """Multi-head attention of one learned query over time (the paper's MTAP).

    Parameters
    ----------
    dim : int
        Length of each vector; a multiple of ``n_heads``.
    n_heads : int
        Attention heads.

    Notes
    -----
    Input ``(N, time, dim)``, output ``(N, dim)``. Keys and values are the sequence itself. The
    query is drawn from a standard normal distribution and, unlike in the paper's equation (3),
    goes through a projection like the keys, as in the authors' code.
    """

    def __init__(self, dim: int, n_heads: int = 2):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query.expand(x.shape[0], -1, -1)
        return self.attention(query, x, x, need_weights=False)[0].squeeze(1)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """Weights of the steps, ``(N, n_heads, time)``."""
        query = self.query.expand(x.shape[0], -1, -1)
        return self.attention(query, x, x, average_attn_weights=False)[1].squeeze(2)


@register("resattentionet")
class ResAttentioNet(Network):
    """Residual network with attention pooling over a sequence of DE windows.

    Parameters
    ----------
    n_chans : int
        Electrodes.
    n_bands : int
        Frequency bands.
    n_windows : int or None
        Windows per sequence. The weights do not depend on it: it is what :meth:`forward` checks
        its input against. ``None`` accepts any length from 1.
    n_outputs : int
        Classes.
    base_width : int
        Channels of the first residual stage. 16 is the published network.
    drop_prob : float
        Dropout before the attention and inside the classifier.
    n_heads : int
        Attention heads; divides ``8 * base_width``.

    Raises
    ------
    ValueError
        If a size is not positive, or ``8 * base_width`` is not a multiple of ``n_heads``.

    Notes
    -----
    Parameters at the default width, 62 electrodes and 5 bands: 359,811 for 3 classes and 129 more
    for each further class.

    **Order of the features.** A window enters the first convolution as one vector. Features given
    as ``(N, windows, n_chans, n_bands)`` are flattened band-major: all electrodes of the first
    band, then all of the second (index ``band * n_chans + electrode``). That is what a plain
    reshape of the stored SEED-VII arrays (window, band, channel) gives. Features given already
    flat, ``(N, windows, n_chans * n_bands)``, are taken as they come and should be in that order
    when weights are shared. A network trained from scratch does not care, saved weights do.

    **Where paper and code differ**, the code is followed. The paper's equation (3) uses the raw
    query, the code projects it. The paper puts a dropout before the first fully connected layer,
    the code puts it before the attention. The softmax of the paper lives inside the loss: the
    output is logits. With 60 windows only two time steps reach the attention, with up to 32 windows
    only one, over which the attention is then trivially 1.

    The published accuracies come from one split of three test subjects, all of whom saw the
    clips of the training subjects; trials shorter than 60 windows were zero-padded, which tells
    the clip by its length. They are no target for an honest evaluation.

    References
    ----------
    .. [1] "ResAttentioNet", EEG emotion recognition from differential entropy features of SEED,
       SEED-IV, SEED-V and SEED-VII, and the code printed in its annexure; no repository of the
       authors was found.

    Examples
    --------
    >>> import torch
    >>> net = ResAttentioNet(n_chans=19, n_windows=12, n_outputs=2).eval()
    >>> net(torch.zeros(4, 12, 19, 5)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        n_chans: int = 62,
        n_bands: int = 5,
        n_windows: int | None = 60,
        n_outputs: int = 3,
        base_width: int = 16,
        drop_prob: float = 0.5,
        n_heads: int = 2,
    ):
        super().__init__()
        sizes = {"n_chans": n_chans, "n_bands": n_bands, "n_outputs": n_outputs}
        sizes |= {"base_width": base_width, "n_heads": n_heads}
        if n_windows is not None:
            sizes["n_windows"] = n_windows
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"ResAttentioNet: {name} must be at least 1, got {value}")
        dim = 8 * base_width
        if dim % n_heads:
            raise ValueError(
                f"ResAttentioNet: 8 * base_width = {dim} must be a multiple of n_heads = {n_heads}"
            )
        self.n_chans, self.n_bands, self.n_windows = n_chans, n_bands, n_windows
        self.n_outputs = n_outputs
        self.encoder = ResidualEncoder(n_chans * n_bands, base_width)
        self.dropout = nn.Dropout(drop_prob)
        self.pooling = TemporalAttentionPooling(dim, n_heads)
        self.classifier = nn.Sequential(
            nn.Linear(dim, 128), nn.ReLU(), nn.Dropout(drop_prob), nn.Linear(128, n_outputs)
        )

    def example_inputs(self, batch_size: int = 1) -> tuple[torch.Tensor, ...]:
        shape = (batch_size, self.n_windows or 60, self.n_chans, self.n_bands)
        return (torch.randn(shape, device=self.pooling.query.device),)

    def _flatten(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, windows, n_chans, n_bands)`` or ``(N, windows, F)`` -> ``(N, F, windows)``."""
        if x.dim() == 4 and x.shape[2:] == (self.n_chans, self.n_bands):
            flat = x.permute(0, 3, 2, 1).flatten(1, 2)
        elif x.dim() == 3 and x.shape[2] == self.n_chans * self.n_bands:
            flat = x.transpose(1, 2)
        else:
            raise ValueError(
                f"ResAttentioNet: expected features (N, windows, {self.n_chans}, {self.n_bands}) "
                f"or (N, windows, {self.n_chans * self.n_bands}), got {tuple(x.shape)}"
            )
        expected = x.shape[1] if self.n_windows is None else self.n_windows
        if x.shape[1] != expected or x.shape[1] == 0:
            raise ValueError(
                f"ResAttentioNet: expected {self.n_windows or 'at least 1'} windows, "
                f"got {x.shape[1]}"
            )
        return flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of sequences.

        Parameters
        ----------
        x : torch.Tensor
            ``(N, windows, n_chans, n_bands)``, or ``(N, windows, n_chans * n_bands)`` band-major.

        Returns
        -------
        torch.Tensor
            Logits ``(N, n_outputs)``.

        Raises
        ------
        ValueError
            If the shape is not one of the two, or the number of windows is not ``n_windows``.
        """
        sequence = self.encoder(self._flatten(x)).transpose(1, 2)
        return self.classifier(self.pooling(self.dropout(sequence)))

    @torch.no_grad()
    def attention_maps(self, x: torch.Tensor) -> torch.Tensor:
        """Attention over time, for plots. Call ``eval()`` before, as for predictions.

        Parameters
        ----------
        x : torch.Tensor
            As for :meth:`forward`.

        Returns
        -------
        torch.Tensor, shape (N, n_heads, steps)
            Weights of the encoder's steps, of about 32 windows each; every head's sum to 1.
        """
        return self.pooling.weights(self.encoder(self._flatten(x)).transpose(1, 2))
