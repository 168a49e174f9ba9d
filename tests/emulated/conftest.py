# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels on the host emulator: built on demand, kept in build/."""

from __future__ import annotations

import emulator
import pytest
import torch


@pytest.fixture(scope="session")
def built():
    """Return the folder of the compiled libraries."""
    if missing := emulator.missing_tools():
        pytest.skip(f"the emulator needs {', '.join(missing)}")
    return emulator.build()


@pytest.fixture
def emulated(built):
    """Run kernels with ``emulated.<op>(...)``; wrap inputs in ``emulated.guarded``."""
    torch.manual_seed(0)
    loaded = emulator.load()
    loaded.set_seed(0)
    return loaded
