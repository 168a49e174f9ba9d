# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels with their torch bindings on the host emulator (kernels/emu)."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import subprocess
from pathlib import Path

import torch

from eegfast import ops  # noqa: F401  (defines the schemas)

ROOT = Path(__file__).resolve().parents[2]
OPS = sorted(
    p.stem for p in (ROOT / "csrc").glob("*.cpp") if "EEGFAST_CUDA_KERNELS" in p.read_text()
)


def missing_tools() -> list[str]:
    """What a build needs and this machine lacks."""
    tools = ("cmake", os.environ.get("CXX", "c++"))
    return [tool for tool in tools if shutil.which(tool) is None]


@functools.cache
def build() -> Path:
    """Compile what is not up to date; return the folder of the libraries."""
    folder = ROOT / "build" / "emulated"
    configure = ["cmake", "-S", ROOT / "tests" / "emulated", "-B", folder]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DTORCH={Path(torch.__file__).parent}"]
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of tests in several processes one builds
        for command in (configure, ["cmake", "--build", folder, "--parallel", jobs]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Emulated:
    """The operators, forward and backward, and what the emulator itself offers."""

    def __init__(self, folder: Path):
        library = folder / "libeegfast_emulated.so"
        self.schemas = torch.library.Library("eegfast_emulated", "DEF")
        for name in (name + suffix for name in OPS for suffix in ("", "_backward")):
            schema = getattr(torch.ops.eegfast, name).default._schema
            self.schemas.define(str(schema).removeprefix("eegfast::"))
        self.schemas.define("guarded(Tensor x) -> Tensor")
        torch.ops.load_library(library)
        self._library = ctypes.CDLL(library)

    def __getattr__(self, name):
        return getattr(torch.ops.eegfast_emulated, name)

    def set_seed(self, seed: int) -> None:
        self._library.eegfast_set_seed(ctypes.c_uint64(seed))


@functools.cache
def load() -> _Emulated:
    """Build the library where that is needed and load it."""
    return _Emulated(build())
