# SPDX-License-Identifier: BSD-3-Clause
"""Which channels of a file are scalp EEG, what they are called, and where they sit."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from eegfast.datasets.montage import clean_name, find_channel, positions_for

_BODY = re.compile(r"ECG|EKG|EOG|EMG|^[HV]EO[GLRUD]?\d*$", re.IGNORECASE)
_OTHER = re.compile(
    r"^(EXG|GSR|EDA|ERG|RESP|PLET|TEMP|SAO2|SPO2|PULSE|HR|STATUS|STI|TRIG|EVENT|MARKER|ANNOT|PHOTIC"
    r"|DC|AUX|ACC|GND|GROUND|REF|BP|IBI|BURSTS|SUPPR)\w*$",
    re.IGNORECASE,
)
_REFERENCES = {"A1", "A2", "M1", "M2"}


def is_scalp_eeg(names: Sequence[str]) -> list[bool]:
    """Whether each name can be that of a scalp electrode."""
    cleaned = [clean_name(name) for name in names]
    # BioSemi caps count A1, A2, A3 ... over the scalp; elsewhere A1 and A2 are the ears.
    references = _REFERENCES - ({"A1", "A2"} if "A3" in cleaned else set())

    def scalp(name: str) -> bool:
        if _BODY.search(name) or _OTHER.match(name):
            return False
        return not all(part.strip().upper() in references for part in re.split(r"[-:/]", name))

    return [scalp(name) for name in cleaned]


def display_names(names: Sequence[str]) -> list[str]:
    """The cleaned names, but the file's own where two would be the same."""
    cleaned = [clean_name(name) for name in names]
    return [
        short if cleaned.count(short) == 1 else name
        for short, name in zip(cleaned, names, strict=True)
    ]


def select(
    names: Sequence[str],
    kinds: Sequence[str],
    factors: Sequence[float | None],
    picks: Sequence[str] | None,
    exclude_non_eeg: bool,
) -> list[int]:
    """Rows to read.

    Parameters
    ----------
    names, kinds : sequence of str
        The file's channel names, and their types as MNE calls them.
    factors : sequence of float or None
        Factor to microvolts; None where the channel is no voltage.
    picks, exclude_non_eeg
        As for `read_recording`.

    Raises
    ------
    ValueError
        If nothing is left, or a pick is not there or no voltage.
    """
    if picks is None:
        rows = [i for i, factor in enumerate(factors) if factor is not None and kinds[i] != "stim"]
        if exclude_non_eeg:
            scalp = is_scalp_eeg(names)
            rows = [row for row in rows if kinds[row] == "eeg" and scalp[row]]
        if not rows:
            raise ValueError(f"expected EEG channels, got only {_listed(names)}")
        return rows
    if isinstance(picks, str) or not picks:
        raise ValueError(f"picks must be a sequence of channel names, got {picks!r}")
    rows = [_row_of(pick, names) for pick in picks]
    for row in rows:
        if factors[row] is None:
            raise ValueError(f"picks names {names[row]}: expected a voltage, it has another unit")
    return rows


def _row_of(pick: str, names: Sequence[str]) -> int:
    row = names.index(pick) if pick in names else find_channel(pick, display_names(names))
    if row is None:
        raise ValueError(f"picks names {pick}: expected one of {_listed(names)}")
    return row


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:80]) + (" ..." if len(names) > 80 else "")


def positions_in(
    info, rows: Sequence[int], names: Sequence[str], in_head_frame: bool
) -> dict[str, tuple[float, float, float]]:
    """Positions of the channels `rows` of an MNE ``info``, called `names`.

    The file's own come first if its format keeps them in the head frame, as FIF does. Elsewhere
    frame, unit and origin are guesses, so the file's only serve names that have no place.
    """
    in_file = {}
    for row, name in zip(rows, names, strict=True):
        place = info["chs"][row]["loc"][:3]
        if np.isfinite(place).all() and place.any():
            in_file[name] = tuple(float(v) for v in place)
    by_name = positions_for(names)
    return {**by_name, **in_file} if in_head_frame else {**in_file, **by_name}
