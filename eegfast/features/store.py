# SPDX-License-Identifier: BSD-3-Clause
"""The feature store: features of a data set in a Zarr folder, a group for each source file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eegfast.features._store_layout import COLUMNS, FORMAT, IDENTITY, LAYOUT, key_of, require_zarr

__all__ = ["FeatureStore", "StoredFeatures", "StoredWindows"]

_MOST_METADATA = 2**24
_TEXTS = ("eegfast", "explain", "feature", "key", "smoothing", "unit")
_SAME = ("band_edges", "band_names", "ch_names", "class_names", "dataset", "eegfast", "options")
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, eq=False)
class StoredWindows:
    """All windows of a store and whose they are.

    Parameters
    ----------
    features : ndarray, shape (windows, n_chans, bands)
        float32, the trials one behind the other.
    subject_id, session_id : ndarray of str, shape (windows,)
        Whose, and which visit.
    trial_id, label : ndarray of int64, shape (windows,)
        Number of the trial within the session, from 1; class number, from 0.
    ch_names : list of str
        Names of the channels.
    bands : dict
        Band name to (low, high) in hertz, in the order of the last axis.
    class_names : tuple of str
        Names of the classes.
    """

    features: np.ndarray
    subject_id: np.ndarray
    session_id: np.ndarray
    trial_id: np.ndarray
    label: np.ndarray
    ch_names: list[str]
    bands: dict[str, tuple[float, float]]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)


class StoredFeatures:
    """A group of a store: features of one source file. Windows are read when they are asked for.

    Parameters
    ----------
    path : path-like
        The group's folder.

    Attributes
    ----------
    name : str
        Of the group, such as ``"sub-01_ses-1"``.
    features : zarr.Array, shape (windows, n_chans, bands)
        float32, on disk.
    ch_names, bands, class_names
        As in `StoredWindows`.
    trial_start : ndarray of int64, shape (trials,)
        First window of each trial; a trial ends where the next begins.
    subject_id, session_id : ndarray of str, shape (trials,)
        Of each trial.
    trial_id, label : ndarray of int64, shape (trials,)
        Of each trial.
    metadata : dict
        What the values are and where they come from (docs/store.md lists the entries).

    Raises
    ------
    FileNotFoundError
        If there is no such group.
    ValueError
        If it is damaged, incomplete, or no group of a feature store.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.name
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no such group.")
        zarr = require_zarr()
        with _expecting(self.path, "a group of a feature store"):
            _check_json(self.path / "zarr.json")
            _check_json(self.path / "features" / "zarr.json")
            group = zarr.open_group(self.path, mode="r", zarr_format=3)
            self.metadata = _checked_metadata(dict(group.attrs))
            self.features = zarr.open_array(self.path / "features", mode="r", zarr_format=3)
            _check_array(self.features, self.path / "features")
            columns = self.metadata["trials"]
            self.ch_names: list[str] = list(self.metadata["ch_names"])
            self.class_names = tuple(self.metadata["class_names"])
            edges = [(float(low), float(high)) for low, high in self.metadata["band_edges"]]
            self.bands = dict(zip(self.metadata["band_names"], edges, strict=True))
            self.trial_start = np.array(columns["trial_start"], dtype=np.int64)
            self.subject_id = np.array(columns["subject_id"], dtype=np.str_)
            self.session_id = np.array(columns["session_id"], dtype=np.str_)
            self.trial_id = np.array(columns["trial_id"], dtype=np.int64)
            self.label = np.array(columns["label"], dtype=np.int64)
            expected = (len(self.ch_names), len(self.bands))
            if self.features.shape[1:] != expected:
                raise ValueError(f"{expected} channels and bands, {self.features.shape} features")
            ends = np.append(self.trial_start, self.features.shape[0])
            if ends[0] != 0 or (np.diff(ends) <= 0).any():
                raise ValueError(f"trial_start {self.trial_start} of {ends[-1]} windows")

    def __len__(self) -> int:
        return len(self.trial_id)

    @property
    def windows_per_trial(self) -> np.ndarray:
        """Number of windows of each trial, shape (trials,)."""
        return np.diff(self.trial_start, append=self.features.shape[0])

    def read(self, trial: int | None = None) -> np.ndarray:
        """Windows of one trial, by its place in the table, or of all.

        Parameters
        ----------
        trial : int, optional
            0 is the first; default all.

        Returns
        -------
        ndarray, shape (windows, n_chans, bands)
            float32.

        Raises
        ------
        ValueError
            If the values on disk are damaged.
        """
        if trial is None:
            chosen = slice(None)
        else:
            start = self.trial_start[trial]
            chosen = slice(int(start), int(start + self.windows_per_trial[trial]))
        with _expecting(self.path / "features", "whole chunks"):
            return np.asarray(self.features[chosen])

    def __repr__(self) -> str:
        return f"<StoredFeatures {self.name}: {len(self)} trials, {self.features.shape[0]} windows>"


