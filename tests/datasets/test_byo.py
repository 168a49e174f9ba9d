# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.datasets import BYO

RNG = np.random.default_rng(4)
NAMES = ["Fp1", "Cz", "O2"]


@pytest.fixture
def folder(tmp_path):
    """Three arrays of 3 channels, 10 s at 100 Hz."""
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", RNG.normal(0, 20, (3, 1000)))

    def write(*lines, **options):
        (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
        return BYO(tmp_path / "labels.csv", sfreq=100, ch_names=NAMES, **options)

    write.array = lambda name: np.load(tmp_path / f"{name}.npy")
    write.path = tmp_path
    return write


def test_whole_files_and_two_columns(folder):
    dataset = folder("file,label", "b.npy,sad", "a.npy,happy", "c.npy,sad")
    assert dataset.class_names == ("happy", "sad")
    assert [(t.subject_id, t.session_id, t.trial_id) for t in dataset.trials] == [
        ("01", "1", 1),
        ("01", "1", 2),
        ("01", "1", 3),
    ]
    assert dataset.labels.tolist() == [1, 0, 1]
    item = dataset[1]
    np.testing.assert_array_equal(item.signal, folder.array("a"))
    assert (item.sfreq, item.ch_names, item.label) == (100, NAMES, 0)
    assert item.source == str(folder.path / "a.npy")


def test_pieces_subjects_and_sessions(folder):
    dataset = folder(
        "trial_id,file,note,label,subject_id,session_id,start,stop",
        "2,a.npy,x,7,10,2, 1.5 ,4",
        "1,a.npy,x,10,10,2,4,",
        "1,b.npy,x,7,9,1,,2.25",
        "5,c.npy,x,7,anna,1,,",
    )
    assert dataset.class_names == ("7", "10")
    assert dataset.subjects == ["09", "10", "anna"]
    assert [t.trial_id for t in dataset.trials] == [1, 1, 2, 5]
    assert dataset.labels.tolist() == [0, 1, 0, 0]
    a, b = folder.array("a"), folder.array("b")
    items = list(dataset)
    np.testing.assert_array_equal(items[0].signal, b[:, :225])
    np.testing.assert_array_equal(items[1].signal, a[:, 400:])
    np.testing.assert_array_equal(items[2].signal, a[:, 150:400])
    assert (items[3].subject_id, items[3].trial_id) == ("anna", 5)


def test_class_names_in_a_given_order(folder):
    rows = "file,label", "a.npy,sad", "b.npy,happy", "c.npy,0"
    dataset = folder(*rows, class_names=("sad", "happy"))
    assert dataset.labels.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="labels.csv: line 3: label must be one of sad, calm, got"):
        folder(*rows, class_names=("sad", "calm"))


def test_files_of_other_formats_and_elsewhere(tmp_path, write_edf):
    pytest.importorskip("mne")
    channels = [{"label": name, "rate": 100, "counts": np.arange(300)} for name in NAMES]
    write_edf("a.edf", channels)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "x.csv"
    table.write_bytes("\ufefffile,label,start,stop\r\na.edf,Größe,1,2\r\n".encode())
    dataset = BYO(table, root=tmp_path, picks=["CZ"])
    item = dataset[0]
    np.testing.assert_allclose(item.signal, [np.arange(100, 200)], atol=1e-3)
    assert (item.ch_names, dataset.class_names) == (["Cz"], ("Größe",))


ROWS = {
    "no rows": (("file,label",), "expected rows below"),
    "nothing": (("",), "line 1: expected different columns, .* got none"),
    "no label column": (("file,lable", "a.npy,x"), "line 1: .* got file, lable"),
    "two columns of a name": (("file,label,label", "a.npy,x,y"), "line 1: expected different"),
    "a cell short": (("file,label", "a.npy,x", "b.npy"), "line 3: expected 2 cells"),
    "a cell too many": (("file,label", "a.npy,x,y"), "line 2: expected 2 cells"),
    "a blank label": (("file,label", "a.npy,"), "line 2: expected a label, the cell is blank"),
    "a blank subject": (("file,label,subject_id", "a.npy,x, "), "line 2: expected a subject_id"),
    "no number": (("file,label,start", "a.npy,x,1s"), "line 2: start must be a number, got '1s'"),
    "no finite number": (("file,label,stop", "a.npy,x,inf"), "line 2: stop must be a number"),
    "a broken trial": (("file,label,trial_id", "a.npy,x,1.5"), "line 2: trial_id must be a whole"),
    "trial zero": (("file,label,trial_id", "a.npy,x,0"), "line 2: trial_id must be a whole"),
    "stop before start": (("file,label,start,stop", "a.npy,x,3,2"), "line 2: expected 0 <= start"),
    "before the start": (("file,label,start", "a.npy,x,-1"), "line 2: expected 0 <= start"),
    "another format": (("file,label", "labels.csv,x"), "line 2: .*expected a file ending in"),
    "the same trial": (
        ("file,label,trial_id", "a.npy,x,1", "b.npy,x,2", "c.npy,x,1"),
        r"line 4: subject 01, session 1, trial 1 is there already \(line 2\)",
    ),
    "the same samples": (
        ("file,label,start,stop", "a.npy,x,0,5", "a.npy,y,4.5,8"),
        r"line 3: a.npy from 4.5 s on belongs to another trial already \(line 2\)",
    ),
    "the same file": (("file,label", "a.npy,x", "a.npy,y"), r".*already \(line 2\)"),
}


