# SPDX-License-Identifier: BSD-3-Clause
"""A user's own recordings, with a table of labels or as arrays."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from eegfast.datasets._formats import ending_of
from eegfast.datasets.dataset import Dataset, Trial
from eegfast.datasets.readers import read_recording
from eegfast.datasets.recording import Recording

__all__ = ["BYO"]

_IN_MEMORY = Path("<arrays>")


class BYO(Dataset):
    """Your own data: files that `read_recording` reads, and a CSV table of trials.

    Parameters
    ----------
    table : path-like
        CSV with a first row of names, UTF-8. Columns ``file`` and ``label`` must be there;
        ``subject_id``, ``session_id``, ``trial_id``, ``start`` and ``stop`` may; others are
        ignored. A file is relative to `root`. A trial is the whole file, or from ``start`` to
        ``stop`` (seconds, either may be blank).
    root : path-like, optional
        Where the files are; default the table's folder.
    class_names : sequence of str, optional
        Names of the classes in their order; labels are these names or numbers from 0. Default: the
        labels in the table, numbers by size, else words by the alphabet.
    picks : sequence of str, optional
        Channels to read, as for `read_recording`; default scalp EEG.
    sfreq, ch_names : float, sequence of str
        For ``.npy`` files, which know neither.

    Attributes
    ----------
    name, kind, root, class_names, trials, missing
        As `Dataset`; the kind is ``"raw"``, and nothing is ever missing.

    Raises
    ------
    FileNotFoundError
        If the table or a file in it is not there.
    ValueError
        If a row is wrong, two rows are the same trial, or two share samples of a file; the message
        has the line. When a trial is read: as `read_recording`, or if the file ends too early.

    Notes
    -----
    Without ``subject_id`` all is taken for one subject, "01", since recordings of unknown people
    cannot be held apart; so splits by subject need the column. Without ``session_id`` there is one
    session, "1"; without ``trial_id`` trials are counted in the order of the rows. A file of which
    several trials are asked for in a row is read once.

    Examples
    --------
    A table ``labels.csv``::

        file,label,subject_id,start,stop
        anna.edf,happy,1,10,70
        anna.edf,sad,1,80,140
        ben.edf,happy,2,,
    """

    name = "byo"
    kind = "raw"

    def __init__(
        self,
        table: str | Path,
        *,
        root: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        picks: Sequence[str] | None = None,
        sfreq: float | None = None,
        ch_names: Sequence[str] | None = None,
    ):
        self.table = Path(table)
        self.root = self.table.parent if root is None else Path(root)
        self.missing: list[str] = []
        self._picks, self._npy = picks, {"sfreq": sfreq, "ch_names": ch_names}
        self._arrays: list[np.ndarray] = []
        rows = self._rows()
        self.class_names, labels = _classes(
            [row["label"] for _, row in rows], class_names, [where for where, _ in rows]
        )
        counts: dict[tuple[str, str], int] = {}
        self.trials = []
        for (where, row), label in zip(rows, labels, strict=True):
            visit = _padded(row.get("subject_id", "1")), row.get("session_id", "1")
            counts[visit] = counts.get(visit, 0) + 1
            number = _number(where, row, "trial_id", counts[visit])
            if number != int(number) or number < 1:
                raise ValueError(f"{where}: trial_id must be a whole number from 1, got {number}.")
            start = _number(where, row, "start", 0.0)
            stop = _number(where, row, "stop", math.inf)
            if not 0 <= start < stop:
                raise ValueError(f"{where}: expected 0 <= start < stop, got {start} and {stop}.")
            path = self.root / row["file"]
            if not path.is_file():
                raise FileNotFoundError(f"{where}: there is no file {path}.")
            try:
                ending_of(path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            self.trials.append(Trial(*visit, int(number), label, path, (start, stop, where)))
        self._order()
        _check_apart(self.trials)

    @classmethod
    def from_arrays(
        cls,
        X: np.ndarray | Sequence[np.ndarray],
        y: Sequence,
        sfreq: float,
        ch_names: Sequence[str],
        *,
        subject_id: Iterable | str | int = "1",
        session_id: Iterable | str | int = "1",
        trial_id: Iterable[int] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> BYO:
        """Trials in memory.

        Parameters
        ----------
        X : ndarray, shape (trials, n_chans, n_times), or sequence of (n_chans, n_times)
            Microvolts, float32 or float64; not copied.
        y : sequence of str or int
            A label for each trial.
        sfreq : float
            Rate in hertz.
        ch_names : sequence of str
            Names of the channels.
        subject_id, session_id : str, int or one for each trial, default "1"
            Whose, and which visit.
        trial_id : sequence of int, optional
            Default: counted within each session.
        class_names : sequence of str, optional
            As for the class.

        Returns
        -------
        BYO

        Raises
        ------
        TypeError
            If an array is not of floating point.
        ValueError
            If shapes or lengths do not fit together, or two trials are the same.
        """
        self = cls.__new__(cls)
        self.root, self.missing, self._arrays = _IN_MEMORY, [], [np.asarray(x) for x in X]
        names = list(ch_names)
        for i, array in enumerate(self._arrays):
            if array.dtype not in (np.float32, np.float64):
                raise TypeError(
                    f"BYO: X[{i}]: expected float32 or float64 microvolts, got {array.dtype}."
                )
            if array.ndim != 2 or array.shape[0] != len(names) or array.shape[1] == 0:
                raise ValueError(
                    f"BYO: X[{i}]: expected shape ({len(names)} channels, samples), "
                    f"got {array.shape}."
                )
        self._npy = {"sfreq": sfreq, "ch_names": names}
        n = len(self._arrays)
        where = [f"BYO: trial {i} of {n}" for i in range(n)]
        given = {"y": y, "subject_id": subject_id, "session_id": session_id, "trial_id": trial_id}
        for key, value in given.items():
            given[key] = [value] * n if value is None or isinstance(value, (str, int)) else [*value]
            if len(given[key]) != n:
                raise ValueError(
                    f"BYO: {key} must have one entry for each of {n} trials, got {len(given[key])}."
                )
        self.class_names, labels = _classes([str(v) for v in given["y"]], class_names, where)
        counts: dict[tuple[str, str], int] = {}
        self.trials = []
        for i, (label, subject, session, number) in enumerate(
            zip(labels, given["subject_id"], given["session_id"], given["trial_id"], strict=True)
        ):
            visit = _padded(str(subject)), str(session)
            counts[visit] = counts.get(visit, 0) + 1
            number = counts[visit] if number is None else int(number)
            self.trials.append(Trial(*visit, number, label, _IN_MEMORY, (i, None, where[i])))
        self._order()
        return self

    def _rows(self) -> list[tuple[str, dict[str, str]]]:
        """The table's rows, without blank cells of times, and where each stands."""
        if not self.table.is_file():
            raise FileNotFoundError(f"{self.table}: there is no such file.")
        found = []
        try:
            with self.table.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.DictReader(stream, restkey="", strict=True)
                rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
                for row in rows:
                    found.append((f"{self.table}: line {rows.line_num}", row))
                columns = rows.fieldnames
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.table}: expected a CSV table in UTF-8: {error}.") from error
        absent = [name for name in ("file", "label") if name not in columns]
        if absent or len(set(columns)) < len(columns):
            raise ValueError(
                f"{self.table}: line 1: expected different columns, among them file and label, got "
                f"{', '.join(columns) or 'none'}."
            )
        if not found:
            raise ValueError(f"{self.table}: expected rows below the names of columns, got none.")
        for where, row in found:
            if "" in row or None in row.values():
                raise ValueError(f"{where}: expected {len(columns)} cells as in the first line.")
            for name in ("file", "label", "subject_id", "session_id", "trial_id", "start", "stop"):
                if name in row:
                    row[name] = row[name].strip()
                    if not row[name] and name in ("start", "stop"):
                        del row[name]
                    elif not row[name]:
                        raise ValueError(f"{where}: expected a {name}, the cell is blank.")
        return found

    def _order(self) -> None:
        """Sort the trials; none may come twice."""
        self.trials.sort(key=lambda trial: (trial.subject_id, trial.session_id, trial.trial_id))
        for one, other in pairwise(self.trials):
            if (one.subject_id, one.session_id, one.trial_id) == (
                other.subject_id,
                other.session_id,
                other.trial_id,
            ):
                raise ValueError(
                    f"{other.key[2]}: subject {one.subject_id}, session {one.session_id}, trial "
                    f"{one.trial_id} is there already ({one.key[2].rpartition(': ')[2]})."
                )

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        if path == _IN_MEMORY:
            whole = None
        else:
            npy = self._npy if ending_of(path) == ".npy" else {}
            whole = read_recording(path, picks=self._picks, **npy)
        for trial in trials:
            about = {
                "subject_id": trial.subject_id,
                "session_id": trial.session_id,
                "trial_id": trial.trial_id,
                "label": trial.label,
                "class_names": self.class_names,
            }
            start, stop, where = trial.key
            if whole is None:
                yield Recording(self._arrays[start], **self._npy, **about)
                continue
            if start >= whole.duration or (stop > whole.duration and stop != math.inf):
                raise ValueError(
                    f"{where}: expected start and stop within {whole.duration:g} s, which "
                    f"{path} has, got {start:g} to {stop:g} s."
                )
            last = whole.n_times if stop == math.inf else round(stop * whole.sfreq)
            signal = whole.signal[:, round(start * whole.sfreq) : last]
            if signal.shape[1] == 0:
                raise ValueError(f"{where}: from {start:g} to {stop:g} s there is no sample.")
            yield replace(whole, signal=signal, **about)