class FeatureStore(Mapping):
    """A feature store: a mapping of group names to `StoredFeatures`.

    ``eegfast extract --dataset`` and `eegfast.features.dataset.extract_dataset` write it. Nothing
    in it is executed, and no group is trusted before its shapes and sizes are checked.

    Parameters
    ----------
    path : path-like
        The store's folder.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ImportError
        If Zarr is not installed.
    ValueError
        If it is no feature store, or one of a newer layout.

    Examples
    --------
    >>> store = FeatureStore("seed-de")                                      # doctest: +SKIP
    >>> store.groups[:2]                                                     # doctest: +SKIP
    ['sub-01_ses-1', 'sub-01_ses-2']
    >>> store["sub-01_ses-1"].read(0).shape                                  # doctest: +SKIP
    (235, 62, 5)
    >>> store.load().features.shape                                          # doctest: +SKIP
    (152730, 62, 5)
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no such folder.")
        zarr = require_zarr()
        with _expecting(self.path, "a feature store of eegfast"):
            _check_json(self.path / "zarr.json")
            about = dict(zarr.open_group(self.path, mode="r", zarr_format=3).attrs)
            if about.get("format") != FORMAT:
                raise ValueError(f"its format is {about.get('format')!r}")
            if about.get("layout") != LAYOUT:
                raise ValueError(f"its layout is {about.get('layout')!r}, not {LAYOUT}")

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in order."""
        return sorted(
            entry.name
            for entry in os.scandir(self.path)
            if entry.is_dir() and not entry.name.startswith(".")
        )

    def __getitem__(self, name: str) -> StoredFeatures:
        if name not in self.groups:
            raise KeyError(name)
        return StoredFeatures(self.path / name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def load(self, groups: Iterable[str] | None = None) -> StoredWindows:
        """All windows in one array, with subject, session, trial and label of each.

        Parameters
        ----------
        groups : iterable of str, optional
            Names of groups; default all.

        Returns
        -------
        StoredWindows
            In memory: 189 MB for the whole of SEED at 62 channels, 5 bands and 1 s.

        Raises
        ------
        KeyError
            If there is no group of a name.
        ValueError
            If there is no group at all, a group is damaged, or groups were computed with different
            options, from different data sets or by different versions.
        """
        chosen = [self[name] for name in (self.groups if groups is None else groups)]
        if not chosen:
            raise ValueError(f"{self.path}: there are no features in it.")
        first = chosen[0]
        for group in chosen[1:]:
            for name in _SAME:
                if group.metadata[name] != first.metadata[name]:
                    raise ValueError(
                        f"{self.path}: groups {first.name} and {group.name} differ in {name}; "
                        "run the extraction to its end, remove what is not of it, or load by name."
                    )
        total = sum(group.features.shape[0] for group in chosen)
        with _expecting(self.path, "features that fit into memory"):
            features = np.empty((total, *first.features.shape[1:]), dtype=np.float32)
        start = 0
        for group in chosen:
            stop = start + group.features.shape[0]
            features[start:stop] = group.read()
            start = stop

        def per_window(name: str) -> np.ndarray:
            return np.concatenate(
                [np.repeat(getattr(group, name), group.windows_per_trial) for group in chosen]
            )

        return StoredWindows(
            features=features,
            subject_id=per_window("subject_id"),
            session_id=per_window("session_id"),
            trial_id=per_window("trial_id"),
            label=per_window("label"),
            ch_names=first.ch_names,
            bands=first.bands,
            class_names=first.class_names,
        )

    def verify(self) -> list[str]:
        """Read everything and compare checksums and keys.

        Returns
        -------
        list of str
            What is wrong, a line for each group; empty if all is well.
        """
        problems = []
        for name in self.groups:
            try:
                group = self[name]
                for start in range(0, group.features.shape[0], group.features.chunks[0]):
                    with _expecting(group.path / "features", "whole chunks"):
                        group.features[start : start + group.features.chunks[0]]
                if key_of(group.metadata) != group.metadata["key"]:
                    raise ValueError(f"{group.path}: its key is not that of its attributes.")
            except (FileNotFoundError, KeyError, ValueError) as error:
                problems.append(str(error))
        return problems

    def __repr__(self) -> str:
        return f"<FeatureStore {self.path}: {len(self)} groups>"


class _expecting:
    """Turn whatever goes wrong into one ValueError that names the path."""

    def __init__(self, path: Path, expected: str):
        self.path, self.expected = path, expected

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):
            reason = f"no {error}" if isinstance(error, KeyError) else str(error) or kind.__name__
            raise ValueError(f"{self.path}: expected {self.expected}: {reason}.") from error


