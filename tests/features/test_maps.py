# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from eegfast.datasets import EEGMAT, SEED_CHANNELS
from eegfast.features import ElectrodeMaps, electrode_maps
from eegfast.features.maps import grid_cells

DEAP = (
    "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 "
    "CP2 P4 P8 PO4 O2"
).split()
EEGMAT_NAMES = EEGMAT(subjects=[1])[0].ch_names


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seed_grid(values):
    """SEED's channels into the 9 x 9 grid, row by row: (..., 62) -> (..., 9, 9)."""
    grid = values.new_zeros(*values.shape[:-1], 9, 9)
    columns = [slice(3, 6), [3, 5], *[slice(0, 9)] * 5, slice(1, 8), slice(2, 7)]
    rows = values.split([3, 2, 9, 9, 9, 9, 9, 7, 5], -1)
    for row, (at, part) in enumerate(zip(columns, rows, strict=True)):
        grid[..., row, at] = part
    return grid


def test_scatter_of_seed():
    values = random(4, 62)
    maps = ElectrodeMaps(SEED_CHANNELS, size=9, dtype=torch.float64)(values)
    assert torch.equal(maps, seed_grid(values))


@pytest.mark.parametrize("size", [32, 16, 9, 5, (24, 40), (40, 4), (1, 1)])
def test_bicubic_is_a_half_with_half_pixel_centres(size):
    values = random(3, 62)
    maps = ElectrodeMaps(SEED_CHANNELS, size, dtype=torch.float64)(values)
    grid = seed_grid(values).unsqueeze(1)
    # With antialias torch has a = -0.5 and the borders of Pillow; the other has a = -0.75.
    pair = (size, size) if isinstance(size, int) else size
    expected = interpolate(grid, pair, mode="bicubic", antialias=True).squeeze(1)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-13)
    if size == 32:
        other = interpolate(grid, pair, mode="bicubic").squeeze(1)
        assert (other - maps).abs().max() > 0.05


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (9, 9), (6, 6), (24, 40)])
def test_bicubic_is_pillow(size):
    image = pytest.importorskip("PIL.Image")
    values = random(62)
    maps = electrode_maps(SEED_CHANNELS, size) @ values
    grid = image.fromarray(seed_grid(values).float().numpy())
    expected = np.asarray(grid.resize(size[::-1], image.Resampling.BICUBIC))
    # Pillow holds float32 between its two passes.
    np.testing.assert_allclose(maps.view(size).numpy(), expected, rtol=0, atol=1e-6)


def test_nearest():
    values = random(2, 62)
    maps = ElectrodeMaps(SEED_CHANNELS, 31, resize="nearest", dtype=torch.float64)(values)
    expected = interpolate(seed_grid(values).unsqueeze(1), (31, 31), mode="nearest-exact")
    assert torch.equal(maps, expected.squeeze(1))


