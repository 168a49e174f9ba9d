# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
import torch
from agreement import close, same_training
from torch.nn import functional as F
from twin_scalingnet import TwinScalingNet

from eegfast.datasets import EEGMAT
from eegfast.models import ScalingNet, create, from_pretrained, names


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 11_612),
        ({"kernel_length": 129}, 14_748),
        ({"kernel_length": 65}, 12_668),
        ({"kernel_length": 63}, 12_572),
        ({"kernel_length": 17}, 11_068),
        ({"shared": True}, 10_403),
        ({"conv_kernel": (5, 3)}, 11_612),
        ({"max_levels": 4}, 11_612 - 2 * 32),
    ],
)
def test_parameter_counts(options, expected):
    assert count(ScalingNet(**options)) == expected


def test_parameter_counts_of_the_parts():
    net = ScalingNet()
    assert count(net.scaling) == 1_248
    assert [count(conv) for conv in net.convs] == [7_696, 1_928, 726]
    assert count(net.classifier) == 14


@pytest.mark.parametrize(
    "length, levels",
    [
        (33, [33, 17, 9, 5, 3, 1]),
        (65, [65, 33, 17, 9, 5, 3, 1]),
        (63, [63, 31, 15, 7, 3, 1]),
        (17, [17, 9, 5, 3, 1]),
    ],
)
def test_levels(length, levels):
    net = ScalingNet(length, n_chans=2, n_times=50)
    assert net.scaling.levels == levels
    assert net.scale_map(torch.randn(1, 2, 50)).shape == (1, 2, len(levels), 50)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_length": 63, "shared": True},
        {"kernel_length": 17, "max_levels": 3, "count_include_pad": False},
        {"conv_kernel": (5, 3), "filters": (4, 3)},
        {"n_chans": 19, "n_outputs": 5},
    ],
    ids=str,
)
def test_agrees_with_the_twin(options):
    torch.manual_seed(0)
    options = {"n_chans": 32, "n_outputs": 2, "n_times": None, **options}
    batches = [torch.randn(4, options["n_chans"], n).double() for n in (300, 301, 20)]
    net, twin = ScalingNet(**options), TwinScalingNet(**options)
    same_training(net, twin, batches, options["n_outputs"])


def test_pooling_of_ones_has_the_documented_gains():
    net = ScalingNet(n_chans=1, n_times=101)
    torch.nn.init.ones_(net.scaling.weight)
    torch.nn.init.zeros_(net.scaling.bias)
    middle = net.scale_map(torch.ones(1, 1, 101))[0, 0, :, 50]
    torch.testing.assert_close(middle, torch.tensor([33, 16.5, 8.25, 4.125, 2.0625, 0.53125]))


def test_scale_map_is_what_the_convolutions_see():
    torch.manual_seed(0)
    net = ScalingNet(n_chans=3, n_times=64)
    x = torch.randn(2, 3, 64)
    seen = []
    net.convs[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    net(x)
    torch.testing.assert_close(seen[0], net.scale_map(x), rtol=0, atol=0)
    assert (seen[0] >= 0).all() and seen[0].any()


def test_first_extent_of_the_kernel_spans_scales():
    """What happens at one scale reaches, through a 3 x 1 convolution, its neighbours alone."""
    net = ScalingNet(n_chans=1, n_times=40, filters=(1,), conv_kernel=(3, 1))
    torch.nn.init.ones_(net.convs[0].weight)
    torch.nn.init.zeros_(net.convs[0].bias)
    torch.nn.init.zeros_(net.scaling.weight)
    with torch.no_grad():
        net.scaling.bias.copy_(torch.tensor([0.0, 0, 1, 0, 0, 0]))
    seen = []
    net.convs[0].register_forward_hook(lambda module, args, out: seen.append(out))
    net(torch.zeros(1, 1, 40))
    assert (seen[0][0, 0, :, 20] != 0).tolist() == [False, True, True, True, False, False]


def test_published_input_length():
    out = ScalingNet().eval()(torch.randn(1, 32, 8064))
    assert out.shape == (1, 2) and out.isfinite().all()


def test_works_on_the_bundled_recordings():
    recording = EEGMAT()[0]
    n = 2 * int(recording.sfreq)
    x = torch.from_numpy(recording.signal).float().unfold(1, n, n).transpose(0, 1)[:6]
    out = create("ScalingNet", n_chans=19, n_times=n, sfreq=recording.sfreq)(x)
    assert out.shape == (6, 2) and out.isfinite().all()


def test_learns_fast_from_slow():
    torch.manual_seed(0)
    t = torch.arange(128) / 128
    phase = 6.28 * torch.rand(24, 2, 1)
    fast = torch.arange(24) % 2 == 0
    frequency = torch.where(fast, 30.0, 5.0)[:, None, None]
    x = torch.sin(6.28 * frequency * t + phase) + 0.1 * torch.randn(24, 2, 128)
    net = ScalingNet(17, n_chans=2, n_times=128)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), fast.long())
        loss.backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == fast.long()).all() and loss < 0.2


def test_saves_and_loads(tmp_path):
    net = ScalingNet(17, n_chans=2, n_times=50, filters=(4, 3), conv_kernel=(5, 3)).eval()
    loaded = from_pretrained(net.save_pretrained(tmp_path / "net"))
    x = torch.randn(3, 2, 50)
    torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)


def test_compiles_without_graph_breaks():
    torch.manual_seed(0)
    net = ScalingNet(17, n_chans=3, n_times=50)
    x = torch.randn(4, 3, 50)
    expected = net(x)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    out = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = ScalingNet(n_chans=4, n_times=100)
    session = runtime.InferenceSession(net.export_onnx(tmp_path / "net.onnx"))
    x = 10 * torch.randn(5, 4, 100)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(out), net.eval()(x).detach(), "onnxruntime", 1e-5)


def test_bfloat16():
    torch.manual_seed(0)
    net = ScalingNet(n_chans=4, n_times=100)
    x = torch.randn(5, 4, 100)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    torch.testing.assert_close(out.float(), net(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel_length": 32}, "ScalingNet: kernel_length must be an odd number >= 1, got 32"),
        ({"conv_kernel": (3, 4)}, r"conv_kernel\[1\] must be an odd number >= 1, got 4"),
        ({"conv_kernel": (3,)}, r"expected conv_kernel = \(scales, time\).*got \(3,\)"),
        ({"filters": ()}, "at least one of filters"),
        ({"filters": (16, 0)}, r"filters\[1\] must be a whole number >= 1, got 0"),
        ({"n_chans": 0}, "n_chans"),
        ({"n_times": 0}, "n_times"),
        ({"max_levels": 0}, "max_levels"),
        ({"n_outputs": 1.5}, "n_outputs must be a whole number >= 1, got 1.5"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ScalingNet(**options)


@pytest.mark.parametrize("shape", [(32, 100), (2, 31, 100), (2, 32, 99), (2, 1, 32, 100)])
def test_wrong_inputs_are_named(shape):
    message = rf"ScalingNet: expected a signal \(N, 32, 100\), got \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        ScalingNet(n_times=100)(torch.zeros(shape))


def test_any_number_of_samples_from_one():
    net = ScalingNet(n_times=None).eval()
    x = torch.randn(2, net.n_chans, 3)
    assert net(x[..., :1]).isfinite().all() and net(x[:0]).shape == (0, net.classifier.out_features)
    with pytest.raises(ValueError, match="n_times >= 1"):
        net(x[..., :0])


def test_registry():
    assert "scalingnet" in names()
    assert isinstance(create("scalingnet", kernel_length=17), ScalingNet)
