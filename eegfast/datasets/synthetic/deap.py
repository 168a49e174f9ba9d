# SPDX-License-Identifier: BSD-3-Clause
"""DEAP's layout: 32 subjects, 40 music videos each, rated on four scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from eegfast.datasets.synthetic import bdf
from eegfast.datasets.synthetic._pickle2 import write_pickle2
from eegfast.datasets.synthetic._tree import (
    PlannedFile,
    Progress,
    check_count,
    check_kinds,
    check_scale,
    scaled_seconds,
    write_mat,
    write_tree,
)
from eegfast.datasets.synthetic.signals import SyntheticEEG

__all__ = ["plan_deap", "write_deap"]

KINDS = ("preprocessed", "matlab", "raw")
CLASS_NAMES = (
    "low valence, low arousal",
    "low valence, high arousal",
    "high valence, low arousal",
    "high valence, high arousal",
)
GENEVA = tuple(
    "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 "
    "CP2 P4 P8 PO4 O2".split()
)
TWENTE = tuple(
    "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 "
    "F8 AF4 Fp2 Fz Cz".split()
)
OTHERS = tuple("EXG1 EXG2 EXG3 EXG4 EXG5 EXG6 EXG7 EXG8 GSR1 GSR2 Erg1 Erg2 Resp Plet Temp".split())
N_VIDEOS, BASELINE, FIXATION, LAST_TWENTE = 40, 3, 5, 22
SFREQ, RAW_SFREQ = 128, 512
# What the status channel holds besides the code, in three kinds of file.
_HIGH_BITS = (0, 0x18FF00, 0x58FF00)
_PAUSE = 1000  # the rest before video k is made as trial _PAUSE + k


def write_deap(
    root: str | Path,
    subjects: int = 3,
    kinds: Sequence[str] = ("preprocessed",),
    scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write synthetic EEG in the layout of DEAP, without faces and questionnaires.

    Parameters, errors and result are those of `write_seed`; there are no sessions, `subjects` is up
    to 32, `kinds` are ``"preprocessed"`` (.dat), ``"matlab"`` (.mat), both at 128 Hz from 4 to 45
    Hz and without blinks, and ``"raw"`` (.bdf at 512 Hz). `scale` shortens the videos of 60 s, and
    in .bdf files what lies between them; the 3 s before a video stay.

    Notes
    -----
    In .bdf files the videos come in an order of each subject's own, and
    ``metadata_csv/participant_ratings.csv`` says in which: Trial is the place in that order,
    Experiment_id the video. Electrodes there have offsets of millivolts; EXG1 ... Temp are zero.
    """
    files = plan_deap(subjects, kinds, scale, seed)
    return write_tree(root, "deap", check_scale(scale), seed, files, progress)


def plan_deap(
    subjects: int = 3,
    kinds: Sequence[str] = ("preprocessed",),
    scale: float = 1.0,
    seed: int = 0,
) -> list[PlannedFile]:
    """The files that `write_deap` would write, with their sizes."""
    numbers, kinds = check_count("subjects", subjects, 32), check_kinds(kinds, KINDS)
    scale = check_scale(scale)
    video_s = scaled_seconds(60, scale)
    n_values = N_VIDEOS * 40 * SFREQ * (BASELINE + video_s)
    clean = SyntheticEEG(GENEVA, CLASS_NAMES, N_VIDEOS, seed, blinks=False)
    made = {
        "preprocessed": ("data_preprocessed_python/s{:02d}.dat", 8 * n_values, _write_dat),
        "matlab": ("data_preprocessed_matlab/s{:02d}.mat", 5 * n_values, _write_mat),
    }
    files = [
        PlannedFile(name.format(subject), n_bytes, partial(write, clean, subject, video_s))
        for kind, (name, n_bytes, write) in made.items()
        if kind in kinds
        for subject in numbers
    ]
    if "raw" in kinds:
        ratings = partial(_write_ratings, seed=seed)
        files.append(PlannedFile("metadata_csv/participant_ratings.csv", 60_000, ratings))
        for subject in numbers:
            names = TWENTE if subject <= LAST_TWENTE else GENEVA
            eeg = SyntheticEEG(GENEVA, CLASS_NAMES, N_VIDEOS, seed)
            session = _Session(eeg, subject, names, video_s, scale)
            n_bytes = bdf.bdf_bytes(48, RAW_SFREQ, session.seconds)
            files.append(PlannedFile(f"data_original/s{subject:02d}.bdf", n_bytes, session.write))
    return files


def quadrant(video: int) -> int:
    """Class of a video, from 1: index into `CLASS_NAMES`."""
    return video % 4


def ratings_of(seed: int, subject: int) -> np.ndarray:
    """Valence, arousal, dominance and liking of each video, (40, 4), from 1 to 9."""
    rng = np.random.default_rng([seed, 8, subject])
    sides = np.array([divmod(quadrant(video), 2) for video in range(1, N_VIDEOS + 1)])
    away = np.abs(rng.normal(0, 1.6, (N_VIDEOS, 2))) + 0.2
    felt = 5 + np.where(sides == 1, away, -away)
    rest = rng.normal(5, 1.8, (N_VIDEOS, 2)) + 0.4 * (felt[:, :1] - 5)
    return np.round(np.clip(np.hstack([felt, rest]), 1, 9), 2)


def _order(seed: int, subject: int) -> np.ndarray:
    """The videos, from 1, in the order in which a subject saw them."""
    return np.random.default_rng([seed, 9, subject]).permutation(N_VIDEOS) + 1


