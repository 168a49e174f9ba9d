# SPDX-License-Identifier: BSD-3-Clause
"""tests/cuda runs on CUDA where torch has it, or with ``--device cpu`` on the CPU, where the same
table of cases proves the suite itself; else it is skipped as a whole."""

from __future__ import annotations

import os

import pytest
import torch

import eegfast.ops  # noqa: F401  (registers every operator)
from eegfast.backends import has_kernel, kernels

# cuBLAS asks for this, before it starts, where algorithms are to be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_report_header(config):
    device = torch.device(config.getoption("--device"))
    lines = [f"{k.op} on {device.type}: {k.backend} ({k.reason})" for k in kernels(device.type)]
    name = torch.cuda.get_device_name(device) if _is_there(device) == "cuda" else ""
    return [f"eegfast on {device} {name}", *lines]


def _is_there(device: torch.device) -> str | None:
    return device.type if device.type != "cuda" or torch.cuda.is_available() else None


@pytest.fixture(scope="session")
def device(pytestconfig):
    device = torch.device(pytestconfig.getoption("--device"))
    if not _is_there(device):
        pytest.skip("torch finds no CUDA device; --device cpu runs this suite without one")
    return device


@pytest.fixture
def gpu(device):
    """The device, for what only a GPU can show."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture
def needs_kernel(device):
    """Skip unless the named operators have compiled kernels on the device."""

    def check(*names, reason):
        for name in names:
            if not has_kernel(name, device.type):
                pytest.skip(f"{name} runs on the reference, {reason}")

    return check


@pytest.fixture(autouse=True)
def exact_and_poisoned(device):
    """No TF32 behind the reference, and NaN in fresh memory: an element never written is seen."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
