# SPDX-License-Identifier: BSD-3-Clause
import struct
import sys
import zlib

import numpy as np
import pytest

from eegfast.datasets._mat import open_mat

sio = pytest.importorskip("scipy.io")


@pytest.fixture(params=["libdeflate", "zlib"])
def inflater(request, monkeypatch):
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "deflate", None)
    else:
        pytest.importorskip("deflate")
    return request.param


def save(path, variables, compress=True):
    sio.savemat(path, variables, do_compression=compress, appendmat=False)
    return path


def noise(*shape, dtype=np.float64):
    return (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_equals_scipy(tmp_path, inflater, compress, dtype):
    value = np.abs(noise(5, 301)).astype(dtype)
    path = save(tmp_path / "x.mat", {"a": value, "cube": value.reshape(5, 43, 7)}, compress)
    truth = sio.loadmat(path)
    with open_mat(path) as mat:
        assert mat.variables == {
            "a": ((5, 301), np.dtype(dtype)),
            "cube": ((5, 43, 7), np.dtype(dtype)),
        }
        for name in ("cube", "a"):
            read = mat.read(name)
            assert (
                read.dtype == truth[name].dtype and read.flags.c_contiguous and read.flags.owndata
            )
            np.testing.assert_array_equal(read, truth[name])
        np.testing.assert_array_equal(mat.read("a", dtype="f4"), truth["a"].astype("f4"))


def test_reads_what_matlab_stores_small(tmp_path, inflater):
    """A double stored as int8, in the tag itself and behind it, little and big-endian."""

    def pad(data):
        return data + bytes(-len(data) % 8)

    for order, mark in (("<", b"IM"), (">", b"MI")):

        def element(kind, data, order=order):
            return struct.pack(order + "II", kind, len(data)) + pad(data)

        def matrix(name, values, small, order=order, element=element):
            payload = np.array(values, "i1").tobytes()
            if small:
                part = struct.pack(order + "I", len(payload) << 16 | 1) + payload.ljust(4, b"\0")
            else:
                part = element(1, payload)
            flags = struct.pack(order + "II", 6, 0)
            dims = struct.pack(order + "ii", 1, len(values))
            return element(14, element(6, flags) + element(5, dims) + element(1, name) + part)

        body = matrix(b"few", [1, -1, 0], True)
        packed = zlib.compress(matrix(b"more", [1, 0, -1, -1, 0], False))
        body += struct.pack(order + "II", 15, len(packed)) + packed
        path = tmp_path / "x.mat"
        path.write_bytes(b"MATLAB 5.0".ljust(124) + struct.pack(order + "H", 0x100) + mark + body)
        with open_mat(path) as mat:
            assert mat.variables["few"] == ((1, 3), np.dtype("f8"))
            np.testing.assert_array_equal(mat.read("few"), [[1, -1, 0]])
            np.testing.assert_array_equal(mat.read("more"), [[1, 0, -1, -1, 0]])
        np.testing.assert_array_equal(sio.loadmat(path)["more"], [[1, 0, -1, -1, 0]])


def test_listing_inflates_headers_only(tmp_path, monkeypatch):
    path = save(tmp_path / "x.mat", {f"a{i}": noise(62, 2000) for i in range(3)})
    inflated = []
    monkeypatch.setattr("eegfast.datasets._mat._inflate", lambda *a: inflated.append(a))
    open_mat(path).close()
    assert not inflated


def test_refuses_other_classes_by_name(tmp_path):
    import scipy.sparse

    others = {
        "text": "hello",
        "cells": np.array([1, "a"], dtype=object),
        "record": {"field": 1.0},
        "phases": np.array([[1 + 2j, 3]]),
        "holes": scipy.sparse.eye_array(3, format="csc"),
    }
    path = save(tmp_path / "x.mat", {**others, "fine": noise(2, 3)})
    said = {"text": "a char", "cells": "a cell", "record": "a struct", "phases": "complex numbers"}
    with open_mat(path) as mat:
        assert {name for name, (_, dtype) in mat.variables.items() if dtype is None} == set(others)
        for name in others:
            with pytest.raises(ValueError, match=f"x.mat: variable {name}: expected an array"):
                mat.read(name)
        for name, kind in said.items():
            with pytest.raises(ValueError, match=f"got {kind}"):
                mat.read(name)
        assert mat.read("fine").shape == (2, 3)


def test_checks_the_shape_before_inflating(tmp_path, monkeypatch):
    path = save(tmp_path / "x.mat", {"a": noise(3, 40)})
    monkeypatch.setattr("eegfast.datasets._mat._inflate", None)
    with open_mat(path) as mat:
        for expected, described in (
            ((62, None), r"\(62, any\)"),
            ((3, (41, 50)), r"\(3, 41 to 50\)"),
            ((3, (41, None)), r"\(3, 41 or more\)"),
            ((3, 40, 5), r"\(3, 40, 5\)"),
        ):
            with pytest.raises(
                ValueError, match=rf"x.mat: variable a: expected shape {described}, got \(3, 40\)"
            ):
                mat.read("a", expected)


def test_unknown_name(tmp_path):
    path = save(tmp_path / "x.mat", {f"a{i}": noise(1, 2) for i in range(9)})
    with (
        open_mat(path) as mat,
        pytest.raises(ValueError, match=r"x.mat: no variable b; .*9 in all"),
    ):
        mat.read("b")


def test_every_flipped_bit_of_the_data_is_noticed(tmp_path, inflater):
    value = noise(4, 60)
    path = save(tmp_path / "x.mat", {"abc": value})
    whole = bytearray(path.read_bytes())
    for place in range(136, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.mat: .*(damaged|no variable|expected)"):
            with open_mat(path) as mat:
                mat.read("abc", (4, 60))


@pytest.mark.parametrize("compress", [True, False])
def test_every_cut_is_noticed(tmp_path, compress):
    path = save(tmp_path / "x.mat", {"abc": noise(4, 60), "rest": noise(4, 60)}, compress)
    whole = path.read_bytes()
    for length in [0, 1, 100, 127, 129, 134, 140, 200, 1000, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.mat: "):
            open_mat(path)


def crafted(path, shape, payload_bytes, packed=None):
    """A compressed double variable whose header says `shape`."""

    def element(kind, data, length=None):
        return struct.pack("<II", kind, len(data) if length is None else length) + data

    head = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<ii", *shape))
    head += element(1, b"bomb".ljust(8, b"\0"), 4).ljust(16, b"\0")
    head += struct.pack("<II", 9, payload_bytes & 0xFFFFFFFF)
    matrix = struct.pack("<II", 14, (len(head) + payload_bytes) & 0xFFFFFFFF) + head
    data = zlib.compress(matrix + (bytes(payload_bytes) if packed is None else packed))
    path.write_bytes(
        b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data
    )
    return path


def test_never_allocates_on_the_word_of_a_header(tmp_path, inflater, monkeypatch):
    monkeypatch.setattr("eegfast.datasets._mat._inflate", None)
    path = crafted(tmp_path / "x.mat", (62, 4_000_000), 62 * 4_000_000 * 8, packed=bytes(1000))
    with open_mat(path) as mat, pytest.raises(ValueError, match="variable bomb: its header decl"):
        mat.read("bomb")


def test_more_data_than_declared_is_refused(tmp_path, inflater):
    path = crafted(tmp_path / "x.mat", (10, 10), 800, packed=bytes(2**24))
    with open_mat(path) as mat, pytest.raises(ValueError, match="variable bomb: is damaged"):
        mat.read("bomb")


@pytest.mark.parametrize(
    ("shape", "payload_bytes"), [((-1, 10), 80), ((10, 10), 808), ((2**31 - 1, 2**31 - 1), 80)]
)
def test_contradicting_headers_are_refused(tmp_path, shape, payload_bytes):
    path = crafted(tmp_path / "x.mat", shape, payload_bytes)
    with pytest.raises(ValueError, match=r"x\.mat: the variable at byte 136.* is damaged"):
        open_mat(path)


def test_names_that_come_twice_are_refused(tmp_path):
    path = save(tmp_path / "x.mat", {"a": noise(2, 3)})
    content = path.read_bytes()
    path.write_bytes(content + content[128:])
    with pytest.raises(ValueError, match="after a, is damaged"):
        open_mat(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 100, bytes(600), b"a,b\n" * 500])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.mat: expected a MATLAB file"):
        open_mat(path)
    with pytest.raises(FileNotFoundError):
        open_mat(tmp_path / "y.mat")


@pytest.fixture
def write_v73(tmp_path):
    """MATLAB's HDF5: axes in reverse, a block of 512 bytes before it."""
    h5py = pytest.importorskip("h5py")

    def write(variables, fill=lambda file: None):
        path = tmp_path / "x.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, value in variables.items():
                dataset = file.create_dataset(name, data=value.T, compression="gzip", chunks=True)
                dataset.attrs["MATLAB_class"] = np.bytes_("double")
            fill(file)
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        return path

    return write


def test_version_73(write_v73):
    value = noise(5, 40, 3)
    path = write_v73({"abc": value})
    with open_mat(path) as mat:
        assert mat.variables == {"abc": ((5, 40, 3), np.dtype("f8"))}
        read = mat.read("abc", (5, (1, 50), 3))
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, value)
        with pytest.raises(ValueError, match=r"expected shape \(62, any, 3\), got \(5, 40, 3\)"):
            mat.read("abc", (62, None, 3))


def test_version_73_refuses_what_is_no_array_of_its_own(write_v73, tmp_path):
    h5py = pytest.importorskip("h5py")
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["abc"] = noise(3, 3)

    def fill(file):
        file["outside"] = h5py.ExternalLink(str(other), "/abc")
        file["soft"] = h5py.SoftLink("/abc")
        file.create_dataset("raw", (2, 2), "f8", external=[(str(other), 0, 32)])
        layout = h5py.VirtualLayout((3, 3), "f8")
        layout[:] = h5py.VirtualSource(str(other), "abc", shape=(3, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_group("record").attrs["MATLAB_class"] = np.bytes_("struct")
        file.create_dataset("text", data=np.zeros((2, 1), "u2")).attrs["MATLAB_class"] = b"char"
        file["phases"] = noise(2, 2).astype(complex)
        file.create_dataset("huge", (10**6, 10**6), "f8", chunks=(10, 10))

    path = write_v73({"abc": noise(3, 3)}, fill)
    with open_mat(path) as mat:
        for name in ("outside", "soft", "raw", "virtual", "record", "text", "phases"):
            with pytest.raises(ValueError, match=f"x.mat: variable {name}: expected an array"):
                mat.read(name)
        with pytest.raises(ValueError, match="variable huge: its header declares"):
            mat.read("huge")


def test_version_73_damaged(write_v73):
    path = write_v73({"abc": noise(30, 400)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x\.mat: is cut off or damaged"):
        open_mat(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 2000] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"x\.mat: "), open_mat(path) as mat:
        mat.read("abc")


def test_version_73_without_h5py(write_v73, monkeypatch):
    path = write_v73({"abc": noise(3, 3)})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"eegfast\[io\]"):
        open_mat(path)
