# SPDX-License-Identifier: BSD-3-Clause
import pickle
import warnings

import numpy as np
import pytest

from eegfast.datasets import DEAP, DEAP_CHANNELS, Recording

GENEVA = """Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4
            T8 CP6 CP2 P4 P8 PO4 O2""".split()
TWENTE = """Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6
            FC2 F4 F8 AF4 Fp2 Fz Cz""".split()
OTHERS = "EXG1 EXG2 EXG3 EXG4 EXG5 EXG6 EXG7 EXG8 GSR1 GSR2 Erg1 Erg2 Resp Plet Temp".split()
RNG = np.random.default_rng(2)
RATINGS = np.round(RNG.uniform(1, 9, (40, 4)), 2)
RATINGS[0] = 5, 5, 1, 9
RATINGS[1] = 5.01, 4.99, 9, 1


@pytest.fixture
def shortened(tmp_path):
    """As `eegfast synth` marks a tree of shorter trials."""
    (tmp_path / "SYNTHETIC.json").write_text(
        '{"format": "eegfast-synthetic", "version": 1, "scale": 0.02, "seed": 0}'
    )


def short_data(seconds=4):
    return RNG.normal(0, 20, (40, 40, 128 * seconds))


@pytest.fixture
def write_dat(tmp_path, python2_pickle):
    def write(data=None, labels=RATINGS, number=1, dump=python2_pickle):
        folder = tmp_path / "data_preprocessed_python"
        folder.mkdir(exist_ok=True)
        data = short_data() if data is None else data
        (folder / f"s{number:02d}.dat").write_bytes(dump({"labels": labels, "data": data}))
        return folder / f"s{number:02d}.dat"

    return write


