# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from scipy import signal

from eegfast.features import filters

DESIGNS = [(128, 1, 4, 5), (200, 0.5, 4, 3), (200, 1, 45, 3), (500, 31, 49, 4), (200, 8, 14, 1)]


@pytest.mark.parametrize("sfreq, lo, hi, order", DESIGNS)
def test_design_is_scipys(sfreq, lo, hi, order):
    sos = filters.butterworth_bandpass(lo, hi, sfreq, order)
    assert sos.shape == (order, 6)
    np.testing.assert_array_equal(sos[1:, :3], np.tile([1, 0, -1], (order - 1, 1)))
    assert sos[0, 1] == 0 and sos[0, 2] == -sos[0, 0]
    zpk = signal.butter(order, [lo, hi], "bandpass", fs=sfreq, output="zpk")
    frequencies = np.linspace(0, np.pi, 400)[1:-1]
    _, ours = signal.sosfreqz(sos, frequencies)
    _, theirs = signal.freqz_zpk(*zpk, frequencies)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n_times", [1, 127, 128, 129, 1000])
@pytest.mark.parametrize("sfreq, lo, hi, order", DESIGNS)
def test_sosfilt_is_scipys(n_times, sfreq, lo, hi, order):
    sos = filters.butterworth_bandpass(lo, hi, sfreq, order)
    x = np.random.default_rng(0).standard_normal((2, 3, n_times))
    expected = signal.sosfilt(sos, x)
    ours = filters.sosfilt(torch.from_numpy(x), sos).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sfreq, lo, hi, order", DESIGNS)
def test_filtfilt_is_scipys(sfreq, lo, hi, order):
    x = 10 + np.random.default_rng(0).standard_normal((3, 777))
    sos = filters.butterworth_bandpass(lo, hi, sfreq, order)
    pad = 3 * (2 * order + 1)
    theirs = signal.butter(order, [lo, hi], "bandpass", fs=sfreq, output="sos")
    expected = signal.sosfiltfilt(theirs, x, padlen=pad)
    ours = filters.filtfilt(torch.from_numpy(x), sos, pad).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sfreq, lo, hi, order", DESIGNS)
def test_polynomial_filters_are_scipys_to_the_last_bits(sfreq, lo, hi, order):
    x = 10 + np.random.default_rng(0).standard_normal((2, 3, 300))
    b, a = filters.butterworth_ba(lo, hi, sfreq, order)
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(
        filters.lfilter_ba(tensor, b, a).numpy(), signal.lfilter(b, a, x), rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        filters.filtfilt_ba(tensor, b, a, 3 * len(a)).numpy(),
        signal.filtfilt(b, a, x),
        rtol=0,
        atol=1e-13,
    )
