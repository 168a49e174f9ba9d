# SPDX-License-Identifier: BSD-3-Clause
"""What is computed of networks for figures."""

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")

from safetensors.numpy import save_file  # noqa: E402

from eegfast.models import create  # noqa: E402
from eegfast.protocols import make_normalization  # noqa: E402
from eegfast.training import explain  # noqa: E402

NAMES = ["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "Oz", "O2"]
CLASSES = ["low", "high"]
HAMNET = {"n_chans": 8, "n_times": 100, "ch_names": NAMES, "n_spatial": 3, "n_taps": 21}
HAMNET |= {"bands": [(8, 12), (20, 24)], "n_outputs": 2}


def test_filters_are_shown_over_where_they_began():
    network = create("hamnet", stage="pretrain", **HAMNET)
    with torch.no_grad():
        network.filter_bank.conv.weight[0] *= 2
    found = explain.learned(network, NAMES)["filter_responses"]
    np.testing.assert_allclose(found["learned"][0], 2 * found["start"][0])
    np.testing.assert_array_equal(found["learned"][1], found["start"][1])
    assert found["bands"] == [(8, 12), (20, 24)]
    assert found["start"][1].argmax() == np.abs(found["frequencies"] - 22).argmin()


def test_spatial_filters_of_both_branches_lie_where_the_electrodes_are():
    network = create("hamnet", **HAMNET)
    with torch.no_grad():
        network.spatial.weight.zero_()[0, 0, 2] = 1  # C3
        network.spatial_mirrored.weight.copy_(network.spatial.weight)
    filters = explain.learned(network, NAMES)["spatial_filters"]
    assert filters["branches"] == ["original", "mirrored"]
    assert [NAMES[i] for i in filters["weights"][:, 0].argmax(1)] == ["C3", "C4"]


def test_no_scalp_map_without_places():
    network = create("hamnet", stage="pretrain", **{**HAMNET, "ch_names": None})
    assert set(explain.learned(network, [f"x{i}" for i in range(8)])) == {"filter_responses"}
    signal = torch.randn(2, 8, 100)
    names = [f"x{i}" for i in range(8)]
    assert explain.topographies((signal,), np.array([0, 1]), CLASSES, names, 100.0) is None


def test_softmax_attention_is_told_relative_to_even_weights():
    network = create("ldm-eeg", n=1, c=2, n_outputs=2).eval()
    inputs = network.example_inputs(4)
    labels = np.array([0, 1, 1, 0])
    stages = explain.seen(network, inputs, labels, CLASSES)["attention"]
    assert [stage["title"] for stage in stages] == ["bands, 3", "bands, 4", "time, 3", "time, 4"]
    maps = network.attention_maps(*inputs)["frequency"][3]
    np.testing.assert_allclose(
        stages[0]["depth"][1], 5 * maps["depth"][1:3].double().mean(0), rtol=1e-6
    )
    assert stages[0]["depth_labels"][0] == "delta" and stages[2]["depth"].shape == (2, 8)
    np.testing.assert_allclose(stages[0]["spatial"].mean((1, 2)), 1, rtol=1e-5)
    assert {stage["neutral"] for stage in stages} == {1.0}


def test_gates_are_told_as_they_are():
    network = create("sst-emotionnet", grid=16, n_steps=8, n_outputs=2).eval()
    inputs = network.example_inputs(2)
    stages = explain.seen(network, inputs, np.array([0, 1]), CLASSES)["attention"]
    assert {stage["scale"] for stage in stages} == {"gate (0 to 1)"}
    assert stages[0]["depth_axis"] == "bands, 5 pooled to 2"
    maps = network.attention_maps(*inputs)["time"][0]["spatial"]
    np.testing.assert_allclose(stages[2]["spatial"], maps, rtol=1e-6)


def test_attention_over_time_is_what_the_pooling_applies():
    network = create("resattentionet", n_chans=8, n_windows=70, base_width=2, n_outputs=2).eval()
    x = network.example_inputs(3)[0]
    found = explain.seen(network, (x,), np.array([0, 1, 1]), CLASSES)["temporal_attention"]
    assert found["weights"].shape == (2, 2, 3) and found["windows"] == "about 24"
    np.testing.assert_allclose(found["weights"].sum(2), 1, rtol=1e-5)
    sequence = network.encoder(network._flatten(x)).transpose(1, 2)
    attention = network.pooling.attention
    with torch.no_grad():
        values = sequence @ attention.in_proj_weight[32:].T + attention.in_proj_bias[32:]
        heads = network.attention_maps(x)[..., None] * values.unflatten(2, (2, 8)).transpose(1, 2)
        pooled = attention.out_proj(heads.sum(2).flatten(1))
        torch.testing.assert_close(pooled, network.pooling(sequence))


def test_the_surest_sample_of_a_class_is_its_example():
    network = create("scalingnet", n_chans=3, n_times=1300, n_outputs=2).eval()
    x = torch.randn(5, 3, 1300)
    labels = np.array([0, 0, 1, 1, 1])
    maps = explain.seen(network, (x,), labels, CLASSES, sfreq=128.0)["scale_maps"]
    sure = network(x).softmax(1).detach().numpy()
    best = 2 + sure[2:, 1].argmax()
    truth = network.scale_map(x)[best].mean(0)[:, :1299].unflatten(1, (-1, 3)).mean(2)
    np.testing.assert_allclose(maps["examples"]["high"], truth.detach(), rtol=1e-5)
    assert maps["lengths"] == [33, 17, 9, 5, 3, 1] and maps["step"] == 3 / 128


def test_zeros_that_fill_up_a_sequence_do_not_count():
    x = torch.randn(4, 10, 8, 5) + 3
    x[:, 6:] = 0
    maps = explain.topographies((x,), np.array([0, 0, 1, 1]), CLASSES, NAMES, None)
    np.testing.assert_allclose(maps["classes"]["high"], x[2:, :6].double().mean((0, 1)), rtol=1e-5)
    assert maps["bands"][0] == "delta"


def test_entropy_of_signals_shows_where_a_rhythm_is():
    time = torch.arange(400) / 200
    x = 0.1 * torch.randn(2, 8, 400)
    x[1, 5] += 20 * torch.sin(2 * torch.pi * 10 * time)
    maps = explain.topographies((x,), np.array([0, 1]), CLASSES, NAMES, 200.0)
    difference = maps["classes"]["high"] - maps["classes"]["low"]
    assert maps["bands"][difference[5].argmax()] == "alpha"
    assert difference[:, 2].argmax() == 5


def test_samples_are_picked_evenly_from_each_class():
    labels = np.array([0] * 100 + [2] * 3)
    picked = explain.pick_per_class(labels, 5)
    assert picked.tolist() == [0, 25, 50, 74, 99, 100, 101, 102]


def test_a_subjects_own_numbers_need_all_of_its_samples(tmp_path):
    x = torch.randn(12, 3, 8, 5) + 4
    subjects = np.repeat(["a", "b", "c"], 4)
    index = np.array([9, 1, 2])
    (found,) = explain.normalised("subject_zscore", tmp_path, (x,), subjects, index)
    whole = make_normalization("subject_zscore").transform(x.numpy(), subjects)
    np.testing.assert_allclose(found, whole[index], rtol=1e-5)
    (found,) = explain.normalised("none", tmp_path, (x,), subjects, index)
    torch.testing.assert_close(found, x[index])


def test_the_training_sides_numbers_are_the_fits(tmp_path):
    x = torch.randn(12, 3, 8, 5) + 4
    fitted = make_normalization("train_zscore").fit(x[:6].numpy())
    numbers = {"0.mean": fitted.mean_, "0.std": fitted.std_}
    save_file(numbers, tmp_path / "normalization.safetensors")
    index = np.array([9, 1])
    subjects = np.repeat("a", 12)
    (found,) = explain.normalised("train_zscore", tmp_path, (x,), subjects, index)
    np.testing.assert_allclose(found, fitted.transform(x[index].numpy()), rtol=1e-5)
