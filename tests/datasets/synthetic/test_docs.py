# SPDX-License-Identifier: BSD-3-Clause
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "synthetic.md"


def test_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "seed" / "SYNTHETIC.json").exists()
