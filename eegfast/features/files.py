# SPDX-License-Identifier: BSD-3-Clause
"""Feature files: one ``.npz`` a recording, arrays plus a JSON text that says what they are."""

from __future__ import annotations

import glob
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Features", "load_features", "save_features"]

FORMAT = "eegfast-features"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Features:
    """Band features of one recording.

    Parameters
    ----------
    values : ndarray, shape (windows, n_chans, bands)
        float32, in the unit named by ``metadata["unit"]``.
    times : ndarray, shape (windows,)
        Start of each window in seconds from the start of the recording.
    ch_names : list of str
        Channel names.
    bands : dict
        Band name to (low, high) in hertz, in the order of the last axis.
    positions : dict
        Channel name to (x, y, z) in metres, head frame; channels without a position are absent.
    metadata : dict
        What the values are and where they come from (docs/recordings.md lists the entries).

    Raises
    ------
    ValueError
        If shapes and names do not fit together.
    """

    values: np.ndarray
    times: np.ndarray
    ch_names: list[str]
    bands: dict[str, tuple[float, float]]
    positions: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    def __post_init__(self):
        expected = (len(self.times), len(self.ch_names), len(self.bands))
        if self.values.dtype != np.float32 or self.values.shape != expected:
            raise ValueError(
                f"Features: values must be float32 of shape {expected} (windows, n_chans, bands), "
                f"got {self.values.dtype} of shape {self.values.shape}."
            )

    @property
    def band_names(self) -> list[str]:
        """Names of the bands, in order."""
        return list(self.bands)

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return self.metadata.get("unit", "")


def save_features(features: Features, path: str | Path) -> None:
    """Write a feature file so that `path` holds either all of it or what it held before.

    Parameters
    ----------
    features : Features
        What to write; `metadata` must be JSON-serialisable.
    path : path-like
        File to write, by custom ``<name>.de.npz``. Its folder must exist.
    """
    path = Path(path)
    positions = np.full((len(features.ch_names), 3), np.nan)
    for row, name in enumerate(features.ch_names):
        if name in features.positions:
            positions[row] = features.positions[name]
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, **features.metadata}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        features=features.values,
        times=np.asarray(features.times, np.float64),
        ch_names=np.array(features.ch_names, dtype=np.str_),
        band_names=np.array(features.band_names, dtype=np.str_),
        band_edges=np.array(list(features.bands.values()), np.float64).reshape(-1, 2),
        positions=positions,
        metadata=np.array(json.dumps(metadata, ensure_ascii=False)),
    )
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(buffer.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_features(path: str | Path) -> Features:
    """Read a feature file. Nothing in it is executed.

    Parameters
    ----------
    path : path-like
        A file written by `save_features` or ``eegfast extract``.

    Returns
    -------
    Features

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no feature file, is damaged, or was written in a newer layout.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        metadata = json.loads(str(arrays["metadata"]))
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}")
        if metadata["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"its layout is newer ({metadata['format_version']}) than this eegfast"
            )
        names = [str(name) for name in arrays["ch_names"]]
        edges = [(float(low), float(high)) for low, high in arrays["band_edges"]]
        places = zip(names, arrays["positions"], strict=True)
        return Features(
            values=arrays["features"],
            times=arrays["times"],
            ch_names=names,
            bands=dict(zip((str(band) for band in arrays["band_names"]), edges, strict=True)),
            positions={
                name: tuple(float(v) for v in xyz) for name, xyz in places if np.isfinite(xyz).all()
            },
            metadata=metadata,
        )
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: expected a feature file of eegfast: {reason}.") from error
