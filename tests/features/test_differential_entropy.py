# SPDX-License-Identifier: BSD-3-Clause
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from eegfast.features import DEFAULT_BANDS, RECIPES, DifferentialEntropy, differential_entropy

from . import oracles

BANDS = list(DEFAULT_BANDS.values())
TOLERANCE = 1e-10


def eeg(n_chans, n_times, seed=0):
    """Noise with a 1/f spectrum and an offset, about 20 uV."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal((n_chans, n_times)))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[1]), 1))
    x = np.fft.irfft(spectrum, n_times)
    return 20 * x / x.std() + 5 * rng.standard_normal((n_chans, 1))


def compute(x, sfreq, recipe, **options):
    return differential_entropy(torch.from_numpy(x), sfreq, recipe, **options).numpy()


def assert_equal(ours, oracle, tolerance=TOLERANCE):
    assert ours.shape == oracle.shape
    np.testing.assert_allclose(ours, oracle, rtol=0, atol=tolerance)


def assert_impossible(match, **options):
    with pytest.raises((TypeError, ValueError), match=match):
        DifferentialEntropy(**{"sfreq": 200, **options})


@pytest.mark.parametrize(
    "sfreq, window, step, n_chans, n_times",
    [
        (200, 1.0, None, 5, 1003),
        (200, 4.0, None, 3, 2400),
        (200, 4.0, 1.0, 1, 1700),
        (128, 1.0, 0.5, 7, 700),
        (250, 0.5, 0.7, 2, 1000),
        (256, 1.0, None, 2, 512),
    ],
)
def test_bcmi_is_seed_vii(sfreq, window, step, n_chans, n_times):
    x = eeg(n_chans, n_times)
    bands = [*BANDS[:4], (31, 49)]
    oracle = oracles.seed_vii(
        x, sfreq, round(window * sfreq), round((step or window) * sfreq), bands
    )
    assert_equal(compute(x, sfreq, "bcmi", window=window, step=step), oracle)


def test_bcmi_truncates_long_windows():
    x = eeg(2, 800)
    changed = x.copy()
    changed[:, 256:] += 1000
    features = compute(x, 200, "bcmi", window=4)
    np.testing.assert_array_equal(compute(changed, 200, "bcmi", window=4), features)


@pytest.mark.parametrize("sfreq, window", [(200, 1.0), (200, 4.0), (128, 1.0), (250, 2.0)])
def test_matlab_is_stft_m(sfreq, window):
    x = eeg(3, 2100)
    oracle = oracles.seed_matlab(x, sfreq, round(window * sfreq), BANDS)
    assert_equal(compute(x, sfreq, "matlab", window=window), oracle)


def test_matlab_with_its_transform_length():
    x = eeg(3, 1000)
    oracle = oracles.seed_matlab(x, 200, 200, BANDS, n_fft=512)
    assert_equal(compute(x, 200, "matlab", n_fft=512), oracle)


@pytest.mark.parametrize("sfreq, window", [(128, 1.0), (200, 1.0), (200, 2.5), (125, 1.0)])
def test_torcheeg_v1(sfreq, window):
    x = eeg(3, 1300)
    samples = round(window * sfreq)
    oracle = oracles.seed_vii(x, sfreq, samples, samples, BANDS, n_fft=sfreq)
    assert_equal(compute(x, sfreq, "torcheeg_v1", window=window, bands=DEFAULT_BANDS), oracle)


@pytest.mark.parametrize(
    "sfreq, window, step", [(128, 1.0, None), (200, 1.0, None), (200, 0.5, 0.25), (500, 1, 1.5)]
)
class TestTorcheeg:
    def test_original_arithmetic(self, sfreq, window, step):
        x = eeg(3, 5 * sfreq)
        samples = round(window * sfreq), round((step or window) * sfreq)
        options = {"window": window, "step": step, "bands": DEFAULT_BANDS}
        oracle = oracles.torcheeg(x, sfreq, *samples, BANDS)
        assert_equal(compute(x, sfreq, "torcheeg", arithmetic="original", **options), oracle)

    def test_stable_arithmetic(self, sfreq, window, step):
        x = eeg(3, 5 * sfreq)
        samples = round(window * sfreq), round((step or window) * sfreq)
        options = {"window": window, "step": step, "bands": DEFAULT_BANDS}
        oracle = oracles.torcheeg_sections(x, sfreq, *samples, BANDS)
        assert_equal(compute(x, sfreq, "torcheeg", **options), oracle)


def test_torcheeg_stable_is_the_formula_without_rounding():
    x = eeg(1, 400)
    exact = oracles.torcheeg_exact(x, 200, 200, BANDS)
    assert_equal(compute(x, 200, "torcheeg", bands=DEFAULT_BANDS), exact)
    # What the original's rounding costs: nothing at high frequencies, three digits left at delta.
    error = np.abs(oracles.torcheeg(x, 200, 200, 200, BANDS) - exact).max((0, 1))
    assert error[3] < 1e-10 and error[4] < 1e-10
    assert 1e-10 < error[1] < 1e-4 < error[0] < 1e-1


@pytest.mark.parametrize(
    "sfreq, window, step, n_times",
    [(128, 1.0, None, 1000), (200, 1.0, None, 1000), (200, 2.0, 0.5, 1000), (250, 1.0, 1.5, 1250)],
)
def test_libeer_original_arithmetic(sfreq, window, step, n_times):
    x = eeg(3, n_times)
    bands = [(0.5, 4), (4, 8), (8, 14), (14, 30), (30, 50)]
    samples = round(window * sfreq), round((step or window) * sfreq)
    oracle = oracles.libeer(x, sfreq, *samples, bands)
    options = {"window": window, "step": step}
    assert_equal(compute(x, sfreq, "libeer", arithmetic="original", **options), oracle)
    # The original's rounding leaves six digits at worst here.
    assert_equal(compute(x, sfreq, "libeer", **options), oracle, tolerance=1e-5)


@pytest.mark.parametrize("sfreq", [128, 200, 500])
def test_libeer_stable_arithmetic(sfreq):
    x = eeg(3, 5 * sfreq + 13)
    oracle = oracles.libeer_sections(x, sfreq, sfreq, BANDS)
    assert_equal(compute(x, sfreq, "libeer", bands=DEFAULT_BANDS), oracle)


def test_libeer_stable_is_the_formula_without_rounding():
    x = eeg(1, 420)
    exact = oracles.libeer_exact(x, 200, 200, BANDS)
    assert_equal(compute(x, 200, "libeer", bands=DEFAULT_BANDS), exact)


@pytest.mark.parametrize("recipe", ["torcheeg", "libeer"])
def test_original_arithmetic_has_a_gradient(recipe):
    x = torch.from_numpy(eeg(2, 70)).requires_grad_()
    bands = {"a": (8, 20)}
    de = DifferentialEntropy(64, recipe, bands, window=0.5, step=0.25, arithmetic="original")
    assert torch.autograd.gradcheck(de, x, fast_mode=True)


def test_libeer_drops_the_last_overlapping_window():
    x = torch.randn(2, 1000)
    assert differential_entropy(x, 200, "libeer").shape[0] == 5
    assert differential_entropy(x, 200, "libeer", step=0.5).shape[0] == 8
    assert differential_entropy(x, 200, "clean", step=0.5).shape[0] == 9


@pytest.mark.parametrize("sfreq, window, step", [(200, 1.0, None), (128, 2.0, 0.5), (1000, 1, 2)])
def test_clean_runs_over_the_whole_recording(sfreq, window, step):
    x = eeg(3, 10 * sfreq + 7)
    oracle = oracles.clean(x, sfreq, round(window * sfreq), round((step or window) * sfreq), BANDS)
    assert_equal(compute(x, sfreq, "clean", window=window, step=step), oracle)


def test_clean_ignores_an_offset():
    x = eeg(3, 2000)
    assert_equal(compute(x + 4096.0, 200, "clean"), compute(x, 200, "clean"), tolerance=1e-8)


def test_clean_survives_a_bad_first_sample():
    x = eeg(1, 2000)
    x[:, 0] = np.nan
    features = compute(x, 200, "clean")
    assert np.isnan(features[0]).all() and np.isfinite(features[1:]).all()


def test_clean_is_the_entropy_of_gaussian_noise():
    """White noise of variance v in a band of relative width w has entropy 0.5 ln(2 pi e v w)."""
    x = 10 * torch.randn(4, 200_000, dtype=torch.float64, generator=torch.manual_seed(0))
    features = differential_entropy(x, 200, "clean", bands={"alpha": (8, 14)}, window=100)
    # An order-3 Butterworth passes pi/6 / sin(pi/6) = 1.047 of the width between its edges.
    expected = 0.5 * np.log(2 * np.pi * np.e * 100 * 1.047 * 6 / 100)
    assert abs(float(features[1:].mean()) - expected) < 0.02


@pytest.mark.parametrize("recipe", RECIPES)
class TestEveryRecipe:
    def test_leading_dimensions(self, recipe):
        x = torch.from_numpy(eeg(12, 900)).reshape(2, 2, 3, 900)
        features = differential_entropy(x, 200, recipe, window=1.5, step=1)
        assert features.shape[:-1] == (2, 2, 3 if recipe == "libeer" else 4, 3)
        each = differential_entropy(x[1, 0], 200, recipe, window=1.5, step=1)
        torch.testing.assert_close(features[1, 0], each, rtol=0, atol=1e-12)

    def test_strided_input(self, recipe):
        x = torch.from_numpy(eeg(3, 600))
        strided = x.t().contiguous().t()
        expected = differential_entropy(x, 200, recipe)
        torch.testing.assert_close(differential_entropy(strided, 200, recipe), expected)

    def test_no_recordings(self, recipe):
        features = differential_entropy(torch.zeros(0, 3, 600), 200, recipe)
        assert features.shape == (0, 3, 3, len(DifferentialEntropy(200, recipe).bands))

    def test_float32(self, recipe):
        x = torch.from_numpy(eeg(3, 2000))
        single = differential_entropy(x.float(), 200, recipe)
        assert single.dtype == torch.float32
        expected = differential_entropy(x, 200, recipe)
        torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-4)

    def test_gradient(self, recipe):
        x = torch.from_numpy(eeg(2, 70)).requires_grad_()
        de = DifferentialEntropy(64, recipe, {"a": (4, 8), "b": (8, 20)}, window=0.5, step=0.25)
        assert torch.autograd.gradcheck(de, x, fast_mode=True)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_equals_cpu(self, recipe):
        x = torch.from_numpy(eeg(3, 2000))
        on_gpu = differential_entropy(x.cuda(), 200, recipe)
        assert on_gpu.device.type == "cuda"
        expected = differential_entropy(x, 200, recipe)
        torch.testing.assert_close(on_gpu.cpu(), expected, rtol=0, atol=1e-10)

    def test_flat_channel_is_minus_infinity(self, recipe):
        x = torch.from_numpy(eeg(2, 600))
        x[1] = 0
        features = differential_entropy(x, 200, recipe)
        assert torch.isfinite(features[:, 0]).all()
        assert (features[:, 1] == -torch.inf).all()

    def test_volts(self, recipe):
        x = torch.from_numpy(eeg(2, 600))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            features = differential_entropy(x * 1e-6, 200, recipe, unit="V")
        expected = differential_entropy(x, 200, recipe)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-9)

    def test_explain_says_what_runs(self, recipe):
        text = DifferentialEntropy(200, recipe, window=4, step=1).explain()
        for part in (recipe, "800 samples", "200 samples", "200 Hz", "gamma", "uV", "no epsilon"):
            assert part in text

    def test_default_bands_are_the_originals(self, recipe):
        bands = DifferentialEntropy(200, recipe).bands
        names = list(DEFAULT_BANDS)
        assert list(bands) == (names[1:] if recipe.startswith("torcheeg") else names)
        last = {"matlab": (31, 50), "clean": (31, 50), "libeer": (30, 50)}.get(recipe, (31, 49))
        assert bands["gamma"] == last


def test_explain_lists_bins_and_truncation():
    text = DifferentialEntropy(200, "bcmi", window=4).explain()
    assert "first 256 of each window's 800" in text
    assert "0 - 4 (5)" in text and "38 - 61 (24)" in text and "47.66" in text
    assert "padded with zeros from 200 to 256" in DifferentialEntropy(200, "bcmi").explain()
    assert "multiplied by 1e6" in DifferentialEntropy(200, "bcmi", unit="V").explain()
    assert "ddof 1" in DifferentialEntropy(200, "libeer").explain()
    assert "rounding" in DifferentialEntropy(200, "libeer", arithmetic="original").explain()


def test_attributes():
    de = DifferentialEntropy(200, "bcmi", {"mu": (8, 12)}, window=4, step=2, unit="V")
    assert (de.recipe, de.bands, de.band_names) == ("bcmi", {"mu": (8.0, 12.0)}, ["mu"])
    assert (de.sfreq, de.window, de.step, de.unit) == (200.0, 4.0, 2.0, "V")
    assert (de.window_samples, de.step_samples) == (800, 400)
    assert de.feature_unit == "log2(uV^2)"
    assert "recipe='bcmi'" in repr(de)


def test_volts_taken_for_microvolts_warn_once():
    de = DifferentialEntropy(200)
    x = torch.from_numpy(eeg(2, 600)) * 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        de(x * 1e6)
        de(torch.zeros(2, 600))
    with pytest.warns(UserWarning, match="in volts"):
        de(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        de(x)


def test_bin_zero_is_refused_and_explained():
    with pytest.raises(ValueError, match="below bin 0") as error:
        DifferentialEntropy(1000, "bcmi")
    for part in ("'delta'", "1000 Hz", "at most 256 Hz", "n_fft=1000", "'clean'"):
        assert part in str(error.value)
    DifferentialEntropy(256, "bcmi")
    DifferentialEntropy(1000, "bcmi", n_fft=1000)
    assert_impossible("'slow'", recipe="torcheeg_v1", bands={"slow": (0.5, 4)})


def test_impossible_arguments():
    assert_impossible("recipe must be one of bcmi, .* got 'DE'", recipe="DE")
    assert_impossible("sfreq", sfreq=0)
    assert_impossible("unit must be 'uV' or 'V', got 'mV'", unit="mV")
    assert_impossible("window=0.333 s is 66.6 samples.*66/200 or window=67/200", window=0.333)
    assert_impossible("step=0.001", step=0.001)
    assert_impossible("window must be a positive", window=-1)
    assert_impossible("at least 2 samples", window=1 / 200)
    assert_impossible("bands must be a dict", bands=[(1, 4)])
    assert_impossible("at least one band", bands={})
    assert_impossible("'alpha' must have 0 < low < high", bands={"alpha": (14, 8)})
    assert_impossible("'alpha' must be \\(low, high\\)", bands={"alpha": 8})
    assert_impossible("'gamma'.*above 45 Hz, half the sampling rate", sfreq=90)
    assert_impossible("low < high < 100 Hz", recipe="clean", bands={"high": (31, 100)})
    assert_impossible("whole number of DFT points", sfreq=199.5, recipe="torcheeg_v1", window=2)
    assert_impossible("n_fft is for spectral", recipe="clean", n_fft=256)
    assert_impossible("arithmetic", recipe="bcmi", arithmetic="original")
    assert_impossible("arithmetic", recipe="clean", arithmetic="original")
    assert_impossible("arithmetic", recipe="torcheeg", arithmetic="exact")


def test_a_third_of_a_second_is_whole_at_300_hz():
    assert DifferentialEntropy(300, "clean", window=1 / 3).window_samples == 100


def test_impossible_signals():
    de = DifferentialEntropy(200)
    with pytest.raises(TypeError, match="torch.from_numpy"):
        de(np.zeros((2, 600)))
    with pytest.raises(TypeError, match="floating point"):
        de(torch.zeros(2, 600, dtype=torch.int16))
    with pytest.raises(ValueError, match="n_chans, n_times"):
        de(torch.zeros(600))
    with pytest.raises(ValueError, match="199 samples .* one window of 200 samples"):
        de(torch.zeros(2, 199))
    with pytest.raises(ValueError, match="drops"):
        DifferentialEntropy(200, "libeer", step=0.5)(torch.zeros(2, 250))
    with pytest.raises(ValueError, match="21 samples at each end"):
        DifferentialEntropy(200, "libeer", window=0.1)(torch.zeros(2, 21))


def test_needs_neither_scipy_nor_mne():
    code = (
        "import sys, torch\n"
        "from eegfast.features import RECIPES, differential_entropy\n"
        "for recipe in RECIPES: differential_entropy(torch.randn(2, 600), 200, recipe)\n"
        "assert not {'scipy', 'mne', 'lightning'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


class TestInstalledTorcheeg:
    """Against the library itself, where it is installed."""

    @pytest.fixture
    def transforms(self):
        return pytest.importorskip("torcheeg.transforms", exc_type=ImportError)

    def theirs(self, transform, x, window):
        parts = [x[:, s : s + window] for s in oracles.starts(x.shape[1], window, window)]
        return np.stack([transform(eeg=part)["eeg"] for part in parts])

    @pytest.mark.parametrize("sfreq", [128, 200, 250])
    def test_band_differential_entropy(self, transforms, sfreq):
        x = eeg(3, 4 * sfreq)
        theirs = self.theirs(transforms.BandDifferentialEntropy(sfreq), x, sfreq)
        assert_equal(compute(x, sfreq, "torcheeg", arithmetic="original"), theirs)

    @pytest.mark.parametrize("sfreq", [128, 200, 250])
    def test_band_differential_entropy_v1(self, transforms, sfreq):
        x = eeg(3, 4 * sfreq)
        theirs = self.theirs(transforms.BandDifferentialEntropyV1(sfreq), x, sfreq)
        assert_equal(compute(x, sfreq, "torcheeg_v1"), theirs)
