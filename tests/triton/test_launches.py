# SPDX-License-Identifier: BSD-3-Clause
"""Every launch compiles for every architecture and no kernel spills registers (launches.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("op", ["depthwise_conv3d", "scaling_conv1d"])
def test_compiles_without_spilling(op, arch, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = Path(__file__).with_name("launches.py")
    done = subprocess.run(
        [sys.executable, script, op, str(arch)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 5
    spilling = [line for line in lines if ", 0 spilled bytes" not in line]
    assert not spilling, "\n".join(spilling)
