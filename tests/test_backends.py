# SPDX-License-Identifier: BSD-3-Clause
"""Which back end is chosen, and why the others were not, on machines that are made up."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eegfast
from eegfast import backends, ops, reference
from eegfast._build import extension

ROOT = Path(__file__).resolve().parent.parent
needs_triton_files = pytest.mark.skipif(
    importlib.util.find_spec("eegfast._triton") is None, reason="eegfast._triton is not installed"
)
GPU = backends.TritonFacts("3.9.0", False, (9, 0))
INTERPRETER = backends.TritonFacts("3.9.0", True, None)
REFUSALS = [
    (backends.TritonFacts(None, False, (9, 0)), "triton is not installed"),
    (backends.TritonFacts("3.5.1", False, (9, 0)), "triton >= 3.6 is needed, this is 3.5.1"),
    (backends.TritonFacts("3.9.0", False, None), "no CUDA device, and TRITON_INTERPRET is not 1"),
    (backends.TritonFacts("3.9.0", False, (7, 5)), "capability 8.0 is needed, this has 7.5"),
]


@pytest.fixture
def facts(monkeypatch):
    """Call with TritonFacts: what the back ends then take for the machine."""

    def forget():
        backends._triton_refusal.cache_clear()
        backends._chosen_refusal.cache_clear()

    def pretend(facts):
        forget()
        monkeypatch.setattr(backends, "triton_facts", lambda: facts)

    yield pretend
    forget()


@pytest.fixture
def calls(monkeypatch):
    """Names of the Triton kernels that were called; the reference does their work."""
    called = []

    def kernel(op):
        def run(*args):
            called.append(op)
            return getattr(reference, op)(*args)

        return run

    monkeypatch.setattr(backends, "_triton_kernel", kernel)
    return called


def choose(op, *args):
    return backends._choose(op, *args)


def smoothed(dtype=torch.float32):
    return torch.randn(9, 2, 5).to(dtype), None, 1e-3, 1.0, 0.1, False


@needs_triton_files
@pytest.mark.parametrize("machine, reason", REFUSALS)
def test_triton_is_refused_with_a_reason(facts, calls, machine, reason, caplog):
    facts(machine)
    assert not backends._triton().available and reason in backends._triton().reason
    with caplog.at_level(logging.DEBUG, logger="eegfast"):
        choose("lds_smooth", *smoothed())
    assert calls == [] and reason in caplog.text
    with pytest.raises(RuntimeError, match="'triton'.* cannot run here: .*" + reason):
        with eegfast.backend("triton"):
            pass


@needs_triton_files
def test_cuda_tensors_without_a_compiled_kernel_run_on_triton(facts, calls):
    facts(GPU)
    assert backends._triton() == backends.Backend("triton", True, "triton 3.9.0")
    args = smoothed()
    assert torch.equal(choose("lds_smooth", *args), reference.lds_smooth(*args))
    assert calls == ["lds_smooth"]


@needs_triton_files
def test_the_reference_runs_where_there_is_no_triton_kernel(facts, calls, monkeypatch, caplog):
    facts(GPU)
    monkeypatch.setattr(backends, "_triton_module", lambda op: "eegfast._triton.nothing")
    with caplog.at_level(logging.DEBUG, logger="eegfast"):
        choose("lds_smooth", *smoothed())
    assert calls == [] and "there is no Triton kernel for it" in caplog.text


@needs_triton_files
def test_the_reference_runs_what_the_triton_kernel_refuses(facts, monkeypatch, caplog):
    def refuse(*args):
        raise NotImplementedError("no float64 here")

    facts(GPU)
    monkeypatch.setattr(backends, "_triton_kernel", lambda op: refuse)
    args = smoothed(torch.float64)
    with caplog.at_level(logging.DEBUG, logger="eegfast"):
        assert torch.equal(choose("lds_smooth", *args), reference.lds_smooth(*args))
    assert "no float64 here" in caplog.text
    assert "takes floating-point tensors" in backends._triton_refusal(
        "lds_smooth", torch.int64, "cuda"
    )


@needs_triton_files
def test_the_interpreter_is_never_chosen(facts, calls):
    facts(INTERPRETER)
    assert "only where it is forced" in backends._triton().reason
    choose("lds_smooth", *smoothed())
    ops.lds_smooth(smoothed()[0])
    assert calls == []


@needs_triton_files
def test_every_way_of_calling_follows_what_is_forced(facts, calls):
    facts(INTERPRETER)
    y = torch.randn(9, 2, 5, requires_grad=True)
    compiled = torch.compile(lambda y: ops.lds_smooth(y), fullgraph=True, backend="aot_eager")
    compiled(y)
    assert calls == []
    both = ["lds_smooth", "lds_smooth_backward"]
    with eegfast.backend("triton"):
        assert backends.forced() == "triton"
        ops.lds_smooth(y).sum().backward()
        assert calls == both
        compiled(y).sum().backward()
        assert calls == 2 * both
        with torch.no_grad():
            torch.ops.eegfast.lds_smooth(y, None, 1e-3, 1.0, 0.1, False)
        args = smoothed()
        torch.library.opcheck(torch.ops.eegfast.lds_smooth.default, args)
        del calls[:]
        with eegfast.backend("reference"):
            ops.lds_smooth(y)
        assert calls == []
        ops.lds_smooth(y)
        assert calls == both[:1]
    assert backends.forced() is None
    ops.lds_smooth(y).sum().backward()
    assert calls == both[:1]


def test_forcing_the_reference_gives_its_bits():
    x = torch.randn(3, 900)
    options = dict(window=200, n_fft=256, bins=[(1, 5), (4, 10)], taper=torch.ones(200))
    with eegfast.backend("reference"):
        out = ops.band_power(x, **options)
    truth = reference.band_power(x, torch.ones(200), 200, 200, 256, [1, 5, 4, 10], 1.0, False)
    assert torch.equal(out, truth)


@pytest.mark.skipif(extension is None, reason="needs the compiled kernels")
def test_forcing_the_cpu_leaves_its_kernels_in_place():
    y = torch.randn(9, 2, 5)
    with eegfast.backend("cpu"):
        out = ops.lds_smooth(y)
    assert torch.equal(out, ops.lds_smooth(y))


def test_forcing_what_is_not_there_says_why():
    with pytest.raises(ValueError, match="one of cuda, triton, cpu, reference expected, got 'tpu'"):
        with eegfast.backend("tpu"):
            pass
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"eegfast.backend\('cuda'\) cannot run here: "):
            with eegfast.backend("cuda"):
                pass
    assert backends.forced() is None


@needs_triton_files
def test_an_operator_without_the_forced_kernel_says_so(facts, monkeypatch):
    facts(INTERPRETER)
    monkeypatch.setattr(backends, "_triton_module", lambda op: "eegfast._triton.nothing")
    message = "lds_smooth: 'triton' is forced and cannot run: there is no Triton kernel for it"
    with eegfast.backend("triton"), pytest.raises(RuntimeError, match=message):
        ops.lds_smooth(smoothed()[0])


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", "import torch, eegfast.ops as ops\n" + code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def test_the_environment_forces_one():
    code = "from eegfast.backends import forced; print(forced(), ops.lds_smooth(torch.ones(3,1,1)))"
    done = run_python(code, EEGFAST_BACKEND="reference", EEGFAST_LOG="debug")
    assert done.stdout.startswith("reference tensor"), done.stderr
    assert "back end forced: reference" in done.stderr
    done = run_python(code, EEGFAST_BACKEND="tpu")
    assert "EEGFAST_BACKEND must be one of cuda, triton, cpu, reference, got 'tpu'" in done.stderr
    if not torch.cuda.is_available():
        done = run_python(code, EEGFAST_BACKEND="cuda")
        assert "lds_smooth: 'cuda' is forced and cannot run: " in done.stderr


def test_the_log_tells_every_operators_kernels():
    done = run_python("", EEGFAST_LOG="debug")
    for op in reference.__all__:
        for device in ("cpu", "cuda"):
            assert f"{op} on {device}: " in done.stderr
