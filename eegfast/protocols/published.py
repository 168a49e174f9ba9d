# SPDX-License-Identifier: BSD-3-Clause
"""Splits of published work, to compare with it. What each of them mixes it says itself."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from eegfast.protocols.holdout import deal
from eegfast.protocols.protocol import Protocol, Split, by_session
from eegfast.protocols.samples import Samples

_ONE_SESSION = "Training and test come from the same subject on the same day"


def _session_seed(seed: int, session: str) -> list[int]:
    """A seed of the session's own: its folds do not depend on which others are there."""
    return [seed, zlib.crc32(session.encode())]


def _at_least_two(protocol: str, n_splits: int) -> int:
    if n_splits < 2:
        raise ValueError(f"{protocol}: n_splits must be at least 2, got {n_splits}")
    return n_splits


class _FirstTrials(Protocol):
    """Each session alone: its first trials are trained on, the rest are tested."""

    n_train: int
    n_trials: int
    mixes = f"{_ONE_SESSION}; no trial is on both sides."

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        numbers = trials.trial_id
        if numbers.min() < 1 or numbers.max() > self.n_trials:
            raise ValueError(
                f"{self.name}: trials are numbered 1 to {self.n_trials} in each session, got "
                f"{numbers.min()} to {numbers.max()}: is this another data set?"
            )
        for name, rows in by_session(trials):
            first = numbers[rows] <= self.n_train
            yield Split(name, rows[first], rows[~first])


class SEEDTrials(_FirstTrials):
    """SEED's usual split: in each session trials 1-9 are trained on, 10-15 tested."""

    name = "seed-9-6"
    n_train, n_trials = 9, 15
    citation = (
        "Zheng and Lu, Investigating critical frequency bands and channels for EEG-based emotion "
        "recognition with deep neural networks, IEEE TAMD 7(3), 2015"
    )


class SEEDIVTrials(_FirstTrials):
    """SEED-IV's usual split: in each session trials 1-16 are trained on, 17-24 tested.

    In session 1 the last eight trials hold no sad clip (class 1), so one class is never tested.
    """

    name = "seed-iv-16-8"
    n_train, n_trials = 16, 24
    citation = (
        "Zheng, Liu, Lu, Lu and Cichocki, EmotionMeter: a multimodal framework for recognizing "
        "human emotions, IEEE Transactions on Cybernetics 49(3), 2019"
    )


class WithinSessionTrialKFold(Protocol):
    """K folds over the whole trials of each session alone.

    HAMNet has five folds in each session of SEED, each of about 680 s. Three whole trials are as
    long; so are random seconds, and the paper does not say which: see :class:`WithinSessionWindows`
    for the other reading.

    Parameters
    ----------
    n_splits : int
        Folds, at most the trials of a session.
    seed : int
        Seed of the shuffle. A session's folds do not depend on which others are there.
    stratify : bool
        Deal trials out class by class, so that the folds have alike class counts.
    """

    name = "session-trial-k-fold"
    mixes = f"{_ONE_SESSION}; no trial is on both sides."
    citation = "HAMNet (Yan, Lu, Niu and Yan), read as whole trials; the text does not say"

    def __init__(self, n_splits: int = 5, seed: int = 0, stratify: bool = True):
        self.n_splits, self.seed, self.stratify = _at_least_two(self.name, n_splits), seed, stratify

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        for name, rows in by_session(trials):
            if len(rows) < self.n_splits:
                raise ValueError(
                    f"{self.name}: {self.n_splits} folds need as many trials, "
                    f"{name} has {len(rows)}"
                )
            classes = trials.label[rows] if self.stratify else None
            folds = deal(rows, self.n_splits, _session_seed(self.seed, name), rows, classes)
            for i, fold in enumerate(folds, 1):
                yield Split(f"{name}, fold {i}", np.setdiff1d(rows, fold), np.sort(fold))


class PooledTrialKFold(Protocol):
    """K folds over all trials of all subjects together: grouped k-fold by trial.

    ScalingNet's five folds over the 1280 trials of DEAP.

    Parameters
    ----------
    n_splits : int
        Folds, at most the trials.
    seed : int
        Seed of the shuffle.
    stratify : bool
        Deal trials out class by class, so that the folds have alike class counts.
    """

    name = "pooled-trial-k-fold"
    mixes = (
        "Other trials of the same subject and session are on both sides, and the clips too. It is "
        "often called cross-subject, but every subject is trained on. No trial is on both sides."
    )
    citation = "ScalingNet (Hu et al., arXiv:2105.13987, 2021), five folds"

    def __init__(self, n_splits: int = 5, seed: int = 0, stratify: bool = False):
        self.n_splits, self.seed, self.stratify = _at_least_two(self.name, n_splits), seed, stratify

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        rows = np.arange(len(trials))
        if len(rows) < self.n_splits:
            raise ValueError(
                f"{self.name}: {self.n_splits} folds need as many trials, got {len(rows)}"
            )
        folds = deal(rows, self.n_splits, self.seed, rows, trials.label if self.stratify else None)
        for i, fold in enumerate(folds, 1):
            yield Split(f"fold {i}", np.setdiff1d(rows, fold), np.sort(fold))


