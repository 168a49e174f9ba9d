# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances. The kernel sums in double whatever the input, so float32 results carry the one
rounding of the result, 2^-24, and gradients the same: 1e-7 covers both. In float64 the sums are
right to some eps of the energy |x|^2 |h|^2, and so is torch's convolution: 1e-13 of the norm on
white noise, whose power is not far below that. Narrow filters on 1/f^2 noise keep 1e-3 to 1e-5 of
it: 1e-10 for each element."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import float64_leaf, relative_error
from torch.nn import functional as F

from eegfast import ops, reference
from eegfast._build import extension
from eegfast.nn import fir_bank

LIMIT = {torch.float32: 1e-7, torch.float64: 1e-13}
HAMNET = [(f, f + 2) for f in range(40, 76, 2)]

# batch, rows, n_times, filters, length, padding: rows that fill no lane, one, several and some
# over; filters and taps on both sides of every block; rows shorter than the filters.
SHAPES = [
    ((3, 5, 200), 18, 41, "same"),
    ((2, 16, 127), 1, 63, "same"),
    ((2, 9, 63), 3, 8, "same"),
    ((2, 9, 600), 7, 33, "valid"),
    ((1, 1, 9), 1, 1, "same"),
    ((1, 2, 9), 3, 9, "valid"),
    ((2, 3, 7), 11, 12, 3),
    ((2, 17, 5), 2, 9, "same"),
    ((1, 8, 300), 3, 9, 20),
    ((2, 3, 1030), 21, 29, 0),
    ((1, 4, 1), 2, 3, 1),
]


def filtered(x, taps, padding):
    """Through torch's own convolution, (..., filters, rows, outputs)."""
    rows = x.reshape(-1, 1, x.shape[-1])
    if padding == "same":
        left = (taps.shape[1] - 1) // 2
        rows, padding = F.pad(rows, (left, taps.shape[1] - 1 - left)), 0
    y = F.conv1d(rows, taps.unsqueeze(1), padding=0 if padding == "valid" else padding)
    return y.reshape(*x.shape[:-1], *y.shape[1:]).transpose(-3, -2)


def sums(x, taps, padding):
    y = filtered(x, taps, padding)
    return y.sum(-1), y.square().sum(-1)


def data(shape, filters, length, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), torch.randn(filters, length, dtype=dtype)


def brown(*shape):
    spectrum = torch.fft.rfft(torch.randn(shape, dtype=torch.float64))
    spectrum /= torch.arange(spectrum.shape[-1]).clamp(min=1)
    return 20 * torch.fft.irfft(spectrum, n=shape[-1])


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_same_padding_is_torchs(length):
    x, taps = data((2, 3, 9), 4, length)
    y = F.conv1d(x.reshape(6, 1, 9), taps[:, None], padding="same").view(2, 3, 4, 9)
    total, squares = ops.filter_bank_power(x, taps)
    torch.testing.assert_close(total, y.sum(-1).mT)
    torch.testing.assert_close(squares, y.square().sum(-1).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape, filters, length, padding", SHAPES)
def test_values_and_gradients(isa, dtype, shape, filters, length, padding):
    x, taps = data(shape, filters, length, dtype)
    exact = [float64_leaf(t) for t in (x, taps)]
    leaves = [t.clone().requires_grad_() for t in (x, taps)]
    truth = sums(*exact, padding)
    out = ops.filter_bank_power(*leaves, padding)
    for ours, theirs in zip(out, truth, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        assert relative_error(ours.detach(), theirs.detach()) <= LIMIT[dtype]
    grads = [torch.randn_like(t, dtype=dtype) for t in truth]
    ours = torch.autograd.grad(out, leaves, grads)
    theirs = torch.autograd.grad(truth, exact, [g.double() for g in grads])
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, b) <= LIMIT[dtype]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-7), (torch.float64, 1e-10)])
def test_narrow_bands_of_eeg_like_noise(isa, padding, dtype, limit):
    """The filters keep 1e-3 to 1e-5 of the energy: every element is right all the same."""
    x, taps = brown(5, 7, 1000).to(dtype), fir_bank(HAMNET, 200, 41).to(dtype)
    _, truth = sums(x.double(), taps.double(), padding)
    assert (truth / x.double().square().sum(-1)[:, None]).min() < 1e-4
    _, squares = ops.filter_bank_power(x, taps, padding)
    assert ((squares.double() - truth) / truth).abs().max() <= limit


