# SPDX-License-Identifier: BSD-3-Clause
import subprocess
import sys

import numpy as np
import pytest

from eegfast.datasets import EEGMAT, SEED_CHANNELS, canonical_name, mirror_map, positions_for
from eegfast.datasets.montage import clean_name, find_channel


@pytest.fixture(scope="module")
def template():
    """Colin27 positions of 10-05 names, upper case, in the head frame."""
    mne = pytest.importorskip("mne")
    names = [name for name in mne.channels.get_builtin_montages() if name.endswith("_1005")]
    montage = mne.channels.make_standard_montage(sorted(names)[0])
    head = mne.channels.montage.transform_to_head(montage).get_positions()
    return {name.upper(): position for name, position in head["ch_pos"].items()}


def test_seed_positions_are_near_the_template(template):
    positions = positions_for(SEED_CHANNELS)
    assert list(positions) == list(SEED_CHANNELS)
    errors = [
        np.linalg.norm(np.subtract(positions[name], template[name]))
        for name in SEED_CHANNELS
        if name in template
    ]
    assert len(errors) == 60  # all but CB1, CB2
    assert max(errors) < 0.013
    assert np.mean(errors) < 0.006


@pytest.mark.parametrize("name", "AF7 AF8 AFz F9 F10 FT9 T9 T10 TP9 P9 P10 PO9 PO10 Iz".split())
def test_positions_beyond_seed_are_near_the_template(name, template):
    assert np.linalg.norm(np.subtract(positions_for([name])[name], template[name.upper()])) < 0.015


def test_left_and_right_mirror_and_are_on_their_side():
    positions = positions_for(SEED_CHANNELS)
    for left, right in (("FP1", "FP2"), ("C5", "C6"), ("PO7", "PO8"), ("CB1", "CB2")):
        assert positions[left][0] < 0 < positions[right][0]
        np.testing.assert_allclose(positions[left], np.multiply(positions[right], (-1, 1, 1)))


def test_cerebellar_electrodes_have_places_of_their_own_below_po7():
    positions = positions_for([*SEED_CHANNELS, "PO9"])
    for side, name in (("CB1", "PO7"), ("CB2", "PO8")):
        assert positions[side][2] < positions[name][2] - 0.02
    nearest = min(
        np.linalg.norm(np.subtract(positions["CB1"], place))
        for name, place in positions.items()
        if name != "CB1"
    )
    assert nearest > 0.008


def test_no_two_seed_electrodes_share_a_place():
    places = np.array(list(positions_for(SEED_CHANNELS).values()))
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(len(places))
    assert distances.min() > 0.01


@pytest.mark.parametrize(("old", "new"), [("T3", "T7"), ("T4", "T8"), ("T5", "P7"), ("T6", "P8")])
def test_old_names_have_the_places_of_the_new(old, new):
    assert positions_for([old])[old] == positions_for([new])[new]


@pytest.mark.parametrize(
    ("name", "electrode"),
    [
        ("FP1", "Fp1"),
        ("EEG Fp1", "Fp1"),
        ("EEG FP1-REF", "Fp1"),
        ("Fc5.", "FC5"),
        ("Cz..", "Cz"),
        ("EEG T3-LE", "T7"),
        ("F4-A1", "F4"),
        ("CZ-A2", "Cz"),
        ("Fp1-F7", "Fp1"),
        ("poz", "POz"),
        ("CB2", "CB2"),
        ("ECG", None),
        ("A2-A1", None),
        ("M1", None),
        ("E17", None),
        ("", None),
    ],
)
def test_canonical_name(name, electrode):
    assert canonical_name(name) == electrode


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("EEG Fp1", "Fp1"),
        ("EEG A2-A1", "A2-A1"),
        ("F4-A1", "F4-A1"),
        ("EEG T3-Ref", "T3"),
        ("Fc5.", "Fc5"),
        ("ECG ECG", "ECG ECG"),
        ("EEG", "EEG"),
    ],
)
def test_clean_name(name, cleaned):
    assert clean_name(name) == cleaned


