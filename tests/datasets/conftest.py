# SPDX-License-Identifier: BSD-3-Clause
"""Writers of small recordings in formats that no package in the test environment writes."""

import struct
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def data() -> Path:
    return Path(__file__).parents[1] / "data"


@pytest.fixture
def signal():
    """Make microvolts of shape (n_chans, n_times): whole numbers, each channel its own."""

    def make(n_chans, n_times, seed=0):
        return np.random.default_rng(seed).integers(-2000, 2000, (n_chans, n_times)).astype(float)

    return make


@pytest.fixture
def write_edf(tmp_path):
    """EDF in records of 1 s, physical equal to digital values; `rate` counts a second each."""

    def write(name, channels, reserved=""):
        def text(value, width):
            return str(value).ljust(width)[:width].encode("latin-1")

        n_signals = len(channels)
        n_records = len(channels[0]["counts"]) // channels[0]["rate"]
        header = [
            text("0", 8),
            text("X X X X", 80),
            text("Startdate X X X X", 80),
            text("01.01.20", 8),
            text("00.00.00", 8),
            text(256 * (n_signals + 1), 8),
            text(reserved, 44),
            text(n_records, 8),
            text(1, 8),
            text(n_signals, 4),
        ]
        fields = (
            (lambda c: c["label"], 16),
            (lambda c: "", 80),
            (lambda c: c.get("unit", "uV"), 8),
            (lambda c: -32768, 8),
            (lambda c: 32767, 8),
            (lambda c: -32768, 8),
            (lambda c: 32767, 8),
            (lambda c: "", 80),
            (lambda c: c["rate"], 8),
            (lambda c: "", 32),
        )
        header += [text(value(c), width) for value, width in fields for c in channels]
        records = []
        for record in range(n_records):
            for c in channels:
                chunk = c["counts"][record * c["rate"] : (record + 1) * c["rate"]]
                records.append(np.asarray(chunk).astype("<i2").tobytes())
        path = tmp_path / name
        path.write_bytes(b"".join(header + records))
        return path

    return write


@pytest.fixture
def write_cnt(tmp_path):
    """Neuroscan v3 with int32 samples, interleaved by time: what SEED's raw files look like."""

    def write(name, names, counts, sfreq=1000, microvolts_per_count=0.1, event_at=()):
        n_chans, n_times = counts.shape
        header = bytearray(900 + 75 * n_chans)
        header[:12] = b"Version 3.0\0"
        struct.pack_into("<H", header, 370, n_chans)
        struct.pack_into("<H", header, 376, sfreq)
        struct.pack_into("<i", header, 864, n_times)
        struct.pack_into("<i", header, 886, len(header) + 4 * counts.size)
        for i, channel in enumerate(names):
            start = 900 + 75 * i
            header[start : start + 10] = channel.encode().ljust(10, b"\0")
            struct.pack_into("<f", header, start + 59, 204.8 * microvolts_per_count)
            struct.pack_into("<f", header, start + 71, 1.0)
        events = b"".join(
            struct.pack("<HBcl", 1, 0, b"\0", len(header) + (sample + 1) * 4 * n_chans)
            for sample in event_at
        )
        path = tmp_path / name
        path.write_bytes(
            bytes(header)
            + counts.T.astype("<i4").tobytes()
            + struct.pack("<Bii", 1, len(events), 0)
            + events
        )
        return path

    return write


@pytest.fixture
def write_set(tmp_path):
    """EEGLAB .set of MATLAB v5; a third axis of the data holds epochs."""

    def write(name, names, microvolts, sfreq):
        from scipy.io import savemat

        microvolts = np.atleast_3d(microvolts)
        n_chans, n_times, n_epochs = microvolts.shape
        labels = np.array([(label,) for label in names], dtype=[("labels", "O")])
        kinds = [("type", "O"), ("latency", "O"), ("epoch", "O")]
        events = [("go", 1.0 + n_times * i, i + 1.0) for i in range(n_epochs)]
        epochs = [(i + 1.0, 0.0, "go") for i in range(n_epochs)]
        eeg = {
            "setname": "x",
            "nbchan": float(n_chans),
            "trials": float(n_epochs),
            "pnts": float(n_times),
            "srate": float(sfreq),
            "xmin": 0.0,
            "xmax": (n_times - 1) / sfreq,
            "data": microvolts.squeeze() if n_epochs == 1 else microvolts,
            "chanlocs": labels,
            "event": np.array(events, dtype=kinds),
            "epoch": np.array(
                epochs, dtype=[("event", "O"), ("eventlatency", "O"), ("eventtype", "O")]
            ),
        }
        path = tmp_path / name
        savemat(path, {"EEG": eeg}, appendmat=False)
        return path

    return write