@pytest.mark.parametrize("names", [SEED_CHANNELS, DEAP, EEGMAT_NAMES], ids=["62", "32", "19"])
def test_cubic_fill_is_griddata(names):
    interpolation = pytest.importorskip("scipy.interpolate")
    values = 20 + 5 * random(len(names))
    cells = np.array(list(grid_cells(names).values()))
    at = tuple(np.mgrid[0:9, 0:9])
    expected = interpolation.griddata(cells, values.numpy(), at, "cubic", fill_value=0)
    grid = (electrode_maps(names, 9, fill="cubic") @ values).view(9, 9).numpy()
    # griddata stops its search for the slopes at 1e-6 of their size.
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(grid[tuple(cells.T)], values, rtol=0, atol=1e-10)
    assert grid[0, 0] == grid[8, 8] == 0  # outside the hull
    zero = (electrode_maps(names, 9) @ values).view(9, 9).numpy()
    assert np.count_nonzero(grid) >= np.count_nonzero(zero)
    big = (electrode_maps(names, 32, fill="cubic") @ values).view(1, 1, 32, 32)
    resized = interpolate(
        torch.tensor(grid).view(1, 1, 9, 9), (32, 32), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(big, resized, rtol=0, atol=1e-11)


def test_any_spelling_of_a_1020_name():
    cells = grid_cells(EEGMAT_NAMES)
    assert len(cells) == 19
    assert cells["T3"] == (4, 0) and cells["T6"] == (6, 8) and cells["Fp2"] == (0, 5)
    spelled = ["FP1", "EEG t5-REF", "afz", "O2-A1", "po7."]
    assert list(grid_cells(spelled).values()) == [(0, 3), (6, 0), (1, 4), (8, 5), (7, 1)]
    deap = grid_cells(DEAP)
    assert deap["AF3"] == (1, 3) and deap["PO4"] == (7, 5) and deap["Oz"] == (8, 4)
    assert len(set(deap.values())) == 32


def test_left_is_left_and_front_is_up():
    from eegfast.datasets import positions_for

    positions = positions_for(SEED_CHANNELS)
    for name, (row, column) in grid_cells(SEED_CHANNELS).items():
        x, y, _ = positions[name]
        assert np.sign(round(x, 4)) == np.sign(column - 4), name
        if column == 4:
            assert (y > positions["CZ"][1] + 1e-6) == (row < 4), name


def test_cells_and_missing_channels():
    names = ["Cz", "M1", "Iz", "Oz"]
    with pytest.raises(ValueError, match=r"no place on the 9 x 9 grid for M1, Iz: "):
        electrode_maps(names)
    matrix = electrode_maps(names, 9, on_missing="ignore")
    assert torch.equal(matrix.sum(0), torch.tensor([1.0, 0, 0, 1]).double())
    maps = ElectrodeMaps(names, 9, cells={"Iz": (8, 4), "Oz": (7, 4), "M1": (5, 0)})
    assert maps.cells == {"Cz": (4, 4), "M1": (5, 0), "Iz": (8, 4), "Oz": (7, 4)}
    values = torch.tensor([1.0, 2, 3, 4])
    grid = maps(values)
    assert grid[4, 4] == 1 and grid[5, 0] == 2 and grid[8, 4] == 3 and grid[7, 4] == 4
    assert grid.sum() == 10


def test_a_biosemi_cap_has_no_c3():
    with pytest.raises(ValueError, match="no place on the 9 x 9 grid for A3, B3, C3"):
        electrode_maps(["A3", "B3", "C3"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch_names": ["T3", "Cz", "T7"]}, "T3 and T7 have the same place, row 4, column 0"),
        ({"ch_names": ["Cz", "Cz"]}, "Cz and Cz have the same place"),
        ({"ch_names": "Cz"}, "ch_names must be a sequence of names, got 'Cz'"),
        ({"ch_names": []}, "at least one channel"),
        ({"cells": {"Cz": (9, 0)}}, r"the cell of Cz must be .* from 0 to 8, got \(9, 0\)"),
        ({"on_missing": "warn"}, "on_missing must be 'raise' or 'ignore', got 'warn'"),
        ({"size": 0}, "size must be a positive int or two, got 0"),
        ({"size": 3.5}, "size must be a positive int or two, got 3.5"),
        ({"size": (3, 4, 5)}, r"size must be a positive int or two, got \(3, 4, 5\)"),
        ({"fill": "linear"}, "fill must be one of zero, cubic, got 'linear'"),
        ({"resize": "cubic"}, "resize must be one of bicubic, nearest, got 'cubic'"),
        ({"fill": "cubic"}, "at least three electrodes that are not on a line"),
        ({"fill": "cubic", "ch_names": ["Fz", "Cz", "Pz", "Oz"]}, "not on a line"),
    ],
)
def test_errors(change, message):
    if change.get("fill") == "cubic":
        pytest.importorskip("scipy")
    for make in (electrode_maps, ElectrodeMaps):
        with pytest.raises(ValueError, match=message):
            make(**{"ch_names": ["Fz", "Cz"], **change})


def test_channels_on_any_axis_and_any_leading_axes():
    maps = ElectrodeMaps(EEGMAT_NAMES, (8, 12), dtype=torch.float64)
    values = random(2, 6, 19, 5)
    drawn = maps(values, axis=-2)
    assert drawn.shape == (2, 6, 5, 8, 12)
    expected = torch.einsum("pc,nwcb->nwbp", electrode_maps(EEGMAT_NAMES, (8, 12)), values)
    torch.testing.assert_close(drawn.flatten(-2), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(maps(values[0, 0, :, 0]), drawn[0, 0, 0])
    torch.testing.assert_close(maps(values.movedim(2, 0), axis=0), drawn)
    assert maps(values[:0], axis=-2).shape == (0, 6, 5, 8, 12)
    assert maps(values.float(), axis=2).dtype == torch.float32
    for shape, axis in (((4, 18), -1), ((19, 4), -1), ((19,), 1), ((), -1)):
        with pytest.raises(ValueError, match=f"must have 19 channels on axis {axis}, got shape"):
            maps(torch.zeros(shape), axis=axis)


class _Products(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_one_matrix_product():
    maps = ElectrodeMaps(SEED_CHANNELS)
    with _Products() as products:
        maps(torch.randn(3, 60, 62, 5), axis=-2)
    heavy = [name for name in products.called if name in ("mm", "bmm", "addmm", "matmul", "einsum")]
    assert heavy == ["mm"]


def test_gradients():
    maps = ElectrodeMaps(EEGMAT_NAMES, 7, dtype=torch.float64)
    values = random(2, 19, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: maps(x, axis=1), (values,))


def test_compile_and_export():
    maps = ElectrodeMaps(SEED_CHANNELS)
    values = random(2, 4, 62, dtype=torch.float32)
    expected = maps(values)
    compiled = torch.compile(maps, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values), expected)
    program = torch.export.export(maps, (values,))
    torch.testing.assert_close(program.module()(values), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(maps(values).float(), expected, rtol=0, atol=0.05)


def test_state_and_cache():
    maps = ElectrodeMaps(SEED_CHANNELS)
    assert maps.state_dict() == {} and list(maps.parameters()) == []
    assert "62 channels -> 32 x 32" in repr(maps)
    matrix = electrode_maps(SEED_CHANNELS)
    matrix.zero_()  # a copy: nobody else sees it
    assert electrode_maps(SEED_CHANNELS).abs().sum() > 0
    assert maps.double().matrix.dtype == torch.float64
