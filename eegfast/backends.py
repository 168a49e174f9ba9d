# SPDX-License-Identifier: BSD-3-Clause
"""Which kernels can run here, why the others cannot, and how to force one.

torch's dispatcher takes the compiled kernel of a tensor's device. A CUDA tensor without one gets
``_choose``, which asks for the Triton kernel and takes the reference where that cannot run; every
other device gets the reference. Forcing a back end replaces the kernels of CPU and CUDA in the
dispatcher for as long as it lasts. So nothing is asked of a call where nothing is forced, and eager
calls, autograd, direct calls of ``torch.ops.eegfast`` and compiled graphs all follow it, since the
dispatcher is below them all. It holds for the whole process, all threads.

``EEGFAST_BACKEND=triton`` forces one from the start, ``EEGFAST_LOG=debug`` logs what is chosen and
why the rest was refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eegfast._build import build_info

NAMES = ("cuda", "triton", "cpu", "reference")
MIN_TRITON = (3, 6)
MIN_CAPABILITY = (8, 0)  # of a GPU, for Triton's tensor-core products

log = logging.getLogger("eegfast")
if os.environ.get("EEGFAST_LOG"):
    log.setLevel(os.environ["EEGFAST_LOG"].upper())
    log.addHandler(logging.StreamHandler())


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
        ``cuda`` for CUDA tensors, ``triton`` for those that it has no kernel for, ``cpu`` for CPU
        tensors, and ``reference``, which runs anywhere.
    """
    info = build_info()
    everywhere = Backend("reference", True, "plain PyTorch, any device")
    return [_cuda(info), _triton(), _cpu(info), everywhere]


def kernels(device_type: str) -> list[Kernel]:
    """Tell what each operator runs on where no back end is forced.

    An operator without a kernel for a device runs on the reference there, on the device itself:
    correct, and slow.

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
    return [_default(op, device_type) for op in sorted(_references)]


def has_kernel(op: str, device_type: str) -> bool:
    """Whether a compiled kernel of ``op`` is there for tensors on such a device."""
    return (op, device_type) in _compiled


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force every operator onto one back end for the length of a ``with`` statement.

    Forward and backward follow what is forced when they run. It holds for all threads; inside a
    function under ``torch.compile`` it has no place, around a call of one it has.

    Parameters
    ----------
    name : {"cuda", "triton", "cpu", "reference"}
        ``triton`` takes CUDA tensors, or CPU tensors where ``TRITON_INTERPRET=1``.

    Raises
    ------
    ValueError, RuntimeError
        At once for a name that there is none of, or a back end that cannot run here; from an
        operator that the back end has no kernel for, or not for such tensors.
    """
    if name not in NAMES:
        raise ValueError(f"eegfast.backend: one of {', '.join(NAMES)} expected, got {name!r}")
    found = next(b for b in backends() if b.name == name)
    if not found.available:
        raise RuntimeError(f"eegfast.backend({name!r}) cannot run here: {found.reason}")
    before = _forced
    _force(name)
    try:
        yield
    finally:
        _force(before)


def forced() -> str | None:
    """Return the back end that is forced now, if one is."""
    return _forced


def enlist(op: str, reference: Callable) -> None:
    """Take note of an operator that was just defined, and give CUDA tensors a kernel of it."""
    _references[op] = reference
    for device_type in ("cpu", "cuda"):
        key = device_type.upper()
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"eegfast::{op}", key):
            _compiled.add((op, device_type))
    if not has_kernel(op, "cuda"):
        _library.impl(op, functools.partial(_choose, op), "CUDA")
    if _forced:
        _override(op)
    elif log.isEnabledFor(logging.DEBUG):
        for device_type in ("cpu", "cuda"):
            kernel = _default(op, device_type)
            log.debug("%s on %s: %s (%s)", op, device_type, kernel.backend, kernel.reason)


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


@dataclass(frozen=True)
class TritonFacts:
    """What decides whether Triton kernels run."""

    version: str | None  # None: not installed
    interpreted: bool
    capability: tuple[int, int] | None  # of the GPU; None: there is none


