# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: a stage of radix p sums p terms and rounds at random, an error of about sqrt(p) eps
of the row's norm; stages add in squares. With p <= 127 here, forward stays under 4 eps (5e-7 in
float32) and backward, two transforms and the weights, under 16 eps (2e-6); float64 gets twice as
many, since its reference rounds as much as the kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numerics import float64_leaf, relative_error

from eegfast import ops, reference
from eegfast._build import extension

BANDS = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 14), "beta": (14, 31), "gamma": (31, 50)}
FORWARD = {torch.float32: 5e-7, torch.float64: 8 * 2.3e-16}
BACKWARD = {torch.float32: 2e-6, torch.float64: 32 * 2.3e-16}

# n_fft, window, step: shorter, equal and longer windows; all radices, odd and prime lengths.
TRANSFORMS = [
    (256, 200, 200),
    (256, 800, 800),
    (200, 200, 100),
    (1024, 800, 900),
    (250, 250, 250),
    (194, 150, 149),
    (77, 63, 20),
    (127, 127, 50),
    (13, 13, 13),
    (16, 16, 5),
    (7, 20, 7),
    (2, 2, 1),
    (1, 1, 1),
]


def some_bins(n_fft):
    top = n_fft // 2 + 1
    return [(0, top), (top // 3, top // 3 + 1), (top // 2, top)]


def call_reference(x, taper, window, step, n_fft, bins, gain=1.0, log2=False):
    flat = [edge for pair in bins for edge in pair]
    return reference.band_power(x, taper.double(), window, step, n_fft, flat, gain, log2)


def numpy_truth(x, window, step, n_fft, taper, bins, gain):
    """The formula of the docstring, one window at a time."""
    rows = x.reshape(-1, x.shape[-1])
    used = min(window, n_fft)
    i, k = np.arange(used), np.arange(n_fft // 2 + 1)
    dft = np.exp(-2j * np.pi * np.outer(k, i) / n_fft)
    out = []
    for row in rows:
        starts = range(0, x.shape[-1] - window + 1, step)
        energies = [abs(dft @ (taper[:used] * row[s : s + used])) ** 2 for s in starts]
        out.append([[gain * e[a:b].mean() for a, b in bins] for e in energies])
    return np.array(out).reshape(*x.shape[:-1], -1, len(bins)).swapaxes(-3, -2)


@pytest.mark.parametrize("n_fft, window, step", TRANSFORMS)
def test_is_the_formula(isa, n_fft, window, step):
    x = torch.randn(2, 3, 1700 if window > 100 else 170, dtype=torch.float64)
    taper = torch.rand(window, dtype=torch.float64) + 0.5
    bins = some_bins(n_fft)
    out = ops.band_power(x, window=window, step=step, n_fft=n_fft, taper=taper, bins=bins, gain=3.0)
    truth = numpy_truth(x.numpy(), window, step, n_fft, taper.numpy(), bins, 3.0)
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-10, atol=1e-12 * truth.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log2", [False, True])
@pytest.mark.parametrize("n_fft, window, step", TRANSFORMS)
def test_values_and_gradients(isa, dtype, log2, n_fft, window, step):
    x = torch.randn(2, 17, 1700 if window > 100 else 170, dtype=dtype)
    taper = torch.rand(window, dtype=dtype) + 0.5
    # The log of a bin that happens to be near zero is ill-conditioned: wide bands only.
    bins = some_bins(n_fft)[:1] if log2 else some_bins(n_fft)
    if log2 and n_fft < 8:
        pytest.skip("every band of so short a transform is a narrow one")
    exact, leaf = float64_leaf(x), x.clone().requires_grad_()
    truth = call_reference(exact, taper, window, step, n_fft, bins, 100.0, log2)
    options = dict(window=window, step=step, n_fft=n_fft, taper=taper, bins=bins, log2=log2)
    out = ops.band_power(leaf, gain=100.0, **options)
    assert relative_error(out.detach(), truth.detach()) <= FORWARD[dtype]
    grad = torch.randn_like(truth)
    truth.backward(grad)
    out.backward(grad.to(dtype))
    assert relative_error(leaf.grad, exact.grad) <= BACKWARD[dtype] * (10 if log2 else 1)


@pytest.mark.parametrize("sfreq, n_fft, window", [(200, 256, 200), (128, 128, 128)])
def test_entropy_of_eeg_like_noise(isa, sfreq, n_fft, window):
    spectrum = torch.fft.rfft(torch.randn(62, 40 * sfreq, dtype=torch.float64))
    spectrum /= torch.arange(spectrum.shape[-1]).clamp(min=1).sqrt()
    x = (1e3 * torch.fft.irfft(spectrum)).float()
    bins = ops.band_bins(BANDS, sfreq, n_fft)
    options = dict(window=window, n_fft=n_fft, bins=bins, gain=100.0, log2=True)
    out = ops.band_power(x, **options)
    assert (out - ops.band_power(x.double(), **options)).abs().max() <= 1e-4


def test_log2_of_extreme_powers(isa):
    for dtype in (torch.float32, torch.float64):
        tiny = torch.finfo(dtype).tiny
        amplitude = torch.tensor([0.0, 1.0, 3.0, tiny**0.5, 1e-3, 1e15], dtype=dtype)
        amplitude = torch.cat([amplitude, torch.tensor([math.inf, math.nan], dtype=dtype)])
        out = ops.band_power(
            amplitude[:, None], window=1, bins=[(0, 1)], taper="boxcar", gain=1.0, log2=True
        )[0, :, 0]
        truth = torch.log2(amplitude.square())
        assert torch.equal(out.isnan(), truth.isnan())
        assert out[0] == -math.inf and out[-2] == math.inf
        torch.testing.assert_close(out[1:-2], truth[1:-2], rtol=4e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["hann", "hanning", "hamming", "boxcar"])
def test_tapers(name):
    from scipy.signal import windows

    truth = {
        "hann": lambda n: windows.hann(n, sym=True),
        "hanning": lambda n: windows.hann(n + 2, sym=True)[1:-1],
        "hamming": lambda n: windows.hamming(n, sym=True),
        "boxcar": np.ones,
    }[name]
    for n in (1, 2, 7, 200):
        x = torch.eye(n, dtype=torch.float64)[None]  # channel c holds a one at sample c
        power = ops.band_power(x, window=n, taper=name, bins=[(0, 1)])[0, 0, :, 0]
        np.testing.assert_allclose(power.sqrt().numpy(), np.abs(truth(n)), atol=1e-12)


def test_bands_follow_the_rules():
    assert ops.band_bins(BANDS, 200, 256) == [(0, 5), (4, 10), (9, 17), (16, 39), (38, 64)]
    assert ops.band_bins([(8, 14)], 200, 256, rule="half_open") == [(11, 18)]
    with pytest.raises(ValueError, match=r"'delta' \(1-4 Hz\) begins below the first bin"):
        ops.band_bins(BANDS, 1000, 256)
    with pytest.raises(ValueError, match="Nyquist"):
        ops.band_bins([(40, 70)], 100, 128)
    with pytest.raises(ValueError, match="holds no bin"):
        ops.band_bins([(1.1, 1.2)], 128, 128, rule="half_open")


def test_strides_and_leading_dimensions(isa):
    base = torch.randn(4, 6, 5, 900, dtype=torch.float64)
    bins = ops.band_bins(BANDS, 200, 256)
    for x in (
        base,
        base[0, 0],
        base[:, ::2],
        base[::2, 1:, ::2, 10:],
        base.transpose(0, 1),
        base.transpose(0, 2),
        base[..., ::2],
        base.flip(-1).transpose(-1, -2).contiguous().transpose(-1, -2),
        base[:1].expand(3, -1, -1, -1),
    ):
        out = ops.band_power(x, window=200, n_fft=256, bins=bins)
        dense = ops.band_power(
            x.clone(memory_format=torch.contiguous_format), window=200, n_fft=256, bins=bins
        )
        assert out.shape == (*x.shape[:-2], x.shape[-1] // 200, x.shape[-2], 5)
        assert torch.equal(out, dense)


def test_empty_inputs(isa):
    bins = [(1, 3)]
    for shape, windows in (((0, 3, 50), 5), ((2, 0, 50), 5), ((2, 3, 9), 0), ((2, 3, 0), 0)):
        x = torch.randn(shape, requires_grad=True)
        out = ops.band_power(x, window=10, bins=bins)
        assert out.shape == (shape[0], windows, shape[1], 1)
        out.sum().backward()
        assert torch.equal(x.grad, torch.zeros_like(x))
    assert ops.band_power(torch.randn(2, 50), window=10, bins=[]).shape == (5, 2, 0)


@pytest.mark.parametrize("step", [20, 7, 30])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_sample_stays_in_its_windows_and_channel(isa, step, bad):
    x = torch.randn(2, 19, 300)
    x[1, 4, 98] = bad
    leaf = x.clone().requires_grad_()
    out = ops.band_power(leaf, window=20, step=step, taper="boxcar", bins=[(1, 4), (4, 8)])
    starts = torch.arange(out.shape[1]) * step
    hit = torch.zeros(out.shape, dtype=torch.bool)
    hit[1, (starts <= 98) & (98 < starts + 20), 4] = True
    assert torch.equal(~out.isfinite(), hit)
    out.sum().backward()
    touched = torch.zeros(x.shape, dtype=torch.bool)
    for window in torch.nonzero(hit[1, :, 4, 0]).flatten():
        touched[1, 4, window * step : window * step + 20] = True
    assert leaf.grad[~touched].isfinite().all()
    assert leaf.grad[touched].isnan().any()


@pytest.mark.parametrize("step", [10, 3, 12])
def test_gradcheck(isa, step):
    x = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True)
    for log2 in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, log2=log2: ops.band_power(
                x, window=10, step=step, n_fft=16, bins=[(0, 4), (3, 9)], log2=log2
            ),
            x,
        )


def test_opcheck():
    taper = torch.hann_window(10)
    x = torch.randn(2, 3, 40, requires_grad=True)
    args = (x, taper, 10, 5, 16, [0, 4, 3, 9], 2.0, False)
    torch.library.opcheck(torch.ops.eegfast.band_power.default, args)
    grad = torch.randn(2, 7, 3, 2)
    backward = torch.ops.eegfast.band_power_backward.default
    torch.library.opcheck(backward, (grad, x.detach(), *args[1:]))


def test_compiles_whole():
    def entropy(x):
        return ops.band_power(x, window=200, n_fft=256, bins=[(1, 5), (4, 10)], log2=True)

    x = torch.randn(3, 700)
    compiled = torch.compile(entropy, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), entropy(x))


def test_inference_mode_leaves_nothing_behind():
    x = torch.randn(3, 400)
    with torch.inference_mode():
        ops.band_power(x, window=111, bins=[(1, 5)])
    ops.band_power(x.requires_grad_(), window=111, bins=[(1, 5)]).sum().backward()


def test_same_bits_again_and_on_any_number_of_threads(isa):
    x = torch.randn(3, 62, 4000, requires_grad=True)

    def run(step):
        out = ops.band_power(x, window=200, step=step, n_fft=256, bins=[(1, 5), (5, 60)])
        return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]

    threads = torch.get_num_threads()
    for step in (200, 60):
        first = run(step)
        torch.set_num_threads(1)
        second = run(step)
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_second_derivative():
    x = torch.randn(3, 50, requires_grad=True)
    out = ops.band_power(x, window=10, bins=[(1, 4)])
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="band_power has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=0), "window must be a whole number"),
        (dict(window=10.5), "window must be a whole number"),
        (dict(step=0), "step must be a whole number"),
        (dict(n_fft=-1), "n_fft must be a whole number"),
        (dict(taper="kaiser"), "taper must be one of"),
        (dict(taper=torch.ones(9)), r"taper must have shape \(10,\)"),
        (dict(bins=[(3, 3)]), r"got \(3, 3\)"),
        (dict(bins=[(0, 7)]), "<= 6"),
        (dict(bins=[(-1, 3)]), r"got \(-1, 3\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ops.band_power(torch.randn(2, 50), **{"window": 10, "bins": [(1, 3)], **options})


@pytest.mark.parametrize("x", [torch.ones(2, 50, dtype=torch.int16), [[1.0, 2.0]]])
def test_wrong_types_are_named(x):
    with pytest.raises(TypeError, match=r"eegfast.ops.band_power: x must be"):
        ops.band_power(x, window=10, bins=[(1, 3)])


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_half_precision_on_the_cpu_is_refused_by_name():
    with pytest.raises(RuntimeError, match="eegfast.ops.band_power"):
        ops.band_power(torch.randn(2, 50).half(), window=10, bins=[(1, 3)])
