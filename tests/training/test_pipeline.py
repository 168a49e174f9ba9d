# SPDX-License-Identifier: BSD-3-Clause
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_parts import CH_NAMES, SMALL, network, pipeline, recording, run

from eegfast.datasets import Recording
from eegfast.protocols import make_normalization
from eegfast.training.builders import InputsBuilder
from eegfast.training.pipeline import Pipeline, predict_together
from eegfast.training.runs import Run


@pytest.fixture(scope="module")
def hamnet_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "hamnet", splits=2)


@pytest.fixture(scope="module")
def ldm_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "ldm", "ldm-eeg", "none", splits=1)


@pytest.mark.parametrize("which", ["hamnet_run", "ldm_run"])
def test_a_trial_of_the_data_gets_the_probabilities_that_the_fit_wrote(which, request):
    whole = Run(request.getfixturevalue(which))
    fit = whole.fits[0]
    made = Pipeline.from_run(whole, fit)
    written = fit.predictions()
    assert set(written["subject_id"]) == {"01"}  # of the first fit: its rest and its task
    prepared = [made.prepare(recording(i))[0] for i in (0, 1)]
    together = made.classify(tuple(torch.cat(parts) for parts in zip(*prepared, strict=True)))
    np.testing.assert_array_equal(together.astype(np.float32), written["proba"])
    alone = made(recording(0)).proba  # fewer rows at a time are rounded otherwise
    np.testing.assert_allclose(alone, written["proba"][: len(alone)], atol=1e-6)
    assert alone.std() > 0


def test_a_saved_fit_answers_alike(hamnet_run, tmp_path):
    run_ = Run(hamnet_run)
    made = Pipeline.from_run(run_, run_.fits[1])
    loaded = Pipeline.load(made.save(tmp_path / "p"))
    np.testing.assert_array_equal(loaded(recording()).proba, made(recording()).proba)
    assert loaded.about == made.about and loaded.about["dataset"] == "eegmat"
    other = Pipeline.from_run(run_, run_.fits[0])(recording()).proba
    assert not np.array_equal(other, made(recording()).proba)


def test_supplied_features_make_no_pipeline(hamnet_run):
    run_ = Run(hamnet_run)
    run_.facts["data"]["kind"] = "features"
    with pytest.raises(ValueError, match="features that eegmat supplies"):
        Pipeline.from_run(run_, run_.fits[0])


@pytest.mark.parametrize("name", SMALL)
def test_every_network_survives_the_way_to_disk_and_back(name, tmp_path):
    made = pipeline(name, band=(1, 45), notch=50, about={"leaks": False, "recipe": "x"})
    loaded = Pipeline.load(made.save(tmp_path / "p"))
    expected, got = made(recording()), loaded(recording())
    np.testing.assert_array_equal(got.proba, expected.proba)
    np.testing.assert_array_equal(got.stop, expected.stop)
    assert got.class_names == ("rest", "task")
    assert (loaded.band, loaded.notch) == ((1.0, 45.0), 50)
    assert loaded.inputs == made.inputs


def test_normalisations_of_two_inputs_are_kept(tmp_path):
    parts = []
    for depth in (5, 8):
        part = make_normalization("train_zscore")
        rng = np.random.default_rng(depth)
        parts.append(part.fit(rng.normal(3, 2, (4, 1, depth, 32, 32)).astype(np.float32)))
    made = pipeline("ldm-eeg", normalization=parts)
    loaded = Pipeline.load(made.save(tmp_path / "p"))
    np.testing.assert_array_equal(loaded.normalization[1].mean_, parts[1].mean_)
    got = loaded(recording()).proba
    np.testing.assert_array_equal(got, made(recording()).proba)
    assert not np.array_equal(got, pipeline("ldm-eeg")(recording()).proba)


def test_saving_replaces_pipelines_and_nothing_else(tmp_path):
    folder = pipeline().save(tmp_path / "p")
    pipeline("sst-emotionnet").save(folder)
    assert Pipeline.load(folder).inputs.name == "sst-emotionnet"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="no pipeline"):
        pipeline().save(tmp_path / "mine")
    broken = pipeline(about={"what": object()})
    with pytest.raises(TypeError):
        broken.save(folder)
    assert Pipeline.load(folder).inputs.name == "sst-emotionnet"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "p"]


