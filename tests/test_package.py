# SPDX-License-Identifier: BSD-3-Clause
"""What an import drags in, what runs without kernels, and what the extension asks of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eegfast
import eegfast.ops  # noqa: F401  (registers every operator)
from eegfast import reference
from eegfast._build import extension
from eegfast.backends import backends, has_kernel, kernels
from eegfast.ops._library import infer_schema

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["mne", "scipy", "lightning", "matplotlib", "sklearn", "pandas", "triton", "typer"]
needs_kernels = pytest.mark.skipif(extension is None, reason="needs the compiled kernels")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


@pytest.mark.parametrize("module", ["eegfast", "eegfast.ops", "eegfast.nn", "eegfast.reference"])
def test_imports_are_light(module):
    done = run_python(
        f"import sys, torch; before = set(sys.modules); import {module};"
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


WITHOUT_KERNELS = """
import sys, warnings
sys.modules["eegfast._C"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import eegfast, eegfast.ops as ops, eegfast.features
    import torch
    y = torch.randn(9, 2, 5, requires_grad=True)
    x = torch.randn(2, 2, 900, requires_grad=True)
    sos = [[[0.1, 0, -0.1, 1, -1.5, 0.8]]]
    outputs = [
        ops.lds_smooth(y),
        ops.band_power(x, window=200, n_fft=256, bins=[(1, 5)]),
        ops.bandpass_power(x, sos, window=200),
        sum(ops.filter_bank_power(x, torch.randn(3, 9))),
    ]
    for out in outputs:
        out.sum().backward()
said = [w for w in caught if "eegfast runs on its PyTorch reference" in str(w.message)]
assert len(said) == 1, [str(w.message) for w in caught]
assert y.grad.isfinite().all() and x.grad.isfinite().all()
assert not eegfast.build_info()["kernels"]
args = (x.detach(), torch.ones(10), 10, 5, 16, [0, 4], 2.0, False)
torch.library.opcheck(torch.ops.eegfast.band_power.default, args)
print("fine")
"""


def test_reference_runs_where_there_are_no_kernels_and_says_so_once():
    done = run_python(WITHOUT_KERNELS)
    assert done.stdout.strip().endswith("fine"), done.stdout + done.stderr


@needs_kernels
@pytest.mark.parametrize("name", reference.__all__)
def test_schemas_of_kernels_and_reference_agree(name):
    schema = str(getattr(torch.ops.eegfast, name).default._schema)
    assert schema == f"eegfast::{name}" + infer_schema(getattr(reference, name))


@needs_kernels
def test_environment_picks_the_instruction_set():
    for isa in extension.isa_available():
        code = "import eegfast; print(eegfast.build_info()['isa'])"
        assert run_python(code, EEGFAST_ISA=isa).stdout.strip() == isa
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        extension.set_isa("mmx")


@needs_kernels
def test_extension_asks_torch_for_its_stable_c_interface_alone():
    binary = Path(extension.__file__)
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", binary], capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("no nm")
    symbols = {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}
    cxx_of_torch = [
        s
        for s in symbols
        if s.startswith(("_ZN2at", "_ZN3c10", "_ZN5torch", "_ZNK2at", "_ZNK3c10", "_ZNK5torch"))
    ]
    assert cxx_of_torch == []
    assert "torch_parallel_for" in symbols  # torch's threads, and no pool of our own
    assert not [s for s in symbols if s.startswith(("GOMP_", "omp_", "__kmpc", "cuda", "__cuda"))]


def test_backends_give_reasons():
    names = [backend.name for backend in backends()]
    assert names == ["cuda", "cpu", "reference"]
    assert all(backend.reason for backend in backends())
    assert backends()[-1].available
    if not torch.cuda.is_available():
        assert not backends()[0].available


def test_every_operator_tells_what_it_runs_on():
    for device in ("cpu", "cuda"):
        told = kernels(device)
        assert [kernel.op for kernel in told] == sorted(reference.__all__)
        for kernel in told:
            assert kernel.backend == (device if has_kernel(kernel.op, device) else "reference")
            assert kernel.reason
    with pytest.raises(ValueError, match="'cpu' or 'cuda' expected, got 'tpu'"):
        kernels("tpu")


BUILDS = [
    ({"kernels": False, "reason": "made without kernels"}, "made without kernels"),
    ({"kernels": True, "cuda": False, "cuda_reason": "no nvcc at build time"}, "no nvcc at build"),
    ({"kernels": True, "cuda": True, "cuda_reason": "nvcc found"}, "there is no kernel for it"),
]


@pytest.mark.parametrize("info, reason", BUILDS)
def test_why_a_cuda_tensor_would_meet_the_reference(monkeypatch, info, reason):
    monkeypatch.setattr("eegfast.backends.build_info", lambda: info)
    monkeypatch.setattr("eegfast.backends.has_kernel", lambda op, device: False)
    for kernel in kernels("cuda"):
        assert kernel.backend == "reference" and reason in kernel.reason
    if not info.get("cuda"):
        assert reason in backends()[0].reason and not backends()[0].available


@pytest.mark.parametrize("name", reference.__all__)
def test_a_cuda_tensor_always_finds_something_to_run_on(name):
    """Whatever was built: a kernel, or the reference that stands in on every device."""
    for key in ("CPU", "CUDA", "Meta"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"eegfast::{name}", key)


def test_build_info_tells_whether_and_why():
    info = eegfast.build_info()
    assert info["kernels"] == (extension is not None)
    if extension is None:
        assert info["reason"]
    else:
        assert info["cuda_reason"] and info["isa"] in info["isa_available"]
