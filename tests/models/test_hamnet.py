# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import numpy as np
import pytest
import torch
from agreement import close, same_training
from scipy.signal import firwin
from torch.nn import functional as F
from twin_hamnet import TwinHAMNet

from eegfast.datasets import EEGMAT, SEED_CHANNELS, mirror_map
from eegfast.models import HAMNet, create, from_pretrained, names

NAMES_19 = "Fp1 Fp2 F7 F3 Fz F4 F8 T3 C3 Cz C4 T4 T5 P3 Pz P4 T6 O1 O2".split()
SMALL = {
    "n_chans": 5,
    "ch_names": ["C3", "Cz", "C4", "O2", "O1"],
    "n_times": 90,
    "n_spatial": 3,
    "n_taps": 15,
    "bands": [(40, 50), (50, 60)],
    "relation_width": 4,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def trained(net, batches=2):
    """Move the running statistics away from their first values, then evaluation mode."""
    with torch.no_grad():
        for _ in range(batches):
            net.train()(torch.randn(8, net.n_chans, net.n_times))
    return net.eval()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"stage": "pretrain"}, 2_633),
        ({}, 16_633),
        ({"relation_width": 1}, 3_628),
        ({"relation_width": 4}, 6_229),
        ({"relation_width": 8}, 9_697),
        ({"shared_spatial": True}, 16_633 - 992),
    ],
)
def test_parameter_counts(options, expected):
    assert count(HAMNet(**options)) == expected


def test_parameter_counts_of_the_parts():
    net = HAMNet()
    assert [count(m) for m in (net.spatial, net.spatial_mirrored)] == [992, 992]
    assert (count(net.filter_bank.conv), count(net.filter_bank.norm)) == (738, 36)
    assert (count(net.relation), count(net.classifier)) == (48, 13_827)
    assert "15,895 trainable" in net.summary()


@pytest.mark.parametrize(
    "options",
    [
        {"stage": "pretrain"},
        {"stage": "pretrain", "log": True},
        {"stage": "pretrain", "freeze_filters": True},
        {},
        {"log": True},
        {"freeze_filters": False},
        {"shared_spatial": True},
        {"norm_per_branch": True},
    ],
    ids=str,
)
def test_agrees_with_the_twin(options):
    torch.manual_seed(0)
    net, twin = HAMNet(**options), TwinHAMNet(**options)
    same_training(net, twin, [torch.randn(6, 62, 200).double() for _ in range(3)], 3, rtol=1e-8)


def test_agrees_with_the_twin_on_another_montage():
    torch.manual_seed(0)
    options = {"n_chans": 19, "ch_names": NAMES_19, "n_times": None, "sfreq": 256.0, "n_taps": 16}
    batches = [torch.randn(4, 19, n).double() for n in (33, 150, 7)]
    same_training(HAMNet(**options), TwinHAMNet(**options), batches, 3, rtol=1e-8)


def test_second_branch_sees_the_mirrored_signal():
    """By two networks of one branch: one gets the signal, the other the mirrored signal."""
    torch.manual_seed(0)
    net = trained(HAMNet()).double().requires_grad_(False)
    torch.nn.init.normal_(net.spatial_mirrored.weight)
    seen = []
    net.relation.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    x = torch.randn(3, 62, 200).double()
    net(x)
    mirrored = x.clone()
    for i, name in enumerate(SEED_CHANNELS):
        if not name.endswith("Z"):
            number = int(name[-1])
            other = name[:-1] + str(number + 1 if number % 2 else number - 1)
            mirrored[:, i] = x[:, SEED_CHANNELS.index(other)]
    for branch, (signal, conv) in enumerate([(x, net.spatial), (mirrored, net.spatial_mirrored)]):
        components = conv(signal.unsqueeze(1)).squeeze(2)
        close(seen[0][:, branch], net.filter_bank(components), f"branch {branch}", 1e-9)


def test_the_mirrored_signal_is_never_made():
    """Nothing but the weights is permuted, and one product serves both branches."""
    net = HAMNet()
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (200,):
                sizes.append((getattr(func, "__name__", ""), tuple(out.shape)))
            return out

    x = torch.randn(2, 62, 200)
    with Watch():
        net(x)
    assert [shape for _, shape in sizes] == [(2, 32, 200)]


def test_mirroring_the_input_swaps_equal_branches():
    torch.manual_seed(0)
    net = trained(HAMNet(**SMALL))
    x = torch.randn(4, 5, 90)
    seen = []
    net.relation.register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    net(x), net(x[:, mirror_map(SMALL["ch_names"])])
    torch.testing.assert_close(seen[0], seen[1].flip(1))


