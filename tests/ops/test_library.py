# SPDX-License-Identifier: BSD-3-Clause
"""Eager calls step over torch's registered autograd: both ways must be the same operator."""

from __future__ import annotations

import pytest
import torch

from eegfast import ops


class Tagged(torch.Tensor):
    """A subclass whose results are of the subclass, as torch's own mechanism has it."""


def registered(y):
    return torch.ops.eegfast.lds_smooth(y, None, 1e-3, 1.0, 0.1, False)


def test_both_ways_give_the_same_values_and_gradients():
    y = torch.randn(9, 2, 5, requires_grad=True)
    grad = torch.randn(9, 2, 5)
    ways = [torch.autograd.grad(way(y), y, grad)[0] for way in (ops.lds_smooth, registered)]
    assert torch.equal(*ways)
    assert torch.equal(ops.lds_smooth(y), registered(y))


def test_gradients_are_tracked_only_where_they_are_wanted():
    y = torch.randn(9, 2, 5, requires_grad=True)
    assert ops.lds_smooth(y).requires_grad
    assert not ops.lds_smooth(y.detach()).requires_grad
    with torch.no_grad():
        assert not ops.lds_smooth(y).requires_grad
    with torch.inference_mode():
        assert ops.lds_smooth(y).is_inference()


def test_there_is_no_second_derivative():
    y = torch.randn(9, 2, 5, requires_grad=True)
    for way in (ops.lds_smooth, registered):
        (grad,) = torch.autograd.grad(way(y).square().sum(), y, create_graph=True)
        with pytest.raises(NotImplementedError, match="lds_smooth has no second derivative"):
            grad.sum().backward()


def test_a_subclass_stays_itself():
    y = torch.randn(9, 2, 5)
    out = ops.lds_smooth(y.as_subclass(Tagged))
    assert type(out) is Tagged
    assert torch.equal(out.as_subclass(torch.Tensor), ops.lds_smooth(y))
