# SPDX-License-Identifier: BSD-3-Clause
"""What all protocols have in common: checked splits, and what they say about themselves."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from eegfast.protocols.holdout import hold_out_subjects
from eegfast.protocols.leakage import LeakageError, LeakageWarning, as_indices, check_split
from eegfast.protocols.samples import LEVELS, Samples


@dataclass(frozen=True, eq=False)
class Split:
    """Who is trained on and who is tested, as ascending indices of samples.

    Attributes
    ----------
    name : str
        Which split of the protocol, such as ``"subject 01, session 2"``.
    train, test : ndarray of int
        The two sides.
    validation : ndarray of int or None
        A third side, for the learning rate and early stopping, where the protocol has one.
    leaks : bool
        Windows of one trial may lie on both sides. Whatever is made of such a split says so too.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None
    leaks: bool = False

    def hold_out(self, groups: ArrayLike, n_groups: int, seed: int = 0) -> Split:
        """Take whole groups out of the training side, for validation.

        Parameters
        ----------
        groups : array_like, shape (n_samples,)
            Group of each sample of the whole data set: ``samples.subject_id``,
            ``samples.groups("session")`` or ``samples.groups("trial")``.
        n_groups : int
            Groups to take.
        seed : int
            Seed of the draw.

        Returns
        -------
        Split
            With a smaller ``train`` and a ``validation``.

        Raises
        ------
        ValueError
            If the split has a validation side already, or too few groups to train on are left.
        """
        if self.validation is not None:
            raise ValueError(f"hold_out: split {self.name!r} has a validation side already")
        train, validation = hold_out_subjects(self.train, groups, n_groups, seed)
        return replace(self, train=train, validation=validation)


class Protocol(abc.ABC):
    """A rule that says which samples are trained on and which are tested.

    Every split is passed through :func:`~eegfast.protocols.check_split` for what the protocol
    promises to keep apart. A protocol of your own implements ``_trial_splits``.

    Attributes
    ----------
    name : str
        Name for :func:`~eegfast.protocols.create` and for reports.
    mixes : str
        What lies on both sides, in plain sentences.
    leaks : bool
        Windows of one trial lie on both sides: scores say nothing about new trials.
    apart : {"subject", "session", "trial"} or None
        What never lies on both sides; the finer ones follow. ``None``: nothing but the samples.
    citation : str or None
        Who published or uses it.
    """

    name: str
    mixes: str
    leaks: bool = False
    apart: str | None = "trial"
    citation: str | None = None

    def splits(self, samples: Samples) -> Iterator[Split]:
        """Yield the checked splits.

        Parameters
        ----------
        samples : Samples
            All samples; indices of the splits refer to them.

        Yields
        ------
        Split

        Raises
        ------
        LeakageError
            If windows of one trial would be on both sides and ``allow_leakage`` is not set.
        ValueError
            If the samples do not fit the protocol.

        Warns
        -----
        LeakageWarning
            If windows of one trial may be on both sides.
        """
        if not isinstance(samples, Samples):
            raise TypeError(
                f"{self.name}: samples must be eegfast.protocols.Samples, "
                f"got {type(samples).__name__}"
            )
        warned = not self.leaks
        for split in self._splits(samples):
            self._check(split, samples)
            if not warned:
                warned = True
                warnings.warn(f"{self.name}: {self.mixes}", LeakageWarning, stacklevel=2)
            yield replace(split, leaks=self.leaks)

    def _splits(self, samples: Samples) -> Iterator[Split]:
        """Splits of the samples: by default, all samples of a trial go where the trial goes."""

        def samples_of(rows: np.ndarray) -> np.ndarray:
            chosen = np.zeros(len(samples.trials), bool)
            chosen[rows] = True
            return np.flatnonzero(chosen[samples.trial])

        for split in self._trial_splits(samples.trials):
            validation = None if split.validation is None else samples_of(split.validation)
            yield Split(split.name, samples_of(split.train), samples_of(split.test), validation)

    def _trial_splits(self, trials: Samples) -> Iterator[Split]:
        """Splits of a table of trials."""
        raise NotImplementedError

    def _check(self, split: Split, samples: Samples) -> None:
        sides = {"train": split.train, "test": split.test}
        if split.validation is not None:
            sides["validation"] = split.validation
        for name, side in sides.items():
            if len(side) == 0:
                raise ValueError(f"{self.name}: {split.name}: the {name} side has no sample")
        a, b = sides.pop("train"), sides.pop("test")
        pairs = [(a, b), *((side, c) for c in sides.values() for side in (a, b))]
        try:
            for a, b in pairs:
                self._check_pair(a, b, samples)
        except LeakageError as error:
            hint = "; allow_leakage=True runs it and marks what comes of it"
            message = f"{self.name}: {split.name}: {error}{hint if self._may_leak else ''}"
            raise LeakageError(message, error.shared) from None

    def _check_pair(self, a: np.ndarray, b: np.ndarray, samples: Samples) -> None:
        if self.apart is None:
            both = np.concatenate([a, b])
            check_split(range(len(a)), range(len(a), len(both)), both, what="sample")
        else:
            trials = [np.unique(samples.trial[side]) for side in (a, b)]
            check_split(*trials, samples.trials.groups(self.apart), what=self.apart)

    @property
    def _may_leak(self) -> bool:
        return hasattr(self, "allow_leakage")

    def as_sklearn(self, samples: Samples) -> SklearnSplitter:
        """Make a ``cv=`` for scikit-learn; arguments as :meth:`splits`.

        Returns
        -------
        SklearnSplitter
            For ``cross_val_score``, ``GridSearchCV`` and the like.
        """
        return SklearnSplitter(self, samples)

    def describe(self) -> dict[str, object]:
        """Plain values for a report.

        Returns
        -------
        dict
            ``name``, ``options``, ``mixes``, ``apart``, ``leaks``, ``citation``.
        """
        options = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return {
            "name": self.name,
            "options": options,
            "mixes": self.mixes,
            "apart": self.apart,
            "leaks": self.leaks,
            "citation": self.citation,
        }

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.describe()["options"].items())
        return f"{type(self).__name__}({options})"


