# SPDX-License-Identifier: BSD-3-Clause
"""docs/protocols.md: its examples run, and its table is true."""

import re
import warnings
from pathlib import Path

import pytest

import eegfast.protocols
from eegfast.protocols import create, names

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_examples_run():
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn")
    namespace = {"__name__": "docs"}
    assert len(BLOCKS) >= 8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="(torcheeg|braindecode|skorch)")
        for block in BLOCKS:
            try:
                exec(compile(block, "docs/protocols.md", "exec"), namespace)
            except ModuleNotFoundError as error:
                if error.name not in ("braindecode", "torcheeg"):
                    raise


def test_every_protocol_has_a_row():
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|.*\| (no|\*\*yes\*\*) \|$", PAGE, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == names()
    for name, cls, leaks in rows:
        protocol = create(name)
        assert type(protocol) is getattr(eegfast.protocols, cls)
        assert protocol.leaks == (leaks == "**yes**")
