# SPDX-License-Identifier: BSD-3-Clause
import csv
import json

import numpy as np
import pytest

from eegfast.protocols import Samples
from eegfast.training import Answers, Evaluation, Results, compare, score, swap_null
from eegfast.training.nulls import swap_nulls
from eegfast.training.tables import COLUMNS, rows, write_results, write_table

ABOUT = {
    "run": "mine",
    "recipe": "paper",
    "model": "net",
    "dataset": "seed",
    "select": {},
    "protocol": "subject-k-fold",
    "protocol_options": {},
    "leaks": False,
    "leakage": [],
    "class_names": ["neg", "pos"],
}


def split(name, subject, session, trial, label, positive, leaks=False):
    proba = np.stack([1 - np.asarray(positive, float), positive], 1)
    n = len(proba)
    samples = Samples(np.broadcast_to(subject, n), np.broadcast_to(session, n), trial, label)
    return Answers(name, samples, proba, leaks)


@pytest.fixture
def two():
    """Two splits; subject a in the first, b and c in the second, which leaks."""
    return [
        # trial 1: two windows barely wrong, one surely right: the mean is right
        split("one", "a", "1", [1, 1, 1, 2, 2], [1, 1, 1, 0, 0], [0.45, 0.45, 0.9, 0.2, 0.6]),
        split(
            "two",
            ["b", "b", "c", "c"],
            ["1", "2", "1", "1"],
            [1, 1, 1, 2],
            [1, 0, 0, 1],
            [0.8, 0.9, 0.1, 0.4],
            leaks=True,
        ),
    ]


def test_trials_are_answered_by_the_mean_of_their_samples(two):
    found = score(two)
    assert found["sample"]["overall"]["confusion"] == [[2, 2], [3, 2]]
    assert found["trial"]["overall"]["confusion"] == [[2, 1], [1, 2]]
    assert found["sample"]["overall"]["n"] == 9 and found["trial"]["overall"]["n"] == 6


def test_it_scores_by_split_session_and_subject(two):
    found = score(two, class_names=["neg", "pos"])["trial"]
    accuracies = {
        groups: {name: part["accuracy"] for name, part in found[groups].items()}
        for groups in ("splits", "sessions", "subjects")
    }
    assert accuracies == {
        "splits": {"one": 1, "two": 0.5},
        "sessions": {"a/1": 1, "b/1": 1, "b/2": 0, "c/1": 0.5},
        "subjects": {"a": 1, "b": 0.5, "c": 0.5},
    }
    assert [part["leaks"] for part in found["splits"].values()] == [False, True]
    assert found["splits"]["two"]["classes"]["pos"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "n": 2,
    }
    spread = found["over_subjects"]["accuracy"]
    assert spread == pytest.approx({"mean": 2 / 3, "std": np.sqrt(1 / 18), "n": 3})  # population's
    kappa = found["over_sessions"]["kappa"]  # b/1 and b/2 hold one trial each; b/1 has none
    assert kappa["n"] == 3 and not np.isnan(kappa["mean"])


def test_one_trial_number_in_two_sessions_or_splits_is_two_trials(two):
    again = split("three", "a", "1", [1], [1], [0.1])
    assert score([*two, again])["trial"]["overall"]["n"] == 7


def test_nan_is_no_answer_and_takes_its_trial_along(two):
    two[0].proba[0] = np.nan
    found = score(two)
    assert found["sample"]["overall"]["unanswered"] == 1
    trial = found["trial"]["overall"]
    assert trial["unanswered"] == 1
    assert trial["confusion"] == [[2, 1], [1, 1]]
    assert trial["accuracy"] == 3 / 6


def test_the_null_moves_labels_of_whole_trials_within_a_session():
    """8 sessions of two trials, 5 equal windows each: whole sessions are right or wrong."""
    trial, label = np.repeat([1, 2], 5), np.repeat([0, 1], 5)
    answers = [split(f"s{i}", f"s{i}", "1", trial, label, label) for i in range(8)]
    found = score(answers, n_permutations=2000)
    for unit in ("sample", "trial"):
        null = found[unit]["null"]["accuracy"]
        assert np.allclose(np.array(null["levels"]) * 8 % 1, 0)
        assert null["p_value"] == pytest.approx(1 / 256, abs=0.004)
        assert null["mean"] == pytest.approx(0.5, abs=0.02)
    assert found["sample"]["null"]["accuracy"] == found["trial"]["null"]["accuracy"]
    assert score(answers, n_permutations=20)["trial"]["null"]["kappa"]["n_permutations"] == 20


