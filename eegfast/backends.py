# SPDX-License-Identifier: BSD-3-Clause
"""Which kernels can run here, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eegfast._build import build_info


@dataclass(frozen=True)
class Backend:
    """A set of kernels: its name, whether it can run here, and why (or why not)."""

    name: str
    available: bool
    reason: str


@dataclass(frozen=True)
class Kernel:
    """What one operator runs on for tensors of one kind of device, and why."""

    op: str
    backend: str
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


def kernels(device_type: str) -> list[Kernel]:
    """Tell what each operator runs on, as torch's dispatcher has it.

    An operator without a compiled kernel for a device runs on the reference there, on the device
    itself: correct, and slow.

    Parameters
    ----------
    device_type : {"cpu", "cuda"}
        The kind of device that the tensors are on. None of it needs to be there.

    Returns
    -------
    list of Kernel
        One for each operator and each backward operator that is registered, in order of name;
        importing :mod:`eegfast.ops` registers them all.
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"eegfast.backends.kernels: 'cpu' or 'cuda' expected, got {device_type!r}")
    info = build_info()
    absent = "there is no kernel for it"
    if not info["kernels"]:
        absent = str(info["reason"])
    elif device_type == "cuda" and not info["cuda"]:
        absent = str(info["cuda_reason"])
    names = torch._C._dispatch_get_all_op_names()
    return [
        Kernel(op, device_type, "compiled kernel")
        if has_kernel(op, device_type)
        else Kernel(op, "reference", absent)
        for op in sorted(n.partition("::")[2] for n in names if n.startswith("eegfast::"))
    ]


def has_kernel(op: str, device_type: str) -> bool:
    """Whether a compiled kernel of ``op`` is registered for tensors on such a device."""
    key = device_type.upper()
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"eegfast::{op}", key)


class run_on(TorchDispatchMode):
    """Within ``with run_on(module):`` every operator runs on the module's function of its name.

    ``run_on(eegfast.reference)`` shows whether a kernel is to blame, on any device.
    """

    def __init__(self, module: ModuleType):
        super().__init__()
        self.module = module

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "eegfast" and hasattr(self.module, func._opname):
            func = getattr(self.module, func._opname)
        return func(*args, **(kwargs or {}))


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
    return Backend("cuda", True, devices)


def _cpu(info: dict) -> Backend:
    if not info["kernels"]:
        return Backend("cpu", False, str(info["reason"]))
    return Backend("cpu", True, f"{info['isa']} of {', '.join(info['isa_available'])}")
