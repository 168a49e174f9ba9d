# SPDX-License-Identifier: BSD-3-Clause
import shutil

import numpy as np
import pytest
import torch

from eegfast.datasets import BYO, EEGMAT, synthetic
from eegfast.features import hamnet_inputs, ldm_eeg_inputs
from eegfast.training import _inputs_cache, load_recipe, prepare
from eegfast.training.sources import BundledTrials

pytest.importorskip("scipy")
torch.set_num_threads(1)


def bundled(name, *settings):
    recipe = load_recipe(name)
    recipe = recipe.override([*recipe.bundled, "data.select.subjects=[1, 3]", "data.seconds=8"])
    return recipe.override(settings)


@pytest.fixture(scope="module")
def seed_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("seed")
    kinds = ["preprocessed", "features"]
    synthetic.write_seed(root, subjects=2, sessions=1, kinds=kinds, scale=0.05)
    return root


def sequences(*settings):
    few = ["data.options.window=1", *settings]
    return load_recipe("resattentionet").override(few).for_protocol("paper")


def test_samples_are_the_builders_trial_after_trial():
    prepared = prepare(bundled("ldm-eeg"), "bundled")
    recordings = [r for r in EEGMAT([1, 3])]
    for i, part in enumerate(prepared.inputs):
        expected = [
            ldm_eeg_inputs(torch.from_numpy(r.signal[:, : 8 * 200]), 200, r.ch_names)[i]
            for r in recordings
        ]
        torch.testing.assert_close(part, torch.cat(expected), rtol=0, atol=0)
        assert part.dtype == torch.float32
    assert prepared.samples.subject_id.tolist() == ["01"] * 10 + ["03"] * 10
    assert prepared.samples.label.tolist() == ([0] * 5 + [1] * 5) * 2
    assert prepared.class_names == ["rest", "arithmetic"]
    assert prepared.ch_names == recordings[0].ch_names and prepared.sfreq == 200
    assert prepared.facts["n_samples"] == 20 and prepared.facts["synthetic"] is None
    assert any("no emotion" in note for note in prepared.facts["notes"])


def test_nothing_of_one_trial_is_in_anothers_samples():
    together = prepare(bundled("scalingnet", "data.options.window=2"))
    alone = prepare(bundled("scalingnet", "data.options.window=2", "data.select.subjects=[3]"))
    torch.testing.assert_close(together.inputs[0][8:], alone.inputs[0], rtol=0, atol=0)


