# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
import torch
from torch import nn

from eegfast.nn import DepthwiseConv3d

CASES = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=(3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2), bias=False),
    dict(kernel_size=(1, 3, 4), padding="same"),
]


@pytest.mark.parametrize("options", CASES)
def test_is_drop_in_for_conv3d(options):
    theirs = nn.Conv3d(4, 4, groups=4, **options)
    ours = DepthwiseConv3d(4, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 5, 8, 9)
    truth, out = theirs(x), ours(x)
    torch.testing.assert_close(out, truth)
    torch.testing.assert_close(ours(x[0]), truth[0])
    grad = torch.randn_like(truth)
    truth.backward(grad)
    out.backward(grad)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_initialises_as_conv3d():
    torch.manual_seed(0)
    theirs = nn.Conv3d(4, 4, 3, groups=4)
    torch.manual_seed(0)
    ours = DepthwiseConv3d(4, 3)
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in theirs.state_dict().items())


def test_takes_what_stands_around_it():
    layer, x = DepthwiseConv3d(4, 3, padding=1), torch.randn(2, 4, 3, 4, 4)
    torch.testing.assert_close(layer(x, in_relu=True, out_relu=True), layer(x.relu()).relu())


def test_compiles_whole():
    layer = DepthwiseConv3d(4, 3, padding=1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 3, 8, 8, requires_grad=True)
    results = []
    for call in (layer, compiled):
        out = call(x, out_relu=True)
        results.append((out, *torch.autograd.grad(out.sum(), [x, *layer.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
