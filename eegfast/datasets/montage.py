# SPDX-License-Identifier: BSD-3-Clause
"""Electrode names and positions, with no other package than NumPy.

Positions follow the geometry of the international 10-20/10-10 systems instead of a measured head.
On a unit sphere with the nose at +y and the vertex at +z:

* the equator carries the outer ring, one electrode every 18 degrees (Fpz, Fp1, AF7, F7, FT7, T7,
  TP7, P7, PO7, O1, Oz);
* the midline carries one electrode every 22.5 degrees from Fpz over Cz to Oz;
* every row in between is the circle arc from its ring electrode to its midline electrode, cut into
  quarters (7, 5, 3, 1, z);
* 22.5 degrees below the ring lie F9 ... PO9, Iz, and CB1/CB2, these under the gap between PO7 and
  O1.

The sphere is then scaled to an ellipsoid, tilted, and moved into the head frame (origin between the
ears, x to the right ear, y to the nose, z up; metres). The six numbers of that step were fitted to
the Colin27 template; the result is within 13 mm of that template for each of SEED's channels (mean
5 mm).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

__all__ = [
    "SEED_CHANNELS",
    "canonical_name",
    "clean_name",
    "find_channel",
    "mirror_map",
    "positions_for",
]

SEED_CHANNELS: tuple[str, ...] = tuple(
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 "
    "T7 C5 C3 C1 CZ C2 C4 C6 T8 TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 "
    "PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2".split()
)
"""The 62 channels of SEED, SEED-IV, SEED-V and SEED-VII in their common order."""

OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}

# Outer prefix, inner prefix, place of the row on the ring (steps of 18 degrees from Fpz).
_ROWS = (
    ("AF", "AF", 2),
    ("F", "F", 3),
    ("FT", "FC", 4),
    ("T", "C", 5),
    ("TP", "CP", 6),
    ("P", "P", 7),
    ("PO", "PO", 8),
)
_MIDLINE = ("Fpz", "AFz", "Fz", "FCz", "Cz", "CPz", "Pz", "POz", "Oz", "Iz")
_BELOW_RING = -22.5

# Rows of the 10-5 system from the nose to the neck, the ears, the mastoids, the cerebellar pair.
_PREFIXES = frozenset(
    "N NFP FP AFP AF AFF F FFT FFC FT FC FTT FCC T C TTP CCP TP CP TPP CPP P PPO PO POO O OI I "
    "A M CB".split()
)

_SEMI_AXES = np.array([0.0915, 0.1002, 0.1041])
_CENTRE = np.array([0.0, 0.0146, 0.0363])
_TILT = np.deg2rad(-8.25)

_REFERENCE_WORDS = re.compile(
    r"(?:REF\d*|LE|RE|AVG|AVE|AR|CAR|AVERAGE|COMMON|A1A2|M1M2|A1\+A2|M1\+M2)", re.IGNORECASE
)


def _on_sphere(azimuth: float, elevation: float = 0.0) -> np.ndarray:
    """Unit vector `azimuth` degrees to the left of the nose, `elevation` degrees above the ring."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.array([-np.cos(e) * np.sin(a), np.cos(e) * np.cos(a), np.sin(e)])


def _quarters(ring: np.ndarray, mid: np.ndarray) -> list[np.ndarray]:
    """Points at 1/4, 1/2 and 3/4 of the circle arc from a left ring point to the midline.

    The circle passes through the ring point, its mirror image and the midline point.
    """
    mirrored = ring * (-1, 1, 1)
    normal = np.cross(mid - ring, mirrored - ring)
    normal /= np.linalg.norm(normal)
    centre = normal * (normal @ ring)
    u = ring - centre
    v = np.cross(normal, u)
    angle = np.arctan2((mid - centre) @ v, (mid - centre) @ u)
    return [centre + np.cos(t * angle) * u + np.sin(t * angle) * v for t in (0.25, 0.5, 0.75)]


def _unit_sphere() -> dict[str, np.ndarray]:
    points = {name: _on_sphere(0, 22.5 * i) for i, name in enumerate(_MIDLINE)}
    left = {"Fp1": _on_sphere(18), "O1": _on_sphere(162)}
    for outer, inner, step in _ROWS:
        azimuth = 18 * step
        ring = _on_sphere(azimuth)
        left[f"{outer}7"] = ring
        left[f"{outer}9"] = _on_sphere(azimuth, _BELOW_RING)
        left.update(
            zip(
                (f"{inner}5", f"{inner}3", f"{inner}1"),
                _quarters(ring, points[f"{inner}z"]),
                strict=True,
            )
        )
    left["CB1"] = _on_sphere(153, _BELOW_RING)
    for name, point in left.items():
        prefix, number = re.fullmatch(r"(\D+)(\d+)", name).groups()
        points[name] = point
        points[f"{prefix}{int(number) + 1}"] = point * (-1, 1, 1)
    return points


@cache
def _table() -> dict[str, tuple[str, tuple[float, float, float]]]:
    """Upper-case name -> (name as MNE spells it, position in metres)."""
    c, s = np.cos(_TILT), np.sin(_TILT)
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return {
        name.upper(): (name, tuple(float(v) for v in tilt @ (point * _SEMI_AXES) + _CENTRE))
        for name, point in _unit_sphere().items()
    }


