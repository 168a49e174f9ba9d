# SPDX-License-Identifier: BSD-3-Clause
import importlib.util
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twin_sst_emotionnet import TwinSSTEmotionNet, tf_same

from eegfast.models import SSTEmotionNet, create, from_pretrained, names
from eegfast.models._sst_layers import (
    LAYOUT,
    ConvBlock,
    ParallelAttention,
    TimeStem,
    Transition,
    convolve,
    same_padding,
)

DATA = Path(__file__).parent / "data"
TORCHEEG = runpy.run_path(str(DATA / "make_sst_torcheeg.py"))
TENSORFLOW = runpy.run_path(str(DATA / "make_tf_same.py"))
CASES = json.loads((DATA / "sst_torcheeg.json").read_text())

# Small enough for float64 steps, of both streams' every part; height is not width.
SMALL = {"n_bands": 4, "n_steps": 9, "grid": [16, 19], "frequency_growth": 2, "time_growth": 3}
SMALL |= {"frequency_depth": 16, "time_depth": 10, "n_hidden": 6}


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def part(stream, kind):
    return [module for name, module in stream.named_children() if name.startswith(kind)]


# ---- the published sizes


@pytest.mark.parametrize(
    "kwargs, expected",
    [
        ({}, 519_213),
        ({"n_steps": 8}, 519_167),
        ({"variant": "paper"}, 1_573_185),
        ({"variant": "torcheeg"}, 1_579_233),
        ({"variant": "torcheeg", "grid": 16}, 525_747),
        ({"n_outputs": 4}, 519_213 + 51),
    ],
)
def test_parameter_counts(kwargs, expected):
    net = SSTEmotionNet(**kwargs)
    assert count(net) == sum(p.numel() for p in net.parameters() if p.requires_grad) == expected


def test_parameter_counts_of_the_parts():
    net = SSTEmotionNet()
    assert (count(net.frequency), count(net.time), count(net.head)) == (116_040, 387_370, 15_803)
    assert count(*part(net.frequency, "attention")) == 69_960
    assert count(*part(net.time, "attention")) == 346
    statistics = [b.numel() for name, b in net.named_buffers() if "running" in name]
    assert sum(statistics) == 6_792
    with_statistics = [t.numel() for k, t in net.state_dict().items() if "batches" not in k]
    assert sum(with_statistics) == 526_005
    short = SSTEmotionNet(n_steps=8).state_dict()
    assert sum(t.numel() for k, t in short.items() if "batches" not in k) == 525_959
    port = SSTEmotionNet("torcheeg")
    assert (count(port.frequency), count(port.time)) == (1_166_534, 396_896)
    assert count(SSTEmotionNet("paper").frequency.attention1) == 1_049_630


@pytest.mark.parametrize("channels, growth", [(24, 12), (72, 24)])
def test_parameters_of_a_convolution_block(channels, growth):
    expected = 2 * channels + 4 * growth * channels + 8 * growth + 39 * growth**2
    assert count(ConvBlock(channels, growth, 0.01, extra=False)) == expected
    assert count(ConvBlock(channels, growth, 0.01, extra=True)) == expected + growth**2


def test_shapes_and_layout_along_the_released_streams():
    net = SSTEmotionNet().eval()
    shapes = {"frequency": [], "time": []}

    def record(stream):
        def hook(module, args, out):
            assert out.is_contiguous(memory_format=LAYOUT)
            shapes[stream].append(tuple(out.shape[1:]))

        return hook

    for stream in shapes:
        for layer in getattr(net, stream):
            layer.register_forward_hook(record(stream))

    def check(module, args, out):
        assert out.is_contiguous(memory_format=LAYOUT), module

    for layer in net.modules():  # the libraries get channels-last tensors everywhere
        if isinstance(layer, nn.Conv3d | nn.BatchNorm3d) and layer is not net.frequency.stem.conv:
            layer.register_forward_hook(check)
    with torch.no_grad():
        assert net(*net.example_inputs(2)).shape == (2, 3)
    assert shapes["frequency"] == [
        (24, 5, 32, 32),
        (48, 5, 32, 32),
        *[(24, 2, 16, 16)] * 2,
        (48, 2, 16, 16),
        *[(24, 1, 8, 8)] * 2,
        *[(48, 1, 8, 8)] * 3,
    ]
    assert shapes["time"] == [
        (48, 13, 8, 8),
        (120, 13, 8, 8),
        *[(120, 6, 4, 4)] * 2,
        (192, 6, 4, 4),
        *[(192, 3, 2, 2)] * 2,
        *[(264, 3, 2, 2)] * 3,
    ]


