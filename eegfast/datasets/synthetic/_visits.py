# SPDX-License-Identifier: BSD-3-Clause
"""What SEED and its relatives share: visits, their dates, and a visit's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache, partial
from typing import BinaryIO

import numpy as np

from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.datasets.synthetic._features import band_features
from eegfast.datasets.synthetic._tree import scaled_seconds, write_mat
from eegfast.datasets.synthetic.cnt import cnt_bytes, write_cnt
from eegfast.datasets.synthetic.signals import SyntheticEEG

SFREQ, RAW_SFREQ = 200, 1000
REST = 1000  # the pause before trial k is made as trial REST + k


def _raw_names() -> tuple[str, ...]:
    """The 62, with the mastoids and the eyes among them and not behind."""
    names = list(SEED_CHANNELS)
    for new, after in (("M1", "T8"), ("M2", "TP8"), ("VEO", "PO8"), ("HEO", "VEO")):
        names.insert(names.index(after) + 1, new)
    return tuple(names)


RAW_CHANNELS = _raw_names()


@dataclass(frozen=True)
class Visit:
    """One session of one subject.

    Parameters
    ----------
    eeg : SyntheticEEG
        Makes the signals.
    subject, session : int
        From 1.
    labels, seconds : sequence of int
        Class and length of each trial.
    """

    eeg: SyntheticEEG
    subject: int
    session: int
    labels: Sequence[int]
    seconds: Sequence[int]

    def signal(self, index: int) -> np.ndarray:
        """Trial `index`, from 0: float64 at 200 Hz, ``200 * seconds + 1`` samples."""
        return self._make(index, SFREQ).astype(np.float64)

    def raw_signal(self, index: int) -> np.ndarray:
        """Trial `index`, from 0, at 1000 Hz, without the sample of its end."""
        return self._make(index, RAW_SFREQ)[:, :-1]

    def pause(self, index: int, seconds: int) -> np.ndarray:
        """Rest before trial `index`, at 1000 Hz."""
        number = REST + index
        made = self.eeg.trial(self.subject, self.session, number, None, seconds, RAW_SFREQ)
        return made[:, :-1]

    def _make(self, index: int, sfreq: int) -> np.ndarray:
        label, seconds = self.labels[index], self.seconds[index]
        return self.eeg.trial(self.subject, self.session, index + 1, label, seconds, sfreq)


def visit_date(seed: int, subject: int, order: int, year: int = 2013) -> date:
    """Day of a subject's first, second ... visit, over the turn of months and years too."""
    rng = np.random.default_rng([seed, 4, subject])
    first, gaps = int(rng.integers(0, 60)), rng.integers(6, 60, 4)
    return date(year, 10, 1) + timedelta(days=first + int(gaps[:order].sum()))


def initials(seed: int, subject: int, session: int) -> str:
    """What a file's variables begin with: two or three letters, others in each file."""
    rng = np.random.default_rng([seed, 5, subject, session])
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 4)))


def mat_bytes(n_values: int) -> int:
    """About what double values of single precision take, compressed."""
    return round(4.9 * n_values)


def signal_bytes(seconds: Sequence[int]) -> int:
    """About what a visit's trials take as a .mat file."""
    return mat_bytes(sum(seconds) * SFREQ * len(SEED_CHANNELS))


def write_signals(stream: BinaryIO, visit: Visit) -> None:
    """A visit's trials as ``<initials>_eeg1`` ... of a .mat file."""
    prefix = f"{initials(visit.eeg.seed, visit.subject, visit.session)}_eeg"
    trials = range(len(visit.labels))
    write_mat(stream, {f"{prefix}{i + 1}": partial(visit.signal, i) for i in trials})


def write_features(
    stream: BinaryIO,
    n_trials: int,
    features_of: Callable[[int], dict[str, np.ndarray]],
    names: Sequence[str],
    joint: str = "",
) -> None:
    """Features of trials, all of one trial after all of the one before, as ``de_LDS1`` ..."""
    features_of = lru_cache(1)(features_of)
    makers = {
        f"{name}{joint}{i + 1}": lambda i=i, name=name: features_of(i)[name]
        for i in range(n_trials)
        for name in names
    }
    write_mat(stream, makers)


def four_second_features(signal: np.ndarray) -> dict[str, np.ndarray]:
    """Features of a trial in windows of 4 s, (windows, channels, bands)."""
    return band_features(signal, SFREQ, window=4)


def times_at(
    starts: Sequence[int], ends: Sequence[int], scale: float
) -> tuple[list[int], list[int]]:
    """When trials start and end, in seconds, with trials and pauses shortened."""
    new_starts, new_ends, before, at = [], [], 0, 0
    for start, end in zip(starts, ends, strict=True):
        new_starts.append(at + max(1, round((start - before) * scale)))
        new_ends.append(new_starts[-1] + scaled_seconds(end - start, scale))
        before, at = end, new_ends[-1]
    return new_starts, new_ends


def raw_bytes(ends: Sequence[int]) -> int:
    """Size of a visit's .cnt file."""
    return cnt_bytes(len(RAW_CHANNELS), RAW_SFREQ * (ends[-1] + 1), 2 * len(ends))


def write_raw(
    stream: BinaryIO,
    visit: Visit,
    starts: Sequence[int],
    ends: Sequence[int],
    started: datetime,
    shift: int = 0,
) -> None:
    """A visit as a .cnt file with an event at the start (1) and at the end (2) of each trial.

    `shift` moves the events away from the truth, in samples.
    """
    events = [
        (RAW_SFREQ * second + shift, code)
        for pair in zip(starts, ends, strict=True)
        for code, second in enumerate(pair, start=1)
    ]
    n_times = RAW_SFREQ * (ends[-1] + 1)
    blocks = (_with_body(block) for block in _session(visit, starts, ends))
    write_cnt(stream, RAW_CHANNELS, RAW_SFREQ, n_times, blocks, events, started)


def _session(visit: Visit, starts: Sequence[int], ends: Sequence[int]) -> Iterator[np.ndarray]:
    at = 0
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        yield visit.pause(index, start - at)
        yield visit.raw_signal(index)
        at = end
    yield visit.pause(len(starts), 1)


def _with_body(block: np.ndarray) -> np.ndarray:
    """Add mastoids and eyes, which echo the electrodes near them."""
    place = SEED_CHANNELS.index
    echoes = {
        "M1": 0.3 * block[place("TP7")],
        "M2": 0.3 * block[place("TP8")],
        "VEO": block[place("FP1")] + block[place("FP2")],
        "HEO": block[place("F7")] - block[place("F8")],
    }
    rows = [echoes[name] if name in echoes else block[place(name)] for name in RAW_CHANNELS]
    return np.stack(rows)
