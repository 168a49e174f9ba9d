# SPDX-License-Identifier: BSD-3-Clause
"""From raw signals to logits and back: the bundled recordings (19 channels), and 62 of noise."""

from __future__ import annotations

import pytest
import torch

from eegfast import features, models
from eegfast.datasets import EEGMAT, SEED_CHANNELS

MAPS = {  # networks of maps: their inputs need the names of the channels
    "ldm-eeg": (features.ldm_eeg_inputs, dict(n=1, c=2)),
    "sst-emotionnet": (features.sst_emotionnet_inputs, {}),
}
SIGNALS = {
    "hamnet": features.hamnet_inputs,
    "resattentionet": features.resattentionet_inputs,
    "scalingnet": features.scalingnet_inputs,
}


@pytest.fixture(scope="module", params=[19, 62])
def recorded(request):
    """Signals of 12 s in microvolts, sampling rate and names of the channels."""
    if request.param == 19:
        recordings = EEGMAT(subjects=[1])
        signals = [torch.from_numpy(r.signal[:, : 12 * 200]).float() for r in recordings]
        return torch.stack(signals), recordings[0].sfreq, recordings[0].ch_names
    torch.manual_seed(0)
    return 20 * torch.randn(2, 62, 12 * 200), 200.0, SEED_CHANNELS


def inputs_and_network(name, signals, sfreq, ch_names):
    if name in MAPS:
        make_inputs, options = MAPS[name]
        return make_inputs(signals, sfreq, ch_names), models.create(name, n_outputs=2, **options)
    options = dict(n_chans=len(ch_names), n_outputs=2)
    if name == "hamnet":
        options["ch_names"] = list(ch_names)
    if name == "scalingnet":
        options["n_times"] = signals.shape[-1]
    return SIGNALS[name](signals, sfreq), models.create(name, **options)


@pytest.mark.parametrize("name", [*MAPS, *SIGNALS])
def test_a_step_from_raw_signals(name, recorded):
    inputs, net = inputs_and_network(name, *recorded)
    logits = net(*inputs)
    assert logits.shape == (len(inputs.trial), 2) and logits.isfinite().all()
    torch.nn.functional.cross_entropy(logits, inputs.trial).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def test_every_network_has_inputs():
    assert {*MAPS, *SIGNALS} == set(models.names())