# ---- against torcheeg


def arguments(case):
    theirs = case["arguments"]
    renamed = {
        "grid": "grid_size",
        "n_bands": "spectral_in_channels",
        "n_steps": "temporal_in_channels",
        "frequency_depth": "spectral_depth",
        "time_depth": "temporal_depth",
        "frequency_growth": "spectral_growth_rate",
        "time_growth": "temporal_growth_rate",
        "n_hidden": "hid_channels",
        "n_outputs": "num_classes",
    }
    return {ours: theirs[name] for ours, name in renamed.items()}


@pytest.mark.parametrize("case", CASES, ids=["even", "odd"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_torcheeg_weights_give_torcheeg_outputs(case, dtype, tolerance):
    def close(actual, expected):
        expected = torch.tensor(expected, dtype=dtype)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)

    net = SSTEmotionNet.from_torcheeg(TORCHEEG["weights"](case["shapes"]), **arguments(case))
    assert not net.training
    net.to(dtype)
    x = TORCHEEG["inputs"](case["arguments"]).to(dtype)
    maps = x[:, None, : net.n_bands], x[:, None, net.n_bands :]
    with torch.no_grad():
        close(net(*maps), case["eval"])
        close(net.train()(*maps), case["train"])
    close(net.time.norm.running_mean, case["running_mean"])


@pytest.mark.skipif(importlib.util.find_spec("torcheeg") is None, reason="no torcheeg")
@pytest.mark.parametrize("n_steps", [24, 25])
def test_against_torcheeg_itself(n_steps):
    torch.manual_seed(0)
    package = importlib.util.find_spec("torcheeg").submodule_search_locations[0]
    theirs = TORCHEEG["torcheeg_class"](package)(temporal_in_channels=n_steps)
    shapes = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    theirs.load_state_dict(TORCHEEG["weights"](shapes))
    ours = SSTEmotionNet.from_torcheeg(theirs.state_dict(), n_steps=n_steps)
    assert count(ours) == count(theirs)
    ours, theirs = ours.double(), theirs.double().eval()
    x = torch.randn(2, 5 + n_steps, 32, 32, dtype=torch.float64)
    for _ in ("evaluation", "training"):
        out, expected = ours(x[:, None, :5], x[:, None, 5:]), theirs(x)
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
        ours.train(), theirs.train()


def test_weights_that_are_not_torcheegs_are_named():
    shapes = CASES[0]["shapes"]
    kwargs = arguments(CASES[0])
    state = TORCHEEG["weights"](shapes)
    with pytest.raises(ValueError, match="(?s)SSTEmotionNet.from_torcheeg: .*size mismatch"):
        SSTEmotionNet.from_torcheeg(state, **kwargs | {"n_outputs": 5})
    with pytest.raises(ValueError, match="(?s)from_torcheeg.*frequency.surplus"):
        SSTEmotionNet.from_torcheeg(state | {"spatial_spectral.surplus": torch.zeros(1)}, **kwargs)
    del state["layers.2.bias"]
    with pytest.raises(ValueError, match="(?s)from_torcheeg.*head.2.bias"):
        SSTEmotionNet.from_torcheeg(state, **kwargs)


# ---- against the twin


@pytest.mark.parametrize(
    "kwargs",
    [
        {"variant": "released"},
        {"variant": "released", "n_steps": 8, "grid": [17, 18], "placement": "before_block"},
        {"variant": "released", "gate": "softmax", "n_blocks": 2, "transition_relu": False},
        {"variant": "paper", "frequency_compression": 0.7},
        {"variant": "torcheeg"},
        {"variant": "torcheeg", "n_steps": 8, "grid": [18, 16]},
    ],
    ids=str,
)
def test_equals_the_twin_over_three_steps(kwargs):
    torch.manual_seed(0)
    kwargs = SMALL | kwargs | {"drop_prob": 0.0}
    net = SSTEmotionNet(**kwargs).double()
    twin = TwinSSTEmotionNet(**kwargs).double()
    twin.load_state_dict(net.state_dict())
    labels = torch.tensor([0, 1, 2, 0])
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (net, twin)]
    for _ in range(3):
        x = [maps.double() for maps in net.example_inputs(4)]
        results = []
        for module, optimizer in zip((net, twin), optimizers, strict=True):
            maps = [m.clone().requires_grad_() for m in x]
            out = module.train()(*maps)
            optimizer.zero_grad()
            F.cross_entropy(out, labels).backward()
            optimizer.step()
            gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
            with torch.no_grad():
                tested = module.eval()(*x)
            results.append(
                [out, [m.grad for m in maps], gradients, dict(module.state_dict()), tested]
            )
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_twin_takes_the_same_arguments():
    twin = TwinSSTEmotionNet()
    twin.load_state_dict(SSTEmotionNet().state_dict())
    assert create("SST-EmotionNet").config.items() >= {"n_steps": 25, "variant": "released"}.items()