def test_channels_are_found_by_name_in_any_order_and_spelling():
    mine = recording()
    rng = np.random.default_rng(0)
    order = rng.permutation(19)
    spelling = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "Fp1": "EEG FP1-Ref"}
    names = [spelling.get(CH_NAMES[i], CH_NAMES[i]) for i in order]
    more = [f"X{i}" for i in range(43)]
    noise = rng.normal(0, 20, (43, mine.n_times)).astype(np.float32)
    wide = Recording(np.concatenate([noise, mine.signal[order]]), 200, more + names)
    answer = pipeline()(wide)
    np.testing.assert_array_equal(answer.proba, pipeline()(mine).proba)
    assert "19 of its 62 channels" in " ".join(answer.notes)
    few = mine.pick([name for name in CH_NAMES if name not in ("Cz", "O2")])
    with pytest.raises(ValueError, match=r"no channel O2, Cz|no channel Cz, O2"):
        pipeline()(few)


def test_files_and_arrays_and_recordings_are_one(tmp_path):
    made, mine = pipeline(), recording()
    np.save(tmp_path / "x.npy", mine.signal)
    expected = made(mine).proba
    got = made(tmp_path / "x.npy", sfreq=200, ch_names=CH_NAMES).proba
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(made.predict_proba(mine.signal, 200, CH_NAMES), expected)
    assert made.classes_.tolist() == ["rest", "task"]
    with pytest.raises(ValueError, match=r"x\.npy"):
        made(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError, match="gone"):
        made(tmp_path / "gone.edf")


def test_other_rates_are_resampled():
    mine = recording()
    answer = pipeline()(mine.resample(256))
    assert len(answer) == SECONDS_OF_MINE
    assert "256 to 200 Hz" in " ".join(answer.notes)
    np.testing.assert_allclose(answer.proba[1:-1], pipeline()(mine).proba[1:-1], atol=0.02)


SECONDS_OF_MINE = 8


def test_filters_take_out_what_they_should():
    times = np.arange(1600) / 200
    noise = np.random.default_rng(0).normal(0, 10, (19, 1600))
    mains = 500 * np.sin(2 * np.pi * 50 * times)
    clean, dirty = (Recording(x, 200, CH_NAMES) for x in (noise, noise + mains))
    plain = pipeline()
    gap = np.abs(plain(dirty).proba - plain(clean).proba).max()
    for filters in ({"notch": 50}, {"band": (1, 30)}, {"band": (0, 30)}):
        filtered = pipeline(**filters)
        gaps = np.abs(filtered(dirty).proba - filtered(clean).proba)[2:-2]
        assert gaps.max() < gap / 20, filters
    with pytest.raises(ValueError, match="below 100 Hz"):
        pipeline(band=(1, 100))(clean)
    with pytest.raises(ValueError, match="band must be"):
        pipeline(band=(30, 1))