@pytest.fixture
def write_hdf5_set(tmp_path):
    """EEGLAB .set of MATLAB v7.3, which is HDF5 with its axes reversed."""

    def write(name, names, microvolts, sfreq):
        h5py = pytest.importorskip("h5py")
        n_chans, n_times = microvolts.shape
        path = tmp_path / name
        with h5py.File(path, "w", userblock_size=512) as file:
            refs = file.create_group("#refs#")

            def put(group, key, value, kind="double"):
                dataset = group.create_dataset(key, data=value)
                dataset.attrs["MATLAB_class"] = np.bytes_(kind)
                return dataset

            def characters(text):
                return np.array([[ord(c)] for c in text], np.uint16)

            eeg = file.create_group("EEG")
            eeg.attrs["MATLAB_class"] = np.bytes_("struct")
            scalars = {"nbchan": n_chans, "trials": 1, "pnts": n_times, "srate": sfreq}
            for key, value in {**scalars, "xmin": 0, "xmax": (n_times - 1) / sfreq}.items():
                put(eeg, key, np.array([[float(value)]]))
            put(eeg, "setname", characters("x"), "char")
            put(eeg, "data", microvolts.T.astype(np.float32), "single")
            locations = eeg.create_group("chanlocs")
            locations.attrs["MATLAB_class"] = np.bytes_("struct")
            labels = [put(refs, f"l{i}", characters(n), "char").ref for i, n in enumerate(names)]
            array = np.array([[ref] for ref in labels], dtype=h5py.ref_dtype)
            locations.create_dataset("labels", data=array, dtype=h5py.ref_dtype)
            empty = put(eeg, "event", np.zeros((2,), np.uint64))
            empty.attrs["MATLAB_empty"] = np.uint8(1)
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        return path

    return write


@pytest.fixture(scope="session")
def python2_pickle():
    """A dict of arrays as cPickle of Python 2 writes it: all strings are byte strings."""

    def text(content):
        return b"S" + repr(content)[1:].encode() + b"\n"

    def binary(content):
        if len(content) < 256:
            return b"U" + struct.pack("B", len(content)) + content
        return b"T" + struct.pack("<i", len(content)) + content

    def make(arrays, protocol=2):
        dump = {0: text, 2: binary}[protocol]
        items = []
        for name, array in arrays.items():
            kind = b"cnumpy\ndtype\n(" + dump(array.dtype.str[1:].encode()) + b"I0\nI1\ntR"
            kind += b"(I3\n" + dump(b"<") + b"NNNI-1\nI-1\nI0\ntb"
            shape = b"(" + b"".join(b"I%d\n" % n for n in array.shape) + b"t"
            state = b"(I1\n" + shape + kind + b"I00\n" + dump(array.tobytes()) + b"tb"
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt"
            items.append(dump(name.encode()) + empty + dump(b"b") + b"tR" + state)
        if protocol == 0:
            return b"(d" + b"".join(item + b"s" for item in items) + b"."
        return b"\x80\x02}(" + b"".join(items) + b"u."

    return make


@pytest.fixture
def write_bdf(tmp_path):
    """BDF in records of 1 s; `counts` are whole microvolts of 24 bits."""

    def write(path, names, counts, sfreq):
        def texts(values, width):
            return b"".join(str(value).encode().ljust(width)[:width] for value in values)

        n, n_records = len(names), counts.shape[1] // sfreq
        fixed = b"\xffBIOSEMI" + texts(["x"], 80) + texts(["x"], 80) + b"01.01.1000.00.00"
        fixed += texts([256 * (n + 1)], 8) + texts(["24BIT"], 44) + texts([n_records, 1], 8)
        fixed += texts([n], 4)
        units = ["Boolean" if name in ("Status", "") else "uV" for name in names]
        header = fixed + texts(names, 16) + texts(["x"] * n, 80) + texts(units, 8)
        header += 2 * (texts([-8388608] * n, 8) + texts([8388607] * n, 8))
        header += texts([""] * n, 80) + texts([sfreq] * n, 8)
        header += texts([""] * n, 32)
        records = counts[:, : n_records * sfreq].reshape(n, n_records, sfreq).swapaxes(0, 1)
        bytes_ = np.ascontiguousarray(records, "<i4").view(np.uint8).reshape(-1, 4)[:, :3]
        path.write_bytes(header + bytes_.tobytes())
        return path

    return write