@pytest.mark.parametrize(("lines", "message"), ROWS.values(), ids=ROWS)
def test_wrong_rows_are_named_by_line(folder, lines, message):
    with pytest.raises(ValueError, match=f"labels.csv: {message}"):
        folder(*lines)


def test_absent_files(folder):
    with pytest.raises(FileNotFoundError, match="labels.csv: line 3: there is no file .*d.npy"):
        folder("file,label", "a.npy,x", "d.npy,x")
    with pytest.raises(FileNotFoundError, match="none.csv"):
        BYO(folder.path / "none.csv")
    (folder.path / "latin.csv").write_bytes("file,label\na.npy,Größe".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv: expected a CSV table in UTF-8"):
        BYO(folder.path / "latin.csv")


@pytest.mark.parametrize("times", ("0,10.5", "11,", "2,2.001"))
def test_pieces_that_a_file_does_not_have(folder, times):
    dataset = folder("file,label,start,stop", f"a.npy,x,{times}")
    with pytest.raises(ValueError, match="labels.csv: line 2: .*(within 10 s|no sample)"):
        dataset[0]


def test_a_damaged_file_is_named(folder):
    dataset = folder("file,label", "a.npy,x")
    (folder.path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="a.npy: could not be read"):
        dataset[0]


def test_arrays():
    X = RNG.normal(0, 20, (4, 3, 500)).astype("f4")
    dataset = BYO.from_arrays(X, [1, 0, 1, 1], 100, NAMES, subject_id=[2, 2, 1, 1])
    assert (len(dataset), dataset.subjects, dataset.class_names) == (4, ["01", "02"], ("0", "1"))
    items = list(dataset)
    assert [(i.subject_id, i.trial_id, i.label) for i in items] == [
        ("01", 1, 1),
        ("01", 2, 1),
        ("02", 1, 1),
        ("02", 2, 0),
    ]
    for item, i in zip(items, (2, 3, 0, 1), strict=True):
        assert np.shares_memory(item.signal, X[i]) and (item.signal == X[i]).all()


def test_arrays_of_different_lengths_with_words():
    X = [RNG.normal(size=(3, n)) for n in (50, 70)]
    dataset = BYO.from_arrays(
        X, ["sad", "happy"], 100, NAMES, trial_id=[7, 3], class_names=["sad", "happy"]
    )
    assert [item.n_times for item in dataset] == [70, 50]
    assert [item.trial_id for item in dataset] == [3, 7]
    assert dataset.labels.tolist() == [1, 0]


def test_arrays_that_do_not_fit():
    X = np.zeros((4, 3, 50))
    for change, message in (
        ({"y": [1, 2]}, "y must have one entry for each of 4 trials, got 2"),
        ({"subject_id": [1]}, "subject_id must have one entry for each of 4"),
        ({"ch_names": NAMES[:2]}, r"X\[0\]: expected shape \(2 channels, samples\)"),
        ({"X": [*X[:3], np.zeros(5)]}, r"X\[3\]: expected shape"),
        ({"X": X[..., :0]}, r"X\[0\]: expected shape"),
        ({"trial_id": [1, 2, 3, 1]}, "subject 01, session 1, trial 1 is there already"),
    ):
        arguments = {"X": X, "y": [0, 1, 0, 1], "sfreq": 100, "ch_names": NAMES, **change}
        with pytest.raises(ValueError, match=message):
            BYO.from_arrays(**arguments)
    with pytest.raises(TypeError, match=r"X\[0\]: expected float32 or float64 microvolts, got int"):
        BYO.from_arrays(X.astype(int), [0] * 4, 100, NAMES)