def test_narrow_bands_of_a_signal_with_a_large_offset(isa):
    """The error is eps times energy over power, which is less than that of float32 filtering."""
    x, taps = (brown(2, 5, 1000) + 3e3).float(), fir_bank(HAMNET, 200, 41).float()
    taps -= taps.mean(1, keepdim=True)
    truth = sums(x.double(), taps.double(), "valid")[1]
    squares = ops.filter_bank_power(x, taps, "valid")[1]
    error, of_filtering = (
        float(((s - truth) / truth).abs().max()) for s in (squares, sums(x, taps, "valid")[1])
    )
    assert error <= 1e-4 and error < of_filtering


def test_no_power_is_not_negative(isa):
    x, taps = torch.full((2, 9, 400), 3e3, dtype=torch.float64), torch.randn(5, 30).double()
    taps -= taps.mean(1, keepdim=True)
    squares = ops.filter_bank_power(x + torch.randn(2, 9, 1), taps, "valid")[1]
    assert (squares >= 0).all() and squares.max() <= 1e-12 * 400 * 9e6


def test_results_in_float64(isa):
    """``dtype`` keeps the sums: rounding them gives the default."""
    x, taps = data((2, 5, 100), 3, 9, torch.float32)
    wide = ops.filter_bank_power(x, taps, dtype=torch.float64)
    truth = sums(x.double(), taps.double(), "same")
    for a, b, c in zip(wide, ops.filter_bank_power(x, taps), truth, strict=True):
        assert a.dtype == torch.float64 and torch.equal(a.float(), b)
        assert relative_error(a, c) <= 1e-13


def test_strides_and_leading_dimensions(isa):
    base, taps = torch.randn(4, 6, 5, 90, dtype=torch.float64), torch.randn(3, 9).double()
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
        results = []
        for dense in (False, True):
            leaf = (x.clone(memory_format=torch.contiguous_format) if dense else x).detach()
            leaf.requires_grad_()
            total, squares = ops.filter_bank_power(leaf, taps)
            assert total.shape == squares.shape == (*x.shape[:-2], 3, x.shape[-2])
            (squares * total).sum().backward()
            results.append((total, squares, leaf.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_strided_and_expanded_taps_and_gradients(isa):
    x, taps = data((2, 5, 60), 4, 9)
    wide = torch.stack([taps, taps], -1)[..., 0].mT.contiguous().mT
    assert not wide.is_contiguous()
    out = [ops.filter_bank_power(x, t) for t in (taps, wide)]
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))
    leaf = taps[:1].clone().requires_grad_()
    total, squares = ops.filter_bank_power(x, leaf.expand(4, -1))
    (total.sum() + squares.sum()).backward()  # gradients of ones, expanded
    exact = taps[:1].clone().requires_grad_()
    total, squares = sums(x, exact.expand(4, -1), "same")
    (total.sum() + squares.sum()).backward()
    assert relative_error(leaf.grad, exact.grad) <= 1e-13


def test_only_the_gradients_asked_for(isa):
    x, taps = data((2, 9, 60), 4, 9)
    both = [t.clone().requires_grad_() for t in (x, taps)]
    total, squares = ops.filter_bank_power(*both)
    for out in ((total,), (squares,), (total, squares)):
        full = torch.autograd.grad(sum(o.sum() for o in out), both, retain_graph=True)
        for i in (0, 1):
            inputs = [x, taps]
            inputs[i] = inputs[i].clone().requires_grad_()
            result = dict(zip(("total", "squares"), ops.filter_bank_power(*inputs), strict=True))
            loss = sum(result["total" if o is total else "squares"].sum() for o in out)
            (alone,) = torch.autograd.grad(loss, inputs[i])
            assert torch.equal(alone, full[i])


