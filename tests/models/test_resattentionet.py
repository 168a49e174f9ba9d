# SPDX-License-Identifier: BSD-3-Clause
import math

import pytest
import torch
from agreement import same_training
from twin_resattentionet import TwinResAttentioNet

from eegfast.models import ResAttentioNet, create, names, register
from eegfast.models.resattentionet import ResidualEncoder, TemporalAttentionPooling


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "n_outputs, expected", [(3, 359_811), (4, 359_940), (5, 360_069), (7, 360_327)]
)
def test_published_parameter_counts(n_outputs, expected):
    assert count(ResAttentioNet(n_outputs=n_outputs)) == expected


@pytest.mark.parametrize("width, expected", [(32, 1_329_411), (64, 5_099_523)])
def test_parameter_counts_of_wider_networks(width, expected):
    assert count(ResAttentioNet(base_width=width)) == expected


def test_parameter_counts_of_the_parts():
    net = ResAttentioNet()
    assert count(net.encoder.stem) == 34_752
    assert [count(stage) for stage in net.encoder.stages] == [3_200, 11_584, 45_696, 181_504]
    assert (count(net.encoder), count(net.pooling), count(net.classifier)) == (
        276_736,
        66_176,
        16_899,
    )


def test_shapes_at_each_stage():
    net = ResAttentioNet().eval()
    shapes = []
    encoder = net.encoder
    modules = [encoder.stem, encoder.pool, *encoder.stages]
    modules += [net.dropout, net.pooling, net.classifier]
    for module in modules:
        module.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape[1:])))
    net(torch.randn(2, 60, 62, 5))
    assert shapes[:6] == [(16, 30), (16, 15), (16, 15), (32, 8), (64, 4), (128, 2)]
    assert shapes[6:] == [(2, 128), (128,), (3,)]


@pytest.mark.parametrize("options", [{}, {"n_chans": 19, "n_outputs": 2, "n_heads": 4}], ids=str)
def test_agrees_with_the_twin(options):
    torch.manual_seed(0)
    options = options | {"drop_prob": 0.0}
    net = ResAttentioNet(**options)
    batches = [x.double() for _ in range(3) for x in net.example_inputs(4)]
    same_training(net, TwinResAttentioNet(**options), batches, net.n_outputs, rtol=1e-8)


@pytest.mark.parametrize("windows", [1, 2, 7, 14, 33, 61])
def test_any_number_of_windows_and_channels(windows):
    net = ResAttentioNet(n_chans=19, n_windows=windows, n_outputs=2).eval()
    assert net(torch.randn(3, windows, 19, 5)).shape == (3, 2)
    encoded = ResidualEncoder(95, 16).eval()(torch.randn(1, 95, windows))
    assert encoded.shape == (1, 128, math.ceil(windows / 32))


def test_flat_input_is_band_major():
    net = ResAttentioNet(n_chans=19, n_windows=10, n_outputs=2).eval()
    x = torch.randn(4, 10, 19, 5)
    stored = x.transpose(2, 3).reshape(4, 10, 95)  # (window, band, channel), as SEED-VII stores it
    torch.testing.assert_close(net(x), net(stored), rtol=0, atol=0)
    assert not torch.allclose(net(x), net(x.flatten(2)))


def test_attention_pooling_is_single_query_attention_by_hand():
    torch.manual_seed(0)
    pooling = TemporalAttentionPooling(12, n_heads=3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    attention = pooling.attention
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, bk, bv = attention.in_proj_bias.chunk(3)
    query = (pooling.query.reshape(12) @ wq.T + bq).reshape(3, 4)
    keys = (x @ wk.T + bk).reshape(2, 5, 3, 4)
    values = (x @ wv.T + bv).reshape(2, 5, 3, 4)
    pooled = torch.zeros(2, 3, 4, dtype=torch.float64)
    for n in range(2):
        for head in range(3):
            weights = (keys[n, :, head] @ query[head] / 2.0).softmax(0)
            pooled[n, head] = weights @ values[n, :, head]
    expected = pooled.reshape(2, 12) @ attention.out_proj.weight.T + attention.out_proj.bias
    for train in (True, False):
        torch.testing.assert_close(pooling.train(train)(x), expected, rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    net = ResAttentioNet(n_chans=4, n_windows=60, n_outputs=3)
    x = torch.randn(6, 60, 4, 5, requires_grad=True)
    torch.nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2] * 2)).backward()
    assert x.grad.abs().sum() > 0
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        if name != "pooling.attention.in_proj_bias":
            assert parameter.grad.abs().sum() > 0, name


def test_evaluation_repeats_and_training_drops_out():
    net = ResAttentioNet(n_chans=4, n_windows=10, n_outputs=2)
    x = torch.randn(8, 10, 4, 5)
    assert not torch.equal(net(x), net(x))
    net.eval()
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
    torch.testing.assert_close(net(x[:1]), net(x)[:1], rtol=1e-5, atol=1e-6)


def test_returns_logits():
    torch.manual_seed(0)
    out = ResAttentioNet(n_chans=4, n_windows=10).eval()(100 * torch.randn(5, 10, 4, 5))
    assert (out < 0).any() and not torch.allclose(out.sum(1), torch.ones(5))


def test_dropout_probability_reaches_both_places():
    net = ResAttentioNet(drop_prob=0.25)
    assert [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 60, 5, 62), r"\(N, windows, 62, 5\) or \(N, windows, 310\), got \(2, 60, 5, 62\)"),
        ((2, 60, 311), "311"),
        ((60, 310), r"got \(60, 310\)"),
        ((2, 59, 62, 5), "expected 60 windows, got 59"),
    ],
)
def test_wrong_inputs_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        ResAttentioNet()(torch.zeros(shape))


def test_any_length_when_windows_is_none():
    net = ResAttentioNet(n_windows=None).eval()
    assert net(torch.zeros(1, 77, 310)).shape == (1, 3)
    with pytest.raises(ValueError, match="at least 1"):
        net(torch.zeros(1, 0, 310))


@pytest.mark.parametrize(
    "kwargs", [{"n_chans": 0}, {"n_outputs": 0}, {"n_windows": 0}, {"n_heads": 3}]
)
def test_wrong_sizes_are_refused(kwargs):
    with pytest.raises(ValueError, match="ResAttentioNet"):
        ResAttentioNet(**kwargs)


def test_registry():
    assert "resattentionet" in names()
    assert isinstance(create("ResAttentioNet", n_outputs=4), ResAttentioNet)
    with pytest.raises(ValueError, match="no model named 'nope'; known: .*resattentionet"):
        create("nope")
    with pytest.raises(ValueError, match="exists already"):
        register("RESATTENTIONET")(ResAttentioNet)