def test_branches_normalised_apart_differ_in_training_alone():
    torch.manual_seed(0)
    together = HAMNet(**SMALL)
    torch.nn.init.normal_(together.spatial_mirrored.weight)
    apart = HAMNet(**SMALL, norm_per_branch=True)
    apart.load_state_dict(together.state_dict())
    x = torch.randn(4, 5, 90)
    torch.testing.assert_close(together.eval()(x), apart.eval()(x))
    assert not torch.allclose(together.train()(x), apart.train()(x), rtol=1e-3)
    counted = [n.filter_bank.norm.num_batches_tracked.item() for n in (together, apart)]
    assert counted == [1, 2]


def test_filters_start_as_windowed_band_passes():
    net = HAMNet()
    taps = net.filter_bank.conv.weight.detach().squeeze().double().numpy()
    expected = [firwin(41, (f, f + 2), pass_zero=False, fs=200) for f in range(40, 76, 2)]
    np.testing.assert_allclose(taps, expected, atol=1e-7)
    assert net.filter_asymmetry() < 1e-12

    frequencies, gains = net.filter_responses(2001)
    assert frequencies[0] == 0 and abs(frequencies[-1] - 100) < 1e-9
    centres = torch.arange(41, 77, 2)
    at_centre = gains[torch.arange(18), centres * 20]
    torch.testing.assert_close(at_centre, torch.ones(18).double(), rtol=1e-6, atol=0)
    assert (frequencies[gains.argmax(1)] - centres).abs().max() < 0.11
    widths = (gains > 0.5**0.5).sum(1) * 0.05
    assert ((widths > 6.2) & (widths < 6.6)).all()  # what 41 taps resolve
    tone = torch.sin(2 * torch.pi * 43 * torch.arange(400) / 200)
    filtered = F.conv1d(tone[None, None], net.filter_bank.conv.weight[:, 0])
    assert filtered[0, 1].square().mean() == pytest.approx(0.5, rel=1e-3)


def test_asymmetry_sees_lost_linear_phase():
    net = HAMNet(stage="pretrain")
    with torch.no_grad():
        net.filter_bank.conv.weight[3, 0, 0, 5] += 0.1
    loss = net.filter_asymmetry()
    assert loss.item() == pytest.approx(2 * 0.1**2, rel=1e-3)
    loss.backward()
    assert net.filter_bank.conv.weight.grad[3, 0, 0, 5] > 0


def test_finetune_takes_over_what_was_learned():
    torch.manual_seed(0)
    first = HAMNet(stage="pretrain", n_outputs=4, log=True)
    optimizer = torch.optim.Adam(first.parameters(), 1e-2)
    for _ in range(3):
        F.cross_entropy(first(torch.randn(8, 62, 200)), torch.arange(8) % 4).backward()
        optimizer.step()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    second = first.finetune(relation_width=2)
    assert second.config == {**first.config, "stage": "finetune", "relation_width": 2}
    for name in ("spatial.weight", *(n for n in before if n.startswith("filter_bank."))):
        torch.testing.assert_close(second.state_dict()[name], before[name], rtol=0, atol=0)
    torch.testing.assert_close(
        second.spatial_mirrored.weight, before["spatial.weight"], rtol=0, atol=0
    )
    assert [n for n, p in second.named_parameters() if not p.requires_grad] == [
        "filter_bank.conv.weight"
    ]
    optimizer = torch.optim.Adam([p for p in second.parameters() if p.requires_grad], 1e-2)
    F.cross_entropy(second(torch.randn(8, 62, 200)), torch.arange(8) % 4).backward()
    optimizer.step()
    after = second.state_dict()
    torch.testing.assert_close(
        after["filter_bank.conv.weight"], before["filter_bank.conv.weight"], rtol=0, atol=0
    )
    for name in ("spatial.weight", "filter_bank.norm.weight", "filter_bank.norm.running_mean"):
        assert not torch.equal(after[name], before[name]), name
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_finetune_keeps_dtype_and_takes_names():
    first = HAMNet(stage="pretrain", n_chans=19).double()
    with pytest.raises(ValueError, match="ch_names"):
        first.finetune()
    second = first.finetune(ch_names=NAMES_19)
    assert second(torch.randn(2, 19, 200).double()).dtype == torch.float64
    with pytest.raises(ValueError, match='finetune: stage must be "pretrain"'):
        second.finetune()
    with pytest.raises(ValueError, match="as they were trained, got n_taps, sfreq"):
        first.finetune(sfreq=100, n_taps=3)


