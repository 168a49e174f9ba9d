# SPDX-License-Identifier: BSD-3-Clause
"""The file at the root of a synthetic tree that says how much shorter its trials are."""

from __future__ import annotations

import json
import math
from pathlib import Path

MARKER = "SYNTHETIC.json"
FORMAT = "eegfast-synthetic"
VERSION = 1
_LEVELS_UP = 3
_MOST_BYTES = 65536


def read_marker(root: str | Path) -> dict | None:
    """What the marker in this folder says; None if there is none, or none that can be trusted."""
    path = Path(root) / MARKER
    try:
        with path.open("rb") as stream:
            content = json.loads(stream.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        return None
    scale = content.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        return None
    return content if math.isfinite(scale) and 0 < scale <= 1 else None


def synthetic_scale(root: str | Path) -> float | None:
    """By how much a synthetic tree's trials are shorter than the data set's.

    A reader that finds a number here leaves out its check of trial lengths, and nothing else.

    Parameters
    ----------
    root : path-like
        Folder of a data set, or one up to three levels below the root of a synthetic tree.

    Returns
    -------
    float or None
        The factor, above 0 and up to 1, from ``SYNTHETIC.json`` in the nearest folder that has a
        sound one; None for everything else.
    """
    folder = Path(root).absolute()
    for place in (folder, *folder.parents[:_LEVELS_UP]):
        marker = read_marker(place)
        if marker is not None:
            return float(marker["scale"])
    return None
