# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def study():
    """8 subjects, one recording per class, 12 windows; the classes differ within each subject."""
    rng = np.random.default_rng(0)
    subjects = np.repeat([f"s{i}" for i in range(8)], 2)
    labels = np.tile([0, 1], 8)
    features = rng.normal(size=(16, 12, 3, 2)) + 2 * rng.normal(size=(8, 1, 3, 2)).repeat(2, 0)
    features[labels == 1, :, 0] += 3
    return features.astype(np.float32), labels, subjects