def expect(root, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        list(DEAP(root, **options))
    return str(caught.value)


def test_one_file_of_the_real_size(tmp_path, write_dat):
    data = np.zeros((40, 40, 8064))
    data[7] = RNG.normal(0, 20, (40, 8064))
    path = write_dat(data, number=22)
    dataset = DEAP(tmp_path)
    assert (dataset.kind, len(dataset), dataset.subjects) == ("preprocessed", 40, ["22"])
    assert dataset.missing == ["subjects 1-21, 23-32: no preprocessed file"]
    np.testing.assert_array_equal(dataset.ratings, RATINGS)
    item = dataset[7]
    assert isinstance(item, Recording) and item.signal.dtype == np.float32
    assert (item.sfreq, item.duration, item.session_id, item.trial_id) == (128, 60, "1", 8)
    np.testing.assert_array_equal(item.signal, data[7, :32, 384:].astype("f4"))
    assert item.ch_names == list(DEAP_CHANNELS) == [name.upper() for name in GENEVA]
    assert item.source == str(path) and len(item.positions) == 32
    kept = DEAP(tmp_path, baseline="keep")[7]
    assert kept.duration == 63
    np.testing.assert_array_equal(kept.signal, data[7, :32].astype("f4"))


@pytest.mark.parametrize("dump", (None, pickle.dumps, lambda x: pickle.dumps(x, 2)))
def test_pickles_of_python_2_and_3(shortened, write_dat, tmp_path, dump):
    data = short_data()
    write_dat(data, **({} if dump is None else {"dump": dump}))
    items = list(DEAP(tmp_path))
    assert [item.trial_id for item in items] == [*range(1, 41)]
    np.testing.assert_array_equal(items[39].signal, data[39, :32, 384:].astype("f4"))


def test_keys_may_be_bytes(shortened, write_dat, tmp_path):
    write_dat(dump=lambda found: pickle.dumps({k.encode(): v for k, v in found.items()}))
    assert len(list(DEAP(tmp_path))) == 40


@pytest.mark.parametrize("version", ("5", "4"))
def test_matlab_files(shortened, tmp_path, version):
    savemat = pytest.importorskip("scipy.io").savemat
    folder = tmp_path / "DEAP" / "data_preprocessed_matlab"
    folder.mkdir(parents=True)
    data = short_data()
    if version == "4":
        savemat(folder / "s01.mat", {"labels": RATINGS}, format="4")
        expect(tmp_path, "s01.mat")
        return
    savemat(folder / "s01.mat", {"data": data, "labels": RATINGS}, do_compression=True)
    dataset = DEAP(tmp_path / "DEAP")
    np.testing.assert_array_equal(dataset.ratings, RATINGS)
    np.testing.assert_array_equal(dataset[3].signal, data[3, :32, 384:].astype("f4"))


def test_labels_are_ratings_above_a_threshold(shortened, write_dat, tmp_path):
    write_dat()
    for column, target in enumerate(("valence", "arousal", "dominance", "liking")):
        dataset = DEAP(tmp_path, target=target)
        assert dataset.class_names == ("low", "high")
        np.testing.assert_array_equal(dataset.labels, RATINGS[:, column] > 5)
    assert DEAP(tmp_path).labels[:2].tolist() == [0, 1]
    np.testing.assert_array_equal(DEAP(tmp_path, threshold=3).labels, RATINGS[:, 0] > 3)
    dataset = DEAP(tmp_path, target="quadrant")
    for label, (valence, arousal) in zip(dataset.labels, RATINGS[:, :2], strict=True):
        sides = ["high" if rating > 5 else "low" for rating in (valence, arousal)]
        assert dataset.class_names[label] == f"{sides[0]} valence, {sides[1]} arousal"
    assert dataset[1].label == 2


def test_subjects_and_arguments(shortened, write_dat, tmp_path):
    for number in (2, 10, 31):
        write_dat(number=number)
    assert DEAP(tmp_path, subjects=["10", 2]).subjects == ["02", "10"]
    assert DEAP(tmp_path, subjects=3).missing == ["subject 3: no preprocessed file"]
    assert DEAP(tmp_path).ratings.shape == (120, 4)
    for options, message in (
        ({"subjects": 33}, "subjects: expected some of 1-32, got 33"),
        ({"target": "joy"}, "target must be one of valence, .*, quadrant, got 'joy'"),
        ({"threshold": 9}, "threshold must be from 1 to below 9, got 9"),
        ({"threshold": float("nan")}, "threshold"),
        ({"baseline": "cut"}, "baseline must be drop or keep, got 'cut'"),
        ({"kind": "features"}, "kind must be one of preprocessed, raw"),
    ):
        expect(tmp_path, message, **options)
    with pytest.raises(FileNotFoundError, match="data_original/s01.bdf"):
        DEAP(tmp_path, "raw")
    with pytest.raises(FileNotFoundError, match="no folder"):
        DEAP(tmp_path / "none")


class Exploding:
    def __reduce__(self):
        return print, ("ran",)


def test_refuses_files_that_are_not_deap(write_dat, tmp_path, capsys, shortened):
    out_of_range = RATINGS.copy()
    out_of_range[3, 1] = 9.5
    unrated = RATINGS.copy()
    unrated[3, 1] = np.nan
    silent = short_data()
    silent[:] *= 1e-6
    broken = short_data()
    broken[5, 3, 400] = np.inf
    for options, message in (
        ({"labels": out_of_range}, "labels: expected ratings from 1 to 9, got 9.5"),
        ({"labels": unrated}, "labels: expected ratings from 1 to 9, got nan"),
        ({"labels": RATINGS[:39]}, r"labels: expected shape \(40, 4\), got \(39, 4\)"),
        ({"labels": RATINGS.astype(int)}, "labels: expected an array of real numbers, got int64"),
        ({"data": short_data()[:, :32]}, r"data: expected shape .*, got \(40, 32, 512\)"),
        ({"data": short_data()[:39]}, r"data: expected shape .*, got \(39, 40, 512\)"),
        ({"data": short_data()[..., :384]}, r"data: expected shape \(40, 40, 8064\)"),
        ({"data": short_data()[..., 0]}, r"data: expected shape \(40, 40, 8064\)"),
        ({"data": silent}, "trial 1: expected EEG in microvolts"),
        ({"data": broken}, "trial 6: expected finite"),
    ):
        path = write_dat(**options)
        assert expect(tmp_path, message).startswith(f"{path}: ")
    for content, message in (
        (pickle.dumps([1]), "expected a dict of data and labels, got list"),
        (pickle.dumps({"labels": RATINGS}), "data: expected an array of real numbers, got nothing"),
        (pickle.dumps(Exploding()), "asks for 'builtins.print'; nothing was run"),
        (pickle.dumps({"labels": RATINGS, "data": RATINGS})[:-20], "cut off|damaged"),
        (b"not a pickle", "damaged|unknown"),
        (b"", "empty"),
    ):
        path.write_bytes(content)
        assert expect(tmp_path, message).startswith(f"{path}: ")
    assert capsys.readouterr().out == ""


def test_without_the_mark_trials_have_their_full_length(write_dat, tmp_path):
    write_dat()
    expect(tmp_path, r"data: expected shape \(40, 40, 8064\), got \(40, 40, 512\)")


# Raw files

ORDER = RNG.permutation(40)  # the videos, from 0, as they were shown


def write_table(folder, subjects=(1, 23), change=None):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"
    ]
    for subject in subjects:
        for place, video in enumerate(ORDER):
            ratings = ",".join(map(str, RATINGS[video]))
            lines.append(f"{subject},{place + 1},{video + 1},1695918,{ratings},4")
    if change is not None:
        lines = change(lines)
    (folder / "participant_ratings.csv").write_text("\n".join(lines))