def test_frozen_filters_survive_saving(tmp_path):
    net = trained(HAMNet(stage="pretrain", **SMALL).finetune())
    loaded = from_pretrained(net.save_pretrained(tmp_path / "net"))
    assert isinstance(loaded, HAMNet) and not loaded.filter_bank.conv.weight.requires_grad
    x = torch.randn(3, 5, 90)
    torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    assert "mirror" not in net.state_dict()


def test_spatial_patterns_are_on_the_electrodes_of_the_signal():
    net = HAMNet(stage="pretrain", **SMALL).finetune()
    original, mirrored = net.spatial_patterns()
    torch.testing.assert_close(original, net.spatial.weight.flatten(1))
    torch.testing.assert_close(mirrored, original[:, [2, 1, 0, 4, 3]], rtol=0, atol=0)
    assert HAMNet(stage="pretrain").spatial_patterns().shape == (1, 16, 62)
    kept = net.spatial_patterns()
    kept.zero_()
    assert net.spatial.weight.any() and not kept.requires_grad


def test_works_on_the_bundled_recordings():
    recording = EEGMAT()[0]
    n = int(recording.sfreq)
    x = torch.from_numpy(recording.signal).float().unfold(1, n, n).transpose(0, 1)
    net = create("HAMNet", n_chans=19, ch_names=recording.ch_names, n_times=n, sfreq=n, n_outputs=2)
    out = net(x)
    assert out.shape == (len(x), 2) and out.isfinite().all()


def test_learns_which_electrodes_are_strong():
    torch.manual_seed(0)
    left = torch.arange(32) % 2 == 0
    x = torch.randn(32, 5, 90)
    x[left, 0] *= 3
    x[~left, 2] *= 3
    first = HAMNet(stage="pretrain", n_outputs=2, **SMALL)
    for net in (first, first.finetune()):
        optimizer = torch.optim.Adam(net.parameters(), 3e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), left.long())
            loss.backward()
            optimizer.step()
        assert loss < 0.15
        assert (net.eval()(x).argmax(1) == left.long()).float().mean() > 0.95


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_compiles_without_graph_breaks(stage):
    torch.manual_seed(0)
    net = HAMNet(stage=stage, **SMALL)
    other = HAMNet(stage=stage, **SMALL)
    other.load_state_dict(net.state_dict())
    x = torch.randn(4, 5, 90)
    out = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    expected = other(x)
    torch.testing.assert_close(out, expected)
    out.sum().backward(), expected.sum().backward()
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(net.state_dict(), other.state_dict())


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_onnx(stage, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = trained(HAMNet(stage=stage, **SMALL))
    session = runtime.InferenceSession(net.export_onnx(tmp_path / "net.onnx"))
    for scale in (1, 100):
        x = scale * torch.randn(7, 5, 90) + 10 * scale
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = net(x).detach()
        close(torch.from_numpy(out), expected, "onnxruntime", 1e-5)


def test_bfloat16():
    torch.manual_seed(0)
    net = trained(HAMNet(**SMALL))
    x = torch.randn(4, 5, 90)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    torch.testing.assert_close(out.float(), net(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stage": "train"}, r"stage must be one of \('pretrain', 'finetune'\), got 'train'"),
        ({"n_chans": 0}, "n_chans must be a whole number >= 1, got 0"),
        ({"n_outputs": 2.5}, "n_outputs"),
        ({"n_chans": 19}, "which of the 19 electrodes mirror each other"),
        ({"ch_names": NAMES_19}, "ch_names must be 62 names, got 19"),
        ({"n_chans": 2, "ch_names": ["F3", "Cz"]}, "HAMNet: ch_names: .*counterpart.*: F3"),
        ({"sfreq": 128}, "HAMNet: bands, sfreq or n_taps: .*64 Hz"),
        ({"n_taps": 0}, "HAMNet: bands, sfreq or n_taps"),
        ({"bands": []}, "HAMNet: bands.*at least one band"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HAMNet(**options)


@pytest.mark.parametrize("shape", [(62, 200), (2, 61, 200), (2, 62, 199), (2, 1, 62, 200)])
def test_wrong_inputs_are_named(shape):
    message = rf"HAMNet: expected a signal \(N, 62, 200\), got \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        HAMNet()(torch.zeros(shape))


def test_any_number_of_samples_from_one():
    net = HAMNet(n_times=None).eval()
    x = torch.randn(2, net.n_chans, 3)
    assert net(x[..., :1]).isfinite().all() and net(x[:0]).shape == (0, net.classifier.out_features)
    with pytest.raises(ValueError, match="n_times >= 1"):
        net(x[..., :0])


def test_registry():
    assert "hamnet" in names()
    assert isinstance(create("hamnet", stage="pretrain"), HAMNet)
