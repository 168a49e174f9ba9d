# SPDX-License-Identifier: BSD-3-Clause
"""The originals' features as slow NumPy and SciPy, written from their formulas.

Signals are (n_chans, n_times); features (windows, n_chans, bands); lengths are in samples.
"""

import math

import mpmath
import numpy as np
from scipy import signal


def starts(n_times, window, step):
    return range(0, n_times - window + 1, step)


def seed_vii(x, sfreq, window, step, bands, n_fft=256):
    """SEED-VII's get_de_feature; with n_fft = sfreq, torcheeg's BandDifferentialEntropyV1."""
    taper = signal.windows.hann(window)
    features = []
    for start in starts(x.shape[1], window, step):
        spectrum = np.fft.fft(x[:, start : start + window] * taper, n=n_fft)
        magnitude = np.abs(spectrum[:, : int(n_fft / 2)])
        row = []
        for lo, hi in bands:
            s, e = int(np.floor(lo / sfreq * n_fft)), int(np.floor(hi / sfreq * n_fft))
            row.append(np.log2(100 * np.mean(magnitude[:, s - 1 : e] ** 2, axis=1)))
        features.append(np.stack(row, -1))
    return np.stack(features)


def seed_matlab(x, sfreq, window, bands, n_fft=256):
    """SEED's STFT.m, with its 1-based loops."""
    taper = [0.5 * (1 - math.cos(2 * math.pi * k / (window + 1))) for k in range(1, window + 1)]
    n_windows = x.shape[1] // window
    features = np.zeros((n_windows, len(x), len(bands)))
    for i in range(n_windows):
        for j in range(len(x)):
            tapered = x[j, i * window : (i + 1) * window] * taper
            magnitude = np.abs(np.fft.fft(tapered, n_fft))
            for p, (lo, hi) in enumerate(bands):
                first, last = math.trunc(lo / sfreq * n_fft), math.trunc(hi / sfreq * n_fft)
                energy = 0.0
                for index in range(first, last + 1):
                    energy += magnitude[index - 1] ** 2
                features[i, j, p] = math.log2(100 * energy / (last - first + 1))
    return features


def torcheeg(x, sfreq, window, step, bands):
    """torcheeg's BandDifferentialEntropy on each window, in its arithmetic."""
    features = np.zeros((len(starts(x.shape[1], window, step)), len(x), len(bands)))
    for i, start in enumerate(starts(x.shape[1], window, step)):
        for j, (lo, hi) in enumerate(bands):
            b, a = signal.butter(5, [lo / (0.5 * sfreq), hi / (0.5 * sfreq)], btype="band")
            for c, channel in enumerate(x[:, start : start + window]):
                variance = np.var(signal.lfilter(b, a, channel))
                features[i, c, j] = 1 / 2 * np.log2(2 * np.pi * np.e * variance)
    return features


def libeer(x, sfreq, window, step, bands):
    """LibEER's de_extraction, in its arithmetic; it takes an overlap, window - step."""
    overlap = window - step
    if overlap != 0:
        n_windows = (x.shape[1] - window) // (window - overlap)
    else:
        n_windows = x.shape[1] // window
    features = np.zeros((n_windows, len(x), len(bands)))
    for j, (lo, hi) in enumerate(bands):
        b, a = signal.butter(3, [lo / (0.5 * sfreq), hi / (0.5 * sfreq)], "bandpass")
        filtered = signal.filtfilt(b, a, x)
        for i in range(n_windows):
            part = filtered[:, i * step : i * step + window]
            features[i, :, j] = 0.5 * np.log2(2 * np.pi * np.e * np.var(part, axis=1, ddof=1))
    return features


def sections(lo, hi, sfreq, order):
    return signal.butter(order, [lo, hi], btype="bandpass", output="sos", fs=sfreq)


def window_variances(filtered, window, step, ddof=0):
    spans = [filtered[:, s : s + window] for s in starts(filtered.shape[1], window, step)]
    return np.stack([np.var(span, axis=1, ddof=ddof) for span in spans])


def torcheeg_sections(x, sfreq, window, step, bands):
    """BandDifferentialEntropy with SciPy's second-order sections."""
    features = []
    for start in starts(x.shape[1], window, step):
        part = x[:, start : start + window]
        variances = [np.var(signal.sosfilt(sections(*b, sfreq, 5), part), axis=1) for b in bands]
        features.append(0.5 * np.log2(2 * np.pi * np.e * np.stack(variances, -1)))
    return np.stack(features)


def libeer_sections(x, sfreq, window, bands):
    """LibEER's de with SciPy's second-order sections, without overlap."""
    variances = []
    for band in bands:
        filtered = signal.sosfiltfilt(sections(*band, sfreq, 3), x, padtype="odd", padlen=21)
        variances.append(window_variances(filtered, window, window, ddof=1))
    return 0.5 * np.log2(2 * np.pi * np.e * np.stack(variances, -1))


