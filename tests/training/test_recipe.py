# SPDX-License-Identifier: BSD-3-Clause
import pytest
import yaml

from eegfast.models import create
from eegfast.training.recipe import Recipe, load_recipe, recipe_names

PAPERS = ["hamnet", "ldm-eeg", "resattentionet", "scalingnet", "sst-emotionnet"]


def of(name, *settings):
    return load_recipe(name).override(settings)


def written(tmp_path, change, name="hamnet"):
    values = load_recipe(name).as_dict()
    change(values)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_five_papers():
    assert recipe_names() == PAPERS


@pytest.mark.parametrize("name", PAPERS)
def test_comes_back_from_yaml_as_it_was(name, tmp_path):
    recipe = load_recipe(name)
    assert load_recipe(recipe.save(tmp_path / "r.yaml")) == recipe
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", PAPERS)
def test_has_what_a_reproduction_needs(name):
    recipe = load_recipe(name)
    assert set(recipe.protocols) == {"paper", "honest"}
    assert not recipe.protocols["honest"].create().leaks
    assert recipe.paper.citation and recipe.paper.claims and recipe.paper.leaks
    honest = recipe.for_protocol("honest")
    assert honest.training.validation.level != "test"
    assert honest.normalization.name != "subject_zscore"
    small = recipe.override(recipe.quick.set)
    assert sum(s.epochs for s in small.training.stages) < sum(
        s.epochs for s in recipe.training.stages
    )
    bundled = recipe.override(recipe.bundled).override(recipe.quick.set)
    bundled = bundled.override(recipe.quick.bundled)
    assert bundled.data.dataset == "eegmat" and bundled.data.seconds <= 58
    assert bundled.protocols["honest"].create().apart == "subject"


def test_published_training():
    ldm, sst, hamnet, scaling, res = (
        load_recipe(n).training
        for n in ("ldm-eeg", "sst-emotionnet", "hamnet", "scalingnet", "resattentionet")
    )
    (stage,) = ldm.stages
    assert (stage.epochs, stage.batch_size, stage.optimizer.lr) == (150, 16, 5e-4)
    assert (stage.schedule.milestones, stage.schedule.factor) == ([30, 60, 90], 0.7)
    (stage,) = sst.stages
    assert (stage.epochs, stage.batch_size, stage.optimizer.lr) == (50, 64, 1e-4)
    assert (stage.optimizer.l2, stage.optimizer.weight_decay) == (1e-4, 0)
    assert (sst.patience, sst.selection, sst.best_by) == (20, "best", "val_accuracy")
    assert [(s.name, s.epochs, s.optimizer.lr, s.batch_size) for s in hamnet.stages] == [
        ("pretrain", 800, 1e-4, 100),
        ("finetune", 600, 5e-5, 100),
    ]
    assert [s.model for s in hamnet.stages] == [{"stage": "pretrain"}, {"stage": "finetune"}]
    assert scaling.stages[0].batch_size == 32
    (stage,) = res.stages
    assert (stage.optimizer.name, stage.optimizer.lr, stage.epochs) == ("adamw", 5e-5, 100)
    assert (res.loss.label_smoothing, res.loss.balance_classes) == (0.1, True)
    assert res.selection == "last" and res.patience is None
    assert load_recipe("resattentionet").seed == 42


