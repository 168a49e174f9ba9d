# SPDX-License-Identifier: BSD-3-Clause
"""What the readers of data sets check alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

__all__ = ["check_finite", "check_microvolts", "choose", "folders_below", "listed", "span"]

# Electrodes hold tens of microvolts of EEG on up to some hundred millivolts of offset.
_LEAST_PEAK, _GREATEST_PEAK = 1.0, 1e6


def check_microvolts(where: str, signal: np.ndarray) -> None:
    """Refuse a signal that has gaps or cannot be EEG in microvolts.

    Parameters
    ----------
    where : str
        File and trial, for the message.
    signal : ndarray
        The signal.

    Raises
    ------
    ValueError
        If there is a NaN or an infinity, or the largest value is under 1 or over 1e6.
    """
    check_finite(where, signal)
    peak = max(float(signal.max()), -float(signal.min()))
    if not _LEAST_PEAK <= peak <= _GREATEST_PEAK:
        hint = ", as if in volts" if 0 < peak < _LEAST_PEAK else ""
        raise ValueError(
            f"{where}: expected EEG in microvolts, got {peak:.3g} as the largest value{hint}."
        )


def check_finite(where: str, values: np.ndarray) -> None:
    """Refuse values that are empty, NaN or infinite.

    Parameters
    ----------
    where : str
        File and trial, for the message.
    values : ndarray
        The values.

    Raises
    ------
    ValueError
        If there are none, or one is NaN or infinite.
    """
    if values.size == 0:
        raise ValueError(f"{where}: expected values, got none.")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # NaN survives both
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{where}: expected finite values, got {count} NaN or infinite.")


def choose(what: str, wanted: Iterable[str | int] | None, there: Iterable[int]) -> list[int]:
    """Numbers that were asked for, all of which must be there.

    Parameters
    ----------
    what : str
        Data set and argument, for the message, such as ``"SEED: subjects"``.
    wanted : iterable of str or int, optional
        What was asked for, as ``"01"`` or ``1``; None for all.
    there : iterable of int
        What there is.

    Returns
    -------
    list of int
        In order, each once.

    Raises
    ------
    ValueError
        If one is not there, or is no number.
    """
    there = sorted(set(there))
    if wanted is None:
        return there
    if isinstance(wanted, (str, int)):
        wanted = [wanted]
    wanted = list(wanted)
    try:
        numbers = {int(item) for item in wanted}
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected numbers, got {wanted}.") from None
    unknown = numbers.difference(there)
    if unknown or not numbers:
        asked = listed(unknown) if unknown else "none"
        raise ValueError(f"{what}: expected some of {listed(there)}, got {asked}.")
    return sorted(numbers)


def folders_below(root: Path, levels: int = 2) -> Iterator[Path]:
    """A folder and those inside it, down to so many levels, in order; hidden ones are left out.

    Parameters
    ----------
    root : Path
        Where to begin.
    levels : int, default 2
        How far down.

    Yields
    ------
    Path
    """
    yield root
    if levels:
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from folders_below(path, levels - 1)


def listed(numbers: Iterable[int]) -> str:
    """Numbers in words, runs of them joined: ``"1-3, 5"``.

    Parameters
    ----------
    numbers : iterable of int
        The numbers.

    Returns
    -------
    str
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def by_subject(remarks: Iterable[tuple[int, str]]) -> list[str]:
    """What subjects lack, in words; those who lack the same share a line.

    Parameters
    ----------
    remarks : iterable of (int, str)
        Subject, and what follows its number: ``(2, ": no raw file")``.

    Returns
    -------
    list of str
        ``["subjects 2-4: no raw file"]``, in the order of their first subject.
    """
    subjects: dict[str, list[int]] = {}
    for subject, text in remarks:
        subjects.setdefault(text, []).append(subject)
    return [
        f"subject{'s' if len(numbers) > 1 else ''} {listed(numbers)}{text}"
        for text, numbers in subjects.items()
    ]


def span(middle: int, tolerance: int) -> tuple[int, int]:
    """The range around a number, from 1 on: what `MatFile.read` takes for a length.

    Parameters
    ----------
    middle, tolerance : int
        The number, and how far from it is still well.

    Returns
    -------
    tuple of int
    """
    return max(1, middle - tolerance), middle + tolerance
