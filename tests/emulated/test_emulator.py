# SPDX-License-Identifier: BSD-3-Clause
"""Broken kernels (broken.cu), each with the mistake that the emulator must find."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

VALUES = np.arange(1, 65, dtype=np.float32)

# In a process of its own, since some end in abort().
CALL = """
import ctypes, sys
import numpy as np
library, name, seed = sys.argv[1:]
x, out = np.arange(1, 65, dtype=np.float32), np.zeros(64, np.float32)
pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, out)]
ctypes.CDLL(library).eegfast_run(name.encode(), ctypes.c_uint64(int(seed)), *pointers)
print(*out[:63])
"""


@pytest.fixture
def call(built):
    def run(name, seed=0):
        command = [sys.executable, "-c", CALL, str(built / "libbroken.so"), name, str(seed)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def values(done):
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.split(), dtype=np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correct_kernels_are_correct_in_any_order(call, seed):
    np.testing.assert_array_equal(values(call("reverse", seed)), VALUES[:0:-1])
    np.testing.assert_array_equal(values(call("sum", seed))[:2], [VALUES.sum()] * 2)
    np.testing.assert_array_equal(values(call("copy", seed)), VALUES[:63])
    sums = np.repeat([VALUES[:32].sum(), VALUES[32:].sum()], 32)[:63]
    np.testing.assert_array_equal(values(call("warp sum", seed)), sums)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_missing_barrier_shows(call, seed):
    out = values(call("reverse without barrier", seed))
    assert np.isnan(out).any()


def test_shared_memory_starts_as_nan(call):
    assert np.isnan(values(call("sum of unwritten"))[:2]).all()


@pytest.mark.parametrize(
    "name, message",
    [
        ("some leave", r"61 threads wait at the block barrier"),
        ("some leave", r"3 threads have left the kernel"),
        ("some wait elsewhere", r"3 threads wait at the block barrier of .*broken.cu"),
        ("one element past the end", r"past the end of a buffer of 252 bytes"),
        ("far past the end", r"access out of bounds in thread \(\d+, 0, 0\) of block \(0, 0, 0\)"),
        ("far past the end", r"2\d\d bytes from the start of a buffer of 252 bytes"),
        ("before the start", r"wrote before the start of a buffer of 256 bytes"),
        ("past shared memory", r"256 bytes from the start of a buffer of 256 bytes"),
        ("misaligned pair", r"undefined behaviour in thread"),
        ("shuffle without its lanes", r"lanes that the block does not have"),
        ("shuffle out of its mask", r"a lane is not in its own mask"),
    ],
)
def test_a_mistake_ends_in_a_message(call, name, message):
    done = call(name)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