@pytest.fixture
def raw(tmp_path, write_bdf):
    """40 videos of 1 s, one each 2 s from second 4 on."""
    pytest.importorskip("mne")
    write_table(tmp_path / "metadata_csv")
    (tmp_path / "data_original").mkdir()
    eeg = {name: RNG.integers(-300, 300, 86 * 512) for name in GENEVA}

    def write(number=1, high_bits=0, status_name="Status", videos=40, names=None, sfreq=512):
        names = names or (TWENTE if number <= 22 else GENEVA)
        status = np.full(86 * 512, high_bits)
        for at in range(videos):
            start = (4 + 2 * at) * 512 + 7
            status[start - 100 : start] |= 3
            status[start : start + 50] |= 4
            status[start + 512 : start + 562] |= 5
        rest = np.zeros((15, status.size), int)
        counts = np.vstack([*(eeg.get(name, rest[0]) for name in names), rest, status])
        path = tmp_path / "data_original" / f"s{number:02d}.bdf"
        return write_bdf(path, [*names, *OTHERS, status_name], counts, sfreq)

    write.eeg = eeg
    return write


@pytest.mark.parametrize(
    ("number", "high_bits", "status_name"),
    ((1, 0, "Status"), (23, 1638148 - 4, "Status"), (1, 5832452 - 4, "Status"), (23, 0xFF00, "")),
)
def test_raw_trials_by_trigger_name_and_video(
    raw, tmp_path, shortened, number, high_bits, status_name
):
    path = raw(number, high_bits, status_name)
    dataset = DEAP(tmp_path)
    assert (dataset.kind, len(dataset)) == ("raw", 40)
    np.testing.assert_array_equal(dataset.ratings, RATINGS)
    for item in DEAP(tmp_path, baseline="keep").read((0, 39, 17)):
        place = int(np.flatnonzero(item.trial_id - 1 == ORDER)[0])
        start = (4 + 2 * place) * 512 + 7
        expected = [raw.eeg[name][start - 3 * 512 : start + 512] for name in GENEVA]
        np.testing.assert_allclose(item.signal, expected, atol=1e-3)
        assert (item.sfreq, item.source) == (512, str(path))
        assert item.ch_names == list(DEAP_CHANNELS)
        assert item.label == int(RATINGS[item.trial_id - 1, 0] > 5)
        dropped = dataset[item.trial_id - 1]
        np.testing.assert_array_equal(dropped.signal, item.signal[:, 3 * 512 :])


def test_raw_videos_last_60_s(raw, tmp_path):
    raw()
    dataset = DEAP(tmp_path)
    first = int(ORDER[0])
    assert dataset[first].duration == 60
    assert DEAP(tmp_path, baseline="keep")[first].duration == 63
    with pytest.raises(ValueError, match="s01.bdf: expected trial .* s, the file has 86 s"):
        dataset[int(ORDER[39])]


def test_raw_files_that_are_not_deap(raw, tmp_path, shortened):
    raw(videos=39)
    expect(tmp_path, r"s01.bdf: expected 40 triggers 4 \(a video begins\) in Status, got 39")
    raw(status_name="Ref")
    expect(tmp_path, "s01.bdf: expected a signal Status, got only fp1")
    raw(names=["XX" if name == "Cz" else name for name in TWENTE])
    expect(tmp_path, "s01.bdf: picks names CZ: expected one of")
    raw(sfreq=256)
    expect(tmp_path, "s01.bdf: expected 512 Hz as in DEAP, got 256 Hz")
    path = raw()
    whole = path.read_bytes()
    for cut in (0, 100, 5000, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert expect(tmp_path, "").startswith(str(path))


def test_raw_files_need_the_ratings(raw, tmp_path, shortened):
    raw()
    raw(3)
    assert DEAP(tmp_path).missing == [
        "subjects 2, 4-32: no raw file",
        "subject 3: no ratings in participant_ratings.csv",
    ]
    for change, message in (
        (lambda lines: lines[:-1], "each of 40 trials and videos once for subject 23, got 39"),
        (lambda lines: [*lines[:-1], lines[-2]], "each of 40 trials and videos once"),
        (
            lambda lines: [x.replace("Arousal", "Joy") for x in lines],
            "expected the columns arousal",
        ),
        (lambda lines: [*lines[:5], "1,x,3,4", *lines[5:]], "line 6: expected numbers in"),
        (lambda lines: [*lines[:5], "1,1,3,4,0,1,1,1,1"], "line 6: expected ratings from 1 to 9"),
        (lambda lines: [], "expected the columns participant_id"),
    ):
        write_table(tmp_path / "metadata_csv", change=change)
        expect(tmp_path, f"participant_ratings.csv: .*{message}")
    (tmp_path / "metadata_csv" / "participant_ratings.csv").unlink()
    with pytest.raises(FileNotFoundError, match="expected participant_ratings.csv"):
        DEAP(tmp_path)
