# SPDX-License-Identifier: BSD-3-Clause
"""Where trials come from: a data set's folder, a feature store, the bundled recordings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from eegfast.datasets import EEGMAT, Dataset, Recording, Trial, TrialFeatures
from eegfast.datasets.registry import DATASETS, open_dataset
from eegfast.features.store import FeatureStore
from eegfast.training._plain import nearest
from eegfast.training.recipe_sections import Data

BUNDLED = "bundled"
"""What is given as root for the recordings that come with the package."""


class BundledTrials(Dataset):
    """The bundled recordings as a data set: rest is trial 1, arithmetic trial 2.

    Parameters
    ----------
    root : path-like or None
        Folder of another copy; None: the package's.
    subjects : iterable of str or int, optional
        Default all.
    """

    name, kind = "eegmat", "preprocessed"

    def __init__(self, root: str | Path | None = None, subjects=None):
        self._recordings = EEGMAT(subjects, root)
        self.root = Path(str(self._recordings._folder))
        self.class_names, self.missing = EEGMAT.class_names, []
        self.trials = [
            Trial(subject, "1", label + 1, label, self.root / f"sub-{subject}.npz", label)
            for subject in self._recordings.subjects
            for label in (0, 1)
        ]

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator[Recording]:
        for trial in trials:
            place = 2 * self._recordings.subjects.index(trial.subject_id) + trial.label
            yield replace(self._recordings[place], session_id="1", source=str(path))


class StoredTrials(Dataset):
    """Trials of a feature store, as a data set of supplied features.

    Parameters
    ----------
    store : FeatureStore or path-like
        The store.
    subjects, sessions : iterable of str or int, optional
        Default all.
    """

    kind = "features"

    def __init__(self, store: FeatureStore | str | Path, subjects=None, sessions=None):
        self._store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self.root, self.missing = self._store.path, []
        groups = list(self._store.values())
        if not groups:
            raise ValueError(f"{self.root}: there are no features in it")
        self.name = str(groups[0].metadata["dataset"]["name"])
        self.class_names = groups[0].class_names
        self.key = [group.metadata["key"] for group in groups]
        wanted = [
            None if chosen is None else {str(value).lstrip("0") for value in chosen}
            for chosen in (subjects, sessions)
        ]
        self.trials = []
        for group in groups:
            for i in range(len(group)):
                about = str(group.subject_id[i]), str(group.session_id[i])
                if all(w is None or v.lstrip("0") in w for v, w in zip(about, wanted, strict=True)):
                    trial = int(group.trial_id[i]), int(group.label[i])
                    self.trials.append(Trial(*about, *trial, group.path, i))
        self.trials.sort(key=lambda t: (t.subject_id, t.session_id, t.trial_id))

    def _read_file(self, path: Path, trials: Sequence[Trial]) -> Iterator[TrialFeatures]:
        group = self._store[path.name]
        for trial in trials:
            yield TrialFeatures(
                values=group.read(trial.key),
                ch_names=group.ch_names,
                bands=group.bands,
                feature=str(group.metadata["feature"]),
                window=float(group.metadata["window"]),
                subject_id=trial.subject_id,
                session_id=trial.session_id,
                trial_id=trial.trial_id,
                label=trial.label,
                class_names=group.class_names,
                source=str(path),
            )


def open_source(data: Data, root: str | Path | Dataset | FeatureStore | None) -> Dataset:
    """The trials that a recipe's data section means.

    Parameters
    ----------
    data : Data
        The section.
    root : path-like, Dataset, FeatureStore or None
        A data set's folder as downloaded (for ``byo``: the table), a feature store, or one of them
        opened. ``"bundled"`` or None: the bundled recordings, where the data set is ``eegmat``.
        None else: ``data.root``.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If the data set is unknown, has no such option, or root holds another one.
    FileNotFoundError
        If there is no such folder.
    """
    if isinstance(root, Dataset):
        return root
    name = data.dataset.lower().replace("_", "-")
    root = data.root if root is None else root
    if isinstance(root, FeatureStore) or _is_store(root):
        made = _made(StoredTrials, root, data)
        if made.name != name:
            raise ValueError(f"{made.root}: a feature store of {made.name}, not of {name}")
        return made
    if name == "eegmat":
        place = None if root is None or str(root) == BUNDLED else root
        return _made(BundledTrials, place, data)
    if name not in DATASETS:
        hint = nearest(name, [*DATASETS, "eegmat"])
        raise ValueError(f"data.dataset: no data set named {data.dataset!r}; {hint}")
    if root is None:
        raise ValueError(f"{name}: give its folder (--root, or data.root in the recipe)")
    if str(root) == BUNDLED:
        raise ValueError(f"the bundled recordings are data set eegmat, the recipe has {name}")
    return open_dataset(name, root, kind=data.kind, **data.select)


def _is_store(root: str | Path | None) -> bool:
    return root is not None and (Path(root) / "zarr.json").is_file()


def _made(cls: type, root, data: Data) -> Dataset:
    known = [name for name in inspect.signature(cls).parameters if name not in ("root", "store")]
    for key in data.select:
        if key not in known:
            raise ValueError(f"data.select.{key}: unknown key; {nearest(key, known)}")
    return cls(root, **data.select)
