# SPDX-License-Identifier: BSD-3-Clause
"""SST-EmotionNet: two attention-gated 3-D dense networks, over frequency and over time maps.

Layout of the tensors, ``(channels, depth, height, width)``, for the released sizes::

                      frequency stream    time stream
    input             (1, 5, 32, 32)      (1, 25, 32, 32)
    stem              (24, 5, 32, 32)     (48, 13, 8, 8)      time: convolution and max-pool
    block1            (48, 5, 32, 32)     (120, 13, 8, 8)
    transition1       (24, 2, 16, 16)     (120, 6, 4, 4)      then attention1
    block2            (48, 2, 16, 16)     (192, 6, 4, 4)
    transition2       (24, 1, 8, 8)       (192, 3, 2, 2)      then attention2
    block3, mean      (48,)               (264,)
    head              (50,) (n_outputs,)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eegfast.models._sst_layers import (
    ConvBlock,
    FrequencyStem,
    ParallelAttention,
    TimeStem,
    Transition,
    build_stream,
)
from eegfast.models._sst_torcheeg import convert
from eegfast.models.base import Network
from eegfast.models.registry import register

# What an argument is that the caller leaves None.
VARIANTS = {
    "released": {
        "placement": "after_transition",
        "gate": "sigmoid",
        "transition_relu": True,
        "drop_prob": 0.5,
    },
    "paper": {
        "placement": "before_block",
        "gate": "softmax",
        "transition_relu": False,
        "drop_prob": 0.5,
    },
    "torcheeg": {
        "placement": "before_block",
        "gate": "sigmoid",
        "transition_relu": True,
        "drop_prob": 0.0,
    },
}


@register("sst-emotionnet")
class SSTEmotionNet(Network):
    """Spatial-spectral and spatial-temporal 3-D dense networks with attention, side by side.

    Parameters
    ----------
    variant : {"released", "paper", "torcheeg"}
        Whose reading of the network: the authors' Keras code, the paper's text where that differs,
        or torcheeg 1.1.3, whose weights :meth:`from_torcheeg` loads. See the notes.
    n_bands : int
        Depth of the frequency maps.
    n_steps : int
        Depth of the time maps: time points or segments, not samples of the signal.
    grid : int or list of two int
        Side of the maps, or height and width.
    n_outputs : int
        Classes.
    frequency_depth, time_depth : int
        Depth of the streams as DenseNets count it: each dense block has ``(depth - 4) / 3 // 2``
        convolution blocks.
    frequency_growth, time_growth : int
        Channels that a convolution block adds. The stem makes twice as many.
    frequency_compression, time_compression : float
        Channels that a transition keeps, as a share of its input's, in ``(0, 1]``.
    n_blocks : int
        Dense blocks per stream.
    n_hidden : int
        Width of the first linear layer of the head. No activation follows it.
    placement : {"after_transition", "before_block"} or None
        Where the attentions are: two per stream, or three. ``None``: as the variant has it; so
        below.
    gate : {"sigmoid", "softmax"} or None
        What makes attention weights of scores.
    transition_relu : bool or None
        Whether a ReLU follows a transition's BatchNorm.
    drop_prob : float or None
        Dropout in the head.

    Raises
    ------
    ValueError
        If an argument is out of range, or the maps are so small that pooling leaves nothing.

    Notes
    -----
    Trainable parameters at the defaults: 519,213 (with 8 steps 519,167), and 525,959 with the
    BatchNorm statistics at 8 steps, 526,005 at 25; ``"paper"`` 1,573,185; ``"torcheeg"``
    1,579,233, on a 16 x 16 grid 525,747. The 2.29 million that the LDM-EEG paper gives for its own
    port were not reproduced by any combination of the options that we tried.

    **Where the sources differ.**

    ===================  ==================  ====================  =====================
    \\                    ``"released"``      ``"paper"``           ``"torcheeg"``
    ===================  ==================  ====================  =====================
    attention            after transitions   before dense blocks   before dense blocks
    attention weights    sigmoid             softmax               sigmoid
    ReLU in transitions  yes                 none is mentioned     yes
    1x1x1 convolution    no                  no                    yes
    between 3x3 and 3
    padding, time stem   TensorFlow's SAME   as released           symmetric
    dropout in the head  0.5                 0.5                   0
    BatchNorm momentum   0.01                0.01                  0.1
    initial weights      Keras: He normal,   as released           torch's own
                         Glorot uniform
    ===================  ==================  ====================  =====================

    The paper's figure, not its text, is the source of the attention before every block, through
    the account of a public port. With the softmax a voxel's weight is about one over the number of
    voxels, so that the eps of the following BatchNorm, 1.1e-5, is no longer small against the
    variance. All BatchNorms have that eps. SAME padding is asymmetric here: of 32 points the
    stride-2 5x5 kernel sees one zero before and two behind, and the max-pool's windows start at
    index 0; symmetric padding moves the grid by one and gives other sizes for an even number of
    steps. The released code builds its time stem twice and discards the first; so there is one.
    torcheeg's optional dropout inside dense blocks (0 by default) does not exist here.

    The output is logits. The released code ends in a softmax, in a sigmoid for two classes.

    **Training**, released: Adam at 1e-4, batches of 64, 50 epochs, and an L2 penalty on some of
    the convolutions only: see :meth:`parameter_groups`. Its early stopping watches the test set,
    and its learning phase is fixed to "training", which probably leaves dropout and batch
    statistics on at evaluation. The published accuracies are thus no target for an honest one.
    Preprocessing was never released; public ports fill the gap in different ways.

    Convolutions are computed as 2-D ones on channels-last tensors, and transitions average before
    they convolve: the same function as the published order, at less cost.

    References
    ----------
    .. [1] Jia et al., "SST-EmotionNet: Spatial-Spectral-Temporal based Attention 3D Dense Network
       for EEG Emotion Recognition", ACM Multimedia 2020, and github.com/ziyujia/SST-EmotionNet.
    .. [2] torcheeg 1.1.3, torcheeg.models.SSTEmotionNet.

    Examples
    --------
    >>> import torch
    >>> net = SSTEmotionNet(n_steps=8, grid=16).eval()
    >>> net(torch.zeros(4, 1, 5, 16, 16), torch.zeros(4, 1, 8, 16, 16)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        variant: str = "released",
        n_bands: int = 5,
        n_steps: int = 25,
        grid: int | list[int] = 32,
        n_outputs: int = 3,
        frequency_depth: int = 16,
        time_depth: int = 22,
        frequency_growth: int = 12,
        time_growth: int = 24,
        frequency_compression: float = 0.5,
        time_compression: float = 1.0,
        n_blocks: int = 3,
        n_hidden: int = 50,
        placement: str | None = None,
        gate: str | None = None,
        transition_relu: bool | None = None,
        drop_prob: float | None = None,
    ):
        super().__init__()
        _check_choice("variant", variant, VARIANTS)
        given = {"placement": placement, "gate": gate, "transition_relu": transition_relu}
        given |= {"drop_prob": drop_prob}
        options = VARIANTS[variant] | {k: v for k, v in given.items() if v is not None}
        _check_choice("placement", options["placement"], ("after_transition", "before_block"))
        _check_choice("gate", options["gate"], ("sigmoid", "softmax"))
        self.grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        sizes = {"n_bands": n_bands, "n_steps": n_steps, "grid": min(self.grid)}
        sizes |= {"n_outputs": n_outputs, "n_blocks": n_blocks, "n_hidden": n_hidden}
        sizes |= {"frequency_growth": frequency_growth, "time_growth": time_growth}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"SSTEmotionNet: {name} must be at least 1, got {size}")
        self.n_bands, self.n_steps, self.n_outputs = n_bands, n_steps, n_outputs

        drop_prob = options.pop("drop_prob")
        is_torcheeg = variant == "torcheeg"
        options |= {"n_blocks": n_blocks, "extra": is_torcheeg}
        options["momentum"] = 0.1 if is_torcheeg else 0.01
        self.frequency, n_frequency = build_stream(
            "frequency",
            FrequencyStem(2 * frequency_growth),
            (n_bands, *self.grid),
            frequency_depth,
            frequency_growth,
            frequency_compression,
            **options,
        )
        self.time, n_time = build_stream(
            "time",
            TimeStem(2 * time_growth, options["momentum"], symmetric=is_torcheeg),
            (n_steps, *self.grid),
            time_depth,
            time_growth,
            time_compression,
            **options,
        )
        self.head = nn.Sequential(
            nn.Linear(n_frequency + n_time, n_hidden),
            nn.Dropout(drop_prob),
            nn.Linear(n_hidden, n_outputs),
        )
        if not is_torcheeg:
            self.apply(_initialise_as_keras)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        device = self.head[0].weight.device
        return tuple(
            torch.randn(batch_size, 1, depth, *self.grid, device=device)
            for depth in (self.n_bands, self.n_steps)
        )

    def _check(self, frequency_maps: Tensor, time_maps: Tensor) -> None:
        pairs = {"frequency": (frequency_maps, self.n_bands), "time": (time_maps, self.n_steps)}
        for name, (maps, depth) in pairs.items():
            expected = (1, depth, *self.grid)
            if maps.dim() != 5 or maps.shape[1:] != expected:
                raise ValueError(
                    f"SSTEmotionNet: expected {name}_maps (N, {', '.join(map(str, expected))}), "
                    f"got {tuple(maps.shape)}"
                )
        if frequency_maps.shape[0] != time_maps.shape[0]:
            raise ValueError(
                f"SSTEmotionNet: expected as many time_maps as frequency_maps, "
                f"{frequency_maps.shape[0]}, got {time_maps.shape[0]}"
            )

    def forward(self, frequency_maps: Tensor, time_maps: Tensor) -> Tensor:
        """Logits of a batch of samples.

        Parameters
        ----------
        frequency_maps : torch.Tensor
            ``(N, 1, n_bands, height, width)``: a map of the scalp for each band, of differential
            entropies.
        time_maps : torch.Tensor
            ``(N, 1, n_steps, height, width)``: a map of the scalp for each time point.

        Returns
        -------
        torch.Tensor
            Logits ``(N, n_outputs)``.

        Raises
        ------
        ValueError
            If a shape is another, or the numbers of samples differ.
        """
        self._check(frequency_maps, time_maps)
        streams = self.frequency(frequency_maps), self.time(time_maps)
        return self.head(torch.cat([x.mean((2, 3, 4)) for x in streams], 1))

    @torch.no_grad()
    def attention_maps(
        self, frequency_maps: Tensor, time_maps: Tensor
    ) -> dict[str, list[dict[str, Tensor]]]:
        """Attention weights, for plots. Call ``eval()`` before, as for predictions.

        Parameters
        ----------
        frequency_maps, time_maps : torch.Tensor
            As for :meth:`forward`.

        Returns
        -------
        dict
            ``"frequency"`` and ``"time"``: for each attention of the stream, in order, a dict with
            ``"spatial"``, ``(N, height, width)`` at that attention's size, and ``"depth"``,
            ``(N, bands or steps left)``.
        """
        self._check(frequency_maps, time_maps)
        found: dict[str, list[dict[str, Tensor]]] = {"frequency": [], "time": []}
        for name, x in (("frequency", frequency_maps), ("time", time_maps)):
            for layer in getattr(self, name):
                if isinstance(layer, ParallelAttention):
                    spatial, depth = layer.weights(x)
                    found[name].append({"spatial": spatial, "depth": depth})
                x = layer(x)
        return found

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Weights under the released code's L2 penalty.

        Returns
        -------
        list of torch.nn.Parameter
            Those of the stems, of the 1x1x1 bottlenecks and of the transitions' convolutions; not
            of the other convolutions, nor the linear layers, BatchNorms or biases.
        """
        weights = []
        for module in self.modules():
            if isinstance(module, FrequencyStem | TimeStem | Transition):
                weights.append(module.conv.weight)
            elif isinstance(module, ConvBlock):
                weights.append(module.bottleneck.weight)
        return weights

    def parameter_groups(self, l2: float = 1e-4) -> list[dict]:
        """Groups for ``torch.optim.Adam`` that train with the released code's penalty.

        Parameters
        ----------
        l2 : float
            Keras adds ``l2 * sum(w ** 2)`` to the loss, whose gradient is ``2 * l2 * w``: torch's
            ``weight_decay`` is therefore ``2 * l2``. AdamW would do something else with it.

        Returns
        -------
        list of dict
            The decayed parameters and the others.
        """
        decayed = self.decayed_parameters()
        ids = {id(p) for p in decayed}
        others = [p for p in self.parameters() if id(p) not in ids]
        return [
            {"params": decayed, "weight_decay": 2 * l2},
            {"params": others, "weight_decay": 0.0},
        ]

    @classmethod
    def from_torcheeg(cls, state_dict: Mapping[str, Tensor], **kwargs) -> SSTEmotionNet:
        """Build the ``"torcheeg"`` variant with the weights of torcheeg's ``SSTEmotionNet``.

        Parameters
        ----------
        state_dict : mapping of str to torch.Tensor
            What ``state_dict()`` of torcheeg's network returns.
        **kwargs
            Arguments of the constructor where they differ from the defaults, but ``variant``. In
            torcheeg's terms: ``n_bands = spectral_in_channels``, ``n_steps =
            temporal_in_channels``, ``grid = grid_size``, ``n_outputs = num_classes``,
            ``frequency_growth = spectral_growth_rate``, ``n_hidden = hid_channels``,
            ``drop_prob = task_dropout`` and so on.

        Returns
        -------
        SSTEmotionNet
            In evaluation mode. Of torcheeg's input ``x`` it takes ``x[:, None, :n_bands]`` and
            ``x[:, None, n_bands:]``.

        Raises
        ------
        ValueError
            If names or shapes of the weights do not fit the arguments.
        """
        network = cls(variant="torcheeg", **kwargs)
        try:
            network.load_state_dict(convert(state_dict))
        except RuntimeError as error:
            raise ValueError(f"SSTEmotionNet.from_torcheeg: {error}") from None
        return network.eval()


def _check_choice(argument: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"SSTEmotionNet: {argument} must be one of {list(choices)}, got {value!r}")


def _initialise_as_keras(module: nn.Module) -> None:
    """He-normal convolutions (truncated at two deviations), Glorot-uniform linear layers."""
    if isinstance(module, nn.Conv3d):
        fan_in = module.weight[0].numel()
        # 0.8796: deviation of a normal variable truncated at two of its deviations.
        std = math.sqrt(2 / fan_in) / 0.87962566103423978
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
