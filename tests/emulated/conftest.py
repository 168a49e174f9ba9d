# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels on the host emulator: built on demand, kept in pytest's cache."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from eegfast import ops  # noqa: F401  (defines the schemas)

SOURCE = Path(__file__).parent
CSRC = SOURCE.parent.parent / "csrc"
OPS = sorted(p.stem for p in CSRC.glob("*.cpp") if "EEGFAST_CUDA_KERNELS" in p.read_text())


@pytest.fixture(scope="session")
def built(pytestconfig):
    """Return the folder of the compiled libraries."""
    for tool in ("cmake", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            pytest.skip(f"the emulator needs {tool}")
    folder = pytestconfig.cache.mkdir("emulated")
    configure = ["cmake", "-S", SOURCE, "-B", folder, "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DTORCH={Path(torch.__file__).parent}"]
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    for command in (configure, ["cmake", "--build", folder, "--parallel", jobs]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Emulated:
    """The operators on the emulator, and what the emulator itself offers."""

    def __init__(self, library: Path):
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


@pytest.fixture(scope="session")
def _emulated(built):
    return Emulated(built / "libeegfast_emulated.so")


@pytest.fixture
def emulated(_emulated):
    """Run kernels with ``emulated.<op>(...)``; wrap inputs in ``emulated.guarded``."""
    torch.manual_seed(0)
    _emulated.set_seed(0)
    return _emulated
