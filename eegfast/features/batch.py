# SPDX-License-Identifier: BSD-3-Clause
"""From recording files to feature files, one by one: what ``eegfast extract`` does."""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from eegfast import __version__, build_info
from eegfast.datasets import READABLE, files_of, read_recording
from eegfast.datasets._formats import check_file
from eegfast.features.extract import ExtractOptions, extract_features
from eegfast.features.files import Features, load_features, save_features

__all__ = ["Outcome", "extract_file", "plan_outputs"]

_SUFFIX = ".de.npz"


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Parameters
    ----------
    source, output : Path
        The recording and its feature file.
    status : {"done", "skipped", "failed"}
        "skipped": the feature file was there already, from the same data and options.
    shape : tuple of int, optional
        (windows, n_chans, bands).
    notes : tuple of str
        Remarks of the reader and on the features; the reason of a failure.
    seconds : float
        Time it took.
    error : Exception, optional
        The failure itself.
    """

    source: Path
    output: Path
    status: str
    shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: Exception | None = None


def plan_outputs(files: Iterable[str | Path], out: str | Path) -> list[tuple[Path, Path]]:
    """Name the feature file of each recording.

    ``<stem>.de.npz`` as a rule. Recordings of the same stem get the ending of the file too, then as
    many of the folders above as it takes: ``a/rec.edf`` and ``b/rec.edf`` become
    ``a_rec.edf.de.npz`` and ``b_rec.edf.de.npz``.

    Parameters
    ----------
    files : iterable of path-like
        Recordings; one that is given twice counts once.
    out : path-like
        Folder of the feature files.

    Returns
    -------
    list of (Path, Path)
        Recording and feature file, in the order given; no feature file comes twice.
    """
    sources = list({Path(file).resolve(): Path(file) for file in files}.values())
    names = [_possible_names(source.resolve()) for source in sources]
    level = [0] * len(sources)
    while True:
        chosen = [options[i].casefold() for options, i in zip(names, level, strict=True)]
        twice = [i for i, name in enumerate(chosen) if chosen.count(name) > 1]
        twice = [i for i in twice if level[i] < len(names[i]) - 1]
        if not twice:
            break
        for i in twice:
            level[i] += 1
    return [
        (source, Path(out) / (options[i] + _SUFFIX))
        for source, options, i in zip(sources, names, level, strict=True)
    ]


def _possible_names(path: Path) -> list[str]:
    """Names for a resolved path from the shortest to one that no other path has."""
    name = path.name.lower()
    endings = [ending for ending in READABLE if name.endswith(ending)] or [path.suffix]
    ending = max(endings, key=len)
    stem = path.name[: len(path.name) - len(ending)] or path.name
    folders = [part for part in path.parent.parts if part != path.anchor]
    longer = ["_".join([*folders[-k:], path.name]) for k in range(1, len(folders) + 1)]
    return [stem, path.name, *longer, f"{stem}_{_path_id(path)}"]


def _path_id(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]


def extract_file(
    source: str | Path, output: str | Path, options: ExtractOptions, *, overwrite: bool = False
) -> Outcome:
    """Features of one file, written to another.

    Parameters
    ----------
    source : path-like
        A recording that `eegfast.datasets.read_recording` reads.
    output : path-like
        Feature file to write; its folder is made if need be. It appears whole or not at all.
    options : ExtractOptions
        What to compute.
    overwrite : bool, default False
        True computes in any case. False leaves a feature file alone that holds this very thing
        (same data by SHA-256, same options, same eegfast), replaces it if data, options or eegfast
        changed or it is damaged, and fails if it comes from *another* file.

    Returns
    -------
    Outcome
        Failures are returned, not raised.

    Raises
    ------
    ImportError
        If a package that reading needs is missing.
    """
    source, output = Path(source), Path(output)
    start = time.perf_counter()

    def outcome(status: str, **more) -> Outcome:
        return Outcome(source, output, status, seconds=time.perf_counter() - start, **more)

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_file(source)
            found = {**fingerprint(source), "path_id": _path_id(source)}
            provenance = {"source": found, "options": options.as_dict()}
            known = None if overwrite else _existing(output, provenance)
            if known is not None:
                notes = tuple(known.metadata.get("notes", ()))
                return outcome("skipped", shape=known.values.shape, notes=notes)
            recording = read_recording(source, picks=options.picks)
            features = extract_features(recording, options)
            features = _with_provenance(features, provenance, caught)
        output.parent.mkdir(parents=True, exist_ok=True)
        save_features(features, output)
        return outcome("done", shape=features.values.shape, notes=tuple(features.metadata["notes"]))
    except ImportError:
        raise
    except Exception as error:
        reason = str(error).removeprefix(f"{source}: ") or type(error).__name__
        if not isinstance(error, (ValueError, TypeError, OSError)):
            reason = f"{type(error).__name__}: {reason}"
        return outcome("failed", notes=(reason,), error=error)


def fingerprint(source: Path) -> dict:
    """Name, size and SHA-256 of the data: of the file and those that hold its signal."""
    digest, size = hashlib.sha256(), 0
    files = files_of(source) if source.name.lower().endswith(tuple(READABLE)) else [source]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
                size += len(block)
    return {
        "name": source.name,
        "files": [file.name for file in files],
        "size": size,
        "sha256": digest.hexdigest(),
    }


def _existing(output: Path, provenance: dict) -> Features | None:
    """The features in `output` if they are up to date, else None."""
    try:
        features = load_features(output)
        old_source, options = features.metadata["source"], features.metadata["options"]
        software = features.metadata["software"]["eegfast"]
        same_data = old_source["sha256"] == provenance["source"]["sha256"]
        same_place = old_source["path_id"] == provenance["source"]["path_id"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if not same_data and not same_place:
        raise ValueError(
            f"{output} already holds features of another {old_source['name']}; "
            "write to another folder (-o), or replace it with overwrite (--overwrite)"
        )
    same_work = options == provenance["options"] and software == __version__
    return features if same_data and same_work else None


def _with_provenance(
    features: Features, provenance: dict, caught: list[warnings.WarningMessage]
) -> Features:
    source = provenance["source"]
    remarks = [
        str(w.message) for w in caught if issubclass(w.category, (UserWarning, RuntimeWarning))
    ]
    remarks = [re.sub(rf"^\S*{re.escape(source['name'])}: ", "", remark) for remark in remarks]
    software = {name: _version(name) for name in ("torch", "numpy", "mne", "scipy")}
    metadata = {
        **features.metadata,
        "notes": [*dict.fromkeys(remarks), *features.metadata["notes"]],
        "source": source,
        "software": {"eegfast": __version__, "kernels": bool(build_info()["kernels"]), **software},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return replace(features, metadata=metadata)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
