# SPDX-License-Identifier: BSD-3-Clause
import copyreg
import datetime
import os
import pickle
import struct
import sys

import numpy as np
import pytest

from eegfast.datasets._pickles import load_arrays

PROTOCOLS = range(6)


def same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        if got.dtype == object:
            for one, other in zip(got.ravel(), expected.ravel(), strict=True):
                same(one, other)
        else:
            np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            same(one, other)
    else:
        assert got == expected


ARRAYS = np.random.default_rng(0)
PLAIN = {
    "none": None,
    "truth": [True, False],
    "whole": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), 10**100],
    "real": [0.0, -1.5, float("inf"), 1e-300],
    "complex": 1 + 2j,
    "text": ["", "plain", "Größe \n\\ 'x' \U0001f9e0"],
    "bytes": [b"", b"abc", bytes(range(256))],
    "sets": [{1, "two"}, frozenset({3.0})],
    "nested": {(): [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}.popitem()[1],
    7: {"inner": [{}]},
}
OF_ARRAYS = {
    "double": ARRAYS.normal(size=(4, 5, 3)),
    "fortran": np.asfortranarray(ARRAYS.normal(size=(4, 5)).astype("f4")),
    "view": ARRAYS.normal(size=(6, 8))[::2, ::-1],
    "big-endian": ARRAYS.integers(0, 99, 7).astype(">i2"),
    "truth": np.array([True, False, True]),
    "empty": np.empty((0, 310)),
    "no dimension": np.array(3.5),
    "scalars": [np.float64(1.5), np.int32(-3), np.uint8(255), np.bool_(True), np.complex64(1j)],
    "objects": np.array([b"abc", [1, np.arange(3)], None], dtype=object),
    "one object": np.array({"a": 1}, dtype=object),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("from_file", (False, True))
@pytest.mark.parametrize("value", (PLAIN, OF_ARRAYS), ids=("plain", "arrays"))
def test_reads_what_pickle_reads(value, protocol, from_file, tmp_path):
    data = pickle.dumps(value, protocol)
    if from_file:
        (tmp_path / "x.dat").write_bytes(data)
        same(load_arrays(tmp_path / "x.dat"), value)
    else:
        same(load_arrays(data), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_the_old_and_the_new_module_names_of_numpy(protocol):
    new = pickle.dumps(OF_ARRAYS["double"], protocol)
    if protocol >= 4:  # a name has its length before it; frames are only hints
        old = new.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")
        old = old.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    else:
        old = new.replace(b"numpy._core", b"numpy.core")
    assert (old != new) == (b"_core" in new)
    for data in (old, new):
        same(load_arrays(data), OF_ARRAYS["double"])


@pytest.mark.parametrize("protocol", (0, 2))
@pytest.mark.parametrize("size", (3, 300_000))
def test_reads_python_2(protocol, size, tmp_path, python2_pickle):
    array = ARRAYS.normal(size=(2, size // 2 + 1)).astype("f4")
    data = python2_pickle({"data": array}, protocol)
    (tmp_path / "s01.dat").write_bytes(data)
    for found in (load_arrays(data), load_arrays(tmp_path / "s01.dat")):
        same(found, {"data": array})
    same(pickle.loads(data, encoding="latin1"), {"data": array})


def test_large_arrays_of_a_file_are_views_of_it(tmp_path, python2_pickle):
    array = np.zeros((100, 10_000))
    (tmp_path / "x.dat").write_bytes(python2_pickle({"data": array}, 2))
    found = load_arrays(tmp_path / "x.dat")["data"]
    base = found
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview) and type(base.obj).__name__ == "mmap"
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


# Pickles that would run code


class Ran(Exception):
    pass


def explode(*_, **__):
    raise Ran


class Reduces:
    def __init__(self, *recipe):
        self.recipe = recipe

    def __reduce__(self):
        return self.recipe


class Plain:
    pass


def stack_global(module, name):
    def word(text):
        return b"\x8c" + struct.pack("B", len(text)) + text.encode()

    return word(module) + word(name) + b"\x93"


NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
HOSTILE = {
    "os.system": (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
    "eval": (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
    "python 2's eval": (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
    "getattr": (b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'x'\ntR.", "builtins.getattr"),
    "a dotted name": (
        b"\x80\x04" + stack_global("numpy", "ndarray.__reduce__") + b".",
        "numpy.ndarray.__reduce__",
    ),
    "a dotted way out of an admitted module": (
        b"\x80\x04" + stack_global("_codecs", "encode.__self__.__dict__") + b".",
        "_codecs.encode.__self__",
    ),
    "a module's own module": (b"cnumpy\nos.system\n.", "numpy.os.system"),
    "numpy.load": (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
    "numpy's testing": (b"cnumpy.testing._private.utils\nrunstring\n.", "runstring"),
    "other functions of numpy's core": (b"cnumpy._core.multiarray\nfromfile\n.", "fromfile"),
    "numpy's fromstring": (b"cnumpy.core.multiarray\nfrombuffer\n.", "frombuffer"),
    "_codecs.decode": (b"c_codecs\ndecode\n(S'x'\nS'rot13'\ntR.", "_codecs.decode"),
    "another encoding": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "another encoding"),
    "copyreg": (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
    "copyreg's table": (b"ccopyreg\nadd_extension\n.", "copyreg.add_extension"),
    "an array's subclass": (b"cnumpy\nmemmap\n.", "numpy.memmap"),
    "_reconstruct of a type": (
        RECONSTRUCT + b"(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        "subclass",
    ),
    "_reconstruct of a word": (RECONSTRUCT + b"(S'x'\n(I0\ntS'b'\ntR.", "subclass"),
    "calling ndarray": (NDARRAY + b"((I9\ntl.", "cut off|damaged"),
    "an array by its class": (NDARRAY + b"((I999999999\nttR.", "calls ndarray"),
    "NEWOBJ": (NDARRAY + b"((I9\ntt\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (NDARRAY + b"((I9\ntt}\x92.", "NEWOBJ_EX"),
    "INST": (b"(S'true'\nios\nsystem\n.", "os.system"),
    "INST of an admitted name": (b"(I9\ninumpy\nndarray\n.", "instance of numpy.ndarray"),
    "OBJ": (b"(cnumpy\nndarray\nI9\no.", "OBJ"),
    "EXT1": (b"\x80\x02\x82\x01.", "extension registry"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "extension registry"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "extension registry"),
    "a persistent id": (b"Pwhatever\n.", "persistent id"),
    "a binary persistent id": (b"I1\nQ.", "persistent id"),
    "a buffer out of band": (b"\x80\x05\x97.", "out of band"),
    "a read-only buffer": (b"\x80\x05\x97\x98.", "out of band"),
    "BUILD on a name": (NDARRAY + b"}S'__reduce__'\nI1\nsb.", "state of something else"),
    "BUILD on a name, by a tuple": (NDARRAY + b"(N}S'x'\nI1\nstb.", "state of something else"),
    "BUILD on a list": (b"](I1\ntb.", "state of something else"),
    "BUILD on a finished array": (
        pickle.dumps(np.zeros(2), 2)[:-1] + b"(I1\n(I9\ntNI0\nS''\ntb.",
        "state of something else",
    ),
    "calling a value": (b"S'x'\n(I1\ntR.", "calls a value"),
    "calling with no tuple": (NDARRAY + b"]R.", "calls a value"),
    "a name left over": (NDARRAY + b".", "leaves a name"),
    "a name in a list": (b"(" + NDARRAY + b"l.", "leaves a name"),
    "an array without content": (RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR.", "leaves"),
    "a name as key": (b"}" + NDARRAY + b"I1\ns.", "keys"),
    "a scalar of objects": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI1\ntR.",
        "type object",
    ),
    "a structured type": (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "V8"),
    "fields in a type's state": (
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt}I8\nI8\nI0\ntb.",
        "structured type",
    ),
    "text": (pickle.dumps(np.array(["x"])), "U1"),
    "dates": (pickle.dumps(np.array(["2020"], "M8[D]")), "M8"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_refuses_all_else_and_says_what(data, message, tmp_path):
    path = tmp_path / "s01.dat"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ValueError, match=message) as caught:
            load_arrays(source, name="s01.dat")
        assert str(caught.value).startswith("s01.dat: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    (
        Reduces(explode, ()),
        Reduces(os.system, ("touch /nowhere/x",)),
        Reduces(exec, ("raise SystemExit",)),
        Reduces(getattr, ("x", "upper")),
        Reduces(Plain, (), {"x": 1}),
        Reduces(copyreg._reconstructor, (Plain, object, None)),
        Plain(),
        np.zeros(3).view(np.recarray),
        np.ma.array([1.0]),
        np.array([Plain()], dtype=object),
        np.zeros(2, dtype=[("a", "f8")]),
        datetime.date(2020, 1, 1),
    ),
    ids=lambda value: type(value).__name__,
)
def test_objects_never_come_to_life(value, protocol, monkeypatch):
    data = pickle.dumps(value, protocol)
    monkeypatch.setattr(Plain, "__new__", explode)
    monkeypatch.setattr(Plain, "__setstate__", explode, raising=False)
    with pytest.raises(ValueError, match="pickle: expected"):
        load_arrays(data)


def test_an_extension_that_the_process_knows_stays_out():
    copyreg.add_extension(__name__, "Plain", 240)
    try:
        copyreg._extension_cache[240] = explode  # what a registered name has become once used
        with pytest.raises(ValueError, match="extension registry"):
            load_arrays(b"\x80\x02\x82\xf0)R.")
    finally:
        copyreg.remove_extension(__name__, "Plain", 240)


# Pickles that would fill the memory, or are broken

ARRAY = pickle.dumps(np.arange(100.0), 2)
BOMBS = {
    "BINBYTES": (b"\x80\x03B\xff\xff\xff\xffabc.", "expected 4294967295 bytes"),
    "BINBYTES8": (b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", "cut off"),
    "BYTEARRAY8": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.", "cut off"),
    "BINUNICODE8": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.", "cut off"),
    "BINSTRING": (b"\x80\x02T\xff\xff\xff\x7fabc.", "cut off"),
    "BINSTRING of negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "length -1"),
    "LONG4": (b"\x80\x02\x8b\xff\xff\xff\x7fabc.", "a number of 2147483647 bytes"),
    "a number of many digits": (b"L" + b"9" * 10_000 + b"L\n.", "10001 digits"),
    "memo index": (b"\x80\x02]r\xff\xff\xff\xff0j\xfe\xff\xff\xff.", "refers to value 4294967294"),
    "an array larger than its content": (ARRAY.replace(b"Kd\x85", b"Kf\x85"), "expected 816"),
    "an array larger than memory": (
        b"\x80\x05" + stack_global("numpy._core.numeric", "_frombuffer")
        + b"(C\x00cnumpy\ndtype\n\x8c\x02f8\x85R(\x8a\x06" + b"\0" * 5 + b"\x01tVC\ntR.",
        "expected 8796093022208",
    ),
    "a dimension below zero": (ARRAY.replace(b"Kd\x85", b"J\xff\xff\xff\xff\x85"), "shape"),
    "an object array larger than its list": (
        pickle.dumps(np.array([None]), 2).replace(b"K\x01\x85", b"Kd\x85"), "100 objects lacks",
    ),
    "the same bytes again and again": (
        b"\x80\x02X" + struct.pack("<I", 40_000) + b"x" * 40_000 + b"q\x010"
        + b"(" + b"c_codecs\nencode\nh\x01\x85R" * 1000 + b"l.",
        "several times its own size",
    ),
    "the same list as many arrays": (
        b"\x80\x02(" + b"N" * 20_000 + b"lq\x010("
        + (RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR(I1\n(I20000\nt"
           b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI0\nh\x01tb") * 200 + b"l.",
        "several times its own size",
    ),
    "the same list as many sets": (
        b"\x80\x02(" + b"N" * 20_000 + b"lq\x010(" + b"cbuiltins\nset\nh\x01\x85R" * 1000 + b"l.",
        "several times its own size",
    ),
    "keys of equal hashes": (
        b"\x80\x02}(" + b"".join(
            b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(10_001)
        ) + b"u.",
        "expected up to 10000 keys",
    ),
    "too many steps": (b"(" + b"N" * 1_000_001 + b"l.", "more than 1000000 steps"),
    "deep nesting": (b"(" * 10_000 + b"l" * 10_000 + b".", "deeper than 50"),
    "deep nesting of a key": (b"}" + b"(" * 10_000 + b"t" * 10_000 + b"I1\ns.", "keys"),
    "no stack": (b"0.", "damaged"),
    "two values": (b"NN.", "not one value"),
    "no value": (b".", "not one value"),
    "no mark": (b"Nl.", "no beginning"),
    "a key without value": (b"(I1\nd.", "no value"),
    "a later protocol": (b"\x80\x06N.", "protocol 0 to 5"),
    "no pickle": (b"PK\x03\x04 a zip file", "persistent id|unknown opcode"),
    "a line without end": (b"S'abc", "no end"),
    "a text without quotes": (b"Sabc\n.", "no quotes"),
    "no text": (b"X\x02\x00\x00\x00\xff\xff.", "damaged"),
    "no number": (b"Iabc\n.", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BOMBS.values(), ids=BOMBS)
def test_refuses_bombs_and_damage(data, message, tmp_path):
    path = tmp_path / "s01.dat"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ValueError, match=message) as caught:
            load_arrays(source, name="s01.dat")
        assert str(caught.value).startswith("s01.dat: ")


def test_lists_that_hold_each_other_a_thousandfold_stay_small():
    """The memory of a "billion laughs" is that of its references."""
    data = b"\x80\x02N" + b"".join(
        b"q%c0(" % level + b"h%c" % level * 100 + b"l" for level in range(20)
    )
    assert len(load_arrays(data + b".")) == 100


def test_a_list_that_holds_itself_is_harmless():
    found = load_arrays(b"]q\x01h\x01a.")
    assert found[0] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_an_error(protocol):
    data = pickle.dumps({"data": np.arange(6.0), "labels": [1, "x"]}, protocol)
    for length in range(1, len(data)):
        with pytest.raises(ValueError, match="cut.dat"):
            load_arrays(data[:length], name="cut.dat")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flipped_bits_never_raise_anything_else(protocol):
    data = pickle.dumps({"data": np.arange(6.0), "labels": [1, "x"], 2: {3}}, protocol)
    modules = set(sys.modules)
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                load_arrays(bytes(flipped), name="bad.dat")
            except ValueError as error:
                assert str(error).startswith("bad.dat: ")
    assert {m for m in set(sys.modules) - modules if not m.startswith("encodings")} == set()


def test_absent_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="s01.dat"):
        load_arrays(tmp_path / "s01.dat")
    (tmp_path / "s01.dat").touch()
    with pytest.raises(ValueError, match="empty"):
        load_arrays(tmp_path / "s01.dat")