@pytest.mark.parametrize(
    "name, data, parameters",
    [
        ("ldm-eeg", {}, 899_743),
        ("sst-emotionnet", {}, 519_213),
        ("hamnet", {"n_chans": 62}, 16_633),
        ("scalingnet", {"n_chans": 32}, 11_612),
        ("resattentionet", {"n_chans": 62}, 359_811),
    ],
)
def test_the_published_network(name, data, parameters):
    model = load_recipe(name).model
    network = create(model.name, **data, **model.options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_validation_on_the_test_set_is_the_papers_alone():
    sst = load_recipe("sst-emotionnet")
    assert sst.for_protocol("paper").training.validation.level == "test"
    honest = sst.for_protocol("honest").training.validation
    assert (honest.level, honest.n) == ("trial", 2)


def test_a_protocols_own_choices_take_their_place():
    recipe = load_recipe("resattentionet")
    paper, honest = recipe.for_protocol("paper"), recipe.for_protocol("honest")
    assert (paper.normalization.name, honest.normalization.name) == (
        "subject_zscore",
        "train_zscore",
    )
    assert (paper.data.options["n_windows"], honest.data.options["n_windows"]) == (60, "shortest")
    assert list(honest.protocols) == ["honest"]
    assert honest.for_protocol("honest") == honest
    with pytest.raises(ValueError, match="no protocol 'honnest'; did you mean 'honest'"):
        recipe.for_protocol("honnest")


def test_overrides_take_the_fields_type():
    recipe = of(
        "hamnet",
        "training.stages.1.epochs=3",
        "training.stages.0.optimizer.lr=1e-3",
        "training.gradient_clip=1",
        "data.select.subjects=[1, 2]",
        "data.picks=[Cz, Pz]",
        "training.patience=null",
        "protocols.mine={name: leave-one-subject-out}",
    )
    assert [stage.epochs for stage in recipe.training.stages] == [800, 3]
    assert recipe.training.stages[0].optimizer.lr == 1e-3
    assert recipe.training.gradient_clip == 1.0
    assert recipe.data.select == {"subjects": [1, 2]} and recipe.data.picks == ["Cz", "Pz"]
    assert recipe.protocols["mine"].create().apart == "subject"
    assert load_recipe("hamnet").training.stages[1].epochs == 600


@pytest.mark.parametrize(
    "setting, message",
    [
        ("training.stages.0.epoch=3", "stages.0.epoch: unknown key; did you mean 'epochs'"),
        ("training.stages.2.epochs=3", "'2' is no entry of a list of 2"),
        ("training.stages.0.epochs=3.5", "epochs: expected a whole number, got 3.5"),
        ("training.stages.0.epochs=true", "expected a whole number, got True"),
        ("training.stages.0.epochs=0", "epochs must be at least 1"),
        ("training.stages.0.optimizer.lr=fast", "lr: expected a number, got 'fast'"),
        ("training.stages.0.optimizer.lr=.inf", "lr: expected a number"),
        ("training.stages.1.name=pretrain", "different names"),
        ("training.stages.0.schedule.milestones=[9, 3]", "rising epochs"),
        ("training.selection=bset", "expected one of last, best"),
        ("training.augmentation.nois=1", "did you mean 'noise'"),
        ("model.name=hamnett", "no model named 'hamnett'; did you mean 'hamnet'"),
        ("protocols.honest.name=session-k", "no protocol named 'session-k'"),
        ("protocols.honest.options.n_split=5", "n_split"),
        ("normalization.name=zscore", "no normalization named 'zscore'"),
        ("data.inputs=hammnet", "expected one of ldm-eeg"),
        ("seed.x=1", "nothing below 0"),
        ("seed", "expected KEY=VALUE"),
        ("seed=[", "not YAML"),
    ],
)
def test_overrides_that_do_not_fit(setting, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")) as error:
        of("hamnet", setting)
    assert setting in str(error.value)


def test_errors_name_the_file_and_the_nearest_key(tmp_path):
    def change(values):
        values["training"]["stages"][1]["optimizer"]["learning_rate"] = 1
        values["training"]["stages"][1]["optimizer"].pop("lr")

    path = written(tmp_path, change)
    with pytest.raises(ValueError) as error:
        load_recipe(path)
    assert str(error.value).startswith(
        f"{path}: training.stages.1.optimizer.learning_rate: unknown"
    )
    path = written(tmp_path, lambda values: values["data"].pop("dataset"))
    with pytest.raises(ValueError, match="data: dataset is missing"):
        load_recipe(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("!!python/object/apply:os.system [echo]", "expected a recipe in YAML"),
        ("a: &a [1]\nb: *a", "alias"),
        ("[" * 1500, "expected a recipe in YAML"),
        ("a: [", "expected a recipe in YAML"),
        ("- 1", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_files_that_are_none(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(path)
    assert str(path) in str(error.value)


def test_names_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'hamnet'"):
        load_recipe("hamnett")
    path = tmp_path / "big.yaml"
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(ValueError, match="at most"):
        load_recipe(path)