def clean_name(name: str) -> str:
    """Take a channel name as files write it down to the electrode.

    Removes an ``EEG`` prefix, padding dots and the name of a common reference. A second *electrode*
    after a dash stays, because ``F4-A1`` and ``F4-A2`` are different signals.

    Parameters
    ----------
    name : str
        For example ``"EEG Fp1-Ref"`` or ``"Fc5."``.

    Returns
    -------
    str
        For example ``"Fp1"`` or ``"Fc5"``; the spelling of the electrode itself is kept.
    """
    cleaned = (
        re.sub(r"^\s*EEG[\s_:-]+", "", str(name), flags=re.IGNORECASE).strip().rstrip(".").strip()
    )
    head, dash, reference = cleaned.rpartition("-")
    if dash and head and _REFERENCE_WORDS.fullmatch(reference.strip()):
        cleaned = head.strip()
    return cleaned or str(name)


def canonical_name(name: str) -> str | None:
    """Name of the (active) electrode in today's 10-10 system, spelled as MNE spells it.

    Parameters
    ----------
    name : str
        Any spelling: ``"FP1"``, ``"EEG Fp1"``, ``"Fp1-Ref"``, an old name (``"T3"``), or a pair,
        whose first electrode is the active one (``"F4-A1"``).

    Returns
    -------
    str or None
        ``"Fp1"``, ``"Fp1"``, ``"Fp1"``, ``"T7"``, ``"F4"``; None if there is no such electrode.
    """
    key = re.split(r"[-:/]", clean_name(name), maxsplit=1)[0].strip().rstrip(".").upper()
    entry = _table().get(OLD_NAMES.get(key, key))
    return None if entry is None else entry[0]


_BUNDLED = re.compile(r"[A-H]\d+")


def _counts_bundles(names: Sequence[str]) -> bool:
    """A BioSemi cap's C3 or B5 is the third or fifth of a bundle of wires, not a 10-20 place."""
    return {"A3", "B3"} <= set(names)


def positions_for(ch_names: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Positions of electrodes by name.

    Parameters
    ----------
    ch_names : iterable of str
        Names in any spelling that `canonical_name` understands.

    Returns
    -------
    dict
        Name, as given, to (x, y, z) in metres in the head frame (x right, y front, z up). A name
        without a known position is absent, and so are all of ``A1`` ... ``H32`` among the names of
        a BioSemi cap.
    """
    names = list(ch_names)
    bundles = _counts_bundles(names)
    positions = {}
    for name in names:
        electrode = canonical_name(name)
        if electrode is not None and not (bundles and _BUNDLED.fullmatch(name)):
            positions[name] = _table()[electrode.upper()][1]
    return positions


def find_channel(name: str, ch_names: Sequence[str]) -> int | None:
    """Index of a channel by name.

    Parameters
    ----------
    name : str
        A name as it is in `ch_names`, or else any spelling of the electrode: ``"FP1"`` finds
        ``"Fp1"``, ``"T7"`` finds ``"T3"``, ``"F4"`` finds ``"F4-A1"``.
    ch_names : sequence of str
        Where to look.

    Returns
    -------
    int or None
        Index of the first match; None if there is none.
    """
    if name in ch_names:
        return list(ch_names).index(name)
    electrode = canonical_name(name)
    if electrode is None:
        return None
    matches = (i for i, other in enumerate(ch_names) if canonical_name(other) == electrode)
    return next(matches, None)


def mirror_map(ch_names: Iterable[str]) -> list[int]:
    """For each channel, the index of its counterpart on the other side of the head.

    Odd numbers lie on the left and have the next even number as their counterpart (F7 and F8, CB1
    and CB2, AFF5h and AFF6h); electrodes that end in z are their own.

    Parameters
    ----------
    ch_names : iterable of str
        Names of the 10-20, 10-10 or 10-5 system in any order and any of the spellings that
        `canonical_name` understands: case, an ``EEG`` prefix and a reference do not matter, and
        T3, T4, T5, T6 are T7, T8, P7, P8.

    Returns
    -------
    list of int
        A permutation that is its own inverse: ``x[mirror_map(names)]`` is the mirrored signal.

    Raises
    ------
    ValueError
        If a name is no place on the head (BioSemi's A1 ... H32 are none), a place comes twice, or
        an electrode has no counterpart. The message names the channels.

    Examples
    --------
    >>> mirror_map(["Fp1", "Fp2", "Fz", "T3", "T8"])
    [1, 0, 2, 4, 3]
    """
    names = list(ch_names)
    bundles = _counts_bundles(names)
    sides = [None if bundles and _BUNDLED.fullmatch(n) else _with_counterpart(n) for n in names]
    _refuse(names, [side is None for side in sides], "no electrode of the 10-5 system")
    places = [place for place, _ in sides]
    _refuse(names, [places.count(place) > 1 for place in places], "channels share a place")
    index = {place: i for i, place in enumerate(places)}
    _refuse(names, [other not in index for _, other in sides], "no counterpart on the other side")
    return [index[other] for _, other in sides]


def _with_counterpart(name: str) -> tuple[str, str] | None:
    """An electrode and the one that mirrors it, both in upper case; None if it is no electrode."""
    key = re.split(r"[-:/]", clean_name(name), maxsplit=1)[0].strip().rstrip(".").upper()
    key = OLD_NAMES.get(key, key)
    parts = re.fullmatch(r"([A-Z]+?)(?:Z|([1-9]\d?)(H?))", key)
    if parts is None or parts[1] not in _PREFIXES:
        return None
    prefix, number, half = parts.groups()
    if number is None:
        return key, key
    other = int(number) + (1 if int(number) % 2 else -1)
    return key, f"{prefix}{other}{half}"


def _refuse(names: Sequence[str], wrong: Sequence[bool], why: str) -> None:
    if any(wrong):
        listed = ", ".join(name for name, is_wrong in zip(names, wrong, strict=True) if is_wrong)
        raise ValueError(f"mirror_map: {why}: {listed}")
