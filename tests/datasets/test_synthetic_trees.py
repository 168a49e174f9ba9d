# SPDX-License-Identifier: BSD-3-Clause
"""The readers against the writers of the same layouts, which others wrote from the same facts."""

import warnings

import numpy as np
import pytest

from eegfast.datasets import DEAP, SEEDV, SEEDVII, synthetic

pytest.importorskip("mne")


@pytest.mark.parametrize(
    ("write", "reader", "kinds", "trials"),
    (
        (synthetic.write_seed_v, SEEDV, ("features", "raw"), (45, 15)),
        (
            synthetic.write_seed_vii,
            SEEDVII,
            ("preprocessed", "features", "raw"),
            (80, 80, 20),
        ),
    ),
    ids=("SEED-V", "SEED-VII"),
)
def test_seed_family(tmp_path, write, reader, kinds, trials):
    root = write(tmp_path / "tree", subjects=1, sessions=1, kinds=kinds, scale=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, count in zip(kinds, trials, strict=True):
            dataset = reader(root, kind)
            items = list(dataset)
            assert len(items) == len(dataset) == count
            assert [item.label for item in items] == dataset.labels.tolist()
            assert all(item.class_names == dataset.class_names for item in items)


def test_deap_in_all_its_forms_is_the_same_eeg(tmp_path):
    from scipy.signal import resample_poly

    root = synthetic.write_deap(
        tmp_path / "tree", subjects=1, kinds=("preprocessed", "matlab", "raw"), scale=0.02
    )
    python, matlab = DEAP(root), DEAP(root / "data_preprocessed_matlab")
    raw = DEAP(root, "raw")
    np.testing.assert_array_equal(python.ratings, matlab.ratings)
    np.testing.assert_allclose(python.ratings, raw.ratings)
    for i in (0, 17, 39):
        np.testing.assert_array_equal(python[i].signal, matlab[i].signal)
        slow = resample_poly(raw[i].signal, 1, 4, axis=1, padtype="line")
        # the raw one has offsets, drifts and blinks that the others have lost
        there = np.diff(python[i].signal[:, 100:400])
        assert np.corrcoef(np.diff(slow[:, 100:400]).ravel(), there.ravel())[0, 1] > 0.8
