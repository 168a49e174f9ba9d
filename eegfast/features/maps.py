# SPDX-License-Identifier: BSD-3-Clause
"""Electrodes as pixels: values per channel to images of the scalp, as one matrix product.

Two steps, both linear in the values, so that together they are a fixed matrix::

    values (n_chans) --fill--> 9 x 9 grid --resize--> (height, width) map
    map.flatten() = matrix @ values          matrix (height * width, n_chans)

The grid is the one of the public re-implementations of SST-EmotionNet and of torcheeg for SEED's 62
channels; its remaining 10-10 places are filled in by symmetry.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from eegfast.datasets.montage import canonical_name, positions_for

GRID = 9
"""Rows and columns of the electrode grid."""

# Nose up. SEED's channels are all but AF7, AF5, AFz, AF6 and AF8.
_LAYOUT = """
    .    .    .    Fp1  Fpz  Fp2  .    .    .
    .    AF7  AF5  AF3  AFz  AF4  AF6  AF8  .
    F7   F5   F3   F1   Fz   F2   F4   F6   F8
    FT7  FC5  FC3  FC1  FCz  FC2  FC4  FC6  FT8
    T7   C5   C3   C1   Cz   C2   C4   C6   T8
    TP7  CP5  CP3  CP1  CPz  CP2  CP4  CP6  TP8
    P7   P5   P3   P1   Pz   P2   P4   P6   P8
    .    PO7  PO5  PO3  POz  PO4  PO6  PO8  .
    .    .    CB1  O1   Oz   O2   CB2  .    .
