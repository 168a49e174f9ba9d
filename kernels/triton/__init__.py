# SPDX-License-Identifier: BSD-3-Clause
"""The operators in Triton, imported as ``eegfast._triton``.

Each file has the functions of the file of its name in :mod:`eegfast.reference`, with the same
arguments and results, for float32, float16 and bfloat16 tensors on a GPU, or on the CPU under
``TRITON_INTERPRET=1``. What one cannot take it refuses with NotImplementedError before it writes
anything; the reference then runs. Configurations are tables in the op's file, never tuned at run
time; importing asks nothing of a driver.
"""

from __future__ import annotations

import functools

import torch


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Of the GPU. Of an H200, for which the configurations are made, where there is none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
