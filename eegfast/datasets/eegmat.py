# SPDX-License-Identifier: BSD-3-Clause
"""The bundled recordings: rest and mental arithmetic, 24 subjects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from eegfast.datasets.recording import Recording

__all__ = ["EEGMAT"]


class EEGMAT(Sequence):
    """Rest against mental arithmetic, 24 subjects, one minute of each (PhysioNet ``eegmat``).

    A sequence of `Recording`: 19 channels, 200 Hz, 60 s; two for each subject, rest (label 0, trial
    1) before arithmetic (label 1, trial 2). A recording is read when it is asked for. There is
    **one recording for each subject and class**, so only splits by subject are honest. Mental
    arithmetic is no emotion.

    Parameters
    ----------
    subjects : iterable of str or int, optional
        Which subjects, as ``"01"`` or ``1``; default all 24.
    path : path-like, optional
        Folder with ``sub-NN.npz`` and ``subjects.csv``; default the bundled one.

    Attributes
    ----------
    subjects : list of str
        Subjects, two digits each, in order.
    metadata : list of dict
        For each of `subjects`, its row of ``subjects.csv`` (texts): Subject, Age, Gender, Recording
        year, Number of subtractions, Count quality (1 good, 0 bad).
    class_names : tuple of str
        ``("rest", "arithmetic")``.
    citation, license : str
        To be given wherever the recordings are used or passed on.

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file.
    ValueError
        If a subject is not in the folder, or a file in it is damaged.

    Notes
    -----
    Every rest recording ends in 0.3 to 1 s of zeros (the last, padded record of its EDF file), no
    arithmetic recording does: left in, they give the label away. Use the first 58 s, as
    ``eegfast demo`` does.

    References
    ----------
    Zyma I. et al., "Electroencephalograms during Mental Arithmetic Task Performance", Data 2019,
    4(1):14.
    """

    class_names = ("rest", "arithmetic")
    license = (
        "Open Data Commons Attribution License v1.0 (ODC-By-1.0), "
        "https://opendatacommons.org/licenses/by/1-0/"
    )
    citation = (
        "Zyma I., Tukaev S., Seleznov I., Kiyono K., Popov A., Chernykh M., Shpenkov O. "
        "Electroencephalograms during Mental Arithmetic Task Performance. Data 2019, 4(1):14, "
        "doi:10.3390/data4010014. Goldberger A. et al. PhysioBank, PhysioToolkit, and PhysioNet. "
        "Circulation 2000, 101(23):e215-e220."
    )

    def __init__(self, subjects: Iterable[str | int] | None = None, path: str | Path | None = None):
        self._folder = files(__package__) / "eegmat" if path is None else Path(path)
        table = self._folder / "subjects.csv"
        if not table.is_file():
            raise FileNotFoundError(f"EEGMAT: there is no subjects.csv in {self._folder}.")
        with table.open(encoding="utf-8", newline="") as stream:
            rows = {row["Subject"].removeprefix("Subject"): row for row in csv.DictReader(stream)}
        if subjects is None:
            chosen = sorted(rows)
        else:
            chosen = [f"{int(subject):02d}" for subject in subjects]
            unknown = [subject for subject in chosen if subject not in rows]
            if unknown:
                raise ValueError(
                    f"EEGMAT: no subject {', '.join(unknown)}; there are {', '.join(sorted(rows))}."
                )
        self.subjects: list[str] = chosen
        self.metadata: list[dict[str, str]] = [rows[subject] for subject in chosen]

    def __len__(self) -> int:
        return 2 * len(self.subjects)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"EEGMAT: index {index} is out of range for {len(self)} recordings.")
        subject, label = divmod(index % len(self), 2)
        return self._read(self.subjects[subject], label)

    def _read(self, subject: str, label: int) -> Recording:
        file = self._folder / f"sub-{subject}.npz"
        if not file.is_file():
            raise FileNotFoundError(f"EEGMAT: there is no {file.name} in {self._folder}.")
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                counts = stored[("rest", "task")[label]]
                scale = np.float32(stored["uv_per_lsb"])
                sfreq = float(stored["fs"])
                names = [str(name) for name in stored["ch_names"]]
        except Exception as error:
            raise ValueError(f"EEGMAT: {file} is damaged: {error}") from error
        return Recording(
            signal=counts * scale,
            sfreq=sfreq,
            ch_names=names,
            subject_id=subject,
            trial_id=label + 1,
            label=label,
            class_names=self.class_names,
            source=file.name,
        )

    def __repr__(self) -> str:
        return f"<EEGMAT: {len(self.subjects)} subjects, {len(self)} recordings>"
