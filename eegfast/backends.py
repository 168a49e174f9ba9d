# SPDX-License-Identifier: BSD-3-Clause
"""Which kernels can run here, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eegfast._build import build_info


@dataclass(frozen=True)
class Backend:
    """A set of kernels: its name, whether it can run here, and why (or why not)."""

    name: str
    available: bool
    reason: str


def backends() -> list[Backend]:
    """List the back ends from the first choice to the last; torch takes the first that can run.

    Returns
    -------
    list of Backend
        ``cuda`` for CUDA tensors, ``cpu`` for CPU tensors, and ``reference``, which runs anywhere.
    """
    info = build_info()
    return [_cuda(info), _cpu(info), Backend("reference", True, "plain PyTorch, any device")]


def _cuda(info: dict) -> Backend:
    if not info["kernels"]:
        return Backend("cuda", False, str(info["reason"]))
    if not info["cuda"]:
        return Backend("cuda", False, str(info["cuda_reason"]))
    if torch.version.cuda is None:
        return Backend("cuda", False, f"torch {torch.__version__} is built without CUDA")
    if not torch.cuda.is_available():
        return Backend("cuda", False, "torch finds no CUDA device")
    devices = ", ".join(
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    )
    return Backend(
        "cuda",
        True,
        f"band_power, lds_smooth, bandpass_power forward; the rest on the reference; {devices}",
    )


def _cpu(info: dict) -> Backend:
    if not info["kernels"]:
        return Backend("cpu", False, str(info["reason"]))
    return Backend("cpu", True, f"{info['isa']} of {', '.join(info['isa_available'])}")
