# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import json
from functools import partial

import numpy as np
import pytest

from eegfast.datasets._synthetic_marker import synthetic_scale
from eegfast.datasets.synthetic import PlannedFile, write_seed, write_tree

SMALL = dict(subjects=1, sessions=1, kinds=("preprocessed",), scale=0.01)


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def planned(*names, fail=()):
    def write(name, stream):
        stream.write(name.encode())
        if name in fail:
            raise RuntimeError("stopped")

    return [PlannedFile(name, 10, partial(write, name)) for name in names]


def test_two_trees_of_one_seed_are_the_same_to_the_byte(tmp_path):
    pytest.importorskip("scipy")
    first = digests(write_seed(tmp_path / "a", **SMALL))
    assert first == digests(write_seed(tmp_path / "b", **SMALL))
    other = digests(write_seed(tmp_path / "c", **SMALL, seed=1))
    assert not set(first.values()) & {other[name] for name in other if "_2" in name}


def test_it_goes_on_where_it_was_stopped(tmp_path):
    root = tmp_path / "tree"
    with pytest.raises(RuntimeError):
        write_tree(root, "x", 0.5, 0, planned("a/1", "a/2", "b/3", fail=["a/2"]))
    assert set(digests(root)) == {"SYNTHETIC.json", "a/1"}
    before = (root / "a/1").stat().st_mtime_ns
    (root / "a/.2.part").write_bytes(b"left by a kill")
    seen = []
    write_tree(root, "x", 0.5, 0, planned("a/1", "a/2", "b/3"), lambda *call: seen.append(call))
    assert (root / "a/1").stat().st_mtime_ns == before
    assert set(digests(root)) == {"SYNTHETIC.json", "a/1", "a/2", "b/3"}
    assert (root / "a/2").read_bytes() == b"a/2"
    assert seen == [(0, 3, "a/1"), (1, 3, "a/2"), (2, 3, "b/3"), (3, 3, "")]


def test_more_may_be_added_to_a_tree(tmp_path):
    write_tree(tmp_path, "x", 0.5, 0, planned("1"))
    write_tree(tmp_path, "x", 0.5, 0, planned("1", "2"))
    assert (tmp_path / "2").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="empty folder or a synthetic tree"):
        write_tree(tmp_path, "x", 0.5, 0, planned("1"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileExistsError, match="got a file"):
        write_tree(tmp_path / "thesis.tex", "x", 0.5, 0, planned("1"))


@pytest.mark.parametrize("options", [("y", 0.5, 0), ("x", 0.4, 0), ("x", 0.5, 1)])
def test_a_tree_of_other_options_is_left_alone(tmp_path, options):
    write_tree(tmp_path, "x", 0.5, 0, planned("1"))
    with pytest.raises(FileExistsError, match="dataset|scale|seed"):
        write_tree(tmp_path, *options, planned("2"))
    assert not (tmp_path / "2").exists()


def test_a_disk_that_is_too_small(tmp_path):
    huge = [PlannedFile("1", 10**18, lambda stream: None)]
    with pytest.raises(OSError, match="GB are needed"):
        write_tree(tmp_path / "tree", "x", 0.5, 0, huge)
    assert not (tmp_path / "tree").exists()


def test_scale_is_read_up_to_three_levels_below(tmp_path):
    write_tree(tmp_path, "x", 0.25, 0, planned("a/b/c/d/1"))
    assert json.loads((tmp_path / "SYNTHETIC.json").read_text())["scale"] == 0.25
    places = [tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c", tmp_path / "a/b/c/d"]
    assert [synthetic_scale(place) for place in places] == [0.25, 0.25, 0.25, 0.25, None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": "other", "version": 1, "scale": 0.5}',
        '{"format": "eegfast-synthetic", "version": 2, "scale": 0.5}',
        '{"format": "eegfast-synthetic", "version": 1, "scale": 2}',
        '{"format": "eegfast-synthetic", "version": 1, "scale": NaN}',
        '{"format": "eegfast-synthetic", "version": 1, "scale": "0.5"}',
        '{"format": "eegfast-synthetic", "version": 1, "scale": true}',
        '{"format": "eegfast-synthetic", "version": 1}',
        "[" * 60000,
        '"' + "x" * 10**6,
    ],
)
def test_a_marker_that_is_not_sound_counts_for_nothing(tmp_path, text):
    (tmp_path / "SYNTHETIC.json").write_text(text)
    assert synthetic_scale(tmp_path) is None


def test_no_marker_and_no_folder(tmp_path):
    assert synthetic_scale(tmp_path) is None
    assert synthetic_scale(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"subjects": 0}, "subjects must be a number from 1 to 15, got 0"),
        ({"subjects": 16}, "got 16"),
        ({"sessions": 4}, "sessions must be a number from 1 to 3"),
        ({"kinds": ("cooked",)}, "kinds must be among preprocessed, features, raw, got cooked"),
        ({"kinds": ()}, "got None"),
        ({"scale": 0}, "scale must be above 0"),
        ({"scale": np.nan}, "scale must be above 0"),
        ({"scale": 1.5}, "scale must be above 0"),
    ],
)
def test_options_that_make_no_sense(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_seed(tmp_path / "x", **{**SMALL, **change})
    assert not (tmp_path / "x").exists()
