# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from eegfast.nn import ScalingConv1d


def by_hand(layer: ScalingConv1d, x):
    """The layer out of torch's own parts."""
    kernel, rows = layer.weight, x.flatten(0, -3) if x.dim() > 2 else x[None]
    n_chans, n_times = x.shape[-2:]
    outputs = []
    for level, length in enumerate(layer.levels):
        if level:
            pad = int(kernel.shape[-1] // 2 % 2 == 0)
            flat = kernel.reshape(1, -1, kernel.shape[-1])
            flat = F.avg_pool1d(flat, 2, 2, pad, count_include_pad=layer.count_include_pad)
            kernel = flat.reshape(*kernel.shape[:-1], -1)
        assert kernel.shape[-1] == length
        full = kernel.expand(n_chans, -1, -1).reshape(-1, 1, length)
        bias = layer.bias[..., level].expand(n_chans, -1).reshape(-1)
        out = F.conv1d(rows, full, bias, padding="same", groups=n_chans)
        outputs.append(out.unflatten(1, (n_chans, layer.filters)))
    out = torch.stack(outputs, 3)
    out = torch.relu(out) if layer.relu else out
    return out.reshape(*x.shape[:-1], layer.filters, len(layer.levels), n_times)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_is_its_parts(shared, relu, count_include_pad):
    layer = ScalingConv1d(
        3, 2, 17, relu=relu, shared=shared, count_include_pad=count_include_pad
    ).double()
    for shape in ((3, 40), (2, 3, 40), (2, 2, 3, 9)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(layer(x), by_hand(layer, x), rtol=1e-13, atol=1e-14)


def test_shapes_and_names_of_the_parameters():
    layer = ScalingConv1d(32)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"weight": (32, 1, 33), "bias": (32, 1, 6)}
    assert sum(p.numel() for p in layer.parameters()) == 1_248  # the paper's network
    shared = ScalingConv1d(32, 8, 65, max_levels=6, shared=True)
    assert shared.weight.shape == (8, 65) and shared.bias.shape == (8, 6)
    assert shared.levels == [65, 33, 17, 9, 5, 3]
    assert "levels=[65, 33, 17, 9, 5, 3], shared=True" in repr(shared)


def test_initial_values_are_uniform():
    layer = ScalingConv1d(62, 8, 65)
    bound = 65**-0.5
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert abs(float(values.std()) / bound - 3**-0.5) < 0.05


@pytest.mark.parametrize("shared", [False, True])
def test_compiles_whole_with_equal_results(shared):
    torch.manual_seed(0)
    layer = ScalingConv1d(3, 4, 33, shared=shared)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 150, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out, other = layer(x), compiled(y)
    assert torch.equal(out, other)
    grad = torch.randn_like(out)
    out.backward(grad)
    other.backward(grad)
    assert torch.equal(x.grad, y.grad)
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(layer(x), compiled(y))


def test_autocast_runs():
    layer = ScalingConv1d(3, 2)
    x = torch.randn(2, 3, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32
        half = layer(x.bfloat16())
        half.float().sum().backward()
    assert half.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_chans=0), "n_chans must be"),
        (dict(filters=0), "filters must be"),
        (dict(length=4), "length must be odd"),
        (dict(max_levels=0), "max_levels must be"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ScalingConv1d(**{"n_chans": 3, **options})


def test_wrong_number_of_electrodes_is_named():
    with pytest.raises(ValueError, match=r"n_chans = 3, n_times\), got \(2, 4, 50\)"):
        ScalingConv1d(3, shared=True)(torch.randn(2, 4, 50))
