# SPDX-License-Identifier: BSD-3-Clause
"""tests/triton runs in a process of its own, where Triton interprets: TRITON_INTERPRET=1 pytest
tests/triton. The kernels' decorator reads the variable; without it, or without triton, all of it is
skipped."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WHY_NOT = ""
if importlib.util.find_spec("triton") is None:
    WHY_NOT = "triton is not installed"
elif importlib.util.find_spec("eegfast._triton") is None:
    WHY_NOT = "eegfast._triton is not installed: `pip install -e .`"
elif os.environ.get("TRITON_INTERPRET") != "1":
    WHY_NOT = "run it as TRITON_INTERPRET=1 pytest tests/triton"


def pytest_collection_modifyitems(items):
    for item in items:
        if WHY_NOT and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=WHY_NOT))


@pytest.fixture(scope="session")
def kernels():
    """``kernels("band_power")`` is the module of the operator's Triton kernels."""
    return lambda op: importlib.import_module(f"eegfast._triton.{op}")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill fresh tensors with NaN, so that an element which no kernel wrote is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
