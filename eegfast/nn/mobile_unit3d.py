# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG's Mobile unit as a layer."""

from __future__ import annotations

from torch import Tensor, nn

from eegfast.ops.mobile_unit3d import MERGES, _unit


class MobileUnit3d(nn.Module):
    """BatchNorm, ReLU, expansion, BatchNorm, ReLU, depthwise 3x3x3, projection, fused.

    The submodules are torch's own and hold parameters, initialisation and running statistics; a
    state dict of ``nn.Sequential(OrderedDict(norm1=nn.BatchNorm3d(C), relu1=nn.ReLU(), expand=...,
    norm2=..., relu2=..., depthwise=..., project=...))`` loads as it is. Either norm may be put in
    evaluation mode by itself.

    Parameters
    ----------
    channels : int
        C, the channels of the input.
    expansion : int
        The expanded tensors have ``expansion * channels`` channels.
    merge : {"concat", "add"}
        Put the result behind the input (2 C channels come out), or add it (C channels).
    eps, momentum : float
        Of both norms. ``momentum=None`` averages over all batches, as in ``nn.BatchNorm3d``.

    See Also
    --------
    eegfast.ops.mobile_unit3d : shapes, formula, errors.

    Examples
    --------
    >>> unit = MobileUnit3d(4)
    >>> unit(torch.randn(16, 4, 5, 16, 16)).shape
    torch.Size([16, 8, 5, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        expansion: int = 8,
        merge: str = "concat",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"MobileUnit3d: merge must be one of {MERGES}, got {merge!r}")
        for name, value in {"channels": channels, "expansion": expansion}.items():
            if int(value) != value or value < 1:
                raise ValueError(f"MobileUnit3d: {name} must be a whole number >= 1, got {value!r}")
        expanded = expansion * channels
        self.merge = merge
        self.norm1 = nn.BatchNorm3d(channels, eps, momentum)
        self.expand = nn.Conv3d(channels, expanded, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(expanded, eps, momentum)
        self.depthwise = nn.Conv3d(expanded, expanded, 3, padding=1, groups=expanded, bias=False)
        self.project = nn.Conv3d(expanded, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, C, depth, height, width)`` to ``(batch, 2 C or C, depth, height, width)``."""
        norm1, norm2 = self.norm1, self.norm2
        return _unit(
            x,
            norm1.weight,
            norm1.bias,
            self.expand.weight,
            norm2.weight,
            norm2.bias,
            self.depthwise.weight,
            self.project.weight,
            running=(
                (norm1.running_mean, norm1.running_var),
                (norm2.running_mean, norm2.running_var),
            ),
            training=(norm1.training, norm2.training),
            momentum=(_count_batch(norm1), _count_batch(norm2)),
            eps=(norm1.eps, norm2.eps),
            merge=self.merge,
        )

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}"


def _count_batch(norm: nn.BatchNorm3d) -> float:
    """Count a batch of training and return its weight in the running statistics."""
    if not norm.training or norm.num_batches_tracked is None:
        return norm.momentum or 0.0
    norm.num_batches_tracked.add_(1)
    if norm.momentum is None:
        return 1.0 / float(norm.num_batches_tracked)
    return norm.momentum
