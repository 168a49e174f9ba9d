# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.datasets import SEED, SEED_CHANNELS
from eegfast.datasets import seed as module

pytest.importorskip("mne")

# Milliseconds are samples: 15 trials of 20 to 34 ms, 5 ms apart.
STARTS = [10 + 40 * i for i in range(15)]
ENDS = [start + 20 + i for i, start in enumerate(STARTS)]
NAMES = [*SEED_CHANNELS[:32], "M1", *SEED_CHANNELS[32:41], "M2", *SEED_CHANNELS[41:], "VEO", "HEO"]
N_TIMES = 700
PUBLISHED = module.STARTS, module.SECONDS


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", (0,) * 15)


def counts(names=NAMES):
    """Each channel holds the number of its place in SEED's order, and a ramp."""
    order = {name: i for i, name in enumerate(SEED_CHANNELS)}
    place = np.array([order.get(name, 5000) for name in names])
    return 1000 * place[:, None] + np.arange(N_TIMES)


def write_times(folder, starts=STARTS, ends=ENDS, form="{} = {};\n"):
    text = form.format("start_point_list", starts) + form.format("end_point_list", ends)
    (folder / "time.txt").write_text(text)


@pytest.fixture
def root(tmp_path, write_cnt):
    folder = tmp_path / "SEED_RAW_EEG"
    folder.mkdir()
    for name in ("1_1.cnt", "1_3.cnt", "10_2.cnt", "2_1.cnt"):
        write_cnt(f"SEED_RAW_EEG/{name}", NAMES, counts())
    write_times(folder)
    return tmp_path


def test_the_constants_are_those_of_time_txt():
    ends = [262, 523, 757, 1022, 1235, 1457, 1721, 1964, 2258, 2524, 2786, 3045, 3307, 3573, 3805]
    starts, seconds = PUBLISHED
    assert [start + length for start, length in zip(starts, seconds, strict=True)] == ends
    assert starts[0] == 27 and starts[-1] == 3599


@pytest.mark.parametrize("form", ["{} = {};\n", "{}: {}\r\n", "{}\n{}\n"])
def test_trials_are_cut_by_sample_and_channels_picked_by_name(root, form):
    write_times(root / "SEED_RAW_EEG", form=form)
    data = SEED(root)
    assert (data.kind, len(data)) == ("raw", 60)
    visits = [(t.subject_id, t.session_id) for t in data.trials[::15]]
    assert visits == [("01", "1"), ("01", "3"), ("02", "1"), ("10", "2")]
    item = data[15 + 6]
    assert (item.trial_id, item.label, item.session_id, item.sfreq) == (7, 0, "3", 1000)
    assert item.ch_names == list(SEED_CHANNELS)
    truth = 0.1 * (1000 * np.arange(62)[:, None] + np.arange(STARTS[6], ENDS[6]))
    np.testing.assert_allclose(item.signal, truth, rtol=1e-6)
    assert data.missing[:2] == ["subjects 3-9, 11-15", "subject 01: session 2"]


def test_reads_the_trial_only(root, monkeypatch):
    import mne

    asked = []
    original = mne.io.BaseRaw.get_data
    monkeypatch.setattr(
        mne.io.BaseRaw, "get_data", lambda self, *a, **k: asked.append(a) or original(self, *a, **k)
    )
    SEED(root)[3]
    assert [stretch[1:] for stretch in asked] == [(STARTS[3], ENDS[3])]


def test_times_that_are_absent_or_wrong(root, monkeypatch):
    folder = root / "SEED_RAW_EEG"
    (folder / "time.txt").unlink()
    data = SEED(root)
    assert "time.txt; trials are cut at the published times" in data.missing
    assert data.trials[0].key[0] == 27000
    for starts, ends in (
        (STARTS[:14], ENDS),
        (ENDS, STARTS),
        (STARTS, [end + 5000 for end in ENDS]),
        (STARTS[::-1], ENDS[::-1]),
        ([], []),
    ):
        write_times(folder, starts, ends)
        with pytest.raises(ValueError, match=r"time\.txt: expected 15 starts and ends"):
            SEED(root)
    monkeypatch.setattr(module, "SECONDS", (5,) * 15)
    write_times(folder)
    with pytest.raises(ValueError, match=r"time\.txt: expected .*5 5 5.* seconds long"):
        SEED(root)


def test_recordings_that_are_refused(root, write_cnt):
    def check(message):
        with pytest.raises(ValueError, match=rf"1_1\.cnt: {message}"):
            SEED(root)[14]

    target = "SEED_RAW_EEG/1_1.cnt"
    write_cnt(target, NAMES, counts()[:, :500])
    check("trial 15: expected samples 570 to 604, the file has 500")
    write_cnt(target, ["X" if name == "PZ" else name for name in NAMES], counts())
    check("expected SEED's 62 channels, there is no PZ")
    write_cnt(target, NAMES, counts(), sfreq=500)
    check("expected 1000 Hz, got 500 Hz")
    write_cnt(target, NAMES, counts() * 0)
    check("trial 15: expected EEG in microvolts")
    path = root / target
    write_cnt(target, NAMES, counts())
    path.write_bytes(path.read_bytes()[:50_000])
    check("could not be read as Neuroscan")
    path.write_bytes(b"")
    check("could not be read as Neuroscan: expected a header")


def test_files_of_no_subject_or_session(root, write_cnt):
    write_cnt("SEED_RAW_EEG/1_4.cnt", NAMES, counts())
    with pytest.raises(ValueError, match=r"sessions 1 to 3, got 1_1\.cnt.*1_4\.cnt"):
        SEED(root)