def test_the_null_keeps_labels_in_their_session_and_split():
    sessions = split("x", "a", ["1", "1", "2", "2"], [1, 2, 1, 2], [0, 0, 1, 1], [0, 0, 1, 1])
    assert score([sessions], n_permutations=50)["trial"]["null"]["accuracy"]["levels"] == [1]
    halves = [split(str(k), "a", "1", [k + 1], [k], [k]) for k in range(2)]
    assert score(halves, n_permutations=50)["trial"]["null"]["accuracy"]["levels"] == [1]


def test_swap_nulls_count_ties_and_refuse_nothing():
    null = swap_nulls([0, 1], [[1, 0, 0], [1, 0, 0]], ["a", "a"], 9)["accuracy"]
    assert null.p_value == 1 and null.observed == 0.5
    with pytest.raises(ValueError, match="at least 1"):
        swap_nulls([0, 1], np.eye(3)[[0, 1]], ["a", "a"], 0)


def test_an_evaluation_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 10)
    proba = rng.dirichlet([1, 1], (20, 4))
    evaluation = Evaluation(
        labels, np.repeat([f"s{i}" for i in range(10)], 2), np.repeat([0, 1], 10), proba, "w", "n"
    )
    found = score(evaluation.answers(), n_permutations=200)
    trial, sample = found["trial"], found["sample"]
    assert trial["overall"]["accuracy"] == evaluation.accuracy
    assert sample["overall"]["accuracy"] == evaluation.unit_accuracy
    assert trial["intervals"]["accuracy"] == list(evaluation.interval())
    assert trial["overall"]["confusion"] == evaluation.confusion().tolist()
    assert {name: part["accuracy"] for name, part in sample["subjects"].items()} == {
        name: part["unit_accuracy"] for name, part in evaluation.per_subject().items()
    }
    assert trial["null"]["accuracy"] == swap_null(evaluation, 200).summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proba": np.full((2, 2), 0.7)}, "sum 1"),
        ({"proba": [[2.5, -1.5], [0.5, 0.5]]}, "not negative"),
        ({"proba": [[0.5, 0.5]]}, "each of the 2 samples"),
        ({"proba": [[1.0], [1.0]]}, "at least 2 classes"),
        ({"label": [0, 2]}, "a label 2"),
    ],
)
def test_answers_that_are_none_are_refused(change, message):
    given = {"label": [0, 1], "proba": [[0.5, 0.5], [0.5, 0.5]], **change}
    samples = Samples(["a", "a"], ["1", "1"], [1, 2], given["label"])
    with pytest.raises(ValueError, match=f"^split 3: .*{message}"):
        Answers("split 3", samples, given["proba"])


def test_splits_that_do_not_fit_together_are_refused(two):
    three = Answers("three", two[0].samples, np.full((5, 4), 0.25))
    for bad, message in (
        ([], "no answers"),
        ([*two, three], "number of classes"),
        ([two[0], two[0]], "one name"),
    ):
        with pytest.raises(ValueError, match=message):
            score(bad)
    with pytest.raises(ValueError, match="2 different class names"):
        score(two, class_names=["same", "same"])


@pytest.fixture
def results(two):
    units = score(two, class_names=ABOUT["class_names"], n_permutations=20)
    return Results({**ABOUT, "leaks": True, "n_subjects": 3}, units, two)