def _with_baseline(
    eeg: SyntheticEEG, subject: int, video: int, video_s: int, rest_s: int, sfreq: int, **options
) -> np.ndarray:
    """Rest, then a video: (32, (rest_s + video_s) * sfreq), Geneva's order."""
    before = eeg.trial(subject, 1, _PAUSE + video, None, FIXATION, sfreq, **options)
    during = eeg.trial(subject, 1, video, quadrant(video), video_s, sfreq, **options)
    return np.hstack([before[:, -1 - rest_s * sfreq : -1], during[:, :-1]])


def _peripheral(eeg: SyntheticEEG, subject: int, video: int, n_times: int) -> np.ndarray:
    """Noise for eyes and muscles; GSR, respiration, pulse, temperature as waves: (8, n_times)."""
    rng = np.random.default_rng([eeg.seed, 10, subject, video])
    t = np.arange(n_times) / SFREQ
    noise = rng.normal(0, 1, (8, n_times))
    slow = np.stack(
        [
            500 * np.cos(0.1 * t + rng.uniform(0, 6)),
            400 * np.sin(2 * np.pi * 0.25 * t + rng.uniform(0, 6)),
            800 * np.sin(2 * np.pi * 1.2 * t + rng.uniform(0, 6)),
            0.01 * t + 30,
        ]
    )
    return np.vstack([20 * noise[:2], 15 * noise[2:4], slow + noise[4:]])


def _trial(eeg: SyntheticEEG, subject: int, video: int, video_s: int) -> np.ndarray:
    """What preprocessed files hold of a video: (40, (3 + video_s) * 128)."""
    brain = _with_baseline(eeg, subject, video, video_s, BASELINE, SFREQ, band=(4.0, 45.0))
    return np.vstack([brain, _peripheral(eeg, subject, video, brain.shape[1])])


def _write_dat(eeg: SyntheticEEG, subject: int, video_s: int, stream) -> None:
    trials = (_trial(eeg, subject, video, video_s) for video in range(1, N_VIDEOS + 1))
    shape = (N_VIDEOS, 40, SFREQ * (BASELINE + video_s))
    labels = ratings_of(eeg.seed, subject)
    write_pickle2(stream, {"labels": (labels.shape, [labels]), "data": (shape, trials)})


def _write_mat(eeg: SyntheticEEG, subject: int, video_s: int, stream) -> None:
    def data() -> np.ndarray:
        return np.stack([_trial(eeg, subject, video, video_s) for video in range(1, N_VIDEOS + 1)])

    write_mat(stream, {"data": data, "labels": lambda: ratings_of(eeg.seed, subject)})


def _write_ratings(stream, seed: int) -> None:
    names = "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking"
    stream.write(f"{names},Familiarity\n".encode())
    for subject in range(1, 33):
        ratings = ratings_of(seed, subject)
        for place, video in enumerate(_order(seed, subject), start=1):
            values = ",".join(f"{value:g}" for value in ratings[video - 1])
            start = 1_000_000 * 120 * place
            stream.write(f"{subject},{place},{video},{start},{values},3\n".encode())


class _Session:
    """One subject's .bdf file: a list of screens, each of whole seconds and with its code."""

    def __init__(
        self, eeg: SyntheticEEG, subject: int, names: Sequence[str], video_s: int, scale: float
    ):
        self.eeg, self.subject, self.video_s = eeg, subject, video_s
        self.names = [*names, *OTHERS, "Status"]
        self._rows = [GENEVA.index(name) for name in names]

        def shorter(seconds: int) -> int:
            return max(1, round(seconds * scale))

        # (code, seconds, video); the code stands at the first sample.
        self._screens: list[tuple[int, int, int]] = [(1, shorter(5), 0), (1, shorter(120), 0)]
        for video in _order(eeg.seed, subject).tolist():
            self._screens += [
                (2, shorter(2), 0),
                (3, FIXATION, video),
                (4, video_s, video),
                (5, shorter(3), 0),
                (1, shorter(15), 0),
            ]
        self._screens.append((7, 2, 0))
        self.seconds = sum(seconds for _, seconds, _ in self._screens)

    def write(self, stream) -> None:
        start = datetime(2010, 2, 1, 9) + timedelta(days=self.subject)
        write = partial(bdf.write_bdf, stream, self.names, RAW_SFREQ, self.seconds)
        write(self._records(), start)

    def _records(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        high_bits = _HIGH_BITS[self.subject % 3]
        offsets = np.random.default_rng([self.eeg.seed, 11, self.subject]).uniform(-8e3, 8e3, 32)
        watch = lru_cache(1)(self._video)
        for number, (code, seconds, video) in enumerate(self._screens):
            if video:
                both = watch(video)
                cut = FIXATION * RAW_SFREQ
                brain = both[:, :cut] if code == 3 else both[:, cut:]
            else:
                rest = (self.subject, 1, 2 * _PAUSE + number, None, seconds, RAW_SFREQ)
                brain = self.eeg.trial(*rest)[:, :-1]
            brain = brain[self._rows] + offsets[:, None]
            for second in range(seconds):
                part = brain[:, second * RAW_SFREQ : (second + 1) * RAW_SFREQ]
                status = np.full(RAW_SFREQ, high_bits, np.int32)
                if second == 0:
                    status[: RAW_SFREQ // 10] |= code
                yield np.vstack([part, np.zeros((len(OTHERS), RAW_SFREQ))]), status

    def _video(self, video: int) -> np.ndarray:
        arguments = (self.eeg, self.subject, video, self.video_s, FIXATION, RAW_SFREQ)
        return _with_baseline(*arguments)