# ---- the layers


@pytest.mark.parametrize(
    "shape, kernel, stride, pad",
    [
        ((2, 6, 5, 7, 4), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((2, 6, 5, 7, 4), (1, 3, 3), (1, 1, 1), (0, 1, 1)),
        ((2, 6, 5, 7, 4), (3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((2, 6, 1, 1, 1), (3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((2, 1, 5, 8, 9), (3, 5, 5), (1, 2, 2), (1, 2, 2)),
        ((2, 1, 6, 11, 9), (3, 5, 5), (1, 2, 2), (1, 0, 0)),
        ((0, 1, 5, 8, 9), (3, 5, 5), (1, 2, 2), (1, 2, 2)),
    ],
)
def test_convolutions_are_conv3d(shape, kernel, stride, pad):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(4, shape[1], *kernel, dtype=torch.float64)
    expected = F.conv3d(x, weight, None, stride, pad)
    for tensor in (x, x.contiguous(memory_format=LAYOUT)):
        out = convolve(tensor, weight, stride, pad)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "size, kernel, stride, expected",
    [
        (32, 5, 2, (1, 2)),
        (16, 5, 2, (1, 2)),
        (19, 5, 2, (2, 2)),
        (25, 3, 1, (1, 1)),
        (25, 2, 2, (0, 1)),
        (8, 2, 2, (0, 0)),
        (9, 1, 2, (0, 0)),
    ],
)
def test_same_padding(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def stem_of_integers(channels):
    """Without what is not exact: BatchNorm does nothing."""
    stem = TimeStem(channels, 0.01, symmetric=False).double().eval()
    stem.norm.eps = 0.0
    return stem.requires_grad_(False)


@pytest.mark.parametrize("shape", [(25, 32, 32), (8, 16, 18), (9, 17, 19), (6, 5, 9)])
def test_time_stem_pads_as_tensorflow_says(shape):
    torch.manual_seed(0)
    stem = stem_of_integers(3)
    stem.conv.weight.copy_(torch.randint(-4, 5, stem.conv.weight.shape))
    x = torch.randint(-8, 9, (2, 1, *shape)).double()
    y = torch.relu(F.conv3d(tf_same(x, (3, 5, 5), (1, 2, 2)), stem.conv.weight, stride=(1, 2, 2)))
    y = F.max_pool3d(tf_same(y, (2, 2, 2), (2, 2, 2), -math.inf), 2)
    out = stem(x)
    assert torch.equal(out, y)
    assert out.shape[2:] == stem.output_size(*shape)


@pytest.mark.parametrize("case", range(len(TENSORFLOW["SHAPES"])))
def test_time_stem_gives_tensorflows_bits(case):
    maps, kernels = map(torch.from_numpy, TENSORFLOW["draw"](TENSORFLOW["SHAPES"][case]))
    stem = stem_of_integers(2)
    stem.conv.weight.copy_(kernels.permute(4, 3, 2, 0, 1))
    out = stem(maps.permute(0, 4, 3, 1, 2).double())
    expected = torch.tensor(json.loads((DATA / "tf_same.json").read_text())[case])
    assert torch.equal(out.permute(0, 3, 4, 2, 1), expected.double())


def test_time_stem_sees_the_grid_where_tensorflow_does():
    """Output (0, 0) of the stride-2 kernel is centred on input (1, 1), not on (0, 0)."""
    stem = TimeStem(1, 0.01, symmetric=False).eval()
    with torch.no_grad():
        stem.conv.weight.zero_()[0, 0, 1, 2, 2] = 1.0
    x = torch.arange(32.0 * 32).reshape(1, 1, 1, 32, 32).expand(1, 1, 2, 32, 32)
    centres = x[0, 0, 0, 1::2, 1::2]
    expected = F.max_pool2d(centres[None], 2)[0] / math.sqrt(1 + 1.1e-5)
    torch.testing.assert_close(stem(x)[0, 0, 0], expected)


@pytest.mark.parametrize("n_steps, depth", [(24, 13), (25, 13), (32, 17)])
def test_depth_behind_torcheegs_stem(n_steps, depth):
    stem = TimeStem(2, 0.1, symmetric=True).eval()
    assert stem(torch.zeros(1, 1, n_steps, 16, 16)).shape[2:] == (depth, 4, 4)
    assert stem.output_size(n_steps, 16, 16) == (depth, 4, 4)


@pytest.mark.parametrize("relu", [True, False])
def test_transition_drops_odd_ends_and_averages(relu):
    torch.manual_seed(0)
    transition = Transition(3, 2, 0.01, relu).double().eval()
    x = torch.randn(2, 3, 5, 7, 9, dtype=torch.float64)
    y = transition.norm(x)
    y = F.conv3d(y.relu() if relu else y, transition.conv.weight)
    out = transition(x)
    assert out.shape == (2, 2, 2, 3, 4)
    for d, h, w in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
        cell = y[:, :, 2 * d : 2 * d + 2, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        torch.testing.assert_close(out[:, :, d, h, w], cell.mean((2, 3, 4)))


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_attention_by_hand(gate):
    torch.manual_seed(0)
    attention = ParallelAttention(3, 2, 4, gate).double()
    x = torch.randn(2, 5, 3, 2, 4, dtype=torch.float64)
    mean = x.sum(1) / 5
    spatial = mean.sum(1).reshape(2, 8) / 3 @ attention.spatial.weight.T + attention.spatial.bias
    depth = mean.sum((2, 3)) / 8 @ attention.depth.weight.T + attention.depth.bias
    if gate == "sigmoid":
        spatial, depth = 1 / (1 + (-spatial).exp()), 1 / (1 + (-depth).exp())
    else:
        spatial = spatial.exp() / spatial.exp().sum(1, keepdim=True)
        depth = depth.exp() / depth.exp().sum(1, keepdim=True)
    expected = torch.einsum("ncdhw,nhw,nd->ncdhw", x, spatial.reshape(2, 2, 4), depth)
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


# ---- options


@pytest.mark.parametrize(
    "variant, order",
    [
        ("released", "stem block1 transition1 attention1 block2 transition2 attention2 block3"),
        (
            "paper",
            "stem attention1 block1 transition1 attention2 block2 transition2 attention3 block3",
        ),
    ],
)
def test_order_of_the_layers(variant, order):
    net = SSTEmotionNet(variant, grid=16)
    for stream in (net.frequency, net.time):
        assert " ".join(name for name, _ in stream.named_children()) == order + " norm relu"


def test_what_the_variants_set():
    def facts(net):
        norm = net.frequency.norm
        gates = {m.gate for m in net.modules() if isinstance(m, ParallelAttention)}
        relu = net.time.transition1.relu
        return norm.eps, norm.momentum, gates, relu, net.head[1].p, net.time.stem.symmetric

    small = {"grid": 16}
    assert facts(SSTEmotionNet(**small)) == (1.1e-5, 0.01, {"sigmoid"}, True, 0.5, False)
    assert facts(SSTEmotionNet("paper", **small)) == (1.1e-5, 0.01, {"softmax"}, False, 0.5, False)
    assert facts(SSTEmotionNet("torcheeg", **small)) == (1.1e-5, 0.1, {"sigmoid"}, True, 0, True)
    chosen = SSTEmotionNet("paper", **small, gate="sigmoid", transition_relu=True, drop_prob=0.1)
    assert facts(chosen) == (1.1e-5, 0.01, {"sigmoid"}, True, 0.1, False)


def test_initial_weights_are_keras():
    torch.manual_seed(0)
    net = SSTEmotionNet()
    weight = net.time.block3[2].bottleneck.weight
    fan_in = weight.shape[1]
    std = math.sqrt(2 / fan_in)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert 0.99 < weight.abs().max().item() / (2 * std / 0.8796) <= 1
    plane = net.time.block1[0].plane.weight  # 96 x 3 x 3 inputs
    assert plane.std().item() == pytest.approx(math.sqrt(2 / 864), rel=0.02)
    linear = net.frequency.attention1.spatial
    bound = math.sqrt(6 / 512)
    assert 0.99 < linear.weight.abs().max().item() / bound <= 1
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not linear.bias.any() and not net.head[2].bias.any()


def test_l2_penalty_is_on_three_kinds_of_convolutions():
    net = SSTEmotionNet()
    decayed = {id(p) for p in net.decayed_parameters()}
    chosen = {name for name, p in net.named_parameters() if id(p) in decayed}
    stems = {"frequency.stem.conv.weight", "time.stem.conv.weight"}
    transitions = {f"{s}.transition{i}.conv.weight" for s in ("frequency", "time") for i in (1, 2)}
    bottlenecks = {
        f"{stream}.block{i}.{j}.bottleneck.weight"
        for stream, n in (("frequency", 2), ("time", 3))
        for i in (1, 2, 3)
        for j in range(n)
    }
    assert chosen == stems | transitions | bottlenecks


def test_parameter_groups_give_the_gradient_of_kerass_penalty():
    net = SSTEmotionNet(**SMALL)
    groups = net.parameter_groups(l2=0.25)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    optimizer = torch.optim.SGD(groups, lr=1.0)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    penalty = 0.25 * sum((p**2).sum() for p in net.decayed_parameters())
    assert penalty > 0
    decayed = {id(p) for p in net.decayed_parameters()}
    for old, new in zip(before, net.parameters(), strict=True):
        gradient = 2 * 0.25 * old if id(new) in decayed else torch.zeros_like(old)
        torch.testing.assert_close(new.detach(), old - gradient)


def test_attention_maps():
    net = SSTEmotionNet(n_bands=4, n_steps=9, grid=[16, 20], gate="softmax").eval()
    x = net.example_inputs(3)
    maps = net.attention_maps(*x)
    shapes = {
        stream: [(tuple(a["spatial"].shape), tuple(a["depth"].shape)) for a in found]
        for stream, found in maps.items()
    }
    assert shapes == {
        "frequency": [((3, 8, 10), (3, 2)), ((3, 4, 5), (3, 1))],
        "time": [((3, 2, 2), (3, 2)), ((3, 1, 1), (3, 1))],
    }
    for found in maps.values():
        for a in found:
            torch.testing.assert_close(a["spatial"].sum((1, 2)), torch.ones(3))
            torch.testing.assert_close(a["depth"].sum(1), torch.ones(3))
    stem = net.frequency[:3](x[0])  # stem, block1, transition1
    torch.testing.assert_close(
        maps["frequency"][0]["spatial"], net.frequency.attention1.weights(stem)[0].detach()
    )


# ---- bad arguments


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"variant": "keras"}, r"variant must be one of \['released', 'paper', 'torcheeg'\], got"),
        ({"gate": "relu"}, "gate must be one of"),
        ({"placement": "nowhere"}, "placement must be one of"),
        ({"n_outputs": 0}, "n_outputs must be at least 1, got 0"),
        ({"time_growth": 0}, "time_growth must be at least 1"),
        ({"frequency_depth": 15}, r"frequency_depth must be 3 k \+ 4 and at least 10, got 15"),
        ({"time_depth": 7}, "time_depth must be"),
        ({"time_compression": 0.0}, r"time_compression must be in \(0, 1\], got 0.0"),
        ({"n_bands": 3}, "frequency maps of 3 x 32 x 32 .* too small"),
        ({"grid": 12}, "time maps of 25 x 12 x 12 .* the stem leaves 13 x 3 x 3"),
        ({"n_steps": 6}, "time maps of 6 x 32 x 32"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=f"SSTEmotionNet: {message}"):
        SSTEmotionNet(**kwargs)


@pytest.mark.parametrize(
    "frequency, time, message",
    [
        ((2, 1, 5, 32, 32), (2, 1, 8, 32, 32), r"time_maps \(N, 1, 25, 32, 32\), got \(2, 1, 8"),
        ((2, 5, 32, 32), (2, 1, 25, 32, 32), r"frequency_maps \(N, 1, 5, 32, 32\), got \(2, 5"),
        ((2, 1, 5, 32, 32), (3, 1, 25, 32, 32), "as many time_maps as frequency_maps, 2, got 3"),
    ],
)
def test_wrong_inputs_are_named(frequency, time, message):
    net = SSTEmotionNet()
    for call in (net, net.attention_maps):
        with pytest.raises(ValueError, match=f"SSTEmotionNet: expected {message}"):
            call(torch.zeros(frequency), torch.zeros(time))


# ---- files and training


def test_saved_and_loaded(tmp_path):
    assert "sst-emotionnet" in names()
    net = create("sst-emotionnet", **SMALL | {"variant": "paper", "n_outputs": 4}).eval()
    loaded = from_pretrained(net.save_pretrained(tmp_path / "net"))
    assert loaded.config == net.config
    x = net.example_inputs(2)
    assert torch.equal(loaded(*x), net(*x))


@pytest.mark.parametrize("variant", ["released", "paper", "torcheeg"])
def test_learns_a_toy_problem(variant):
    torch.manual_seed(0)
    net = SSTEmotionNet(variant, **SMALL, n_outputs=2, drop_prob=0.0)
    labels = torch.arange(16) % 2
    maps = net.example_inputs(16)
    maps[0][labels == 1, :, 2] += 1.0  # one band is higher
    optimizer = torch.optim.Adam(net.parameter_groups(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(*maps), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.2
