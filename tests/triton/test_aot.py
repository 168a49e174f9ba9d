# SPDX-License-Identifier: BSD-3-Clause
"""Every kernel in every configuration becomes machine code for three generations of GPU, takes no
more registers and spills no more than a table says, and fits the shared memory of a block.

``python tests/triton/aot.py`` writes the table, one for each release of Triton that is held to it;
with others the kernels only have to compile and to fit.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
import aot  # noqa: E402


@pytest.mark.parametrize("arch", aot.SHARED)
@pytest.mark.parametrize("op", aot.OPS)
def test_kernels_take_what_the_table_says(op, arch):
    taken = aot.measure(op, arch)
    assert taken
    assert all(shared <= aot.SHARED[arch] for _, _, shared in taken.values())
    if not aot.TABLE.exists():
        pytest.skip(f"{aot.TABLE.name} is not there: compiled, not compared")
    table = aot.read_table()
    for name, resources in taken.items():
        assert (arch, name) in table, f"sm_{arch} {name}: not in {aot.TABLE.name}"
        within = zip(resources, table[arch, name], strict=True)
        assert all(now <= most for now, most in within), (name, resources, table[arch, name])