def test_second_time_comes_from_the_cache(tmp_path, monkeypatch):
    recipe = bundled("sst-emotionnet", "data.options.size=16")
    first = prepare(recipe, cache=tmp_path / "cache")
    plain = prepare(recipe)
    monkeypatch.setattr(BundledTrials, "_read_file", None)
    again = prepare(recipe, cache=tmp_path / "cache")
    for a, b, c in zip(first.inputs, again.inputs, plain.inputs, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert again.facts == first.facts and again.ch_names == first.ch_names
    assert again.samples.trial_id.tolist() == first.samples.trial_id.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cache_is_by_content(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(BundledTrials().root, copy)
    keys = {prepare(bundled("hamnet"), root).facts["key"] for root in ("bundled", copy)}
    assert len(keys) == 1
    keys.add(prepare(bundled("hamnet", "data.options.step=0.5"), copy).facts["key"])
    shutil.copy(copy / "sub-05.npz", copy / "sub-03.npz")
    keys.add(prepare(bundled("hamnet"), copy).facts["key"])
    assert len(keys) == 3


@pytest.mark.parametrize("damage", ["about", "tensor", "nothing but leftovers"])
def test_damaged_entries_are_made_anew(tmp_path, damage):
    expected = prepare(bundled("hamnet"), cache=tmp_path).inputs[0].clone()
    (entry,) = tmp_path.iterdir()
    if damage == "about":
        (entry / "about.json").write_text('{"format": "eegfast-inputs"')
    elif damage == "tensor":
        with (entry / "0.safetensors").open("r+b") as stream:
            stream.truncate(1000)
    else:
        entry.rename(tmp_path / f".new-{entry.name}")
    assert torch.equal(prepare(bundled("hamnet"), cache=tmp_path).inputs[0], expected)
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


def test_a_failure_leaves_nothing(tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(BundledTrials().root, flat)
    with np.load(flat / "sub-03.npz") as stored:
        values = dict(stored)
    values["task"][4, 200:600] = 0
    np.savez(flat / "sub-03.npz", **values)
    with pytest.raises(ValueError, match=r"eegmat, subject 03, session 1, trial 2: .*is flat"):
        prepare(bundled("sst-emotionnet"), flat, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_room_is_looked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr(_inputs_cache, "free_memory", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"need about .* GB of memory.*cache"):
        prepare(bundled("hamnet"))
    prepare(bundled("hamnet"), cache=tmp_path / "a")
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(_inputs_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="the inputs need about"):
        prepare(bundled("hamnet"), cache=tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_sequences_are_cut_filled_up_or_as_long_as_the_shortest(seed_tree):
    paper = prepare(sequences("data.options.n_windows=10"), seed_tree)
    assert paper.inputs[0].shape == (30, 10, 62, 5)
    assert any("zeros" in note for note in paper.facts["notes"])
    full = prepare(sequences("data.options.n_windows=20"), seed_tree).inputs[0]
    lengths = (full.abs().amax((2, 3)) > 0).sum(1)
    assert lengths.min() < 10 < lengths.max()
    shortest = prepare(sequences("data.options.n_windows=shortest"), seed_tree)
    n = int(lengths.min())
    torch.testing.assert_close(shortest.inputs[0], full[:, :n], rtol=0, atol=0)
    assert shortest.facts["inputs"]["options"]["n_windows"] == n
    assert not any("zeros" in note for note in shortest.facts["notes"])
    assert shortest.facts["synthetic"] == 0.05
    assert any("invented" in note for note in shortest.facts["notes"])


def test_shortest_survives_the_cache(seed_tree, tmp_path):
    recipe = sequences("data.options.n_windows=shortest", "data.select.subjects=[1]")
    first, again = (prepare(recipe, seed_tree, cache=tmp_path) for _ in range(2))
    assert torch.equal(first.inputs[0], again.inputs[0])
    assert again.facts == first.facts


def test_supplied_features_and_stores(seed_tree, tmp_path):
    supplied = sequences("data.kind=features", "data.options.n_windows=12")
    prepared = prepare(supplied, seed_tree)
    assert prepared.inputs[0].shape == (30, 12, 62, 5)
    with pytest.raises(ValueError, match=r"trial 1: .*windows of 1 s, data.options.window is 4 s"):
        prepare(supplied.override(["data.options.window=4"]), seed_tree)
    with pytest.raises(ValueError, match="made of signals"):
        prepare(load_recipe("hamnet").override(["data.kind=features"]), seed_tree)

    pytest.importorskip("zarr")
    from eegfast.datasets.registry import open_dataset
    from eegfast.features.dataset import extract_dataset
    from eegfast.features.extract import ExtractOptions

    data = open_dataset("seed", seed_tree, kind="preprocessed")
    list(extract_dataset(data, tmp_path / "de", ExtractOptions(smooth="lds"), workers=1))
    stored = prepare(sequences("data.options.n_windows=12"), tmp_path / "de")
    computed = prepare(sequences("data.options.n_windows=12"), seed_tree)
    torch.testing.assert_close(stored.inputs[0], computed.inputs[0])
    assert stored.samples.label.tolist() == computed.samples.label.tolist()
    one = sequences("data.options.n_windows=12", "data.select.subjects=[2]")
    assert set(prepare(one, tmp_path / "de", cache=tmp_path / "c").samples.subject_id) == {"02"}
    with pytest.raises(ValueError, match="a feature store of seed, not of seed-iv"):
        prepare(sequences("data.dataset=seed-iv"), tmp_path / "de")


def own(shapes, sfreq=100.0):
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(3, n)).astype(np.float32) for n in shapes]
    return BYO.from_arrays(signals, [0, 1] * (len(shapes) // 2), sfreq, ["C3", "Cz", "C4"])


def test_own_arrays():
    recipe = load_recipe("hamnet").override(["data.dataset=byo", "data.picks=[C4, C3]"])
    data = own([300, 420])
    prepared = prepare(recipe, data)
    assert prepared.inputs[0].shape == (7, 2, 100)
    assert prepared.ch_names == ["C4", "C3"]
    signal = torch.from_numpy(data[0].signal[[2, 0]])
    assert torch.equal(prepared.inputs[0][:3], hamnet_inputs(signal, 100, statistics=None)[0])
    assert prepared.facts["key"] is None


def test_own_files_and_other_rates(tmp_path):
    for i in range(2):
        signal = np.random.default_rng(i).normal(size=(3, 500)).astype(np.float32)
        np.save(tmp_path / f"{i}.npy", signal)
    (tmp_path / "t.csv").write_text("file,label\n0.npy,sad\n1.npy,happy\n")
    told = ["data.dataset=byo", "data.kind=null"]
    told += ["data.select={sfreq: 100, ch_names: [C3, Cz, C4]}"]
    recipe = load_recipe("hamnet").override([*told, "data.sfreq=50"])
    prepared = prepare(recipe, tmp_path / "t.csv", cache=tmp_path / "cache")
    assert prepared.inputs[0].shape == (10, 3, 50) and prepared.sfreq == 50
    assert prepared.class_names == ["happy", "sad"]
    other = recipe.override(["data.select.sfreq=200"])
    assert prepare(other, tmp_path / "t.csv", cache=tmp_path / "cache").inputs[0].shape[0] == 4


def test_trials_must_be_alike():
    rng = np.random.default_rng(0)
    data = own([300, 300])
    data._arrays[1] = rng.normal(size=(3, 40)).astype(np.float32)
    recipe = load_recipe("hamnet").override(["data.dataset=byo"])
    with pytest.raises(ValueError, match=r"byo, subject 01, session 1, trial 2: .*too few"):
        prepare(recipe, data)
    with pytest.raises(ValueError, match=r"trial 1: it has 3 s, data.seconds wants 4 s"):
        prepare(recipe.override(["data.seconds=4"]), data)


def test_progress_tells_of_every_trial():
    told = []
    prepare(bundled("hamnet"), progress=lambda *news: told.append(news))
    assert [(done, n) for done, n, _ in told] == [(i, 4) for i in range(5)]
    assert "subject 03" in told[2][2]


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("hamnet", ["data.options.statistics=all"], "statistics must be trial or null"),
        ("hamnet", ["data.options.windw=1"], "data.options.windw: unknown key; .*'window'"),
        ("hamnet", ["data.select.subject=[1]"], "data.select.subject: unknown key; .*'subjects'"),
        ("hamnet", ["data.dataset=eegmatt"], "no data set named 'eegmatt'; did you mean 'eegmat'"),
        ("hamnet", ["data.dataset=seed"], "bundled recordings are data set eegmat"),
        ("ldm-eeg", ["data.picks=[Cz, Nz]"], "no channel Nz"),
        ("ldm-eeg", ["data.options.window=30"], "trial 1: .*too few"),
    ],
)
def test_what_does_not_fit(name, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare(bundled(name, *settings), "bundled")


def test_root_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="seed: give its folder"):
        prepare(load_recipe("hamnet"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        prepare(load_recipe("hamnet"), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="seed has no option foo"):
        prepare(load_recipe("hamnet").override(["data.select.foo=1"]), tmp_path)


def test_size_is_for_names(seed_tree):
    from eegfast.features import ElectrodeMaps

    with pytest.raises(ValueError, match="size is for names"):
        ldm_eeg_inputs(torch.randn(2, 400), 200, ElectrodeMaps(["Cz", "Pz"]), size=16)
    frequency, time = ldm_eeg_inputs(torch.randn(2, 400), 200, ["Cz", "Pz"], size=16)
    small = ElectrodeMaps(["Cz", "Pz"], size=16)
    assert frequency.shape == (1, 1, 5, 16, 16)
    signal = torch.randn(2, 400)
    a = ldm_eeg_inputs(signal, 200, ["Cz", "Pz"], size=16)
    b = ldm_eeg_inputs(signal, 200, small)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
