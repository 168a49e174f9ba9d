# SPDX-License-Identifier: BSD-3-Clause
"""The recorders' own formats, and DEAP, against MNE, SciPy and Python's pickle."""

import csv
import io
import pickle
import pickletools
import warnings
from datetime import datetime

import numpy as np
import pytest

from eegfast.datasets.synthetic import bdf, cnt, write_bdf, write_cnt, write_deap

mne = pytest.importorskip("mne")
scipy_io = pytest.importorskip("scipy.io")

GENEVA = (
    "FP1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 OZ PZ FP2 AF4 FZ F4 F8 FC6 FC2 CZ C4 T8 CP6 "
    "CP2 P4 P8 PO4 O2"
).split()
TWENTE = (
    "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 "
    "F8 AF4 Fp2 Fz Cz"
).split()


def test_cnt_is_read_back_sample_by_sample(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(-(2**22), 2**22, (5, 2500))
    blocks = np.split(counts * cnt.MICROVOLTS_PER_COUNT, [700, 701], axis=1)
    names, path = ["FP1", "M1", "CB2", "VEO", "CZ"], tmp_path / "x.cnt"
    events, start = [(0, 1), (1234, 2), (2499, 255)], datetime(2013, 10, 31, 14, 5, 59)
    with path.open("wb") as stream:
        write_cnt(stream, names, 1000, 2500, blocks, events, start)
    assert path.stat().st_size == cnt.cnt_bytes(5, 2500, 3)
    raw = mne.io.read_raw_cnt(path, verbose="ERROR")
    assert raw.ch_names == names and raw.info["sfreq"] == 1000 and raw.info["bads"] == []
    assert raw.info["meas_date"].replace(tzinfo=None) == start
    read = raw.get_data() * 1e6 / cnt.MICROVOLTS_PER_COUNT
    assert np.array_equal(np.rint(read), counts) and np.abs(read - counts).max() < 1
    found = [(round(a["onset"] * 1000), int(a["description"])) for a in raw.annotations]
    assert found == events


def test_cnt_refuses_what_it_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="2 GiB"):
        write_cnt(io.BytesIO(), ["CZ"], 1000, 2**29, [])
    with pytest.raises(ValueError, match="expected blocks of 10 samples, got 9"):
        write_cnt(io.BytesIO(), ["CZ"], 1000, 10, [np.zeros((1, 9))])


