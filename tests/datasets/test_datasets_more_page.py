# SPDX-License-Identifier: BSD-3-Clause
"""The Python blocks of docs/datasets_more.md, run where there are such folders."""

import re
from pathlib import Path

import numpy as np
import pytest

from eegfast.datasets import synthetic

pytest.importorskip("mne")

PAGE = Path(__file__).parents[2] / "docs" / "datasets_more.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"subjects": 1, "scale": 0.02}
    synthetic.write_seed_v("SEED-V", sessions=1, kinds=("features", "raw"), **small)
    synthetic.write_seed_vii("SEED-VII", kinds=("preprocessed", "features"), **small)
    synthetic.write_deap("DEAP", kinds=("preprocessed", "raw"), **small)
    lines = "file,label,subject_id,start,stop\na.fif,happy,1,1,2\na.fif,sad,1,2,\n"
    Path("labels.csv").write_text(lines)
    Path("a.fif").touch()
    X = np.zeros((4, 3, 500))
    return {"X": X, "y": ["sad", "happy"] * 2, "subjects": [1, 1, 2, 2]}


def test_the_page(folders):
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        exec(block, folders)
    assert folders["arrays"].subjects == ["01", "02"]
    assert folders["four"].class_names[3] == "high valence, high arousal"
    assert folders["features"].kind == "features"