def clean(x, sfreq, window, step, bands):
    """Continuous causal filter that begins settled on the first sample."""
    x = x - x[:, :1]
    variances = [
        window_variances(signal.sosfilt(sections(*band, sfreq, 3), x), window, step)
        for band in bands
    ]
    return 0.5 * np.log(2 * np.pi * np.e * np.stack(variances, -1))


def _exact_butterworth(lo, hi, sfreq, order):
    """Polynomials b, a of the band-pass, by the textbook, in mpmath numbers."""
    w = [2 * sfreq * mpmath.tan(mpmath.pi * mpmath.mpf(f) / sfreq) for f in (lo, hi)]
    width, centre2 = w[1] - w[0], w[0] * w[1]
    b, a = [mpmath.mpf(1)], [mpmath.mpf(1)]

    def times(p, root):
        return [
            (p[i] if i < len(p) else 0) - (root * p[i - 1] if i else 0) for i in range(len(p) + 1)
        ]

    gain = mpmath.mpf(1)
    for k in range(order):
        pole = mpmath.expjpi(mpmath.mpf(2 * k + order + 1) / (2 * order))
        half = pole * width / 2
        root = mpmath.sqrt(half * half - centre2)
        for s in (half + root, half - root):
            a = times(a, (2 * sfreq + s) / (2 * sfreq - s))
            gain /= 2 * sfreq - s
        gain *= width * 2 * sfreq
        b = times(times(b, 1), -1)
    return [mpmath.re(gain) * v for v in b], [mpmath.re(v) for v in a]


def _exact_filter(b, a, x, state=None):
    z = list(state) if state else [mpmath.mpf(0)] * (len(b) - 1)
    out = []
    for sample in x:
        y = z[0] + b[0] * sample
        z = [(z[i] if i < len(z) else 0) + b[i] * sample - a[i] * y for i in range(1, len(b))]
        out.append(y)
    return out


def _exact_variance(values, ddof):
    mean = mpmath.fsum(values) / len(values)
    return mpmath.fsum((v - mean) ** 2 for v in values) / (len(values) - ddof)


def torcheeg_exact(x, sfreq, window, bands, digits=60):
    """BandDifferentialEntropy, its polynomials and recursion free of rounding errors."""
    features = np.zeros((x.shape[1] // window, len(x), len(bands)))
    with mpmath.workdps(digits):
        for j, band in enumerate(bands):
            b, a = _exact_butterworth(*band, sfreq, 5)
            for i, c in np.ndindex(features.shape[:2]):
                part = [mpmath.mpf(float(v)) for v in x[c, i * window : (i + 1) * window]]
                variance = _exact_variance(_exact_filter(b, a, part), 0)
                features[i, c, j] = mpmath.log(2 * mpmath.pi * mpmath.e * variance, 2) / 2
    return features


def libeer_exact(x, sfreq, window, bands, digits=60):
    """LibEER's de without overlap, free of rounding errors."""
    features = np.zeros((x.shape[1] // window, len(x), len(bands)))
    with mpmath.workdps(digits):
        for j, band in enumerate(bands):
            b, a = _exact_butterworth(*band, sfreq, 3)
            # State of a constant input 1, whose output is 0: z[i] = z[i + 1] + b[i + 1].
            zi = [mpmath.fsum(b[i + 1 :]) for i in range(len(b) - 1)]
            for c, channel in enumerate(x):
                v = [mpmath.mpf(float(value)) for value in channel]
                before = [2 * v[0] - u for u in v[21:0:-1]]
                after = [2 * v[-1] - u for u in v[-2:-23:-1]]
                y = before + v + after
                for _ in range(2):
                    y = _exact_filter(b, a, y, [s * y[0] for s in zi])[::-1]
                y = y[21:-21]
                for i in range(len(features)):
                    variance = _exact_variance(y[i * window : (i + 1) * window], 1)
                    features[i, c, j] = mpmath.log(2 * mpmath.pi * mpmath.e * variance, 2) / 2
    return features


def forward_kalman(y, subtract_mean):
    """torcheeg's after_hook_linear_dynamical_system, and LibEER's lds (subtract_mean=False)."""
    p0, q, r = 0.01, 0.0001, 1.0
    mean = y.mean(0)
    gain = p0 / (p0 + r)
    state = [mean + gain * (y[0] - (mean if subtract_mean else p0))]
    variance = (1 - gain) * p0
    for observed in y[1:]:
        predicted = variance + q
        gain = predicted / (predicted + r)
        state.append(state[-1] + gain * (observed - state[-1]))
        variance = (1 - gain) * predicted
    return np.stack(state)