class SubjectHoldout(Protocol):
    """One random split of the subjects in three: ResAttentioNet's 70/15/15.

    Shares are cut to whole subjects: of 15 subjects 10 are trained on, 2 validate, 3 are tested.
    The draw is repeated, up to 100 times, until each side has every class. The authors drew from
    another generator, so these are not their subjects.

    Parameters
    ----------
    train, validation : float
        Shares of the subjects; the rest is tested.
    seed : int
        Seed of the draw. One draw of three test subjects says little: try several.
    """

    name = "subject-70-15-15"
    apart = "subject"
    mixes = (
        "Nothing of the tested subjects is trained on. Where all subjects watch the same clips, as "
        "in the SEED sets, the clips are on both sides, and clips of different lengths that are "
        "padded give themselves away."
    )
    citation = "ResAttentioNet, one split of the subjects"

    def __init__(self, train: float = 0.70, validation: float = 0.15, seed: int = 42):
        if not (train > 0 and validation > 0 and train + validation < 1):
            raise ValueError(
                f"{self.name}: train and validation must be shares above 0 with a sum below 1, "
                f"got {train} and {validation}"
            )
        self.train, self.validation, self.seed = train, validation, seed

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        subjects, classes = np.unique(trials.subject_id), np.unique(trials.label)
        shares = [int(round(share * len(subjects), 9)) for share in (self.train, self.validation)]
        if 0 in shares:
            raise ValueError(
                f"{self.name}: {len(subjects)} subjects are too few, {shares[0]} would be trained "
                f"on and {shares[1]} validate"
            )
        rng = np.random.default_rng(self.seed)
        for _ in range(100):
            parts = np.split(rng.permutation(subjects), np.cumsum(shares))
            rows = [np.flatnonzero(np.isin(trials.subject_id, part)) for part in parts]
            if all(len(np.unique(trials.label[side])) == len(classes) for side in rows):
                train, validation, test = rows
                yield Split("subjects", train, test, validation)
                return
        raise ValueError(f"{self.name}: no draw of 100 has every class on every side")


class _Windows(Protocol):
    """Windows dealt out one by one, whatever trial they are of."""

    leaks = True
    mixes = (
        "Windows of one trial are on both sides, often neighbours in time, nearly alike and of one "
        "label: a score says how well trials are told apart that the network has seen, not how "
        "well emotions are."
    )

    @property
    def apart(self) -> str | None:
        """What never lies on both sides: trials, unless leakage is allowed."""
        return None if self.allow_leakage else "trial"


class RandomWindows(_Windows):
    """Each session's windows divided at random, 6:4. It leaks.

    Public ports of SST-EmotionNet split so, one network for each subject and session; its authors
    also chose the epoch by the test side, which is not offered here. LDM-EEG's text has a
    random division of samples, 6:4 most likely, and does not say whether within sessions.

    Parameters
    ----------
    train : float
        Share of the windows that is trained on.
    within : {"session", None}
        ``"session"``: one split for each subject and session. ``None``: one of all windows.
    seed : int
        Seed of the shuffle. A session's split does not depend on which others are there.
    allow_leakage : bool
        Must be True, or :meth:`splits` raises LeakageError.
    """

    name = "random-windows"
    citation = (
        "LDM-EEG (Lei and Liu, Computer Science 50(6A), 2023); SST-EmotionNet (Jia et al., ACM MM "
        "2020) as ported"
    )

    def __init__(
        self,
        train: float = 0.6,
        within: str | None = "session",
        seed: int = 0,
        *,
        allow_leakage: bool = False,
    ):
        if not 0 < train < 1:
            raise ValueError(f"{self.name}: train must be a share between 0 and 1, got {train}")
        if within not in ("session", None):
            raise ValueError(f"{self.name}: within must be 'session' or None, got {within!r}")
        self.train, self.within, self.seed = train, within, seed
        self.allow_leakage = allow_leakage

    def _splits(self, samples: Samples) -> Iterator[Split]:
        pooled = [("all subjects", np.arange(len(samples)))]
        for name, rows in by_session(samples) if self.within else pooled:
            order = np.random.default_rng(_session_seed(self.seed, name)).permutation(rows)
            train, test = np.split(order, [round(self.train * len(rows))])
            yield Split(name, np.sort(train), np.sort(test))


class WithinSessionWindows(_Windows):
    """K folds over the single windows of each session. It leaks.

    HAMNet's five folds, read as folds of random seconds.

    Parameters
    ----------
    n_splits : int
        Folds.
    seed : int
        Seed of the shuffle. A session's folds do not depend on which others are there.
    allow_leakage : bool
        Must be True, or :meth:`splits` raises LeakageError.
    """

    name = "session-window-k-fold"
    citation = "HAMNet (Yan, Lu, Niu and Yan), read as single seconds; the text does not say"

    def __init__(self, n_splits: int = 5, seed: int = 0, *, allow_leakage: bool = False):
        self.n_splits, self.seed = _at_least_two(self.name, n_splits), seed
        self.allow_leakage = allow_leakage

    def _splits(self, samples: Samples) -> Iterator[Split]:
        for name, rows in by_session(samples):
            if len(rows) < self.n_splits:
                raise ValueError(
                    f"{self.name}: {self.n_splits} folds need as many windows, "
                    f"{name} has {len(rows)}"
                )
            folds = deal(rows, self.n_splits, _session_seed(self.seed, name), rows)
            for i, fold in enumerate(folds, 1):
                yield Split(f"{name}, fold {i}", np.setdiff1d(rows, fold), np.sort(fold))
