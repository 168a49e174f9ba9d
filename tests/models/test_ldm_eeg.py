# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
import torch
from torch import nn
from twin_ldm_eeg import TwinLDMEEG

from eegfast.models import LDMEEG, create, ldm_eeg
from eegfast.models.ldm_eeg import CONVS, MultiAttention, PseudoUnit3d, Transition
from eegfast.nn import MobileUnit3d


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def close(ours, theirs, name):
    scale = theirs.abs().max().item() if theirs.numel() else 0.0
    torch.testing.assert_close(
        ours, theirs, rtol=1e-8, atol=1e-9 * scale, msg=lambda text: f"{name}: {text}"
    )


def settled(net, *inputs):
    """Put the statistics of these inputs into the norms; evaluation mode.

    Behind attention variances are near 1e-5. With the 1 that a fresh norm holds, the logits would
    hardly depend on the input.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(*inputs)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


@pytest.mark.parametrize(
    "n, c, attention, expected",
    [
        (1, 2, "0011", 7_367),
        (1, 4, "0011", 18_255),
        (1, 8, "0011", 53_567),
        (2, 2, "0011", 248_447),
        (2, 4, "0011", 899_743),
        (2, 8, "0011", 3_413_855),
        (1, 4, "1111", 158_443),
        (2, 4, "1111", 1_040_035),
    ],
)
def test_published_parameter_counts(n, c, attention, expected):
    assert count(LDMEEG(n=n, c=c, attention=attention)) == expected


# The paper's 2.10 M is none of them: see LDMEEG's notes.
@pytest.mark.parametrize(
    "conv, expected",
    [
        ("pseudo", 1_733_183),
        ("pseudo-wide", 2_127_583),
        ("pseudo-depthwise", 856_543),
        ("pseudo-parallel", 2_018_783),
    ],
)
def test_parameter_counts_of_the_pseudo_forms(conv, expected):
    assert count(LDMEEG(conv=conv)) == expected


def test_parameter_counts_of_the_parts():
    net = LDMEEG()
    for stream, stem, attention in ((net.frequency, 300, 1_680), (net.time, 36, 1_764)):
        blocks = list(stream)[1:]
        assert count(stream.stem) == stem
        assert count(*(block.units for block in blocks)) == 150_920
        assert count(*(block.transition for block in blocks)) == 293_760
        assert count(*(block.attention for block in blocks[2:])) == attention
        assert blocks[0].attention is None and blocks[1].attention is None
    assert count(net.classifier) == 50 * 128 + 50 + 153


def test_parameters_do_not_depend_on_what_is_merely_disabled():
    with_it, without = LDMEEG(), LDMEEG(channel_attention=False)
    assert count(with_it) - count(without) == 2 * (16**2 + 16 + 32**2 + 32)
    assert not any("attention.channel" in name for name in without.state_dict())


def test_shapes_at_each_stage():
    net = LDMEEG().eval()
    expected = [(4, 16)]
    for wide, narrow, size in ((16, 8, 16), (32, 16, 8), (64, 32, 4), (128, 64, 2)):
        expected += [(wide, size), (narrow, size // 2)]
    for depth, stream in ((5, net.frequency), (8, net.time)):
        stem, *blocks = stream
        outputs = [stem(torch.randn(2, 1, depth, 32, 32))]
        for block in blocks:
            x = outputs[-1] if block.attention is None else block.attention(outputs[-1])
            outputs.append(block.units(x))
            outputs.append(block.transition(outputs[-1]))
        assert [tuple(x.shape) for x in outputs] == [
            (2, channels, depth, size, size) for channels, size in expected
        ]


VARIANTS = [
    {},
    {"n": 1, "c": 2},
    {"attention": "1111", "n": 1, "c": 2},
    {"attention": "0100", "n": 1, "c": 3, "channel_attention": False, "n_outputs": 5},
    {"n": 1, "c": 2, "n_bands": 4, "n_steps": 3, "grid": 45, "expansion": 3},
    {"n": 2, "c": 16, "merge": "add", "expansion": 2},
    {"n": 1, "c": 2, "merge": "add", "compression": 1.0, "conv": "pseudo"},
    *({"n": 1, "c": 2, "conv": conv} for conv in CONVS[1:]),
]


def name_of(kwargs):
    return "-".join(f"{key}={value}" for key, value in kwargs.items()) or "published"


@pytest.mark.parametrize("kwargs", VARIANTS, ids=name_of)
def test_trains_and_evaluates_as_the_twin(kwargs):
    torch.manual_seed(0)
    twin, net = TwinLDMEEG(**kwargs).double(), LDMEEG(**kwargs).double()
    net.load_state_dict(twin.state_dict())
    inputs = [x.double() for x in net.example_inputs(2)]
    target = torch.arange(2) % net.config["n_outputs"]
    models = {"twin": twin, "ours": net}
    optimizers = [torch.optim.Adam(m.parameters(), lr=5e-4) for m in models.values()]
    for step in range(3):
        results = []
        for model, optimizer in zip(models.values(), optimizers, strict=True):
            leaves = [x.clone().requires_grad_() for x in inputs]
            torch.manual_seed(step)  # the same dropout in both
            optimizer.zero_grad()
            out = model(*leaves)
            nn.functional.cross_entropy(out, target).backward()
            grads = {name: p.grad.clone() for name, p in model.named_parameters()}
            grads |= {f"input {i}": x.grad for i, x in enumerate(leaves)}
            optimizer.step()
            results.append((out.detach(), grads, model.state_dict()))
        (theirs, their_grads, their_state), (ours, our_grads, our_state) = results
        close(ours, theirs, f"logits of step {step}")
        assert our_grads.keys() == their_grads.keys() and our_state.keys() == their_state.keys()
        for name, grad in their_grads.items():
            assert grad.abs().max() > 0, name
            close(our_grads[name], grad, f"gradient of {name}, step {step}")
        for name, value in their_state.items():
            close(our_state[name], value, f"{name}, step {step}")
    settled(net, *inputs), settled(twin, *inputs)
    leaves = [[x.clone().requires_grad_() for x in inputs] for _ in models]
    ours, theirs = net(*leaves[0]), twin(*leaves[1])
    close(ours, theirs, "logits in evaluation mode")
    for model, out in ((net, ours), (twin, theirs)):
        model.zero_grad()
        out.square().sum().backward()
    for mine, exact in zip(*leaves, strict=True):
        close(mine.grad, exact.grad, "gradient of the maps in evaluation mode")
    for (name, mine), exact in zip(net.named_parameters(), twin.parameters(), strict=True):
        close(mine.grad, exact.grad, f"gradient of {name} in evaluation mode")


def gradient_error(seed, training):
    """Of the worst parameter, in single precision against the twin in double."""
    torch.manual_seed(seed)
    net = LDMEEG(drop_prob=0.0)
    inputs = net.example_inputs(4)
    twin = TwinLDMEEG(drop_prob=0.0).double()
    twin.load_state_dict(settled(net, *inputs).state_dict())
    ours = net.train(training)(*inputs)
    exact = twin.train(training)(*(x.double() for x in inputs))
    error = (ours - exact).abs().max() / exact.std(0).min()
    assert error < 1e-3  # of the differences between samples, which are what is learned from
    for out in (ours, exact):
        nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
    pairs = zip(net.parameters(), twin.parameters(), strict=True)
    return max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs)


@pytest.mark.parametrize("training", [True, False])
def test_single_precision_stays_near_the_twin_in_double(training):
    """One activation on the other side of ReLU's corner is a hundredth: some draw has none."""
    assert any(gradient_error(seed, training) < 1e-4 for seed in range(6))


