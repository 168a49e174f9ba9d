# SPDX-License-Identifier: BSD-3-Clause
"""What only a GPU shows: streams, graphs, memory. Without one, tests/cuda is skipped whole."""

from __future__ import annotations

import os

import pytest
import torch
from numerics import exact_and_poisoned

import eegfast.ops  # noqa: F401  (registers every operator)
from eegfast.backends import has_kernel, kernels

# cuBLAS asks for this, before it starts, where algorithms are to be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_report_header(config):
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return [f"eegfast on {name}", *(f"{k.op}: {k.backend} ({k.reason})" for k in kernels("cuda"))]


@pytest.fixture(scope="session")
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def needs_kernel():
    """Skip unless the named operators have compiled CUDA kernels."""

    def check(*names, reason):
        for name in names:
            if not has_kernel(name, "cuda"):
                pytest.skip(f"{name} runs on the reference, {reason}")

    return check


@pytest.fixture(autouse=True)
def _exact_and_poisoned(gpu):
    with exact_and_poisoned():
        yield
