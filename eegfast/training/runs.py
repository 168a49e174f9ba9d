# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a run: what an experiment writes and everything after it reads.

::

    RUN/
        recipe.yaml             the whole recipe, resolved
        run.json                protocol, data, classes, planned fits, versions, machine, command
        fits/01-subject-01/     one folder per split
            history.csv         learning curve: one row per epoch
            model.safetensors   the trained network
            pipeline/           the normalisation's numbers, if it has any
            predictions.npz     what the network answers on the test side
            done.json           written last: a fit without it is not finished
            checkpoints/        only while the fit is not finished

Every file is written beside its name and moved there, so that none is ever half-written. Reading
runs no code: no pickles, JSON, CSV, safetensors and plain arrays only.
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from eegfast.models.base import Network

FORMAT, VERSION = "eegfast-run", 1
PREDICTIONS = {
    "proba": np.float32,
    "label": np.int64,
    "subject_id": np.str_,
    "session_id": np.str_,
    "trial_id": np.int64,
    "sample": np.int64,
}


class Fit:
    """One fit of a run, finished or not.

    Parameters
    ----------
    path : path-like
        Its folder.

    Attributes
    ----------
    path : Path
        The folder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Fit({str(self.path)!r})"

    @property
    def name(self) -> str:
        """Name of the split, such as ``"subject 01, session 2"``; of the folder if unfinished."""
        return str(self.facts["split"]) if self.finished else self.path.name

    @property
    def finished(self) -> bool:
        """Whether ``done.json`` is there."""
        return (self.path / "done.json").is_file()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``done.json`` says: ``split``, ``leaks``, counts, epochs, seconds, seed."""
        return read_json(self.path / "done.json")

    @property
    def leaks(self) -> bool:
        """Whether something of the test side was at hand in training."""
        return bool(self.facts["leaks"])

    @property
    def pipeline_path(self) -> Path:
        """Folder of the normalisation's numbers; it is there only if there are any."""
        return self.path / "pipeline"

    def history(self) -> dict[str, list]:
        """Read the learning curve.

        Returns
        -------
        dict of str to list
            Columns of ``history.csv``: ``stage`` (text), ``epoch`` (int), others float. A value
            that an epoch does not have is NaN.
        """
        path = self.path / "history.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            kinds = {"stage": str, "epoch": int}
            return {
                column: [kinds.get(column, _number)(row[column]) for row in rows]
                for column in (rows[0] if rows else ())
            }
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path}: not a learning curve: {error}") from None

    def predictions(self) -> dict[str, np.ndarray]:
        """Read what the network answered on the test side.

        Returns
        -------
        dict of str to ndarray
            ``proba`` (n, n_outputs), and of length n: ``label``, ``subject_id``, ``session_id``,
            ``trial_id`` and ``sample``, the index into the prepared data.
        """
        path = self.path / "predictions.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                answers = {name: file[name] for name in PREDICTIONS}
        except FileNotFoundError:
            raise
        except Exception as error:  # zip, NumPy and missing names: all mean one thing
            raise ValueError(f"{path}: expected arrays {', '.join(PREDICTIONS)}: {error}") from None
        if answers["proba"].ndim != 2 or len({len(a) for a in answers.values()}) != 1:
            raise ValueError(f"{path}: its arrays are not of one length")
        return answers

    def model(self, device: str = "cpu") -> Network:
        """Load the trained network, in evaluation mode."""
        from eegfast.models import from_pretrained

        return from_pretrained(self.path / "model.safetensors", device)


class Run:
    """A run folder, opened for reading.

    Parameters
    ----------
    path : path-like
        The folder that :func:`~eegfast.training.run_experiment` wrote or is writing.

    Attributes
    ----------
    path : Path
        The folder.
    facts : dict
        What ``run.json`` says.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no ``run.json`` or it is not of a run that this version knows.

    Examples
    --------
    >>> run = Run("runs/ldm-eeg")  # doctest: +SKIP
    >>> [fit.predictions()["proba"].shape for fit in run.fits]  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.facts = read_json(self.path / "run.json")
        if self.facts.get("format") != FORMAT:
            raise ValueError(f"{self.path / 'run.json'}: not a run of eegfast")
        if self.facts.get("version") != VERSION:
            raise ValueError(
                f"{self.path / 'run.json'}: a run of version {self.facts.get('version')!r}, "
                f"this eegfast reads version {VERSION}"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def recipe(self):
        """The recipe it follows."""
        from eegfast.training.recipe import load_recipe

        return load_recipe(self.path / "recipe.yaml")

    @property
    def protocol(self) -> dict[str, Any]:
        """How the data was split: the protocol's ``describe()``."""
        return self.facts["protocol"]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self.facts["class_names"])

    @property
    def leaks(self) -> bool:
        """Whether a finished fit, or the protocol, leaks."""
        return bool(self.protocol.get("leaks")) or any(fit.leaks for fit in self.fits)

    def _planned(self) -> list[Fit]:
        folder = self.path / "fits"
        names = [str(fit["folder"]) for fit in self.facts["fits"]]
        for name in names:
            if Path(name).name != name:
                raise ValueError(f"{self.path / 'run.json'}: {name!r} is no name of a folder")
        return [Fit(folder / name) for name in names]

    @property
    def fits(self) -> list[Fit]:
        """Finished fits, in the protocol's order."""
        return [fit for fit in self._planned() if fit.finished]

    @property
    def unfinished(self) -> list[Fit]:
        """Fits that are begun or still to begin."""
        return [fit for fit in self._planned() if not fit.finished]


def fit_folder(number: int, split: str) -> str:
    """Name of a fit's folder: ``fit_folder(0, "subject 01")`` is ``"01-subject-01"``."""
    plain = unicodedata.normalize("NFKD", split).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60].rstrip("-")
    return f"{number + 1:02d}-{slug}" if slug else f"{number + 1:02d}"


def write_file(
    path: str | os.PathLike, write: Callable[[Path], object], *, sync: bool = True
) -> Path:
    """Write a file as a whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; one of that name is replaced. Its folder is made if missing.
    write : callable
        Given the path of a temporary file beside it, writes there.
    sync : bool, default True
        Wait for the disk, so that it is whole after a power failure too.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        write(part)
        if sync:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike, content: Mapping) -> Path:
    """Write JSON, as a whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return write_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON object; an error names the file."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object expected, got {type(content).__name__}")
    return content


def write_history(
    path: str | os.PathLike, rows: list[Mapping[str, object]], *, sync: bool = True
) -> Path:
    """Write a learning curve: one mapping of column to value per epoch, gaps left empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    return write_file(path, write, sync=sync)


def write_predictions(path: str | os.PathLike, **arrays: ArrayLike) -> Path:
    """Write answers: arguments as :meth:`Fit.predictions` returns them."""
    if set(arrays) != set(PREDICTIONS):
        raise ValueError(
            f"write_predictions: expected {', '.join(PREDICTIONS)}, got {', '.join(arrays)}"
        )
    cast = {name: np.asarray(arrays[name]).astype(kind) for name, kind in PREDICTIONS.items()}
    return write_file(path, lambda part: np.savez_compressed(part, **cast))


def _number(text: str) -> float:
    return float(text) if text else float("nan")