def test_bfloat16_autocast_trains():
    torch.manual_seed(0)
    net = LDMEEG(drop_prob=0.0)
    inputs, target = net.example_inputs(6), torch.arange(6) % 3
    grads = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(net(*inputs), target)
        loss.backward()
        grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, rounded in grads[1].items():
        assert torch.isfinite(rounded).all(), name
    for name in ("classifier.0.weight", "time.block4.transition.conv.weight"):
        exact, rounded = grads[0][name].flatten(), grads[1][name].flatten()
        assert torch.cosine_similarity(exact, rounded, 0) > 0.99, name


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_transition_is_a_convolution_and_a_pool(size):
    torch.manual_seed(0)
    transition = Transition(6, 3).double()
    x = torch.randn(2, 6, 5, size, size, dtype=torch.float64)
    expected = nn.functional.avg_pool3d(transition.conv(x), (1, 2, 2))
    torch.testing.assert_close(transition(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", ["depthwise", "pseudo"])
def test_layout_of_the_dense_convolutions_is_chosen_in_one_place(monkeypatch, conv):
    torch.manual_seed(0)
    net = LDMEEG(n=1, conv=conv)
    inputs = net.example_inputs(2)
    before = settled(net, *inputs)(*inputs)

    layouts = []
    original = nn.functional.conv3d

    def conv3d(x, weight, *args, **kwargs):
        if x.shape[1] > 1 and weight[0, 0].numel() > 1:  # not the stem, not 1x1x1
            layouts.append(x.is_contiguous(memory_format=torch.channels_last_3d))
        return original(x, weight, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "conv3d", conv3d)
    monkeypatch.setattr(ldm_eeg, "DENSE_LAYOUT", torch.channels_last_3d)
    torch.testing.assert_close(net(*inputs), before, rtol=1e-4, atol=1e-5)
    in_units = 0 if conv == "depthwise" else 2
    assert layouts == [True] * 2 * (4 * in_units + 3)  # the last transition is a matrix product


def test_attention_by_hand():
    torch.manual_seed(0)
    attention = MultiAttention(3, 5, 2).double()
    x = torch.randn(2, 3, 5, 2, 2, dtype=torch.float64)
    for sample, out in zip(x, attention(x), strict=True):
        factors = (
            (attention.channel, (1, 2, 3), (3, 1, 1, 1)),
            (attention.spatial, (0, 1), (1, 1, 2, 2)),
            (attention.depth, (0, 2, 3), (1, 5, 1, 1)),
        )
        for linear, over, shape in factors:
            score = linear.weight @ sample.mean(over).flatten() + linear.bias
            sample = sample * (score.exp() / score.exp().sum()).view(shape)
        torch.testing.assert_close(out, sample, rtol=1e-12, atol=1e-14)


def test_uniform_attention_divides_by_its_sizes():
    attention = MultiAttention(32, 5, 2)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 32, 5, 2, 2)
    torch.testing.assert_close(attention(x), x / 640)


def test_attention_maps():
    torch.manual_seed(0)
    net = LDMEEG(attention="1011")
    net.time.block2.units[0].norm1.eval()
    modes = [m.training for m in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    inputs = net.example_inputs(3)
    maps = net.attention_maps(*inputs)
    assert [m.training for m in net.modules()] == modes
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    for name, depth in (("frequency", 5), ("time", 8)):
        assert list(maps[name]) == [1, 3, 4]
        for block, channels, size in ((1, 4, 16), (3, 16, 4), (4, 32, 2)):
            shapes = {kind: tuple(w.shape[1:]) for kind, w in maps[name][block].items()}
            assert shapes == {"channel": (channels,), "spatial": (size, size), "depth": (depth,)}
            for weight in maps[name][block].values():
                assert not weight.requires_grad and weight.shape[0] == 3
                torch.testing.assert_close(weight.flatten(1).sum(1), torch.ones(3))

    seen = []  # what the forward pass itself multiplies by
    attention = net.frequency.block4.attention
    attention.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    net.eval()(*inputs)
    weights = maps["frequency"][4]
    product = weights["channel"][:, :, None, None, None] * weights["spatial"][:, None, None]
    product = product * weights["depth"][:, None, :, None, None]
    torch.testing.assert_close(seen[0][1], seen[0][0] * product)


def test_attention_maps_without_channels_or_attention():
    net = LDMEEG(n=1, attention="0001", channel_attention=False)
    maps = net.attention_maps(*net.example_inputs())
    assert {kind for stream in maps.values() for kind in stream[4]} == {"spatial", "depth"}
    net = LDMEEG(n=1, attention="0000")
    assert net.attention_maps(*net.example_inputs()) == {"frequency": {}, "time": {}}


def test_which_unit_is_used():
    units = {conv: LDMEEG(n=1, c=2, conv=conv).time.block3.units[0] for conv in CONVS}
    assert isinstance(units.pop("depthwise"), MobileUnit3d)
    assert all(isinstance(unit, PseudoUnit3d) for unit in units.values())


def test_no_activation_in_the_classifier_and_one_dropout():
    net = LDMEEG(drop_prob=0.25)
    assert [type(m) for m in net.classifier] == [nn.Linear, nn.Dropout, nn.Linear]
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"c": 1.5}, "c must be a whole number"),
        ({"n_outputs": 0}, "n_outputs"),
        ({"n_bands": 0}, "n_bands"),
        ({"n_steps": 0}, "n_steps"),
        ({"grid": 31}, "grid must be a whole number of at least 32, got 31"),
        ({"expansion": 0}, "expansion"),
        ({"attention": "011"}, "attention must be four of '0' and '1', got '011'"),
        ({"attention": "0021"}, "attention"),
        ({"attention": 11}, "attention"),
        ({"conv": "full"}, "conv must be one of depthwise, pseudo, .*got 'full'"),
        ({"merge": "sum"}, "merge must be one of concat, add, got 'sum'"),
        ({"compression": 0}, "compression must be above 0 and at most 1, got 0"),
        ({"compression": 1.1}, "compression"),
        ({"drop_prob": 1.5}, "drop_prob must be from 0 to 1, got 1.5"),
        ({"merge": "add"}, r"transition 3 makes 0.5 \* 1 channels.*greater c \(now 4\)"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=f"LDMEEG: .*{message}"):
        LDMEEG(**kwargs)


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((2, 1, 8, 32, 32),) * 2, r"frequency_maps must be \(N, 1, 5, 32, 32\), got \(2, 1, 8"),
        (((2, 1, 5, 32, 32),) * 2, r"time_maps must be \(N, 1, 8, 32, 32\), got \(2, 1, 5"),
        (((2, 5, 32, 32), (2, 1, 8, 32, 32)), r"got \(2, 5, 32, 32\)"),
        (((2, 1, 5, 32, 32), (3, 1, 8, 32, 32)), "the same samples, got .*2, 1.*3, 1"),
    ],
)
def test_wrong_inputs_are_named(shapes, message):
    net = LDMEEG(n=1, c=2)
    for call in (net, net.attention_maps):
        with pytest.raises(ValueError, match=f"LDMEEG: .*{message}"):
            call(*(torch.zeros(shape) for shape in shapes))


def test_streams_are_not_exchanged():
    torch.manual_seed(0)
    net = LDMEEG(n=1, c=2, n_steps=5)
    frequency, time = net.example_inputs(2)
    settled(net, frequency, time)
    assert not torch.allclose(net(frequency, time), net(time, frequency))
    features = torch.cat([net.frequency(frequency), net.time(time)], 1).mean((2, 3, 4))
    torch.testing.assert_close(net(frequency, time), net.classifier(features))


def test_registry_and_configuration():
    net = create("LDM-EEG", n=1, conv="pseudo")
    assert isinstance(net, LDMEEG)
    assert net.config["conv"] == "pseudo" and net.config["attention"] == "0011"


def test_a_pseudo_form_compiles_whole():
    torch.manual_seed(0)
    net = LDMEEG(n=1, c=2, conv="pseudo-parallel", drop_prob=0.0)
    twin = LDMEEG(n=1, c=2, conv="pseudo-parallel", drop_prob=0.0)
    twin.load_state_dict(net.state_dict())
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    inputs = net.example_inputs(3)
    for model in (net, compiled):
        model(*inputs).square().sum().backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(net.state_dict(), twin.state_dict())
