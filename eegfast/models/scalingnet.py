# SPDX-License-Identifier: BSD-3-Clause
"""ScalingNet: raw EEG through learned kernels at several scales, then a small 2-D network.

Layout of the tensors, for DEAP (32 electrodes, 63 s at 128 Hz, kernels of 33 samples)::

    signal        (N, 32, 8064)
    scale map     (N, 32, 6, 8064)     a kernel per electrode, at lengths 33, 17, 9, 5, 3, 1; ReLU
    convolutions  (N, 16, 6, 8064) (N, 8, 6, 8064) (N, 6, 6, 8064)      3 x 5, ReLU
    pooled        (N, 6)               mean over scales and time
    logits        (N, n_outputs)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eegfast.models.base import Network, check_signal
from eegfast.models.registry import register
from eegfast.nn import ScalingConv1d

LAYOUT = torch.contiguous_format
"""How the maps that the dense convolutions read lie in memory; they are most of the network's
arithmetic (0.50 of 0.52 G multiply-adds a sample), and no kernels of ours."""


@register("scalingnet")
class ScalingNet(Network):
    """Learned multi-scale maps of raw EEG, classified by three convolutions.

    Parameters
    ----------
    kernel_length : int
        Length L of the scaling layer's kernels in samples, odd. Each further scale halves it.
    n_chans : int
        Electrodes.
    n_times : int or None
        Samples per window. The weights do not depend on it: it is what :meth:`forward` checks its
        input against. ``None`` accepts any number from 1.
    n_outputs : int
        Classes.
    sfreq : float
        Sampling rate in Hz. Nothing depends on it; it says what the samples are.
    max_levels : int, optional
        Keep that many scales at most. Default: all, down to a kernel of length 1 (6 for L = 33).
    shared : bool
        Use one kernel, with its biases, for all electrodes; by default each has its own.
    count_include_pad : bool
        Whether a kernel's first tap is halved where pooling put a zero in front of it.
    filters : sequence of int
        Outputs of each dense convolution.
    conv_kernel : (int, int)
        Extent of the dense convolutions along scales and along time, both odd. ``(5, 3)`` is the
        other reading of the paper's "3 x 5".

    Attributes
    ----------
    scaling : eegfast.nn.ScalingConv1d
        The scaling layer; ``scaling.levels`` are the kernel lengths of its scales.
    convs : nn.ModuleList of nn.Conv2d
        The dense convolutions, over (scales, time), with the electrodes as input channels.

    Raises
    ------
    ValueError
        If ``kernel_length`` or ``conv_kernel`` is not odd, or a size is not a whole number of at
        least 1.

    Notes
    -----
    Parameters at the defaults: 11,612 (scaling layer 1,248, convolutions 7,696 + 1,928 + 726,
    classifier 14). With L = 17, 63, 65, 129: 11,068, 12,572, 12,668, 14,748. With ``shared``:
    10,403.

    **No code was published.** From the paper: a learned kernel, average-pooled by two to give the
    next scale, with a zero added where the length would become even; one bias per scale; ReLU;
    each electrode fed to a scaling layer of its own; three convolutions of 16, 8 and 6 filters,
    3 x 5, ReLU; global average pooling; a linear layer. Our reading: the scales go down to a
    kernel of one tap (the paper speaks of a maximum level and gives no number); signals are
    continued by zeros as the text says, not circularly as its equation (2) has it; pooling counts
    the zero, so that the first tap is halved; gains, which halve from scale to scale, are not made
    up for; 3 spans scales and 5 spans time; the convolutions keep the size (without padding, three
    of them would use up all six scales) and have a bias. Initial values are uniform within
    1 / sqrt(L) for the scaling layer and torch's own elsewhere. The softmax lives inside the loss:
    the output is logits.

    **Training, as published.** DEAP as preprocessed by its authors (32 EEG channels, 128 Hz,
    63 s with the 3 s baseline), one network each for high and low arousal, valence and dominance;
    batches of 32, Adam, cross-entropy. Learning rate, epochs and normalisation are not given; we
    suggest 1e-3, 100 epochs and a z-score per electrode. The folds of its five-fold
    cross-validation are drawn from the pooled trials, so that training and test share subjects.
    Reported are 69.99, 71.13 and 70.78 % (arousal, valence, dominance). We have not reproduced
    them.

    References
    ----------
    .. [1] Hu et al., "ScalingNet: extracting features from raw EEG data for emotion recognition",
       Neurocomputing 463, 177-184, 2021; arXiv:2105.13987.

    Examples
    --------
    >>> import torch
    >>> net = ScalingNet(n_chans=19, n_times=1000, sfreq=250)
    >>> net(torch.randn(4, 19, 1000)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        kernel_length: int = 33,
        n_chans: int = 32,
        n_times: int | None = 8064,
        n_outputs: int = 2,
        sfreq: float = 128.0,
        max_levels: int | None = None,
        shared: bool = False,
        count_include_pad: bool = True,
        filters: Sequence[int] = (16, 8, 6),
        conv_kernel: Sequence[int] = (3, 5),
    ):
        super().__init__()
        sizes = {"kernel_length": kernel_length, "n_chans": n_chans, "n_outputs": n_outputs}
        sizes |= {f"filters[{i}]": value for i, value in enumerate(filters)}
        sizes |= {f"conv_kernel[{i}]": value for i, value in enumerate(conv_kernel)}
        for name, value in {"n_times": n_times, "max_levels": max_levels}.items():
            if value is not None:
                sizes[name] = value
        for name, value in sizes.items():
            odd = name.startswith(("kernel_length", "conv_kernel"))
            if int(value) != value or value < 1 or (odd and value % 2 == 0):
                kind = "an odd number" if odd else "a whole number"
                raise ValueError(f"ScalingNet: {name} must be {kind} >= 1, got {value!r}")
        if len(conv_kernel) != 2 or not filters:
            raise ValueError(
                "ScalingNet: expected conv_kernel = (scales, time) and at least one of filters, "
                f"got {tuple(conv_kernel)} and {tuple(filters)}"
            )
        self.n_chans, self.n_times, self.sfreq = n_chans, n_times, sfreq
        self.scaling = ScalingConv1d(
            n_chans,
            length=kernel_length,
            max_levels=max_levels,
            shared=shared,
            count_include_pad=count_include_pad,
        )
        widths = [n_chans, *filters]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, tuple(conv_kernel), padding="same")
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.classifier = nn.Linear(widths[-1], n_outputs)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        weight = self.classifier.weight
        shape = (batch_size, self.n_chans, self.n_times or 8064)
        return (torch.randn(shape, dtype=weight.dtype, device=weight.device),)

    def scale_map(self, x: Tensor) -> Tensor:
        """Output of the scaling layer: what the network's convolutions see, and fit to be plotted.

        Parameters
        ----------
        x : Tensor
            Signal, ``(N, n_chans, n_times)``.

        Returns
        -------
        Tensor, shape (N, n_chans, levels, n_times)
            The longest kernel first; not negative.

        Raises
        ------
        ValueError
            If the shape is another.
        """
        check_signal(self, x)
        return self.scaling(x).squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of windows.

        Parameters
        ----------
        x : Tensor
            Signal, ``(N, n_chans, n_times)``.

        Returns
        -------
        Tensor
            Logits ``(N, n_outputs)``.

        Raises
        ------
        ValueError
            If the shape is another.
        """
        maps = self.scale_map(x).contiguous(memory_format=LAYOUT)
        for conv in self.convs:
            maps = torch.relu(conv(maps))
        return self.classifier(maps.mean((2, 3)))
