# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def relative_error(value, truth):
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-300))


def float64_leaf(x):
    return x.detach().double().clone().requires_grad_()


@contextlib.contextmanager
def exact_and_poisoned():
    """No TF32 behind the reference, and NaN in fresh memory: an element never written is seen."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Recorder(TorchDispatchMode):
    """Keeps every call of an operator of ours, and its results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "eegfast":
            self.calls.append((func, args, out))
        return out