def test_empty_inputs(isa):
    for shape, filters in (((0, 3, 50), 4), ((2, 0, 50), 4), ((2, 3, 50), 0)):
        x, taps = torch.randn(shape, requires_grad=True), torch.randn(filters, 9).requires_grad_()
        total, squares = ops.filter_bank_power(x, taps)
        assert total.shape == squares.shape == (shape[0], filters, shape[1])
        (total.sum() + squares.sum()).backward()
        assert torch.equal(x.grad, torch.zeros_like(x))
        assert torch.equal(taps.grad, torch.zeros_like(taps))
    strided = torch.randn(50, 0, 3).permute(1, 2, 0)
    assert ops.filter_bank_power(strided, torch.randn(4, 9))[0].shape == (0, 4, 3)
    total, squares = ops.filter_bank_power(torch.randn(2, 3, 0), torch.randn(4, 2), 2)
    assert torch.equal(total, torch.zeros(2, 4, 3)) and torch.equal(squares, total)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sample", [0, 30, 59])
def test_a_bad_sample_stays_in_its_row(isa, bad, sample):
    x, taps = data((2, 19, 60), 3, 9, torch.float32)
    x[1, 4, sample] = bad
    x.requires_grad_()
    total, squares = ops.filter_bank_power(x, taps)
    hit = torch.zeros(total.shape, dtype=torch.bool)
    hit[1, :, 4] = True
    assert torch.equal(~total.isfinite(), hit) and torch.equal(~squares.isfinite(), hit)
    (total.sum() + squares.sum()).backward()
    touched = torch.zeros(x.shape, dtype=torch.bool)
    touched[1, 4] = True
    assert x.grad[~touched].isfinite().all() and not x.grad[touched].isfinite().all()


def test_a_bad_filter_stays_to_itself(isa):
    x, taps = data((2, 9, 60), 12, 9, torch.float32)
    taps[5, 3] = math.nan
    total, squares = ops.filter_bank_power(x, taps)
    hit = torch.zeros(total.shape, dtype=torch.bool)
    hit[:, 5] = True
    assert torch.equal(total.isnan(), hit) and torch.equal(squares.isnan(), hit)


@pytest.mark.parametrize("padding", ["same", "valid", 2, 9])
def test_gradcheck(isa, padding):
    x, taps = data((2, 3, 11), 2, 6)
    assert torch.autograd.gradcheck(
        lambda x, taps: ops.filter_bank_power(x, taps, padding),
        (x.requires_grad_(), taps.requires_grad_()),
    )


@pytest.mark.parametrize("grads", [(0, 1), (0,), (1,)])
def test_reference_backward_is_the_derivative(grads):
    x, taps = (t.requires_grad_() for t in data((2, 3, 11), 2, 6))
    total, squares, kept = reference.filter_bank_power(x, taps, 3, 2)
    grad = [torch.randn_like(total) if i in grads else None for i in (0, 1)]
    truth = torch.autograd.grad(
        [t for t, g in zip((total, squares), grad, strict=True) if g is not None],
        (x, taps),
        [g for g in grad if g is not None],
    )
    ours = reference.filter_bank_power_backward(*grad, x, taps, kept, 3, 2, True)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b)


def test_opcheck():
    x, taps = torch.randn(2, 3, 20, requires_grad=True), torch.randn(4, 7).double()
    op = torch.ops.eegfast.filter_bank_power.default
    torch.library.opcheck(op, (x, taps.requires_grad_(), 3, 2))
    torch.library.opcheck(op, (x, taps.detach(), 6, 0))
    grad = torch.randn(2, 4, 3).double()
    kept = op(x, taps, 3, 2)[2].detach()
    inputs = (x.detach(), taps.detach())
    backward = torch.ops.eegfast.filter_bank_power_backward.default
    torch.library.opcheck(backward, (grad, grad, *inputs, kept, 3, 2, True))
    torch.library.opcheck(backward, (None, grad, *inputs, None, 3, 2, True))
    torch.library.opcheck(backward, (grad, None, *inputs, kept, 3, 2, False))


def test_same_bits_again_and_on_any_number_of_threads(isa):
    x, taps = (t.requires_grad_() for t in data((11, 62, 300), 18, 41, torch.float32))

    def run():
        total, squares = ops.filter_bank_power(x, taps)
        loss = (total.square() + squares.square()).sum()
        return total.detach(), squares.detach(), *torch.autograd.grad(loss, (x, taps))

    threads = torch.get_num_threads()
    first = run()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        again = run()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("half, limit", [(torch.bfloat16, 2**-9), (torch.float16, 2**-12)])
