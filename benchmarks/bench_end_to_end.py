# SPDX-License-Identifier: BSD-3-Clause
"""From raw microvolts to logits: 1 s of 62 channels at 200 Hz through DE ("clean"), maps and
LDM-EEG, one window and 64, in evaluation mode without gradients.

Rivals are the same chain in torch's own operators, with the twin of bench_models.py as network.
"eager" filters as whoever knows the length beforehand would: a filter of 200 samples is a matrix,
so all six bands are one matrix product. "scipy" filters with ``scipy.signal.sosfilt``, as most
published code does, and goes on in torch. Maps are one matrix product for all.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bench_models import settled
from harness import pink_noise, relative_error
from scipy import signal
from twin_ldm_eeg import TwinLDMEEG

from eegfast import models
from eegfast.datasets.montage import SEED_CHANNELS
from eegfast.features import DifferentialEntropy, electrode_maps, ldm_eeg_inputs

SFREQ, N_TIMES, N_STEPS = 200, 200, 8
FRAME = N_TIMES // N_STEPS


def filters() -> np.ndarray:
    """Second-order sections of the five bands, and of 1-50 Hz."""
    bands = {**DifferentialEntropy(SFREQ, "clean").bands, "time": (1, 50)}
    return DifferentialEntropy(SFREQ, "clean", bands=bands).sos


class Twin(torch.nn.Module):
    """The chain in torch's own operators. ``filtered``: from (N, 62, 200), which begin at zero, to
    (N, 62, 6, 200)."""

    def __init__(self, network, filtered=None):
        super().__init__()
        self.network, self.filtered = network, filtered
        impulse = np.eye(1, N_TIMES)[0]
        responses = [signal.sosfilt(sos, impulse) for sos in filters()]
        lag = np.subtract.outer(np.arange(N_TIMES), np.arange(N_TIMES)).T  # output less input
        toeplitz = [np.where(lag >= 0, response[lag], 0.0) for response in responses]
        self.register_buffer("matrix", torch.from_numpy(np.concatenate(toeplitz, 1)).float())
        self.register_buffer("maps", electrode_maps(SEED_CHANNELS).float())

    def forward(self, x):
        x = x - x[..., :1]
        if self.filtered is None:
            y = (x @ self.matrix).unflatten(-1, (6, N_TIMES))
        else:
            y = self.filtered(x)
        per_band = self.entropy(y[:, :, :5].var(-1, correction=0))
        per_frame = self.entropy(y[:, :, 5].unflatten(-1, (N_STEPS, FRAME)).var(-1, correction=0))
        return self.network(self.stack(per_band), self.stack(per_frame))

    def entropy(self, variance):
        return 0.5 * torch.log(2 * math.pi * math.e * variance)

    def stack(self, values):
        maps = (values.mT @ self.maps.T).unflatten(-1, (32, 32)).unsqueeze(1)
        std, mean = torch.std_mean(maps, (1, 2, 3, 4), correction=0, keepdim=True)
        return (maps - mean) / std


def by_scipy(x):
    bands = [signal.sosfilt(sos, x.numpy()) for sos in filters()]
    return torch.from_numpy(np.stack(bands, 2)).to(x.dtype)


@pytest.mark.parametrize("batch", [1, 64])
def bench_ldm_eeg(bench, batch):
    batch = min(batch, 2) if bench.smoke else batch
    generator = torch.Generator().manual_seed(0)
    x, others = (pink_noise(n, 62, N_TIMES, generator=generator) for n in (batch, 8))

    def inputs(signals):
        return ldm_eeg_inputs(signals, SFREQ, SEED_CHANNELS, window=FRAME / SFREQ)

    torch.manual_seed(0)
    net = settled(models.create("ldm-eeg"), *inputs(others)).eval()
    network = TwinLDMEEG()
    network.load_state_dict(net.state_dict())
    twin = Twin(network).eval()
    through_scipy = Twin(network, by_scipy).eval()
    with torch.no_grad():
        exact = Twin(TwinLDMEEG(), by_scipy)
        exact.network.load_state_dict(net.state_dict())
        exact = exact.double().eval()
        truth = exact(x.double())
        common = exact(others.double()).mean(0)  # in all logits alike: no merit
        compiled = bench.compile(twin)
        bench.compare(
            f"raw signal to logits, ldm-eeg, windows {batch}",
            str(tuple(x.shape)),
            lambda: net(*inputs(x)),
            {
                "eager": lambda: twin(x),
                "compile": (lambda: compiled(x)) if compiled else None,
                "scipy": lambda: through_scipy(x),
            },
            lambda logits: relative_error(logits - common, truth - common),
            error_limit=1e-3,
            rival_error_limit=1e-2,
        )
