# SPDX-License-Identifier: BSD-3-Clause
"""Differential entropy behind Butterworth filters, against SciPy's sosfilt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from harness import absolute_error, pink_noise
from scipy import signal

from eegfast import ops

BANDS = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]
SFREQ, WINDOW = 200, 200


def plain_sections(order: int, lo: float, hi: float) -> np.ndarray:
    """Butterworth band-pass whose sections each have a zero at DC and one at Nyquist."""
    _, poles, gain = signal.butter(order, [lo, hi], "bandpass", fs=SFREQ, output="zpk")
    poles = poles[poles.imag > 0]
    sections = np.zeros((order, 6))
    sections[:, 0], sections[:, 2], sections[:, 3] = 1, -1, 1
    sections[:, 4], sections[:, 5] = -2 * poles.real, np.abs(poles) ** 2
    sections[0, :3] *= gain
    return sections


@pytest.mark.parametrize("order", [3, 5])
def bench_forward(bench, order):
    shape = (1, 62, 48_000)
    x = pink_noise(*shape, generator=torch.Generator().manual_seed(0))
    plain = np.stack([plain_sections(order, *band) for band in BANDS])
    scipy_sos = np.stack(
        [signal.butter(order, b, "bandpass", fs=SFREQ, output="sos") for b in BANDS]
    )

    def entropy(variance):
        return 0.5 * torch.log(2 * math.pi * math.e * variance)

    def scipy_sosfilt():
        samples = x.double().numpy()
        filtered = np.stack([signal.sosfilt(sos, samples) for sos in scipy_sos], -2)
        frames = torch.from_numpy(filtered).unfold(-1, WINDOW, WINDOW)
        return entropy(frames.var(-1, correction=0)).permute(0, 3, 1, 2).contiguous()

    truth = scipy_sosfilt()
    with torch.inference_mode():
        bench.compare(
            f"bandpass_power but_o{order}",
            f"{shape} W{WINDOW}, 5 bands",
            lambda: entropy(ops.bandpass_power(x, plain, window=WINDOW)),
            {
                "scipy sosfilt float64": scipy_sosfilt,
                "ours, scipy's sections": lambda: entropy(
                    ops.bandpass_power(x, scipy_sos, window=WINDOW)
                ),
            },
            lambda value: absolute_error(value, truth),
            error_limit=1e-3,
        )