def test_half_types_are_float32_rounded_once(isa, half, limit):
    x, taps = (t.to(half) for t in data((2, 5, 60), 3, 9))
    narrow = [t.clone().requires_grad_() for t in (x, taps)]
    wide = [t.float().requires_grad_() for t in (x, taps)]
    out, truth = ops.filter_bank_power(*narrow), ops.filter_bank_power(*wide)
    grads = [torch.randn_like(t) for t in out]
    ours = torch.autograd.grad(out, narrow, grads)
    theirs = torch.autograd.grad(truth, wide, [g.float() for g in grads])
    for a, b in zip((*out, *ours), (*truth, *theirs), strict=True):
        assert a.dtype == half and torch.equal(a, b.to(half))
        assert relative_error(a.detach(), b.detach().double()) <= limit


def test_mixed_types_and_autocast():
    x, taps = data((2, 5, 60), 3, 9, torch.float32)
    truth = ops.filter_bank_power(x, taps)
    mixed = ops.filter_bank_power(x, taps.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ops.filter_bank_power(x, taps)
        half = ops.filter_bank_power(x.bfloat16(), taps)
    for a, b, c, d in zip(truth, mixed, inside, half, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
        assert d.dtype == torch.bfloat16


def test_compiles_whole():
    x, taps = (t.requires_grad_() for t in data((2, 5, 60), 3, 9, torch.float32))

    def power(x, taps):
        total, squares = ops.filter_bank_power(x, taps)
        return squares / 60 - (total / 60).square()

    compiled = torch.compile(power, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        torch.autograd.grad(compiled(x, taps).sum(), (x, taps)),
        torch.autograd.grad(power(x, taps).sum(), (x, taps)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_no_second_derivative():
    x, taps = data((3, 50), 2, 9)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(ops.filter_bank_power(x, taps)[1].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="filter_bank_power has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "x, taps, padding, message",
    [
        ((50,), (3, 9), "same", r"x must be \(..., rows, n_times\), got \(50,\)"),
        ((2, 50), (9,), "same", r"taps must be \(filters, length\), got \(9,\)"),
        ((2, 50), (3, 1, 9), "same", r"length >= 1, got \(3, 1, 9\)"),
        ((2, 50), (3, 0), "same", r"length >= 1, got \(3, 0\)"),
        ((2, 50), (3, 9), "full", "padding must be 'same', 'valid' or a whole number .* 'full'"),
        ((2, 50), (3, 9), -1, "padding must be .* got -1"),
        ((2, 50), (3, 9), 1.5, "padding must be .* got 1.5"),
        ((2, 50), (3, 9), True, "padding must be .* got True"),
        ((2, 8), (3, 9), "valid", "got 9 taps for 8 samples and padding='valid'"),
        ((2, 0), (3, 9), "same", "got 9 taps for 0 samples"),
    ],
)
def test_bad_arguments_are_named(x, taps, padding, message):
    with pytest.raises(ValueError, match="eegfast.ops.filter_bank_power: .*" + message):
        ops.filter_bank_power(torch.randn(x), torch.randn(taps), padding)


@pytest.mark.parametrize("argument", ["x", "taps"])
@pytest.mark.parametrize("value", [torch.ones(2, 50, dtype=torch.int16), [[1.0, 2.0]]])
def test_wrong_types_are_named(argument, value):
    arguments = {"x": torch.randn(2, 50), "taps": torch.randn(2, 5), argument: value}
    with pytest.raises(TypeError, match=f"eegfast.ops.filter_bank_power: {argument} must be"):
        ops.filter_bank_power(**arguments)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_the_kernel_checks_what_it_is_given():
    op = torch.ops.eegfast.filter_bank_power.default
    x, taps = torch.randn(2, 5), torch.randn(2, 9).double()
    for arguments in ((x, taps.float(), 0, 0), (x, taps, 9, 0), (x, taps, 8, 7), (x, taps, -1, 0)):
        with pytest.raises(RuntimeError, match="bad taps, head or tail"):
            op(*arguments)