def test_a_flat_channel_leaves_its_windows_without_an_answer():
    mine = recording()
    signal = mine.signal.copy()
    signal[3, 400:600] = 0
    made = pipeline("sst-emotionnet")
    answer, whole = made(replace(mine, signal=signal)), made(mine)
    assert answer.labels[2] == "" and np.isnan(answer.proba[2]).all()
    kept = [0, 1, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(answer.proba[kept], whole.proba[kept], atol=1e-6)
    assert set(answer.labels[kept]) <= {"rest", "task"}
    np.testing.assert_allclose(answer.mean, whole.proba[kept].mean(0), atol=1e-6)
    assert "1 of 8 windows have no answer" in " ".join(answer.notes)


def test_a_network_that_swallows_infinity_has_no_answer_either():
    class Clipped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x.clamp(0, 1)

    made = pipeline()
    made.model = Clipped()
    proba = made.classify((torch.tensor([[0.0, 1.0], [-torch.inf, 1.0]]),))
    assert np.isfinite(proba[0]).all() and np.isnan(proba[1]).all()


def test_rows_say_when_and_what():
    answer = pipeline("ldm-eeg")(recording())
    rows = list(answer.rows())
    assert list(rows[1]) == ["window", "start_s", "stop_s", "predicted", "p_rest", "p_task"]
    assert (rows[1]["window"], rows[1]["start_s"], rows[1]["stop_s"]) == (1, 1.6, 3.2)
    assert rows[1]["predicted"] == ("rest", "task")[answer.proba[1].argmax()]
    assert rows[1]["p_rest"] == answer.proba[1, 0]
    np.testing.assert_allclose(answer.proba.sum(1), 1)


def test_networks_of_whole_trials_take_recordings_piece_by_piece():
    mine = recording()  # 8 s
    scaling = pipeline("scalingnet")  # 1.5 s
    answer = scaling(mine)
    np.testing.assert_allclose(answer.start, np.arange(5) * 1.5)
    third = scaling(replace(mine, signal=mine.signal[:, 600:900])).proba[0]
    np.testing.assert_allclose(answer.proba[2], third, atol=1e-6)
    with pytest.raises(ValueError, match=r"it has 1 s, the network takes 1\.5 s"):
        scaling(recording(seconds=1))
    sequences = pipeline("resattentionet")(mine)  # 3 s; the last has 2 s and ends in zeros
    np.testing.assert_allclose(sequences.stop, [3, 6, 8])
    assert "filled up with zeros" in " ".join(sequences.notes)


def test_normalisation_by_the_recording_itself_is_done_and_said():
    made = pipeline(normalization=[make_normalization("subject_zscore")])
    mine = recording()
    shifted = replace(mine, signal=mine.signal * 7)
    np.testing.assert_allclose(made(shifted).proba, made(mine).proba, atol=1e-5)
    assert "its own numbers" in " ".join(made(mine).notes)
    with pytest.raises(ValueError, match="their own numbers"):
        Pipeline.stream(made, 200, CH_NAMES)


def test_it_says_what_it_was_trained_on():
    about = {"leaks": True, "leak_reasons": ["The validation side is the test side."]}
    remarks = pipeline(about=about).remarks()
    assert len(remarks) == 1 and "validation side is the test side" in remarks[0]
    deap = {"dataset": "deap", "kind": "preprocessed"}
    assert "4-45 Hz" in pipeline(about=deap).remarks()[0]
    assert pipeline(about=deap, band=(4, 45)).remarks() == []


def test_fits_together_give_the_mean_of_their_probabilities():
    one, other = pipeline(normalization=[fitted(0)]), pipeline(normalization=[fitted(1)])
    mine = recording()
    answers = [one(mine).proba, other(mine).proba]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    np.testing.assert_allclose(predict_together([one, other], mine).proba, np.mean(answers, 0))


def test_a_compiled_network_answers_alike_and_can_be_saved(tmp_path):
    made = pipeline()
    expected = made(recording()).proba
    made.model = torch.compile(made.model, backend="eager")
    np.testing.assert_allclose(made(recording()).proba, expected, atol=1e-6)
    assert Pipeline.load(made.save(tmp_path / "p")).inputs == made.inputs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hamnet", {}),
        ("hamnet", {"step": 0.25}),
        ("hamnet", {"step": 1.7}),
        ("sst-emotionnet", {"step": 0.5}),
        ("scalingnet", {}),
        ("resattentionet", {}),
    ],
)
def test_a_stream_says_what_the_whole_recording_says(name, options):
    made, mine = pipeline(name, options), recording(seconds=9)
    whole = made(mine)
    rng = np.random.default_rng(0)
    cuts = [0, *np.sort(rng.choice(mine.n_times, 20, replace=False)), mine.n_times]
    order = rng.permutation(19)
    stream = made.stream(200, [CH_NAMES[i] for i in order])
    chunks = [mine.signal[order, a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    answers = [stream.push(chunk) for chunk in chunks]
    proba = np.concatenate([answer.proba for answer in answers])
    assert len(proba) == len(whole) > 2
    np.testing.assert_allclose(proba, whole.proba, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([a.start for a in answers]), whole.start)
    np.testing.assert_allclose(np.concatenate([a.stop for a in answers]), whole.stop)


def test_streams_refuse_what_they_cannot_do():
    for made, why in (
        (pipeline("ldm-eeg"), "recipe='clean'"),
        (pipeline("hamnet", {"statistics": "all"}), "statistics='all'"),
        (pipeline(band=(1, 40)), "filter"),
    ):
        with pytest.raises(ValueError, match=why):
            made.stream(200, CH_NAMES)
    with pytest.raises(ValueError, match="200 Hz, not 250"):
        pipeline().stream(250, CH_NAMES)
    with pytest.raises(ValueError, match="no channel Cz"):
        pipeline().stream(200, [name for name in CH_NAMES if name != "Cz"])
    with pytest.raises(ValueError, match=r"\(19, n_times\) expected"):
        pipeline().stream(200, CH_NAMES).push(np.zeros((18, 10)))


def test_parts_that_do_not_fit_are_refused():
    inputs = InputsBuilder("hamnet", {"statistics": None})
    with pytest.raises(ValueError, match="2 outputs, class_names has 3"):
        Pipeline(network("hamnet"), inputs, 200, CH_NAMES, "abc")
    with pytest.raises(ValueError, match="signal"):
        Pipeline(network("hamnet"), inputs, 256, CH_NAMES, "ab")
    with pytest.raises(ValueError, match="no option 'windw'"):
        InputsBuilder("hamnet", {"windw": 1})
    with pytest.raises(ValueError, match="normalization for each of 1 inputs, got 2"):
        pipeline(normalization=[make_normalization("none")] * 2)


HOSTILE = {
    "another format": ({"format": "other"}, "not a pipeline"),
    "a later version": ({"version": 2}, "version 2"),
    "an entry more": ({"python": "import os"}, "expected the entries"),
    "a builder that is none": ({"inputs": {"name": "os.system", "options": {}}}, "name must be"),
    "a builder's name that is none": ({"inputs": {"name": ["x"], "options": {}}}, "name must be"),
    "an option that is none": (
        {"inputs": {"name": "hamnet", "options": {"__class__": 1}}},
        "no option",
    ),
    "an option of the wrong kind": (
        {"inputs": {"name": "hamnet", "options": {"window": "1"}}},
        "window must be seconds",
    ),
    "statistics of the wrong kind": (
        {"inputs": {"name": "hamnet", "options": {"statistics": [[1], [2]]}}},
        "statistics must be",
    ),
    "a window for ever": (
        {"inputs": {"name": "hamnet", "options": {"window": 1e8}}},
        "too long",
    ),
    "windows without end": (
        {"inputs": {"name": "resattentionet", "options": {"n_windows": 10**12}}},
        "numbers up to 1e9",
    ),
    "too many windows": (
        {"inputs": {"name": "resattentionet", "options": {"n_windows": 10**8}}},
        "n_windows must be 1 to",
    ),
    "maps without end": (
        {"inputs": {"name": "ldm-eeg", "options": {"size": [10**6, 10**6]}}},
        "size must be 1 to",
    ),
    "a rate without end": ({"sfreq": 1e300}, "numbers up to 1e9"),
    "a rate of whole digits": ({"sfreq": 10**400}, "numbers up to 1e9"),
    "no rate": ({"sfreq": 0}, "sfreq must be"),
    "a true rate": ({"sfreq": True}, "sfreq is of the wrong kind"),
    "another rate": ({"sfreq": 100}, "do not fit together"),
    "classes too many": ({"class_names": ["a", "b", "c"]}, "2 outputs"),
    "classes twice": ({"class_names": ["a", "a"]}, "different names"),
    "a class that is none": ({"class_names": ["a", 7]}, "no name"),
    "a class of several lines": ({"class_names": ["a", "b\n=cmd()"]}, "no name"),
    "channels too few": ({"ch_names": CH_NAMES[:18]}, "do not fit together"),
    "a normalisation that is none": ({"normalization": "../x"}, "unknown name"),
    "a normalisation without numbers": ({"normalization": "train_zscore"}, "no such file"),
    "a band of words": ({"band": ["1", "2"]}, "band must be two"),
    "a band of one": ({"band": [1]}, "band must be two"),
    "a band upside down": ({"band": [40, 4]}, "band must be"),
}


@pytest.mark.parametrize("change, message", HOSTILE.values(), ids=HOSTILE)
def test_hostile_descriptions_are_one_error_that_names_the_folder(change, message, tmp_path):
    folder = pipeline().save(tmp_path / "p")
    path = folder / "pipeline.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Pipeline.load(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", "{" * 100_000, '{"a": ' * 50_000, '{"format": NaN}', " " * 2_000_000, "\xff"],
    ids=range(8),
)
def test_what_is_no_description_is_refused(text, tmp_path):
    folder = pipeline().save(tmp_path / "p")
    (folder / "pipeline.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match="pipeline.json"):
        Pipeline.load(folder)


def rewrite(path, change):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["eegfast"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, path, {"eegfast": json.dumps(about)})


@pytest.mark.parametrize(
    "change",
    [
        lambda about, tensors: about["config"].update(n_spatial=900_000),
        lambda about, tensors: about["config"].update(n_spatial=10**15),
        lambda about, tensors: about["config"].update(n_chans=-1),
        lambda about, tensors: about["config"].update(name="x"),
        lambda about, tensors: about["config"].update(surprise=1),
        lambda about, tensors: about["config"].update(n_taps="5"),
        lambda about, tensors: about.update(model="os.system"),
        lambda about, tensors: about.update(model=7),
        lambda about, tensors: about.update(config=[1]),
        lambda about, tensors: tensors.popitem(),
        lambda about, tensors: tensors.update(extra=torch.zeros(3)),
        lambda about, tensors: tensors.update({next(iter(tensors)): torch.zeros(1, 2, 3)}),
    ],
    ids=range(12),
)
def test_hostile_weights_are_one_error_that_names_the_file(change, tmp_path):
    folder = pipeline().save(tmp_path / "p")
    rewrite(folder / "model.safetensors", change)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        Pipeline.load(folder)


def test_nothing_is_allocated_for_weights_that_are_not_there(tmp_path, monkeypatch):
    from eegfast.models import base

    folder = pipeline().save(tmp_path / "p")
    rewrite(folder / "model.safetensors", lambda about, _: about["config"].update(n_spatial=10**6))
    create, places = base.create, []

    def watched(*args, **kwargs):
        places.append(torch.empty(0).device.type)
        return create(*args, **kwargs)

    monkeypatch.setattr(base, "create", watched)
    with pytest.raises(ValueError, match="size mismatch"):
        Pipeline.load(folder)
    assert places == ["meta"]


def test_a_network_without_end_is_refused_at_once(tmp_path):
    folder = pipeline("sst-emotionnet").save(tmp_path / "p")
    change = {"frequency_depth": 3 * 10**9 + 4}
    rewrite(folder / "model.safetensors", lambda about, _: about["config"].update(change))
    with pytest.raises(ValueError, match="numbers up to 1,000,000"):
        Pipeline.load(folder)


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    folder = pipeline(normalization=[fitted()]).save(tmp_path / "p")
    for name in ("normalization.safetensors", "model.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match=f"{name}: not a safetensors file"):
            Pipeline.load(folder)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            Pipeline.load(folder)
        pipeline(normalization=[fitted()]).save(folder)
    assert not (tmp_path / "sprung").exists()


def fitted(seed=0):
    signals = np.random.default_rng(seed).normal(seed, 2 + 20 * seed, (4, 19, 200))
    return make_normalization("train_zscore").fit(signals)


@pytest.mark.parametrize(
    "arrays",
    [
        {"0.mean": np.zeros((19, 200))},
        {"0.mean": np.zeros((19, 200)), "0.std": np.zeros((19, 200))},
        {"0.mean": np.full((19, 200), np.nan), "0.std": np.ones((19, 200))},
        {"0.mean": np.zeros((19, 1)), "0.std": np.ones((19, 200))},
        {"0.mean": np.zeros((7, 200)), "0.std": np.ones((7, 200))},
        {"0.mean": np.zeros((19, 200), int), "0.std": np.ones((19, 200), int)},
        {f"{i}.{key}": np.ones((19, 200)) for i in (0, 1) for key in ("mean", "std")},
        {"../0.mean": np.zeros((19, 200)), "0.std": np.ones((19, 200))},
    ],
    ids=range(8),
)
def test_hostile_numbers_of_a_normalisation_are_refused(arrays, tmp_path):
    from safetensors.numpy import save_file

    folder = pipeline(normalization=[fitted()]).save(tmp_path / "p")
    save_file(arrays, folder / "normalization.safetensors")
    with pytest.raises(ValueError, match=str(folder)):
        Pipeline.load(folder)


def test_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "predict.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert len(names["prediction"]) == 60 and (tmp_path / "shared" / "pipeline.json").exists()
