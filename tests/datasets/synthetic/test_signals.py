# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

from eegfast.datasets import SEED_CHANNELS, positions_for
from eegfast.datasets.synthetic import BANDS, EFFECTS, SyntheticEEG

CLASSES = ("negative", "neutral", "positive")
LABELS = [2, 1, 0, 0, 1, 2, 0, 1, 2, 2, 1, 0, 1, 2, 0]


@pytest.fixture(scope="module")
def eeg():
    return SyntheticEEG(SEED_CHANNELS, CLASSES, n_trials=15)


def log_power(signal, sfreq=200):
    """Windows of 1 s: (windows, channels, bands)."""
    windows = signal[:, : signal.shape[1] // sfreq * sfreq].reshape(len(signal), -1, sfreq)
    power = np.abs(np.fft.rfft(windows * np.hanning(sfreq))) ** 2
    bands = [power[..., int(lo) : int(hi)].mean(-1) for lo, hi in BANDS.values()]
    return np.log(np.stack(bands, -1)).swapaxes(0, 1)


def test_a_trial_is_made_from_its_numbers_alone(eeg):
    numbers = dict(subject=2, session=3, trial=7, label=1, seconds=5, sfreq=200)
    first = eeg.trial(**numbers)
    eeg.trial(1, 1, 1, 0, 4, 200)
    assert first.dtype == np.float32 and first.shape == (62, 1001)
    assert np.array_equal(first, eeg.trial(**numbers))
    assert np.array_equal(first, SyntheticEEG(SEED_CHANNELS, CLASSES, 15).trial(**numbers))
    for change in ({"subject": 1}, {"session": 1}, {"trial": 8}):
        other = eeg.trial(**{**numbers, **change})
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.2
    assert not np.array_equal(
        first, SyntheticEEG(SEED_CHANNELS, CLASSES, 15, seed=1).trial(**numbers)
    )


@pytest.mark.parametrize("seconds", [4, 7])
def test_a_higher_rate_has_the_same_samples(eeg, seconds):
    slow = eeg.trial(3, 1, 2, 2, seconds, 200)
    fast = eeg.trial(3, 1, 2, 2, seconds, 1000)
    assert fast.shape[1] == 1000 * seconds + 1
    np.testing.assert_allclose(slow, fast[:, ::5], atol=1e-3)


def test_microvolts_are_plausible(eeg):
    for subject in (1, 2, 3, 4):
        signal = eeg.trial(subject, 1, 1, 0, 60, 200)
        assert 5 < signal.std() < 40
        assert np.abs(signal).max() < 200 and np.percentile(np.abs(signal), 99) < 80
        assert abs(signal.mean()) < 2


def test_spectrum_falls_with_frequency_and_ends_at_75_hz(eeg):
    quiet = SyntheticEEG(SEED_CHANNELS, CLASSES, 15, blinks=False)
    power = (np.abs(np.fft.rfft(quiet.trial(1, 1, 1, 1, 59, 200)[:, :-1])) ** 2).mean(0)
    freqs = np.fft.rfftfreq(59 * 200, 1 / 200)

    def at(lo, hi):
        return power[(freqs >= lo) & (freqs < hi)].mean()

    assert at(2, 4) > 2 * at(5, 7) > 4 * at(15, 20) > 8 * at(30, 50)
    assert at(80, 100) < 1e-3 * at(60, 70)
    filtered = quiet.trial(1, 1, 1, 1, 59, 128, band=(4, 45))[:, :-1]
    power = (np.abs(np.fft.rfft(filtered)) ** 2).mean(0)
    freqs = np.fft.rfftfreq(59 * 128, 1 / 128)
    assert max(at(1, 3), at(48, 64)) < 0.02 * at(38, 44)


def test_near_electrodes_are_more_alike_than_far_ones():
    quiet = SyntheticEEG(SEED_CHANNELS, CLASSES, 15, blinks=False)
    r = np.corrcoef(quiet.trial(1, 1, 1, 1, 60, 200))
    at = SEED_CHANNELS.index
    assert r[at("C3"), at("C5")] > 0.7
    assert r[at("C3"), at("C5")] > r[at("C3"), at("C4")] + 0.3
    assert r[at("C3"), at("FC3")] > r[at("C3"), at("O2")] + 0.3


def test_blinks_are_over_the_forehead():
    with_blinks, without = (
        SyntheticEEG(SEED_CHANNELS, CLASSES, 15, blinks=blinks).trial(1, 1, 1, 0, 60, 200)
        for blinks in (True, False)
    )
    peaks = np.abs(with_blinks - without).max(1)
    at = SEED_CHANNELS.index
    assert 30 < peaks[at("FPZ")] < 120
    assert peaks[at("OZ")] < 1 and peaks[at("CZ")] < 5


def test_the_class_has_its_power_at_its_place():
    """Averaged over subjects, so that only the common effect stays."""
    eeg = SyntheticEEG(SEED_CHANNELS, CLASSES, 15)
    mean = [
        np.mean([log_power(eeg.trial(s, 1, 1, k, 20, 200)).mean(0) for s in range(1, 31)], 0)
        for k in range(3)
    ]
    beta, gamma, alpha = (list(BANDS).index(name) for name in ("beta", "gamma", "alpha"))
    at = SEED_CHANNELS.index
    positive = mean[2] - mean[1]
    temporal = np.mean([positive[at("T7"), gamma], positive[at("T8"), gamma]])
    assert temporal > 0.25 and temporal > positive[at("PZ"), gamma] + 0.2
    assert positive[at("T7"), beta] > 0.1
    assert mean[1][at("PZ"), alpha] > mean[2][at("PZ"), alpha] + 0.15


def test_classes_are_found_within_subjects_and_less_across():
    sklearn = pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert sklearn
    eeg = SyntheticEEG(SEED_CHANNELS, CLASSES, 15)
    n_subjects = 5
    x = {
        (s, v, k): log_power(eeg.trial(s, v, k, label, 6, 200)).reshape(6, -1)
        for s in range(1, n_subjects + 1)
        for v in (1, 2)
        for k, label in enumerate(LABELS, start=1)
    }

    def score(train, test):
        def joined(keys):
            labels = np.repeat([LABELS[k - 1] for _, _, k in keys], 6)
            return np.concatenate([x[key] for key in keys]), labels

        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
        return model.fit(*joined(train)).score(*joined(test))

    within, across = [], []
    for s in range(1, n_subjects + 1):
        own = [key for key in x if key[0] == s]
        within.append(score([k for k in own if k[1] == 1], [k for k in own if k[1] == 2]))
        across.append(score([k for k in x if k[0] != s], own))
    assert np.mean(within) > 0.75
    assert 0.36 < np.mean(across) < np.mean(within) - 0.15


def test_sessions_differ(eeg):
    def gain(session, trial):
        return log_power(eeg.trial(1, session, trial, None, 40, 200)).mean(0)[:, 2:]

    assert np.abs(gain(1, 1) - gain(2, 1)).mean() > 0.1


def test_a_session_drifts():
    def change(n_trials):
        """Of the fast waves' power from the first to the last quarter of one trial."""
        eeg = SyntheticEEG(SEED_CHANNELS, CLASSES, n_trials, blinks=False)
        power = log_power(eeg.trial(1, 1, 1, None, 120, 200))[..., 3:]
        return np.abs(power[:30].mean(0) - power[-30:].mean(0)).mean()

    assert change(1) > 2 * change(10**6)


def test_every_effect_is_of_a_known_band():
    assert {band for effects in EFFECTS.values() for band, _, _ in effects} <= set(BANDS)
    for name in EFFECTS:
        SyntheticEEG(list(positions_for(["Cz", "Pz"])), (name,), 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ch_names": ("CZ", "Status")}, "Status"),
        ({"class_names": ("bored",)}, "bored"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_that_make_no_sense(change, message):
    options = {"ch_names": ("CZ",), "class_names": ("sad",), "n_trials": 3, **change}
    with pytest.raises(ValueError, match=message):
        SyntheticEEG(**options)


@pytest.mark.parametrize("change", [{"label": -1}, {"label": 3}, {"seconds": 0}, {"seconds": 1.5}])
def test_trials_that_make_no_sense(eeg, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        eeg.trial(
            **{**dict(subject=1, session=1, trial=1, label=0, seconds=2, sfreq=200), **change}
        )