def _check_json(path: Path) -> None:
    """Zarr reads the whole file, so look at its size first."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name}") from None
    if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_METADATA:
        raise ValueError(f"{path.name} is no file of at most {_MOST_METADATA} bytes")


def _checked_metadata(about: dict) -> dict:
    """Attributes of a group, all there and of the right types."""
    for name in _TEXTS:
        if not isinstance(about[name], str):
            raise ValueError(f"{name} is no text")
    for name in ("band_names", "ch_names", "class_names", "notes"):
        if not _all_of(about[name], str):
            raise ValueError(f"{name} is no list of texts")
    for name in (*IDENTITY, "window", "step", "recipe", "sfreq"):
        about[name]
    if about["layout"] != LAYOUT:
        raise ValueError(f"its layout is {about['layout']!r}, not {LAYOUT}")
    if not isinstance(about["dataset"], dict) or not isinstance(about["dataset"]["name"], str):
        raise ValueError("dataset is not named")
    columns = about["trials"]
    for name in COLUMNS:
        kind = str if name in ("subject_id", "session_id", "key") else int
        if not _all_of(columns[name], kind) or len(columns[name]) != len(columns["trial_start"]):
            raise ValueError(f"column {name} of trials is not one {kind.__name__} for each trial")
    if not all(0 <= label < len(about["class_names"]) for label in columns["label"]):
        raise ValueError("a label is not one of the classes")
    return about


def _all_of(values, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _check_array(array, path: Path) -> None:
    """Chunks are stored as they are, so what an array claims must be what its files hold."""
    codecs = [type(codec).__name__ for codec in array.metadata.codecs]
    if array.dtype != np.float32 or array.ndim != 3:
        raise ValueError(f"features are {array.ndim}-dimensional {array.dtype}, not float32 of 3")
    if codecs != ["BytesCodec", "Crc32cCodec"]:
        raise ValueError(f"features are stored with {', '.join(codecs)}, not bytes and crc32c")
    if array.chunks[1:] != array.shape[1:] or 0 in array.shape:
        raise ValueError(f"features of shape {array.shape} are in chunks of {array.chunks}")
    wanted = -(-array.shape[0] // array.chunks[0])
    size = 4 * array.chunks[0] * array.chunks[1] * array.chunks[2] + _CHECKSUM_BYTES
    for number in range(wanted):
        about = (path / array.metadata.encode_chunk_key((number, 0, 0))).lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_size != size:
            raise ValueError(f"chunk {number} has {about.st_size} bytes, not {size}")