def triton_facts() -> TritonFacts:
    """Look at the machine without importing triton."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        version = None
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return TritonFacts(version, os.environ.get("TRITON_INTERPRET") == "1", capability)


def _triton() -> Backend:
    facts = triton_facts()
    refusal = _triton_is_out(facts)
    if refusal:
        return Backend("triton", False, refusal)
    if facts.interpreted:
        slow = "interpreted (TRITON_INTERPRET=1), for tests: only where it is forced"
        return Backend("triton", True, f"triton {facts.version}, {slow}")
    return Backend("triton", True, f"triton {facts.version}")


def _triton_is_out(facts: TritonFacts) -> str:
    """Why no Triton kernel can run here, or ""."""
    if importlib.util.find_spec("eegfast._triton") is None:
        return "eegfast._triton is not installed; run `pip install -e .` in the source folder"
    if facts.version is None:
        return "triton is not installed"
    if tuple(int(part) for part in facts.version.split(".")[:2]) < MIN_TRITON:
        return f"triton >= {_dotted(MIN_TRITON)} is needed, this is {facts.version}"
    if facts.interpreted:
        return ""
    if facts.capability is None:
        return "torch finds no CUDA device, and TRITON_INTERPRET is not 1"
    if facts.capability < MIN_CAPABILITY:
        needed, found = _dotted(MIN_CAPABILITY), _dotted(facts.capability)
        return f"a GPU of compute capability {needed} is needed, this has {found}"
    return ""


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@functools.cache
def _triton_refusal(op: str, dtype: torch.dtype | None, device_type: str) -> str:
    """Why the Triton kernel of an operator cannot take such tensors, or "". None: of any dtype."""
    facts = triton_facts()
    refusal = _triton_is_out(facts)
    if not refusal and device_type != "cuda" and not facts.interpreted:
        refusal = f"it takes CUDA tensors, this one is on {device_type}"
    if not refusal and dtype is not None and not dtype.is_floating_point:
        refusal = f"it takes floating-point tensors, not {dtype}"
    if not refusal and importlib.util.find_spec(_triton_module(op)) is None:
        refusal = "there is no Triton kernel for it"
    if refusal:
        log.debug("%s, %s on %s: not triton: %s", op, dtype, device_type, refusal)
    return refusal


def _triton_module(op: str) -> str:
    return f"eegfast._triton.{op.removesuffix('_backward')}"


@functools.cache
def _triton_kernel(op: str) -> Callable:
    return getattr(importlib.import_module(_triton_module(op)), op)


def _default(op: str, device_type: str) -> Kernel:
    if has_kernel(op, device_type):
        return Kernel(op, device_type, "compiled kernel")
    info = build_info()
    absent = "there is no kernel for it"
    if not info["kernels"]:
        absent = str(info["reason"])
    elif device_type == "cuda" and not info["cuda"]:
        absent = str(info["cuda_reason"])
    if device_type == "cpu":
        return Kernel(op, "reference", absent)
    refusal = _triton_by_default(op, None)
    if not refusal:
        return Kernel(op, "triton", f"cuda: {absent}")
    return Kernel(op, "reference", f"cuda: {absent}; triton: {refusal}")


def _triton_by_default(op: str, dtype: torch.dtype | None) -> str:
    refusal = _triton_refusal(op, dtype, "cuda")
    if not refusal and triton_facts().interpreted:
        return "interpreted, it runs only where it is forced"
    return refusal


def _choose(op: str, *args):
    """The kernel of a CUDA tensor for which none was compiled."""
    x = _first_tensor(args)
    if not _chosen_refusal(op, x.dtype):
        try:
            return _triton_kernel(op)(*args)
        except NotImplementedError as error:
            log.debug("%s, %s on %s: not triton: %s", op, x.dtype, x.device, error)
    return _references[op](*args)


@functools.cache
def _chosen_refusal(op: str, dtype: torch.dtype) -> str:
    refusal = _triton_by_default(op, dtype)
    log.debug("%s, %s on cuda: %s", op, dtype, "reference" if refusal else "triton")
    return refusal


def _first_tensor(args) -> Tensor:
    return next(arg for arg in args if isinstance(arg, Tensor))


def _force(name: str | None) -> None:
    """Put the kernels of a back end in the place of all others, or with None take them out."""
    global _forced, _overrides
    if _overrides is not None:
        _overrides._destroy()  # what was there before is back
    _forced, _overrides = name, None
    if name is None:
        return
    log.debug("back end forced: %s", name)
    _overrides = torch.library.Library("eegfast", "IMPL")
    for op in _references:
        _override(op)


def _override(op: str) -> None:
    for device_type in ("cpu", "cuda"):
        if _forced == device_type and has_kernel(op, device_type):
            continue
        kernel = _references[op] if _forced == "reference" else functools.partial(_insist, op)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")
            _overrides.impl(op, kernel, device_type.upper())


def _insist(op: str, *args):
    """Run the forced Triton kernel, or say why what is forced does not run."""
    x = _first_tensor(args)
    if _forced == "triton":
        refusal = _triton_refusal(op, x.dtype, x.device.type)
        if not refusal:
            try:
                return _triton_kernel(op)(*args)
            except NotImplementedError as error:
                refusal = str(error)
    else:
        found = next(b for b in backends() if b.name == _forced)
        refusal = "there is no kernel for it"
        if not found.available:
            refusal = found.reason
        elif x.device.type != _forced:
            refusal = f"it takes {_forced} tensors, this one is on {x.device.type}"
    raise RuntimeError(f"eegfast.ops.{op}: {_forced!r} is forced and cannot run: {refusal}")


def _from_environment() -> str | None:
    name = os.environ.get("EEGFAST_BACKEND") or None
    if name not in (None, *NAMES):
        raise ValueError(f"EEGFAST_BACKEND must be one of {', '.join(NAMES)}, got {name!r}")
    return name


_references: dict[str, Callable] = {}  # of each registered operator
_compiled: set[tuple[str, str]] = set()  # operator and device type
_library = torch.library.Library("eegfast", "FRAGMENT")
_forced: str | None = None
_overrides: torch.library.Library | None = None
# Here what cannot run is found out by the first call: `eegfast info` can then tell why.
_force(_from_environment())
