# SPDX-License-Identifier: BSD-3-Clause
"""The networks and their inputs on a GPU: the CPU's answers and gradients, and replayed graphs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from eegfast import features, models
from eegfast.datasets import SEED_CHANNELS

NO_DROPOUT = {"drop_prob": 0.0}
OPTIONS = {
    "ldm-eeg": NO_DROPOUT,
    "sst-emotionnet": NO_DROPOUT,
    "resattentionet": NO_DROPOUT,
    "scalingnet": {"n_times": 1024},
    "hamnet": {},
}


@pytest.fixture(params=OPTIONS)
def network(request):
    """A network with the statistics of a batch in its norms, on the CPU, and inputs."""
    torch.manual_seed(0)
    net = models.create(request.param, **OPTIONS[request.param])
    inputs = net.example_inputs(8)
    norms = [module for module in net.modules() if hasattr(module, "running_var")]
    for norm in norms:
        norm.momentum = 1.0  # the running variance of a fresh norm, 1, hides LDM-EEG's input
    net.train()(*inputs)
    for norm in norms:
        norm.momentum = 0.0  # so that a training step changes nothing
    return net, inputs


def to(device, tensors):
    return [t.to(device) for t in tensors]


def step(net, inputs):
    """Logits and gradients of a training step, as float64 on the CPU."""
    logits = net.train()(*inputs)
    targets = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    trainable = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(F.cross_entropy(logits, targets), trainable)
    return [t.detach().cpu().double() for t in (logits, *grads)]


def error(value, truth):
    return float((value.double().cpu() - truth).norm() / truth.norm())


def test_every_network_is_here():
    assert set(OPTIONS) == set(models.names())


def test_answers_are_the_cpus(gpu, network):
    net, inputs = network
    with torch.no_grad():
        truth = copy.deepcopy(net).double().eval()(*(x.double() for x in inputs))
        logits = net.to(gpu).eval()(*to(gpu, inputs))
    assert error(logits, truth) < 1e-4


def test_gradients_are_the_cpus(gpu, network):
    net, inputs = network
    truth = step(copy.deepcopy(net).double(), [x.double() for x in inputs])
    found = step(net.to(gpu), to(gpu, inputs))
    # One pre-activation in a million lies within rounding of ReLU's corner, on either side of it.
    joined = [torch.cat([t.flatten() for t in tensors[1:]]) for tensors in (found, truth)]
    assert error(found[0], truth[0]) < 1e-3 and error(*joined) < 2e-2


def test_autocast(gpu, network):
    net, inputs = network
    net = net.to(gpu).eval()
    inputs = to(gpu, inputs)
    with torch.no_grad():
        truth = net(*inputs).double().cpu()
        with torch.autocast(gpu.type, dtype=torch.bfloat16):
            rounded = net(*inputs)
    assert rounded.isfinite().all() and error(rounded.float(), truth) < 0.1


def test_a_graph_replays_with_new_inputs(gpu, network):
    net, inputs = network
    net = net.to(gpu).eval()
    inputs, fresh = to(gpu, inputs), to(gpu, net.example_inputs(8))
    stream = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(2):
                net(*inputs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            logits = net(*inputs)
        expected = net(*fresh)
        for x, new in zip(inputs, fresh, strict=True):
            x.copy_(new)
        logits.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
    assert error(logits, expected.double().cpu()) < 1e-5


@pytest.mark.parametrize(
    ("builder", "names"),
    [
        (features.ldm_eeg_inputs, [SEED_CHANNELS]),
        (features.sst_emotionnet_inputs, [SEED_CHANNELS]),
        (features.hamnet_inputs, []),
        (features.scalingnet_inputs, []),
        (features.resattentionet_inputs, []),
    ],
)
def test_inputs_are_made_where_the_signal_is(gpu, builder, names):
    generator = torch.Generator().manual_seed(0)
    x = 20 * torch.randn(2, 62, 12 * 200, generator=generator)
    truth = builder(x.double(), 200, *names)
    found = builder(x.to(gpu), 200, *names)
    for value, exact in zip(found, truth, strict=True):
        assert value.device.type == gpu.type
        assert error(value, exact.double()) < 1e-3