def _padded(subject: str) -> str:
    """Numbers of two digits, so that text order is numeric order."""
    return subject.zfill(2) if subject.isdecimal() else subject


def _number(where: str, row: dict[str, str], name: str, default: float) -> float:
    if name not in row:
        return default
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {name} must be a number, got {row[name]!r}.")
    return number


def _classes(
    labels: Sequence[str], class_names: Sequence[str] | None, where: Sequence[str]
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes, and the class of each label."""
    if class_names is None:
        try:
            names = sorted(set(labels), key=float)
        except ValueError:
            names = sorted(set(labels))
    else:
        names = [str(name) for name in class_names]
    numbers = {str(i): i for i in range(len(names))} if class_names is not None else {}
    numbers |= {name: i for i, name in enumerate(names)}
    for label, place in zip(labels, where, strict=True):
        if label not in numbers:
            raise ValueError(f"{place}: label must be one of {', '.join(names)}, got {label!r}.")
    return tuple(names), [numbers[label] for label in labels]


def _check_apart(trials: Sequence[Trial]) -> None:
    """Two trials of one file that share samples would carry the answer into the test set."""
    spans = sorted((trial.path, *trial.key) for trial in trials)
    for (path, _, stop, where), (other, start, _, there) in pairwise(spans):
        if path == other and start < stop:
            raise ValueError(
                f"{there}: {path.name} from {start:g} s on belongs to another trial already "
                f"({where.rpartition(': ')[2]})."
            )
