# SPDX-License-Identifier: BSD-3-Clause
"""The Python blocks of docs/datasets.md, run where there are such folders."""

import re
from pathlib import Path

import numpy as np
import pytest

from eegfast.datasets import seed as module
from eegfast.datasets import synthetic

sio = pytest.importorskip("scipy.io")
pytest.importorskip("mne")

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SECONDS", (4,) * 15)
    signal = np.tile(np.arange(-50, 50, dtype=np.int8), (62, 9))[:, :801]
    values = np.ones((62, 4, 5))

    def save(path, prefix, value, trials):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sio.savemat(path, {f"{prefix}{i}": value for i in range(1, trials + 1)})

    for subject, date in ((1, 20131027), (1, 20131030), (2, 20140404)):
        save(f"SEED_EEG/Preprocessed_EEG/{subject}_{date}.mat", "djc_eeg", signal, 15)
        save(f"SEED_EEG/ExtractedFeatures/{subject}_{date}.mat", "de_LDS", values, 15)
    save("SEED_IV/eeg_raw_data/1/1_20160518.mat", "cz_eeg", signal, 24)
    save("SEED_IV/eeg_feature_smooth/1/1_20160518.mat", "de_movingAve", values, 24)

    small = {"subjects": 1, "scale": 0.02}
    synthetic.write_seed_v("SEED-V", sessions=1, kinds=("features", "raw"), **small)
    synthetic.write_seed_vii("SEED-VII", kinds=("preprocessed", "features"), **small)
    synthetic.write_deap("DEAP", kinds=("preprocessed", "raw"), **small)
    lines = "file,label,subject_id,start,stop\na.fif,happy,1,1,2\na.fif,sad,1,2,\n"
    Path("labels.csv").write_text(lines)
    Path("a.fif").touch()


def test_the_page(folders):
    names = {"X": np.zeros((4, 3, 500)), "y": ["sad", "happy"] * 2, "subjects": [1, 1, 2, 2]}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["arrays"].subjects == ["01", "02"]
    assert names["four"].class_names[3] == "high valence, high arousal"
    assert names["dataset"].name == "byo"