class SklearnSplitter:
    """The splits of a protocol for given samples, as scikit-learn takes them.

    They are made, and checked, when this is made. A validation side is used in neither role.

    Parameters
    ----------
    protocol : Protocol
        Whose.
    samples : Samples
        One entry per row of the ``X`` that will be split.

    Attributes
    ----------
    protocol : Protocol
        Where it comes from.
    leaks : bool
        As the protocol.
    """

    def __init__(self, protocol: Protocol, samples: Samples):
        self.protocol, self.leaks = protocol, protocol.leaks
        self._n = len(samples)
        self._sides = [(split.train, split.test) for split in protocol.splits(samples)]

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of splits."""
        return len(self._sides)

    def split(self, X, y=None, groups=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield index pairs.

        Parameters
        ----------
        X : array_like, shape (n_samples, ...)
            In the order of the samples.
        y, groups : ignored
            For scikit-learn's sake.

        Yields
        ------
        train, test : ndarray of int
            Ascending indices.

        Raises
        ------
        ValueError
            If ``X`` has another length than the samples.
        """
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        if n != self._n:
            raise ValueError(
                f"{self.protocol.name}: X has {n} rows, the splits are of {self._n} samples; for a "
                "part of X make them anew: protocol.as_sklearn(samples.take(part))"
            )
        yield from self._sides

    def __repr__(self) -> str:
        return f"{self.protocol!r}.as_sklearn({self._n} samples)"


class CustomSplit(Protocol):
    """Your own indices, checked like everybody's.

    Parameters
    ----------
    train, test : array_like of int or bool
        Indices of samples, or masks.
    validation : array_like of int or bool, optional
        A third side.
    apart : {"subject", "session", "trial"}
        What must not lie on both sides.
    allow_leakage : bool
        True lets windows of one trial lie on both sides. The split then counts as leaking, whether
        they do or not.
    citation : str, optional
        Where it comes from.

    Examples
    --------
    >>> samples = Samples(["01"] * 4, ["1"] * 4, [1, 1, 2, 2], [0, 0, 1, 1])
    >>> (split,) = CustomSplit([0, 1], [2, 3]).splits(samples)
    >>> list(CustomSplit([0, 2], [1, 3]).splits(samples))
    Traceback (most recent call last):
    ...
    eegfast.protocols.leakage.LeakageError: custom: custom: 2 trials on both sides of the split: \
01/1/1, 01/1/2; allow_leakage=True runs it and marks what comes of it
    """

    name = "custom"

    def __init__(
        self,
        train: ArrayLike,
        test: ArrayLike,
        validation: ArrayLike | None = None,
        *,
        apart: str = "trial",
        allow_leakage: bool = False,
        citation: str | None = None,
    ):
        if apart not in LEVELS:
            raise ValueError(
                f"CustomSplit: apart must be one of {', '.join(LEVELS)}, got {apart!r}"
            )
        self._sides = (train, test, validation)
        self.apart = None if allow_leakage else apart
        self.allow_leakage = self.leaks = bool(allow_leakage)
        self.citation = citation

    @property
    def mixes(self) -> str:
        """What lies on both sides."""
        if self.leaks:
            return "Indices given by hand, unchecked: windows of one trial may be on both sides."
        return f"Indices given by hand. No {self.apart} is on both sides."

    def _splits(self, samples: Samples) -> Iterator[Split]:
        names = ("train", "test", "validation")
        sides = [
            None if side is None else np.sort(as_indices(name, side, len(samples)))
            for name, side in zip(names, self._sides, strict=True)
        ]
        yield Split(self.name, *sides)


def by_session(trials: Samples) -> Iterable[tuple[str, np.ndarray]]:
    """Name and rows of each session of a table of trials, in order of subject and session."""
    keys = trials.groups("session")
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        yield f"subject {trials.subject_id[rows[0]]}, session {trials.session_id[rows[0]]}", rows