def test_the_table_is_tidy(results, tmp_path):
    table = rows(results)
    assert all(list(row) == list(COLUMNS) for row in table)
    keys = [tuple(r[c] for c in ("split", "unit", "subject_id", "class", "metric")) for r in table]
    assert len(set(keys)) == len(keys)
    found = dict(zip(keys, table, strict=True))
    overall = found["", "trial", "", "", "accuracy"]
    assert overall["value"] == pytest.approx(4 / 6) and overall["n"] == 6 and overall["leaks"]
    assert [overall["ci_low"], overall["ci_high"]] == results.units["trial"]["intervals"][
        "accuracy"
    ]
    assert found["one", "sample", "", "pos", "recall"]["value"] == pytest.approx(1 / 3)
    assert found["one", "sample", "", "pos", "recall"]["n"] == 3
    assert not found["one", "trial", "", "", "kappa"]["leaks"]
    assert found["two", "trial", "", "", "kappa"]["leaks"]
    assert found["", "trial", "b", "", "accuracy"]["value"] == 0.5
    assert found["", "trial", "", "", "accuracy_std_over_subjects"]["n"] == 3
    assert found["", "trial", "", "", "accuracy_null_p"]["n"] == 20
    with write_table(table, tmp_path / "t.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS) and len(read) == len(table)
    assert read[keys.index(("", "trial", "a", "", "kappa"))]["ci_low"] == ""
    assert {row["leaks"] for row in read} == {"true", "false"}
    plain = json.loads(write_table(table, tmp_path / "t.json").read_text())
    assert plain[keys.index(("", "trial", "", "", "accuracy"))] == overall
    assert all(row["ci_low"] is None for row in plain if row["split"])


def test_parquet_holds_the_same_rows(results, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = rows(results)
    read = parquet.read_table(write_table(table, tmp_path / "t.parquet")).to_pylist()
    assert repr(read) == repr(table)


def test_without_pyarrow_parquet_is_asked_for_and_nothing_is_left(results, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        write_table(rows(results), tmp_path / "t.parquet")
    (tmp_path / "results.parquet").write_bytes(b"of an older evaluation")
    assert [path.name for path in write_results(results, tmp_path)] == [
        "results.json",
        "results.csv",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]
    with pytest.raises(ValueError, match="csv, json, parquet"):
        write_table([], tmp_path / "t.xlsx")


def test_the_json_holds_no_nan(results, tmp_path):
    write_results(results, tmp_path)
    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert read["format"] == "eegfast-results" and read["run"] == "mine"
    assert read["units"]["trial"]["sessions"]["b/1"]["kappa"] is None
    assert read["units"]["trial"]["overall"]["confusion"] == [[2, 1], [1, 2]]


def test_a_file_is_written_whole_or_not_at_all(results, tmp_path):
    path = write_table(rows(results), tmp_path / "t.csv")
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_table([*rows(results), {"run": "half"}], path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def as_results(answers, **about):
    return Results({**ABOUT, "n_subjects": 3, **about}, {}, answers)


def test_runs_of_the_same_splits_are_compared_subject_by_subject(two):
    better = [two[0], Answers("two", two[1].samples, np.eye(2)[two[1].samples.label])]
    found = compare(as_results(two), as_results(better, run="other"))
    assert (found["first"], found["second"], found["unpaired"]) == ("mine", "other", None)
    assert found["differences"]["accuracy"]["value"] == pytest.approx(2 / 6)
    assert found["differences"]["accuracy"]["low"] == 0  # draws of subject a alone
    same = compare(as_results(two), as_results(two), unit="sample")["differences"]["kappa"]
    assert same == {"value": 0, "low": 0, "high": 0}


def test_windows_may_differ_if_the_trials_are_the_same(two):
    fewer = Answers("one", two[0].samples.take([0, 3]), two[0].proba[[0, 3]])
    assert compare(as_results(two), as_results([fewer, two[1]]))["unpaired"] is None


def test_runs_of_other_splits_are_not_compared(two):
    first = as_results(two)
    other_trial = Answers("one", two[0].samples.take([0, 1, 2]), two[0].proba[:3])
    other_labels = split("one", "a", "1", [1, 1, 1, 2, 2], [0, 0, 0, 1, 1], [0.5] * 5)
    for second, why in (
        (as_results(two, protocol="random-windows"), "another protocol"),
        (as_results(two, protocol_options={"seed": 1}), "other options of the protocol"),
        (as_results(two, dataset="DEAP"), "another data set"),
        (as_results(two, select={"target": "arousal"}), "another part"),
        (as_results(two[:1]), "other splits"),
        (as_results([other_trial, two[1]]), "other trials"),
        (as_results([other_labels, two[1]]), "other labels"),
    ):
        found = compare(first, second)
        assert why in found["unpaired"] and found["differences"] == {}
