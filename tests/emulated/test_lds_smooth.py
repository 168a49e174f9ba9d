# SPDX-License-Identifier: BSD-3-Clause
"""Tolerances: as for the CPU kernels (tests/ops/test_lds_smooth.py); in float64 the gains, as
powers of a matrix, add their own rounding. A half type rounds its result once, by half a unit in
the last place: at most 2**-11 relative in float16, 2**-8 in bfloat16."""

from __future__ import annotations

import pytest
import torch
from numerics import relative_error

from eegfast import reference

LIMIT = {
    torch.float32: 5e-7,
    torch.float64: 1e-14,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-8,
}
# Windows beyond one chunk of gains, series beyond one block.
SHAPES = [(600, 3, 2), (2, 257, 7, 5), (1, 1, 1), (256, 1, 3), (2, 2, 40, 5), (5, 129, 1)]


def series(shape, dtype):
    return (torch.randn(shape, dtype=torch.float64).cumsum(-3) + 20).to(dtype)


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("own_prior", [True, False])
def test_values_and_gradients(emulated, shape, causal, own_prior, dtype):
    y, grad = series(shape, dtype), torch.randn(shape).to(dtype)
    prior = None if own_prior else torch.randn(shape[:-3] + shape[-2:]).to(dtype)
    options = (1e-3, 1.0, 0.1, causal)
    exact = [t if t is None else t.double() for t in (y, prior)]
    ours = [t if t is None else emulated.guarded(t) for t in (y, prior)]
    out = emulated.lds_smooth(*ours, *options)
    assert out.dtype == dtype
    assert relative_error(out, reference.lds_smooth(*exact, *options)) <= LIMIT[dtype]
    truth = reference.lds_smooth_backward(grad.double(), *options, own_prior)
    out = emulated.lds_smooth_backward(emulated.guarded(grad), *options, own_prior)
    for value, true in zip(out, truth, strict=True):
        assert relative_error(value, true) <= LIMIT[dtype]


@pytest.mark.parametrize(
    "variances", [(0.0, 1.0, 0.1), (1e-3, 1.0, 0.0), (0.0, 2.0, 0.0), (5, 1e-6, 9)]
)
def test_gains(emulated, variances):
    y = series((300, 1, 2), torch.float64)
    out = emulated.lds_smooth(y, None, *variances, False)
    assert relative_error(out, reference.lds_smooth(y, None, *variances, False)) <= 1e-13


def test_strides_and_empty(emulated):
    y = series((2, 9, 6, 4), torch.float32)
    for view in (y.transpose(0, 1), y[..., ::2], y[:, 1:, :, 3:]):
        out = emulated.lds_smooth(view, None, 1e-3, 1.0, 0.1, False)
        assert torch.equal(out, emulated.lds_smooth(view.contiguous(), None, 1e-3, 1.0, 0.1, False))
    for shape in ((0, 3, 2), (2, 0, 3, 2), (0, 4, 3, 2)):
        y = torch.randn(shape)
        assert emulated.lds_smooth(y, None, 1e-3, 1.0, 0.1, False).shape == shape
        grads = emulated.lds_smooth_backward(y, 1e-3, 1.0, 0.1, False, True)
        assert grads[0].shape == shape and not grads[1].any()


def test_same_bits_in_any_order_of_threads(emulated):
    y = series((300, 20, 7), torch.float32)
    outs = []
    for seed in (1, 2):
        emulated.set_seed(seed)
        outs.append(emulated.lds_smooth(y, None, 1e-3, 1.0, 0.1, False))
    assert torch.equal(*outs)