def test_bdf_is_read_back_sample_by_sample(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(-(2**23), 2**23, (2, 3, 64))
    status = rng.integers(0, 2**16, (3, 64))
    microvolts = counts * bdf.MICROVOLTS_PER_COUNT + bdf._OFFSET
    path, start = tmp_path / "x.bdf", datetime(2010, 2, 3, 9, 8, 7)
    with path.open("wb") as stream:
        records = ((microvolts[:, i], status[i]) for i in range(3))
        write_bdf(stream, ["Fp1", "Cz", "Status"], 64, 3, records, start)
    assert path.stat().st_size == bdf.bdf_bytes(3, 64, 3)
    raw = mne.io.read_raw_bdf(path, verbose="ERROR")
    assert raw.ch_names == ["Fp1", "Cz", "Status"] and raw.info["sfreq"] == 64
    assert raw.info["meas_date"].replace(tzinfo=None) == start
    assert raw.get_channel_types() == ["eeg", "eeg", "stim"]
    read = (raw.get_data([0, 1]) * 1e6 - bdf._OFFSET) / bdf.MICROVOLTS_PER_COUNT
    assert np.array_equal(np.rint(read), counts.reshape(2, -1))
    assert np.array_equal(raw.get_data([2])[0], status.ravel())


def test_bdf_refuses_too_few_records():
    with pytest.raises(ValueError, match="expected 2 records, got 0"):
        write_bdf(io.BytesIO(), ["Cz", "Status"], 64, 2, [], datetime(2010, 1, 1))


@pytest.fixture(scope="module")
def deap(tmp_path_factory):
    root = tmp_path_factory.mktemp("deap")
    return write_deap(root, 1, ("preprocessed", "matlab", "raw"), scale=0.01)


@pytest.fixture(scope="module")
def stored(deap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's modules were elsewhere in the days of Python 2
        text = (deap / "data_preprocessed_python/s01.dat").read_bytes()
        return pickle.loads(text, encoding="latin1")


def test_deap_dat(deap, stored):
    text = (deap / "data_preprocessed_python/s01.dat").read_bytes()
    assert sorted(stored) == ["data", "labels"]
    assert stored["data"].shape == (40, 40, 7 * 128) and stored["data"].dtype == np.float64
    assert stored["labels"].shape == (40, 4)
    assert 1 <= stored["labels"].min() and stored["labels"].max() <= 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_bytes = pickle.loads(text, encoding="bytes")
    assert sorted(as_bytes) == [b"data", b"labels"]
    assert np.array_equal(as_bytes[b"data"], stored["data"])
    codes = {code.name: argument for code, argument, _ in pickletools.genops(text)}
    assert codes["PROTO"] == 2 and "BINSTRING" in codes and "BINBYTES" not in codes
    assert 2 < stored["data"][:, :32].std() < 40


def test_deap_full_size_is_the_official_one():
    from eegfast.datasets.synthetic import PLANS

    files = PLANS["deap"](32)
    assert [f.path for f in files[::31]] == [
        f"data_preprocessed_python/s{n}.dat" for n in ("01", "32")
    ]
    assert files[0].n_bytes == 8 * 40 * 40 * 8064


def test_deap_classes_are_the_signs_of_the_ratings(stored):
    high = stored["labels"][:, :2] > 5
    assert {tuple(row) for row in high.tolist()} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert 15 < high[:, 0].sum() < 25


def test_deap_mat(deap, stored):
    mat = scipy_io.loadmat(deap / "data_preprocessed_matlab/s01.mat")
    assert np.array_equal(mat["data"], stored["data"])
    assert np.array_equal(mat["labels"], stored["labels"])


def test_deap_bdf(deap, stored):
    raw = mne.io.read_raw_bdf(deap / "data_original/s01.bdf", verbose="ERROR")
    assert raw.ch_names[:32] == TWENTE and len(raw.ch_names) == 48
    assert raw.ch_names[47] == "Status" and raw.info["sfreq"] == 512
    status = raw.get_data(["Status"])[0].astype(int)
    assert status.max() > 0xFF, "subject 1 has high bits"
    codes = status & 0xFF
    onsets = np.flatnonzero((np.diff(codes, prepend=0) != 0) & (codes > 0))
    by_code = {code: onsets[codes[onsets] == code] for code in (1, 2, 3, 4, 5, 7)}
    assert [len(by_code[code]) for code in (1, 2, 3, 4, 5, 7)] == [42, 40, 40, 40, 40, 1]
    assert np.array_equal(by_code[4] - by_code[3], np.full(40, 5 * 512))
    assert np.array_equal(by_code[5] - by_code[4], np.full(40, 4 * 512))
    with (deap / "metadata_csv/participant_ratings.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["Participant_id"] == "1"]
    videos = [int(row["Experiment_id"]) for row in rows]
    assert sorted(videos) == [*range(1, 41)] != videos
    assert [row["Trial"] for row in rows] == [str(k) for k in range(1, 41)]
    # Place 5 in the order of showing is the preprocessed file's row of that video.
    for place in (0, 4, 39):
        video = videos[place] - 1
        assert float(rows[place]["Valence"]) == stored["labels"][video, 0]
        start = by_code[4][place]
        names = [name for name in TWENTE if name.upper() not in ("FP1", "FP2", "AF3", "AF4")]
        seen = raw.get_data(names, start, start + 4 * 512)[:, ::4] * 1e6
        made = stored["data"][video][[GENEVA.index(name.upper()) for name in names], 3 * 128 :]
        assert np.abs(seen.mean(1)).max() > 1000, "electrode offsets"
        spectra = [np.fft.rfft(x)[:, 6 * 4 : 30 * 4] for x in (seen, made)]
        alike = np.abs((spectra[0] * spectra[1].conj()).sum())
        assert alike > 0.95 * np.linalg.norm(spectra[0]) * np.linalg.norm(spectra[1])


def test_deap_sites_differ_in_order(tmp_path):
    from eegfast.datasets.synthetic import PLANS

    files = [f for f in PLANS["deap"](32, ("raw",), 0.01) if f.path.endswith(".bdf")]
    for number, names in ((22, TWENTE), (23, GENEVA), (32, GENEVA)):
        written = io.BytesIO()
        with pytest.raises(StopAfterHeader):
            files[number - 1].write(_Head(written))
        labels = written.getvalue()[256 : 256 + 16 * 32].decode()
        found = [labels[16 * i : 16 * i + 16].strip() for i in range(32)]
        assert [name.upper() for name in found] == [name.upper() for name in names]


class StopAfterHeader(Exception):
    pass


class _Head:
    """A stream that takes a header and no more."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, content):
        if self.stream.tell() >= 256 * 49:
            raise StopAfterHeader
        return self.stream.write(content)
