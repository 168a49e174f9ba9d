# SPDX-License-Identifier: BSD-3-Clause
"""Triton's interpreter runs the kernels on CPU tensors, if told so before they are imported."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill fresh tensors with NaN, so that an element which no kernel wrote is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
