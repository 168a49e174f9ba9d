# SPDX-License-Identifier: BSD-3-Clause
"""Every back end and where it runs, a row each; tests/backends holds all to the same limits."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import emulator
import torch
from cases import HALF, REFUSE_HALF_ON_CPU, kernels_of

import eegfast
from eegfast import backends

DOUBLE = {"bandpass_power", "filter_bank_power", "lds_smooth"}  # that Triton takes in float64
LIGHT = {  # a case of each operator that soon ends
    "band_power-overlap",
    "bandpass_power-gaps",
    "depthwise_conv3d-strided",
    "filter_bank_power-padded",
    "lds_smooth-filter",
    "mobile_unit3d-train_odd",
    "scaling_conv1d-linear",
}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Target:
    """A back end, for tensors on one kind of device.

    exact : its results do not depend on strides, to the last bit
    dispatched : torch's dispatcher knows it
    slow : so much so that, but for float32 values, LIGHT has to do
    """

    backend: str
    device: str
    exact: bool = True
    dispatched: bool = True
    slow: bool = False

    @property
    def id(self) -> str:
        return f"{self.backend}-on-{self.device}"

    def absent(self) -> str:
        """Why it cannot run here, or ""."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "torch finds no CUDA device"
        found = next(b for b in backends.backends() if b.name == self.backend)
        return "" if found.available else found.reason

    def refuses(self, case, dtype: torch.dtype) -> str:
        """Why it does not take the case in this type, or ""."""
        if not all(backends.has_kernel(name, self.device) for name in kernels_of(case)):
            return "no compiled kernel"
        if self.device == "cpu" and dtype in HALF and case.op in REFUSE_HALF_ON_CPU:
            return "the CPU kernels refuse half types"
        return ""

    def rounding(self, dtype: torch.dtype) -> float:
        """The largest relative error of rounding to a half type, 0 for others."""
        return {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(dtype, 0.0)

    def run(self) -> contextlib.AbstractContextManager:
        """Within it, every operator runs on this back end."""
        return eegfast.backend(self.backend)


class Reference(Target):
    def refuses(self, case, dtype):
        return "the reference rounds after every step" if dtype in HALF else ""


class Triton(Target):
    def absent(self):
        if INTERPRETED == (self.device == "cuda"):
            return f"TRITON_INTERPRET is {'' if INTERPRETED else 'not '}1"
        return super().absent()

    def refuses(self, case, dtype):
        left = dtype == torch.float64 and case.op not in DOUBLE
        return "float64 is left to the reference" if left else ""

    def rounding(self, dtype):
        if INTERPRETED and dtype == torch.bfloat16:
            return 2**-7  # the interpreter truncates
        return super().rounding(dtype)


class Emulated(Target):
    """The CUDA kernels on the host emulator, which torch's dispatcher knows nothing of."""

    def absent(self):
        missing = emulator.missing_tools()
        return f"the emulator needs {', '.join(missing)}" if missing else ""

    def refuses(self, case, dtype):
        return "" if case.op in emulator.OPS else "no CUDA kernel"

    def run(self):
        return backends.run_on(emulator.load())


TARGETS = [
    Reference("reference", "cpu", exact=False),
    Target("cpu", "cpu"),
    Emulated("emulated", "cpu", dispatched=False),
    Triton("triton", "cpu", slow=True),
    Reference("reference", "cuda", exact=False),
    Target("cuda", "cuda"),
    Triton("triton", "cuda"),
]
