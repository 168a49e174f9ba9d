# SPDX-License-Identifier: BSD-3-Clause
import zipfile
from datetime import datetime, timedelta

import numpy as np
import pytest

from eegfast.datasets import SEED_CHANNELS, SEEDVII, Recording, TrialFeatures

CLASSES = ("disgust", "fear", "sad", "neutral", "happy", "anger", "surprise")
LABELS = [
    2 * [int(c) for c in half] for half in "4302552034 5213663125 4601551064 0216446120".split()
]
RNG = np.random.default_rng(7)
ALL = range(1, 81)


@pytest.fixture
def write_mat(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat

    def write(folder, number, variables):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / f"{number}.mat"
        savemat(path, variables, do_compression=True)
        return path

    return write


def signals(clips=ALL, seconds=4):
    return {f"{clip}": RNG.normal(0, 20, (62, 200 * seconds)) for clip in clips}


def features(clips=ALL, names=("de_LDS", "de", "psd_LDS", "psd")):
    return {
        f"{name}_{clip}": RNG.normal(20, 2, (clip % 3 + 2, 5, 62))
        for clip in clips
        for name in names
    }


def write_xlsx(path, rows, shared=True, head=""):
    """A spreadsheet of words and numbers, as Excel and as other programs write it."""
    words = sorted({cell for row in rows for cell in row if isinstance(cell, str)})

    def cell(value, column, row):
        place = f'r="{chr(65 + column)}{row}"'
        if not isinstance(value, str):
            return f"<c {place}><v>{value}</v></c>"
        if shared:
            return f'<c {place} t="s"><v>{words.index(value)}</v></c>'
        return f'<c {place} t="inlineStr"><is><t>{value}</t></is></c>'

    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    body = "".join(
        f'<row r="{i}">' + "".join(cell(value, j, i) for j, value in enumerate(row)) + "</row>"
        for i, row in enumerate(rows, start=1)
    )
    strings = "".join(f"<si><t>{word}</t><rPh><t>x</t></rPh></si>" for word in words)
    start = '<?xml version="1.0" encoding="UTF-8"?>' + head
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        sheet = f"{start}<worksheet {space}><sheetData>{body}</sheetData></worksheet>"
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
        if shared:
            archive.writestr("xl/sharedStrings.xml", f"{start}<sst {space}>{strings}</sst>")


def order(labels=LABELS):
    """Rows of clip numbers and rows of words in turn, as the file has them."""
    rows = []
    for session, of_trials in enumerate(labels):
        rows.append(["Clip", *range(20 * session + 1, 20 * session + 21)])
        rows.append([f"Session {session + 1}", *(CLASSES[c].capitalize() for c in of_trials)])
    return rows


NAME = "emotion_label_and_stimuli_order.xlsx"


def expect(root, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        list(SEEDVII(root, **options))
    return str(caught.value)


def test_preprocessed(tmp_path, write_mat):
    data = signals()
    path = write_mat("EEG_preprocessed", 14, data)
    for root in (tmp_path, tmp_path / "EEG_preprocessed"):
        dataset = SEEDVII(root)
        assert (dataset.kind, len(dataset), dataset.subjects) == ("preprocessed", 80, ["14"])
    assert dataset.missing == ["subjects 1-13, 15-20: no preprocessed file"]
    assert dataset.labels.tolist() == sum(LABELS, [])
    assert dataset.class_names == CLASSES
    for clip, item in zip(ALL, dataset, strict=True):
        assert isinstance(item, Recording) and item.sfreq == 200
        assert (item.session_id, item.trial_id) == (str((clip + 19) // 20), (clip - 1) % 20 + 1)
        np.testing.assert_array_equal(item.signal, data[f"{clip}"].astype("f4"))
    assert item.ch_names == list(SEED_CHANNELS) and item.source == str(path)


@pytest.mark.parametrize("feature", ("de_LDS", "de", "psd_LDS", "psd"))
def test_features_have_their_axes_turned(tmp_path, write_mat, feature):
    data = features()
    path = write_mat("EEG_features", 3, data)
    for root in (tmp_path, tmp_path / "EEG_features"):
        dataset = SEEDVII(root, feature=feature)
        assert (dataset.kind, len(dataset)) == ("features", 80)
    item = dataset[64]
    assert isinstance(item, TrialFeatures)
    assert (item.session_id, item.trial_id, item.label) == ("4", 5, 4)
    assert item.values.shape == (65 % 3 + 2, 62, 5)
    np.testing.assert_array_equal(item.values[1, 61, 2], data[f"{feature}_65"][1, 2, 61])
    assert (item.feature, item.window, item.source) == (feature, 4, str(path))
    assert list(item.bands) == ["delta", "theta", "alpha", "beta", "gamma"]
    with pytest.raises(ValueError, match="feature must be one of .*, got 'dasm'"):
        SEEDVII(tmp_path, feature="dasm")


def test_partial_downloads(tmp_path, write_mat):
    write_mat("EEG_preprocessed", 1, signals([*range(1, 19), *range(21, 81)]))
    write_mat("EEG_preprocessed", 10, signals(range(41, 61)))
    dataset = SEEDVII(tmp_path, subjects=(1, 10))
    assert dataset.missing == [
        "subject 1, session 1: no trial 19-20",
        "subject 10, session 1: no trial 1-20",
        "subject 10, session 2: no trial 1-20",
        "subject 10, session 4: no trial 1-20",
    ]
    assert [len(indices) for indices in dataset.files.values()] == [78, 20]
    assert dataset[78].session_id == "3"
    assert SEEDVII(tmp_path, subjects=10, sessions=[3]).missing == []
    with pytest.raises(ValueError, match="sessions: expected some of 1-4, got 5"):
        SEEDVII(tmp_path, sessions=5)
    with pytest.raises(FileNotFoundError, match="EEG_features/{subject}.mat"):
        SEEDVII(tmp_path, "features")


def test_files_that_are_not_seed_vii(tmp_path, write_mat):
    for change, message in (
        ({"3": RNG.normal(size=(60, 800))}, "variable 3: expected shape .*, got .*60"),
        ({"3": RNG.normal(size=(62, 100))}, "variable 3: expected shape"),
        ({"3": RNG.normal(0, 1e-5, (62, 800))}, "variable 3: expected EEG in microvolts"),
        ({"3": np.full((62, 800), np.nan)}, "variable 3: expected finite"),
        ({"3": "text"}, "variable 3: expected an array of real numbers, got a char"),
    ):
        path = write_mat("EEG_preprocessed", 1, signals(range(1, 4)) | change)
        assert expect(tmp_path, message).startswith(f"{path}: ")
    path = write_mat("EEG_preprocessed", 1, {"eeg_1": np.zeros((62, 800))})
    expect(tmp_path, "1.mat: expected variables 1 to 80, got eeg_1")
    whole = write_mat("EEG_preprocessed", 1, signals(range(1, 4))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert expect(tmp_path, "cut off").startswith(f"{path}: ")
    path.unlink()
    write_mat("EEG_features", 1, {"de_LDS_1": np.ones((62, 9, 5))})
    expect(tmp_path, "variable de_LDS_1: expected shape")


@pytest.mark.parametrize("shared", (True, False))
def test_labels_from_the_spreadsheet(tmp_path, write_mat, shared, recwarn):
    write_mat("EEG_preprocessed", 1, signals([1]))
    write_xlsx(tmp_path / NAME, order(), shared)
    assert SEEDVII(tmp_path).labels.tolist() == [4]
    assert not recwarn.list


def test_another_order_in_the_spreadsheet_counts_and_is_told(tmp_path, write_mat):
    write_mat("EEG_preprocessed", 1, signals(range(21, 24)))
    other = [list(of_trials) for of_trials in LABELS]
    other[1][0], other[1][1] = other[1][1], other[1][0]
    write_xlsx(tmp_path / NAME, order(other))
    with pytest.warns(UserWarning, match="labels of session 2 .* at trial 1-2; the file's"):
        dataset = SEEDVII(tmp_path)
    assert dataset.labels.tolist() == [2, 5, 1]


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
TABLES = {
    "a row short": (order()[:-1], {}, "expected 4 rows .*, got 3 rows"),
    "a word short": ([*order()[:-1], order()[-1][:-1]], {}, "rows of 20 words .*, got 19"),
    "another word": (
        [*order()[:-1], [*order()[-1][:-1], "Bored"]],
        {},
        "rows of 20 words .*, got 20 with bored",
    ),
    "other counts": (order([[4] * 20, *LABELS[1:]]), {}, "got 4 rows with"),
    "a document type": (order(), {"head": LAUGHS}, "declares a document type"),
    "broken XML": (order(), {"head": "<"}, "its XML is damaged"),
}


@pytest.mark.parametrize(("rows", "options", "message"), TABLES.values(), ids=TABLES)
def test_spreadsheets_that_cannot_be(tmp_path, write_mat, rows, options, message):
    write_mat("EEG_preprocessed", 1, signals([1]))
    write_xlsx(tmp_path / NAME, rows, **options)
    assert expect(tmp_path, message).startswith(f"{tmp_path / NAME}: ")


def test_hostile_spreadsheets(tmp_path, write_mat):
    write_mat("EEG_preprocessed", 1, signals([1]))
    path = tmp_path / NAME

    def sheet(text):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/worksheets/sheet1.xml", text)

    path.write_bytes(b"PK nothing")
    expect(tmp_path, "archive is damaged")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.xml", "<x/>")
    expect(tmp_path, "expected an entry xl/worksheets/sheet1.xml, got other.xml")
    sheet("<x>" + " " * 2**23 + "</x>")
    expect(tmp_path, "expected up to 8388608 bytes in xl/worksheets/sheet1.xml")
    sheet('<s><row r="900000000"/></s>')
    expect(tmp_path, "expected rows and columns in order")
    sheet('<s><row r="1"><c r="ZZZZ1"><v>1</v></c></row></s>')
    expect(tmp_path, "expected rows and columns in order")
    sheet('<s><row r="1"><c r="A1" t="s"><v>5</v></c></row></s>')
    expect(tmp_path, "a cell refers to text '5'")
    sheet('<s><c r="A1"/></s>')
    expect(tmp_path, "got 0 rows")


# Raw files

EDGES = sorted(RNG.choice(np.arange(100, 6900), 40, replace=False).tolist())
NAMES = ["ECG", *SEED_CHANNELS[:30], "M1", *SEED_CHANNELS[30:], "M2", "VEO", "HEO"]


@pytest.fixture
def raw(tmp_path, write_cnt):
    pytest.importorskip("mne")
    (tmp_path / "EEG_raw").mkdir()
    counts = RNG.integers(-300, 300, (67, 7000))

    def write(stem="3_20221001_2", event_at=EDGES, **options):
        path = tmp_path / "EEG_raw" / f"{stem}.cnt"
        write_cnt("x.cnt", NAMES, counts, event_at=event_at, **options).rename(path)
        return path

    write.rows = counts[[NAMES.index(name) for name in SEED_CHANNELS]]
    return write


def test_raw_trials_lie_between_pairs_of_triggers(raw, tmp_path):
    path = raw()
    dataset = SEEDVII(tmp_path)
    assert (dataset.kind, len(dataset), dataset.subjects) == ("raw", 20, ["03"])
    assert dataset.missing[1] == "subject 3, session 1, 3-4: no raw file"
    assert dataset.labels.tolist() == LABELS[1]
    for i, item in enumerate(dataset):
        start, end = EDGES[2 * i : 2 * i + 2]
        np.testing.assert_allclose(item.signal, 0.1 * raw.rows[:, start:end], rtol=1e-5, atol=1e-4)
        assert (item.sfreq, item.session_id, item.source) == (1000, "2", str(path))
    raw(event_at=EDGES[:39])
    expect(tmp_path, "3_20221001_2.cnt: expected 40 triggers, .*; got 39")
    raw(sfreq=500)
    expect(tmp_path, "expected 1000 Hz, got 500")


@pytest.mark.parametrize(
    ("stem", "began"),
    (
        ("9_20221111_3", datetime(2022, 11, 11, 14, 1, 27)),
        ("14_20221015_1", datetime(2022, 10, 15, 14, 25, 34)),
    ),
)
def test_two_files_have_their_triggers_in_a_table(raw, tmp_path, stem, began):
    raw(stem, event_at=[edge + 50 for edge in EDGES])
    (subject, _, session) = stem.split("_")
    dataset = SEEDVII(tmp_path, subjects=subject, sessions=session)
    assert len(dataset) == 0
    assert dataset.missing == [
        f"subject {int(subject)}, session {session}: its own triggers are wrong, no "
        f"save_info/{stem}_trigger_info.csv"
    ]
    (tmp_path / "save_info").mkdir()
    table = tmp_path / "save_info" / f"{stem}_trigger_info.csv"
    lines = [
        f"{i % 2 + 1},{began + timedelta(milliseconds=edge):%Y-%m-%d %H:%M:%S.%f}"
        for i, edge in enumerate(EDGES)
    ]
    table.write_text("\n".join(lines))
    dataset = SEEDVII(tmp_path)
    assert len(dataset) == 20
    for i, item in enumerate(dataset):
        start, end = EDGES[2 * i : 2 * i + 2]
        np.testing.assert_allclose(item.signal, 0.1 * raw.rows[:, start:end], rtol=1e-5, atol=1e-4)
    for text, message in (
        (lines[:39], "expected 40 triggers, .*; got 39"),
        ([lines[0], *lines[2:]], "line 2: expected 2 and a time"),
        ([lines[0], "2,noon", *lines[2:]], "line 2: expected 2 and a time .*, got '2,noon'"),
        (["x"], "line 1: expected 1 and a time"),
    ):
        table.write_text("\n".join(text))
        assert expect(tmp_path, message).startswith(f"{table}: ")


def test_two_files_of_one_session(raw, tmp_path):
    raw()
    raw("3_20221008_2")
    with pytest.raises(
        ValueError, match="one file for subject 3, session 2, got 3_20221001_2.cnt and 3_20221008_2"
    ):
        SEEDVII(tmp_path)