"""

_CELLS: dict[str, tuple[int, int]] = {
    name: (row, column)
    for row, line in enumerate(_LAYOUT.strip().splitlines())
    for column, name in enumerate(line.split())
    if name != "."
}

FILLS: dict[str, str] = {
    "zero": "cells without an electrode are 0",
    "cubic": "SciPy's cubic griddata between the electrodes, 0 outside their hull, as torcheeg",
}
"""What the cells without an electrode get."""

RESIZES: dict[str, str] = {
    "bicubic": "cubic convolution with a = -0.5 and half-pixel centres, as Pillow",
    "nearest": "the value of the nearest cell",
}
"""How the grid becomes a map of another size."""


def grid_cells(
    ch_names: Sequence[str],
    cells: Mapping[str, tuple[int, int]] | None = None,
    on_missing: str = "raise",
) -> dict[str, tuple[int, int]]:
    """Find the place of each channel on the 9 x 9 grid.

    Parameters
    ----------
    ch_names : sequence of str
        Channel names, any spelling that `eegfast.datasets.canonical_name` reads: ``"FP1"``,
        ``"EEG Fp1-Ref"``, old names (``"T3"`` is T7).
    cells : dict of str to (int, int), optional
        Row and column (from 0, nose up, left ear left) of channels by their name in ``ch_names``.
        They come before the built-in table.
    on_missing : {"raise", "ignore"}
        Whether a channel without a place is an error or left out.

    Returns
    -------
    dict of str to (int, int)
        Row and column by channel name.

    Raises
    ------
    ValueError
        If a channel has no place (all such channels are named), two have the same one, a name comes
        twice, or a cell is not on the grid.
    """
    if isinstance(ch_names, str) or not all(isinstance(name, str) for name in ch_names):
        raise ValueError(f"grid_cells: ch_names must be a sequence of names, got {ch_names!r}")
    if on_missing not in ("raise", "ignore"):
        raise ValueError(f"grid_cells: on_missing must be 'raise' or 'ignore', got {on_missing!r}")
    names, given = list(ch_names), dict(cells or {})
    known = positions_for(names)  # tells a BioSemi cap's C3 from the electrode C3
    found: dict[str, tuple[int, int]] = {}
    owner: dict[tuple[int, int], str] = {}
    missing = []
    for name in names:
        cell = given.get(name) or (_CELLS.get(canonical_name(name)) if name in known else None)
        if cell is None:
            missing.append(name)
            continue
        row, column = (int(index) for index in cell)
        if not (0 <= row < GRID and 0 <= column < GRID):
            raise ValueError(
                f"grid_cells: the cell of {name} must be (row, column), each from 0 to {GRID - 1}, "
                f"got {tuple(cell)}"
            )
        if (row, column) in owner:
            raise ValueError(
                f"grid_cells: {owner[row, column]} and {name} have the same place, row {row}, "
                f"column {column}: leave one out"
            )
        owner[row, column] = name
        found[name] = (row, column)
    if missing and on_missing == "raise":
        raise ValueError(
            f"grid_cells: no place on the {GRID} x {GRID} grid for {', '.join(missing)}: leave "
            "them out, give cells={name: (row, column)}, or on_missing='ignore'"
        )
    if not found:
        raise ValueError("grid_cells: ch_names must hold at least one channel with a place")
    return found


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else size
    try:
        height, width = (operator.index(n) for n in pair)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"electrode_maps: size must be a positive int or two, got {size!r}")
    return height, width


def _cubic_weights(distance: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _resize_matrix(size: int, resize: str) -> np.ndarray:
    """(size, 9): what each pixel of a line takes from each cell; centres are at halves."""
    centres = (np.arange(size) + 0.5) * GRID / size
    if resize == "nearest":
        return np.eye(GRID)[centres.astype(int)]
    # Smaller maps widen the kernel; at the borders the weights that are left are scaled to sum 1.
    distance = (np.arange(GRID) + 0.5 - centres[:, None]) / max(GRID / size, 1.0)
    weights = _cubic_weights(distance)
    return weights / weights.sum(1, keepdims=True)


def _cubic_fill(cells: np.ndarray) -> np.ndarray:
    """(81, n): cubic interpolation on the triangulated cells, applied to unit vectors."""
    try:
        from scipy.interpolate import CloughTocher2DInterpolator
        from scipy.spatial import QhullError
    except ImportError as error:
        raise ImportError("electrode_maps: fill='cubic' needs SciPy: pip install scipy") from error
    try:
        # SciPy finds the slopes by iteration; run to the end, they are linear in the values.
        surface = CloughTocher2DInterpolator(
            cells, np.eye(len(cells)), fill_value=0.0, tol=1e-13, maxiter=10_000
        )
    except (QhullError, ValueError) as error:
        raise ValueError(
            "electrode_maps: fill='cubic' needs at least three electrodes that are not on a line"
        ) from error
    return surface(np.indices((GRID, GRID)).reshape(2, -1).T)


@functools.lru_cache(maxsize=64)
def _matrix(
    cells: tuple[tuple[int, int] | None, ...], size: tuple[int, int], fill: str, resize: str
) -> np.ndarray:
    """The matrix (height * width, n_chans) of channels in these cells; not to be written to."""
    places = [i for i, cell in enumerate(cells) if cell is not None]
    at = np.array([cells[i] for i in places])
    if fill == "zero":
        grid = np.eye(GRID * GRID)[:, at[:, 0] * GRID + at[:, 1]]
    else:
        grid = _cubic_fill(at)
    matrix = np.zeros((size[0] * size[1], len(cells)))
    matrix[:, places] = np.kron(*(_resize_matrix(n, resize) for n in size)) @ grid
    return matrix


def electrode_maps(
    ch_names: Sequence[str],
    size: int | tuple[int, int] = 32,
    *,
    fill: str = "zero",
    resize: str = "bicubic",
    cells: Mapping[str, tuple[int, int]] | None = None,
    on_missing: str = "raise",
) -> Tensor:
    """Make the matrix that turns a value per channel into a map of the scalp.

    Parameters
    ----------
    ch_names : sequence of str
        Channels in the order of the values. Any 10-20 or 10-10 montage: SEED's 62, DEAP's 32,
        the bundled 19.
    size : int or (int, int)
        Height and width of the map. 9 gives the grid itself: each electrode in its cell.
    fill : {"zero", "cubic"}
        What cells without an electrode get. ``"zero"``: 0. ``"cubic"``: cubic interpolation on the
        triangulated electrodes, and 0 outside their hull, as SciPy's ``griddata`` and torcheeg's
        ``ToInterpolatedGrid`` (needs SciPy).
    resize : {"bicubic", "nearest"}
        From the grid to ``size``. ``"bicubic"``: Pillow's (a = -0.5, half-pixel centres; torch's
        ``interpolate`` has a = -0.75 unless it antialiases). ``"nearest"``: the nearest cell.
    cells, on_missing
        Places of further electrodes and what to do with those that have none:
        :func:`eegfast.features.maps.grid_cells`. A channel that is ignored has a column of zeros.

    Returns
    -------
    Tensor, shape (height * width, n_chans)
        float64. Matrices are kept from call to call; this is a copy.

    Raises
    ------
    ValueError
        If a channel has no place on the grid (it is named), two share one, or an argument is none
        of the above.
    ImportError
        If ``fill="cubic"`` and SciPy is missing.

    Notes
    -----
    Columns 0 to 8 are 7 5 3 1 z 2 4 6 8 in the rows of F to P; the row of AF and PO begins with 7
    in column 1, the last one with CB1 in column 2. SEED's places are those that LexieLiu01's
    SST-EmotionNet and torcheeg agree on; neither official repository publishes its own. AF7, AF5,
    AFz, AF6 and AF8 are ours. AF1, AF2, PO1, PO2, the ring below (F9, FT9, TP9, Iz ...) and the
    mastoids have no cell of their own.

    Examples
    --------
    >>> electrode_maps(["Fp1", "Fp2", "Cz", "O1", "O2"], size=32).shape
    torch.Size([1024, 5])
    """
    names = list(ch_names) if not isinstance(ch_names, str) else ch_names
    places = grid_cells(names, cells, on_missing)
    height_and_width = _pair(size)
    if fill not in FILLS:
        raise ValueError(f"electrode_maps: fill must be one of {', '.join(FILLS)}, got {fill!r}")
    if resize not in RESIZES:
        raise ValueError(
            f"electrode_maps: resize must be one of {', '.join(RESIZES)}, got {resize!r}"
        )
    per_channel = tuple(places.get(name) for name in names)
    return torch.tensor(_matrix(per_channel, height_and_width, fill, resize))


class ElectrodeMaps(nn.Module):
    """Values per channel to maps of the scalp: one matrix product.

    Parameters
    ----------
    ch_names, size, fill, resize, cells, on_missing
        As for :func:`electrode_maps`.
    dtype : torch.dtype, optional
        Of the matrix; default torch's default. Values of another dtype are multiplied by a rounded
        copy, so give float64 where the maps are to be float64.

    Attributes
    ----------
    ch_names : list of str
        Channels.
    cells : dict of str to (int, int)
        Row and column of each channel on the 9 x 9 grid.
    size : tuple of int
        Height and width of the maps.
    matrix : Tensor, shape (height * width, n_chans)
        A buffer, which moves with the module and is not saved with its state.

    Raises
    ------
    ValueError, ImportError
        As :func:`electrode_maps`.

    Notes
    -----
    Differentiable in the values; any device; ``torch.compile`` and ``torch.export``. Every pixel is
    a sum over all channels, with weight 0 for most: a NaN or infinite channel (the DE of a flat one
    is -inf) makes the whole map NaN.

    Examples
    --------
    >>> maps = ElectrodeMaps(["Fp1", "Fp2", "T3", "T4", "Cz", "O1", "O2"])
    >>> maps(torch.randn(16, 7)).shape
    torch.Size([16, 32, 32])
    >>> maps(torch.randn(60, 7, 5), axis=-2).shape       # windows, channels, bands
    torch.Size([60, 5, 32, 32])
    """

    def __init__(
        self,
        ch_names: Sequence[str],
        size: int | tuple[int, int] = 32,
        *,
        fill: str = "zero",
        resize: str = "bicubic",
        cells: Mapping[str, tuple[int, int]] | None = None,
        on_missing: str = "raise",
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        matrix = electrode_maps(
            ch_names, size, fill=fill, resize=resize, cells=cells, on_missing=on_missing
        )
        self.register_buffer(
            "matrix", matrix.to(dtype or torch.get_default_dtype()), persistent=False
        )
        self.ch_names = list(ch_names)
        self.cells = grid_cells(self.ch_names, cells, on_missing)
        self.size = _pair(size)
        self.fill, self.resize = fill, resize

    def forward(self, values: Tensor, axis: int = -1) -> Tensor:
        """Draw the maps.

        Parameters
        ----------
        values : Tensor, shape (..., n_chans, ...)
            Floating point.
        axis : int
            The axis of the channels.

        Returns
        -------
        Tensor, shape (..., height, width)
            The other axes of ``values`` in their order, then the map.

        Raises
        ------
        ValueError
            If that axis is not there or does not have ``n_chans`` entries.
        """
        n_chans = self.matrix.shape[1]
        if not -values.dim() <= axis < values.dim() or values.shape[axis] != n_chans:
            raise ValueError(
                f"ElectrodeMaps: values must have {n_chans} channels on axis {axis}, "
                f"got shape {tuple(values.shape)}"
            )
        rows = values.movedim(axis, -1).contiguous()  # strided rows would make many small products
        maps = nn.functional.linear(rows, self.matrix.to(values.dtype))
        return maps.unflatten(-1, self.size)

    def extra_repr(self) -> str:
        height, width = self.size
        return (
            f"{len(self.ch_names)} channels -> {height} x {width}, fill={self.fill!r}, "
            f"resize={self.resize!r}"
        )
