# SPDX-License-Identifier: BSD-3-Clause
"""HAMNet: powers in narrow gamma bands of a signal and of its mirror image.

Layout of the tensors, for the published sizes (62 electrodes, 200 samples, 16 components, 18
filters); B is 1 in pre-training and 2 in fine-tuning::

    signal        (N, 62, 200)
    components    (N, 16 B, 200)       one matrix product for both branches
    power         (N, 18, 16 B)        FIR bank, batch normalisation, mean square
    branches      (N, 2, 18, 16)       fine-tuning only
    relation      (N, 16, 18, 16)      1x1 convolution over the two branches, ReLU
    logits        (N, n_outputs)

The mirrored branch filters the signal with its left and right electrodes swapped. Swapping the
columns of its weights instead comes to the same, so that signal is never made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eegfast.datasets.montage import SEED_CHANNELS, mirror_map
from eegfast.models.base import Network, check_signal
from eegfast.models.registry import register
from eegfast.nn import FilterBankPower

STAGES = ("pretrain", "finetune")
BANDS = tuple((low, low + 2) for low in range(40, 76, 2))
"""The published bands in Hz: 40 to 76 in steps of 2."""


@register("hamnet")
class HAMNet(Network):
    """Hemispheric asymmetry measurement network, from raw EEG.

    Spatial filters turn the electrodes into components; an FIR bank, batch normalisation and mean
    power follow. Pre-training classifies these powers. Fine-tuning has a second branch of the same
    form, which sees the electrodes of the left and right hemisphere swapped, and combines the two
    branches' powers. See :meth:`finetune` for the way from one to the other.

    Parameters
    ----------
    stage : {"finetune", "pretrain"}
        Both branches with the relation layer (default), or one branch and a classifier.
    n_chans : int
        Electrodes.
    n_times : int or None
        Samples per window. The weights do not depend on it: it is what :meth:`forward` checks its
        input against. ``None`` accepts any number from 1.
    sfreq : float
        Sampling rate in Hz. Only the filters' initial values depend on it.
    n_outputs : int
        Classes.
    ch_names : sequence of str, optional
        Electrodes in the order of the input, which say who mirrors whom (see
        :func:`eegfast.datasets.mirror_map`). Default: SEED's order if ``n_chans`` is 62; for other
        montages fine-tuning needs names.
    n_spatial : int
        Spatial filters, that is components, per branch.
    bands : sequence of (float, float), or dict of str to (float, float), optional
        Lower and upper edge in Hz of the band-pass that each temporal filter starts as. Default:
        40-42, 42-44, ..., 74-76 Hz.
    n_taps : int
        Length of the temporal filters.
    relation_width : int
        Output channels of the 1x1 convolution over the branches.
    log : bool
        Take the natural logarithm of the powers.
    drop_prob : float
        Dropout in front of the classifier.
    freeze_filters : bool, optional
        Whether the temporal filters stay as they are. Default: in fine-tuning, as in the paper.
    shared_spatial : bool
        Let both branches use the same spatial filters.
    norm_per_branch : bool
        In training, normalise each branch by its own batch statistics, as two calls of one
        ``nn.BatchNorm2d`` would; the running statistics then move twice per batch. By default the
        statistics are those of both branches together. In evaluation there is no difference.

    Attributes
    ----------
    spatial, spatial_mirrored : nn.Conv2d
        Hold the weights (n_spatial, 1, n_chans, 1) of the two branches; like the modules inside
        ``filter_bank`` they are not called. ``spatial_mirrored`` is there in fine-tuning unless
        ``shared_spatial``; its columns are counted on the mirrored signal.
    filter_bank : eegfast.nn.FilterBankPower
        Temporal filters (``filter_bank.conv``) and normalisation (``filter_bank.norm``), for both
        branches.
    mirror : Tensor, shape (n_chans,)
        Index of each electrode's counterpart, in fine-tuning. Not part of the state dict.

    Raises
    ------
    ValueError
        If a size is not a whole number of at least 1, the stage is unknown, the bands do not fit
        the sampling rate, or the electrodes cannot be mirrored.

    Notes
    -----
    Parameters at the defaults: 2,633 in pre-training (spatial 992, temporal 738, normalisation 36,
    classifier 867) and 16,633 in fine-tuning, 738 of them frozen.

    **No code was published**, and the text leaves open much of what is an argument here. From the
    paper: 16 spatial and 18 temporal filters, N = 41, the bands and their FIR initialisation, the
    order spatial - temporal - normalisation - power - relation, temporal layers shared by the
    branches, the two stages, frozen temporal filters in the second. Our reading: N is the number
    of taps; the branches have spatial filters of their own that start equal; the convolutions have
    no bias (one behind the temporal filters would vanish in the normalisation, one in front of
    them is all but removed by band-passes); zeros continue the signal at both ends; normalisation
    is per temporal filter and goes on learning in fine-tuning; the relation layer is a 1x1
    convolution with 16 outputs, bias and ReLU; dropout 0. The paper defines power over DFT bins;
    the mean square over time is the same up to a constant factor, by Parseval's theorem. The
    softmax of the paper lives inside the loss: the output is logits.

    **What the filters can and cannot do.** 41 taps at 200 Hz do not resolve 2 Hz: each filter's
    -3 dB width is about 6.4 Hz, and neighbours overlap. Some lie on the mains at 50 Hz, and the
    last ones beyond 75 Hz, where SEED's recordings end. The initial taps are scaled to unit gain
    at the band's centre. Linear phase is not enforced in training, see :meth:`filter_asymmetry`.

    **Training, as published.** Windows of 1 s of SEED at 200 Hz, batches of 100, Adam with a
    learning rate of 1e-4, then 5e-5; 800 epochs of pre-training, 600 of fine-tuning; cross-entropy.
    The input's normalisation is not given; we suggest a z-score per electrode with the training
    set's statistics. Reported are 96.45 % over SEED's 45 sessions, five-fold cross-validation
    within each (93.53 % before fine-tuning). Whether the folds kept windows of one trial together
    is not said; where they do not, the figure cannot be compared with one where they do. We have
    not reproduced it.

    References
    ----------
    .. [1] Yan, Lu, Niu, Yan, "Hemispheric Asymmetry Measurement Network for Emotion
       Classification", CCBR 2022, LNCS 13628, doi:10.1007/978-3-031-20233-9_31.

    Examples
    --------
    >>> import torch
    >>> net = HAMNet(stage="pretrain")
    >>> net(torch.randn(8, 62, 200)).shape
    torch.Size([8, 3])
    >>> net = net.finetune()  # after training: both branches, temporal filters frozen
    >>> net(torch.randn(8, 62, 200)).shape
    torch.Size([8, 3])
    """

    def __init__(
        self,
        stage: str = "finetune",
        n_chans: int = 62,
        n_times: int | None = 200,
        sfreq: float = 200.0,
        n_outputs: int = 3,
        ch_names: Sequence[str] | None = None,
        n_spatial: int = 16,
        bands: Sequence[tuple[float, float]] | Mapping[str, tuple[float, float]] | None = None,
        n_taps: int = 41,
        relation_width: int = 16,
        log: bool = False,
        drop_prob: float = 0.0,
        freeze_filters: bool | None = None,
        shared_spatial: bool = False,
        norm_per_branch: bool = False,
    ):
        super().__init__()
        if stage not in STAGES:
            raise ValueError(f"HAMNet: stage must be one of {STAGES}, got {stage!r}")
        sizes = {"n_chans": n_chans, "n_outputs": n_outputs, "n_spatial": n_spatial}
        sizes |= {"relation_width": relation_width}
        if n_times is not None:
            sizes["n_times"] = n_times
        for name, value in sizes.items():
            if int(value) != value or value < 1:
                raise ValueError(f"HAMNet: {name} must be a whole number >= 1, got {value!r}")
        both = stage == "finetune"
        mirror = _mirror(n_chans, ch_names)
        if both and mirror is None:
            raise ValueError(
                f"HAMNet: ch_names must say which of the {n_chans} electrodes mirror each other "
                "(only 62 are taken for SEED's), got None"
            )
        self.stage, self.n_chans, self.n_times, self.sfreq = stage, n_chans, n_times, sfreq
        self.n_spatial, self.norm_per_branch = n_spatial, norm_per_branch

        self.spatial = nn.Conv2d(1, n_spatial, (n_chans, 1), bias=False)
        try:
            self.filter_bank = FilterBankPower(
                BANDS if bands is None else bands, sfreq, n_taps, log=log
            )
        except ValueError as error:
            raise ValueError(f"HAMNet: bands, sfreq or n_taps: {error}") from None
        if freeze_filters or (freeze_filters is None and both):
            self.filter_bank.conv.requires_grad_(False)
        n_powers = self.filter_bank.conv.out_channels * n_spatial
        self.spatial_mirrored = None
        if both:
            self.register_buffer("mirror", torch.tensor(mirror), persistent=False)
            if not shared_spatial:
                self.spatial_mirrored = nn.Conv2d(1, n_spatial, (n_chans, 1), bias=False)
                self.spatial_mirrored.load_state_dict(self.spatial.state_dict())
            self.relation = nn.Conv2d(2, relation_width, 1)
        self.dropout = nn.Dropout(drop_prob)
        self.classifier = nn.Linear(n_powers * (relation_width if both else 1), n_outputs)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        weight = self.spatial.weight
        shape = (batch_size, self.n_chans, self.n_times or 200)
        return (torch.randn(shape, dtype=weight.dtype, device=weight.device),)

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
        check_signal(self, x)
        weights = self._spatial_weights().flatten(0, 1)
        components = torch.bmm(weights.expand(x.shape[0], -1, -1), x)  # rows contiguous in time
        if self.stage == "pretrain":
            features = self.filter_bank(components)
        else:
            features = torch.relu(self.relation(self._branch_powers(components)))
        return self.classifier(self.dropout(features.flatten(1)))

    def _spatial_weights(self) -> Tensor:
        """Weights on the signal as it comes, (branches, n_spatial, n_chans)."""
        original = self.spatial.weight.flatten(1)
        if self.stage == "pretrain":
            return original.unsqueeze(0)
        other = self.spatial if self.spatial_mirrored is None else self.spatial_mirrored
        return torch.stack([original, other.weight.flatten(1)[:, self.mirror]])

    def _branch_powers(self, components: Tensor) -> Tensor:
        """``(N, 2 n_spatial, n_times)`` -> ``(N, 2, filters, n_spatial)``."""
        if self.norm_per_branch:
            return torch.stack([self.filter_bank(half) for half in components.chunk(2, 1)], 1)
        powers = self.filter_bank(components)
        return powers.unflatten(2, (2, self.n_spatial)).transpose(1, 2)

    def finetune(self, **options) -> HAMNet:
        """Return the network of the second stage, starting from this pre-trained one.

        Both branches begin with this network's spatial filters; the temporal filters, from now on
        frozen, and the normalisation with its running statistics are taken over as they are. The
        relation layer and the classifier are new. This network is left as it is.

        Parameters
        ----------
        **options
            Arguments of the constructor that are to differ from this network's, for example
            ``ch_names`` or ``relation_width``; not those that shape or place the filters.

        Returns
        -------
        HAMNet
            In training mode, with the dtype and on the device of this network.

        Raises
        ------
        ValueError
            If this is a network for fine-tuning already, an option does not fit its filters, or
            the electrodes cannot be mirrored.
        """
        if self.stage != "pretrain":
            raise ValueError(f'HAMNet.finetune: stage must be "pretrain", got {self.stage!r}')
        fixed = {"stage", "n_chans", "sfreq", "n_spatial", "bands", "n_taps"} & options.keys()
        if fixed:
            raise ValueError(
                "HAMNet.finetune: options must leave the filters as they were trained, "
                f"got {', '.join(sorted(fixed))}"
            )
        config = {**self.config, "freeze_filters": None, **options, "stage": "finetune"}
        network = HAMNet(**config).to(self.spatial.weight)
        network.spatial.load_state_dict(self.spatial.state_dict())
        if network.spatial_mirrored is not None:
            network.spatial_mirrored.load_state_dict(self.spatial.state_dict())
        network.filter_bank.load_state_dict(self.filter_bank.state_dict())
        return network

    @torch.no_grad()
    def spatial_patterns(self) -> Tensor:
        """Spatial filters of each branch as maps over the head.

        Returns
        -------
        Tensor, shape (branches, n_spatial, n_chans)
            Weights on the electrodes where they are, in the order of the input. The second branch,
            in fine-tuning, is turned back to the signal as recorded: if both branches have learned
            the same, its maps are the mirror images of the first's.
        """
        return self._spatial_weights().clone()

    @torch.no_grad()
    def filter_responses(self, n_points: int = 201) -> tuple[Tensor, Tensor]:
        """Gain of the temporal filters over frequency.

        Parameters
        ----------
        n_points : int
            Frequencies, evenly spaced from 0 to ``sfreq / 2``.

        Returns
        -------
        frequencies : Tensor, shape (n_points,)
            In Hz, float64.
        gains : Tensor, shape (filters, n_points)
            Magnitude of the response, float64; 1 passes an amplitude unchanged.
        """
        taps = self.filter_bank.conv.weight.flatten(1).double()
        steps = torch.linspace(0, torch.pi, n_points, dtype=torch.float64, device=taps.device)
        times = torch.arange(taps.shape[1], dtype=torch.float64, device=taps.device)
        gains = (taps.to(torch.complex128) @ torch.exp(-1j * times[:, None] * steps)).abs()
        return steps * (self.sfreq / (2 * torch.pi)), gains

    def filter_asymmetry(self) -> Tensor:
        """Sum over the temporal filters of the squared difference to the reversed taps.

        Zero for linear phase. Not part of the paper; KFCNet adds such a term to its loss, so that
        training keeps the phase linear.

        Returns
        -------
        Tensor
            A scalar with a gradient (zero filters' gradient where they are frozen).
        """
        taps = self.filter_bank.conv.weight
        return (taps - taps.flip(-1)).square().sum()


def _mirror(n_chans: int, ch_names: Sequence[str] | None) -> list[int] | None:
    """Who mirrors whom; without names SEED's electrodes, or None where there are not 62."""
    if ch_names is None:
        return mirror_map(SEED_CHANNELS) if n_chans == len(SEED_CHANNELS) else None
    if len(ch_names) != n_chans:
        raise ValueError(f"HAMNet: ch_names must be {n_chans} names, got {len(ch_names)}")
    try:
        return mirror_map(ch_names)
    except ValueError as error:
        raise ValueError(f"HAMNet: ch_names: {error}") from None
