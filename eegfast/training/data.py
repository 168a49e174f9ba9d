# SPDX-License-Identifier: BSD-3-Clause
"""Features as torch takes them: a ``Dataset``, or tensors that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset


def _indices(who: str, indices: ArrayLike | None, n: int) -> torch.Tensor:
    if indices is None:
        return torch.arange(n)
    index = torch.tensor(np.asarray(indices))
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{who}: indices must be a 1-D array of whole numbers")
    if len(index) and not 0 <= index.min() <= index.max() < n:
        raise ValueError(
            f"{who}: indices must be within 0..{n - 1}, got {index.min()}..{index.max()}"
        )
    return index.long()


def _labels(who: str, labels: ArrayLike, n: int) -> torch.Tensor:
    classes = torch.tensor(np.asarray(labels))
    if classes.shape != (n,) or classes.is_floating_point():
        raise ValueError(
            f"{who}: labels must be one class number for each of the {n} samples, "
            f"got {classes.dtype} of shape {tuple(classes.shape)}"
        )
    return classes.long()


class WindowDataset(Dataset):
    """Samples with their labels, read one at a time: items are ``(x, y)``.

    Parameters
    ----------
    features : array_like, shape (n, ...)
        Anything that has a length and gives ``features[i]``: an array, a memory map, a Zarr array,
        a tensor. Nothing is copied as a whole.
    labels : array_like of int, shape (n,)
        Classes.
    indices : array_like of int, optional
        Samples to take, such as ``split.train``. Default: all.
    transform : callable, optional
        Applied to each ``x``, a float32 tensor on the CPU.

    Raises
    ------
    ValueError
        If labels or indices do not fit the features.

    Examples
    --------
    >>> x, y = WindowDataset(np.zeros((10, 62, 5)), np.arange(10) % 3, indices=[4, 7])[1]
    >>> x.shape, x.dtype, int(y)
    (torch.Size([62, 5]), torch.float32, 1)
    """

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        indices: ArrayLike | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        n = len(features)
        self.features, self.transform = features, transform
        self.labels = _labels("WindowDataset", labels, n)
        self.indices = _indices("WindowDataset", indices, n)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        i = int(self.indices[index])
        x = self.features[i]
        x = x.float() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, np.float32))
        return x if self.transform is None else self.transform(x), self.labels[i]


class ResidentLoader:
    """Batches from tensors that lie on the device, in place of a ``DataLoader``.

    All of SEED's differential entropy is 189 MB. Once on the device, a batch is one
    ``index_select``: no worker, no copy from the host. It serves wherever an iterable of
    ``(x, y)`` with a length does, as Lightning's ``train_dataloader`` among others.

    Parameters
    ----------
    features : array_like or Tensor, shape (n, ...), or a tuple of them
        Samples, made float32; a tuple for networks with several inputs, ``x`` is then a tuple too.
        A float32 tensor that is on the device already is not copied, so the loaders of all sides
        of a split can share it.
    labels : array_like or Tensor of int, shape (n,)
        Classes.
    batch_size : int
        Samples per batch.
    shuffle : bool
        Another order in each epoch.
    device : str or torch.device, optional
        Where to. Default: where the features are.
    generator : torch.Generator, optional
        Of the order, a CPU one: ``torch.Generator().manual_seed(0)`` gives the same batches on
        every device. Default: torch's own.
    drop_last : bool
        Leave out a last batch that is not full.
    indices : array_like of int, optional
        Samples to take, such as ``split.train``. Default: all.
    share : (int, int)
        Rank and number of processes. Of each batch a process takes its share, as nearly equal as
        can be; all must draw the same order. A last batch with too few samples for each to have
        one is left out.

    Raises
    ------
    ValueError
        If shapes do not fit, there is no sample, or ``batch_size`` is below 1 or below the number
        of processes.

    Examples
    --------
    >>> loader = ResidentLoader(torch.randn(10, 62, 5), torch.arange(10) % 3, batch_size=4)
    >>> [len(y) for x, y in loader]
    [4, 4, 2]
    """

    def __init__(
        self,
        features: ArrayLike | torch.Tensor,
        labels: ArrayLike | torch.Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        device: str | torch.device | None = None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        indices: ArrayLike | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        self.rank, self.world = share
        if batch_size < self.world:
            raise ValueError(
                f"ResidentLoader: batch_size must be at least {self.world}, got {batch_size}"
            )
        several = isinstance(features, tuple)
        inputs = tuple(
            part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part, np.float32))
            for part in (features if several else (features,))
        )
        if len({len(part) for part in inputs}) != 1:
            raise ValueError(
                "ResidentLoader: inputs must be of one length, at least one, got "
                f"{[len(part) for part in inputs]}"
            )
        inputs = tuple(part.to(device=device, dtype=torch.float32) for part in inputs)
        self.features = inputs if several else inputs[0]
        n, device = len(inputs[0]), inputs[0].device
        if isinstance(labels, torch.Tensor):
            labels = labels.cpu()
        self.labels = _labels("ResidentLoader", labels, n).to(device)
        self.indices = _indices("ResidentLoader", indices, n).to(device)
        if len(self.indices) == 0:
            raise ValueError("ResidentLoader: there is no sample")
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.generator = generator

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (rest >= self.world and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self.indices
        if self.shuffle:
            shuffled = torch.randperm(len(order), generator=self.generator)
            order = order[shuffled.to(order.device)]
        for batch in order.split(self.batch_size)[: len(self)]:
            batch = batch.tensor_split(self.world)[self.rank]
            if isinstance(self.features, tuple):
                x = tuple(part.index_select(0, batch) for part in self.features)
            else:
                x = self.features.index_select(0, batch)
            yield x, self.labels.index_select(0, batch)
