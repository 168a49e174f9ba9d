# SPDX-License-Identifier: BSD-3-Clause
"""The layer against the two modules and the mean it stands for; in float64 they differ by rounding
alone, which the cancellation of power and lags can magnify to 1e-10."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from eegfast.nn import FilterBankPower, fir_bank

BANDS = [(4, 8), (8, 14), (14, 31)]
SFREQ = 200


class Plain(nn.Module):
    """Convolution, batch normalisation, mean of squares, as one would write them."""

    def __init__(self, filters, n_taps, padding="same", log=False, **norm):
        super().__init__()
        self.conv = nn.Conv2d(1, filters, (1, n_taps), padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(filters, **norm)
        self.log = log

    def forward(self, x):
        power = self.norm(self.conv(x.unsqueeze(1))).square().mean(-1)
        return power.log() if self.log else power


def pair(padding="same", log=False, **norm):
    """The layer and the plain modules with the same state, in float64."""
    layer = FilterBankPower(BANDS, SFREQ, 41, padding=padding, log=log).double()
    plain = Plain(
        len(BANDS), 41, (0, padding) if isinstance(padding, int) else padding, log, **norm
    )
    plain.double()
    layer.norm = nn.BatchNorm2d(len(BANDS), **norm).double()
    plain.conv.load_state_dict(layer.conv.state_dict())
    if plain.norm.affine:
        nn.init.normal_(plain.norm.weight, 1, 0.3)
        nn.init.normal_(plain.norm.bias, 0, 0.3)
    layer.norm.load_state_dict(plain.norm.state_dict())
    return layer, plain


def signal(*shape):
    return torch.randn(shape, dtype=torch.float64).cumsum(-1)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"eps": 0.1, "momentum": 0.5},
        {"padding": "valid"},
        {"padding": 7},
        {"padding": 50},
        {"log": True},
    ],
    ids=str,
)
def test_trains_as_the_modules_do(options):
    """Some steps in training mode, then evaluation: outputs, weights and statistics agree."""
    torch.manual_seed(0)
    layer, plain = pair(**options)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (layer, plain)]
    for _ in range(4):
        x, target = signal(5, 6, 130), torch.randn(5, 3, 6).double()
        for net, optimizer in zip((layer, plain), optimizers, strict=True):
            optimizer.zero_grad()
            net.output = net(x)
            (net.output * target).mean().backward()
            optimizer.step()
        close(layer.output, plain.output)
        assert list(layer.state_dict()) == list(plain.state_dict())
        for name, value in plain.state_dict().items():
            close(layer.state_dict()[name], value)
    layer.eval(), plain.eval()
    x = signal(5, 6, 130).requires_grad_()
    outputs = [net(x) for net in (layer, plain)]
    close(*outputs)
    close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in outputs))


def test_without_normalisation_it_is_the_mean_power():
    layer = FilterBankPower(BANDS, SFREQ, 21, norm=False).double()
    x = signal(2, 3, 90)
    y = nn.functional.conv2d(x.unsqueeze(1), layer.conv.weight, padding="same")
    close(layer(x), y.square().mean(-1))
    assert list(layer.state_dict()) == ["conv.weight"]


def test_float32_with_a_filter_that_passes_the_offset():
    """The batch variance is a difference of large numbers: it is taken in float64."""
    layer, plain = pair()
    with torch.no_grad():
        layer.conv.weight[0] = plain.conv.weight[0] = 1 / 41
    x = (torch.randn(8, 5, 400) + 1e3).float()
    layer.float()
    truth = plain(x.double())
    assert ((layer(x) - truth) / truth).abs().max() < 1e-3  # eager float32: 1
    assert layer(x).dtype == torch.float32


def test_frozen_taps_get_no_gradient():
    layer = FilterBankPower(BANDS, SFREQ)
    layer.conv.requires_grad_(False)
    x = torch.randn(2, 3, 90, requires_grad=True)
    layer(x).sum().backward()
    assert layer.conv.weight.grad is None
    assert x.grad.isfinite().all() and layer.norm.weight.grad.isfinite().all()


def test_frozen_statistics_in_a_training_network():
    layer, plain = pair()
    for net in (layer, plain):
        net.train()
        net.norm.eval()
    x = signal(2, 3, 90)
    close(layer(x), plain(x))
    assert layer.norm.num_batches_tracked == 0


def test_an_empty_batch_leaves_the_statistics():
    layer, plain = pair()
    x = signal(3, 4, 90)
    for net in (layer, plain):
        net(x).sum().backward()
        net.zero_grad()
        out = net(torch.empty(0, 4, 90, dtype=torch.float64))
        assert out.shape == (0, 3, 4)
        out.sum().backward()
    for name, value in plain.state_dict().items():
        close(layer.state_dict()[name], value)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_single_value_cannot_be_normalised():
    layer, plain = pair(padding="valid")
    for net in (layer, plain):
        with pytest.raises(ValueError, match="more than 1 value per"):
            net(signal(1, 1, 41))


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training):
    layers = [FilterBankPower(BANDS, SFREQ, log=True).train(training) for _ in range(2)]
    compiled = torch.compile(layers[0], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(3, 4, 90)
        outputs = []
        for net in (compiled, layers[1]):
            leaf = x.clone().requires_grad_()
            out = net(leaf)
            out.sum().backward()
            outputs.append((out.detach(), leaf.grad))
        for a, b in zip(*outputs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for a, b in zip(*(net.state_dict().values() for net in layers), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(*(net.parameters() for net in layers), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_half_and_autocast():
    layer = FilterBankPower(BANDS, SFREQ).eval()
    x = torch.randn(2, 3, 90)
    truth = layer(x.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone()))
        assert torch.equal(layer(x.bfloat16()), truth.bfloat16())
    assert torch.equal(layer(x.bfloat16()), truth.bfloat16())


@pytest.mark.parametrize("n_taps", [41, 40, 5])
def test_fir_bank_is_linear_phase_with_unit_gain_at_the_centre(n_taps):
    bands = {"theta": (4, 8), "gamma": (40, 42), "low": (0, 10), "top": (90, 100)}
    taps = fir_bank(bands, SFREQ, n_taps)
    assert taps.shape == (4, n_taps) and taps.dtype == torch.float64
    torch.testing.assert_close(taps, taps.flip(1), rtol=1e-12, atol=1e-15)
    k = np.arange(n_taps)
    for filter_taps, (low, high) in zip(taps.numpy(), bands.values(), strict=True):
        response = np.exp(-1j * math.pi * (low + high) / SFREQ * k) @ filter_taps
        assert abs(abs(response) - 1) < 1e-12


def test_fir_bank_is_the_windowed_inverse_transform():
    """MNE's and SciPy's window method, unit gain at the centre of the band."""
    from scipy.signal import firwin

    for low, high in [(40, 42), (8, 14)]:
        truth = firwin(41, [low, high], window="hamming", pass_zero=False, fs=SFREQ)
        np.testing.assert_allclose(fir_bank([(low, high)], SFREQ, 41)[0].numpy(), truth, rtol=1e-9)
    (narrow,) = fir_bank([(40, 42)], SFREQ, 41)
    gain = torch.fft.rfft(narrow, n=20_000).abs()  # 0.01 Hz
    passed = torch.nonzero(gain > 0.5**0.5).flatten() * SFREQ / 20_000
    assert 6.2 < float(passed.max() - passed.min()) < 6.6


@pytest.mark.parametrize(
    "bands, n_taps, message",
    [
        ([(8, 4)], 41, r"0 <= low < high <= 100 Hz, got \(8, 4\)"),
        ([(90, 101)], 41, r"got \(90, 101\)"),
        ([(-1, 3)], 41, r"got \(-1, 3\)"),
        ([(4, 8)], 0, "n_taps must be a whole number >= 1, got 0"),
        ([(4, 8)], 4.5, "n_taps must be a whole number >= 1, got 4.5"),
    ],
)
def test_bad_banks_are_named(bands, n_taps, message):
    with pytest.raises(ValueError, match=message):
        fir_bank(bands, SFREQ, n_taps)


def test_bad_padding_and_input_are_named():
    with pytest.raises(ValueError, match="padding must be"):
        FilterBankPower(BANDS, SFREQ, padding="full")
    with pytest.raises(ValueError, match=r"x must be \(N, rows, n_times\), got \(3, 90\)"):
        FilterBankPower(BANDS, SFREQ)(torch.randn(3, 90))
