# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from eegfast.nn import MobileUnit3d


class Plain(nn.Module):
    """The unit in torch's own modules."""

    def __init__(self, channels, merge="concat", momentum=0.1):
        super().__init__()
        wide = 8 * channels
        self.merge = merge
        self.unit = nn.Sequential(
            OrderedDict(
                norm1=nn.BatchNorm3d(channels, momentum=momentum),
                relu1=nn.ReLU(),
                expand=nn.Conv3d(channels, wide, 1, bias=False),
                norm2=nn.BatchNorm3d(wide, momentum=momentum),
                relu2=nn.ReLU(),
                depthwise=nn.Conv3d(wide, wide, 3, padding=1, groups=wide, bias=False),
                project=nn.Conv3d(wide, channels, 1, bias=False),
            )
        )

    def forward(self, x):
        result = self.unit(x)
        return torch.cat([x, result], 1) if self.merge == "concat" else x + result


def pair(channels=3, merge="concat", momentum=0.1):
    torch.manual_seed(0)
    plain = Plain(channels, merge, momentum).double()
    ours = MobileUnit3d(channels, merge=merge, momentum=momentum).double()
    ours.load_state_dict(plain.unit.state_dict())  # strict: names, shapes, num_batches_tracked
    return plain, ours


@pytest.mark.parametrize("merge", ["concat", "add"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_trains_as_the_plain_modules(merge, momentum):
    plain, ours = pair(merge=merge, momentum=momentum)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (plain, ours)]
    for _ in range(5):
        x = torch.randn(4, 3, 5, 8, 8, dtype=torch.float64)
        for module, optimizer in zip((plain, ours), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    mine, theirs = ours.state_dict(), plain.unit.state_dict()
    assert mine.keys() == theirs.keys() and int(mine["norm2.num_batches_tracked"]) == 5
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-10, atol=1e-12, msg=name)
    plain.eval(), ours.eval()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("evaluated", ["norm1", "norm2"])
def test_one_norm_in_evaluation_mode(evaluated):
    plain, ours = pair()
    x = torch.randn(4, 3, 5, 8, 8, dtype=torch.float64)
    for module in (plain.unit, ours):
        module(x)  # something in the running statistics
        module.get_submodule(evaluated).eval()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-12, atol=1e-12)
    assert int(ours.get_submodule(evaluated).num_batches_tracked) == 1
    torch.testing.assert_close(ours.state_dict(), plain.unit.state_dict())


def test_frozen_parameters_get_no_gradient():
    plain, ours = pair()
    x = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    for module in (plain.unit, ours):
        for name in ("expand", "depthwise", "project"):
            module.get_submodule(name).requires_grad_(False)
    for module in (plain, ours):
        module(x).square().sum().backward()
    assert ours.depthwise.weight.grad is None
    for name, parameter in ours.named_parameters():
        exact = plain.unit.get_parameter(name).grad
        assert (parameter.grad is None) == (exact is None)
        if exact is not None:
            torch.testing.assert_close(parameter.grad, exact, rtol=1e-10, atol=1e-12)


def test_no_running_statistics():
    plain, ours = pair()
    x = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    for module in (plain.unit, ours):
        for norm in (module.norm1, module.norm2):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    plain.eval(), ours.eval()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training):
    torch.manual_seed(0)
    unit = MobileUnit3d(4).train(training)
    twin = copy.deepcopy(unit)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 3, 8, 8)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = [module(leaf) for module, leaf in zip((unit, compiled), leaves, strict=True)]
    assert torch.equal(*outs)
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)
    for a, b in zip(unit.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(unit.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def test_shapes_and_errors():
    x = torch.randn(2, 4, 3, 5, 7)
    assert MobileUnit3d(4)(x).shape == (2, 8, 3, 5, 7)
    assert MobileUnit3d(4, expansion=3, merge="add").expand.weight.shape == (12, 4, 1, 1, 1)
    assert MobileUnit3d(4, merge="add")(x).shape == x.shape
    assert sum(p.numel() for p in MobileUnit3d(4).parameters()) == 16 * 4**2 + 234 * 4
    with pytest.raises(ValueError, match="merge must be one of"):
        MobileUnit3d(4, merge="sum")
    with pytest.raises(ValueError, match="channels must be a whole number >= 1, got 0"):
        MobileUnit3d(0)
    with pytest.raises(ValueError, match=r"norm1_weight must be \(3,\), got \(4,\)"):
        MobileUnit3d(4)(torch.randn(2, 3, 3, 5, 7))
