# SPDX-License-Identifier: BSD-3-Clause
"""Every kernel in every configuration becomes machine code for three generations of GPU, keeps its
variables in registers, and fits the shared memory of a block.

``python tests/triton/aot.py`` writes the table that this holds them against. Registers are those of
one release of Triton; with another, a few variables may spill that do not in the table.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
import aot  # noqa: E402
import triton  # noqa: E402


@pytest.mark.parametrize("arch", aot.SHARED)
@pytest.mark.parametrize("op", aot.OPS)
def test_kernels_take_what_the_table_says(op, arch):
    version, table = aot.read_table()
    taken = aot.measure(op, arch)
    assert taken
    for name, (registers, spilled, shared) in taken.items():
        assert (arch, name) in table, f"sm_{arch} {name}: not in {aot.TABLE.name}"
        most_registers, most_spilled, most_shared = table[arch, name]
        assert shared <= aot.SHARED[arch], name
        if version == triton.__version__:
            known = registers <= most_registers and spilled <= most_spilled
            assert known and shared <= most_shared, (name, registers, spilled, shared)
        else:
            assert spilled <= most_spilled + 128, (name, spilled)
