# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
import torch

from eegfast._build import extension

ISAS = extension.isa_available() if extension else ["reference"]


@pytest.fixture(params=ISAS)
def isa(request):
    """Run the test on every instruction set of this machine (without kernels: the reference)."""
    if extension is None:
        yield "reference"
        return
    before = extension.isa()
    extension.set_isa(request.param)
    yield request.param
    extension.set_isa(before)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill fresh tensors with NaN, so that an element which no kernel wrote is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