def test_unknown_names_are_absent():
    assert list(positions_for(["Fp1", "ECG", "T3"])) == ["Fp1", "T3"]


def test_biosemi_bundle_numbers_are_no_1020_names():
    names = [f"{bundle}{number}" for bundle in "ABCD" for number in range(1, 33)]
    assert "C3" in names
    assert positions_for(names) == {}


def test_find_channel():
    names = ["Fp1", "T3", "F4-A1", "fp1"]
    assert find_channel("fp1", names) == 3
    assert find_channel("FP1", names) == 0
    assert find_channel("T7", names) == 1
    assert find_channel("F4", names) == 2
    assert find_channel("Oz", names) is None
    assert find_channel("ECG", names) is None


def test_mirror_map_of_seed():
    rows = [
        [2, 1, 0],
        [4, 3],
        *(list(range(first + 8, first - 1, -1)) for first in (5, 14, 23, 32, 41)),
        [56, 55, 54, 53, 52, 51, 50],
        [61, 60, 59, 58, 57],
    ]
    expected = [i for row in rows for i in row]
    mirror = mirror_map(SEED_CHANNELS)
    assert mirror == expected
    assert [mirror[i] for i in mirror] == list(range(62))
    fixed = [name for i, name in enumerate(SEED_CHANNELS) if mirror[i] == i]
    assert fixed == ["FPZ", "FZ", "FCZ", "CZ", "CPZ", "PZ", "POZ", "OZ"]


def test_mirror_map_is_a_reflection_in_space():
    for names in (SEED_CHANNELS, EEGMAT()[0].ch_names):
        places = positions_for(names)
        for name, other in zip(names, mirror_map(names), strict=True):
            x, y, z = places[names[other]]
            np.testing.assert_allclose((-x, y, z), places[name], atol=1e-12)


@pytest.mark.parametrize(
    ("names", "mirror"),
    [
        ([], []),
        (["Cz"], [0]),
        (["F8", "f7"], [1, 0]),
        (["EEG FP1-REF", "EEG FP2-REF", "T3", "T8", "Fc5.", "FC6"], [1, 0, 3, 2, 5, 4]),
        (["F4-A1", "F3-A2"], [1, 0]),
        (["CB2", "CB1", "M1", "M2"], [1, 0, 3, 2]),
        (["AFF1h", "AFp3", "AFF2h", "AFp4", "CPPz", "POO10h", "POO9h"], [2, 3, 0, 1, 4, 6, 5]),
        (["F9", "F10"], [1, 0]),
    ],
)
def test_mirror_map_by_names(names, mirror):
    assert mirror_map(names) == mirror


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["F3", "Cz", "O2"], "no counterpart on the other side: F3, O2$"),
        (["F9", "F8"], "no counterpart on the other side: F9, F8$"),
        (["E1", "E2", "Cz", "ECG", "C0"], "no electrode of the 10-5 system: E1, E2, ECG, C0$"),
        (["F4-A1", "F3", "F4"], "share a place: F4-A1, F4$"),
        (["T3", "T7", "T4"], "share a place: T3, T7$"),
        ([f"{b}{n}" for b in "AB" for n in (1, 2, 3, 4)], "10-5 system: A1, A2, A3, A4, B1"),
    ],
)
def test_mirror_map_refuses(names, message):
    with pytest.raises(ValueError, match=message):
        mirror_map(names)


def test_datasets_need_neither_mne_nor_scipy():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('mne', 'scipy', 'pandas', 'h5py')))\n"
        "from eegfast.datasets import EEGMAT, SEED_CHANNELS, positions_for\n"
        "assert len(positions_for(SEED_CHANNELS)) == 62\n"
        "assert len(EEGMAT()[0].positions) == 19\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
