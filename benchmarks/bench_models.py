# SPDX-License-Identifier: BSD-3-Clause
"""The networks, against the same networks in torch's own modules: contiguous and channels-last, as
they are and compiled. SST-EmotionNet also against torcheeg's, where that is installed.

"eval" is the forward pass in evaluation mode without gradients. "train" is a training step up to
the optimizer: forward pass in training mode, cross-entropy, gradients of all trainable parameters.
The optimizer would do the same to the same parameters for every contender, and move the weights
from one call to the next, so that nothing could be checked; for the same reason dropout is off.
All else is as published. "ours compile" is our network through torch.compile.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import relative_error
from twin_hamnet import TwinHAMNet
from twin_ldm_eeg import TwinLDMEEG
from twin_resattentionet import TwinResAttentioNet
from twin_scalingnet import TwinScalingNet
from twin_sst_emotionnet import TwinSSTEmotionNet

from eegfast import models
from eegfast.models._sst_torcheeg import convert

TESTS = Path(__file__).resolve().parent.parent / "tests" / "models"


@dataclasses.dataclass
class Case:
    """A network and what it is measured at.

    ``goals``: how many times faster than the twin, and than its best form, a training step should
    be at a batch size; ``predicted_ms``: of a training step, from its arithmetic. ``error_limit``:
    of its gradients. Of a million pre-activations one lies within rounding of ReLU's corner and
    falls on either side; one such changes gradients by up to a hundredth, whoever computes them in
    float32.
    """

    model: str
    twin: type | None
    last: torch.memory_format | None
    options: dict = dataclasses.field(default_factory=dict)
    batches: tuple[int, ...] = (1, 16, 64)
    goals: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    predicted_ms: dict[int, float] = dataclasses.field(default_factory=dict)
    error_limit: float = 5e-2


# ScalingNet has 0.5 G multiply-adds per sample: 64 of them would take half a minute a round.
# ResAttentioNet is one-dimensional: torch has no channels-last format for it. Of one sample its
# last norms see two values, whose difference divides by itself: hence the limit.
HAMNET = (1, 16, 64, 100)
NOT_SLOWER = dict.fromkeys((1, 16, 64), (1, 1))
CASES = {
    "ldm-eeg": Case(
        "ldm-eeg",
        TwinLDMEEG,
        torch.channels_last_3d,
        {"drop_prob": 0.0},
        goals={16: (8, 3)},
        predicted_ms={16: 55},
    ),
    "sst-emotionnet": Case(
        "sst-emotionnet",
        TwinSSTEmotionNet,
        torch.channels_last_3d,
        {"drop_prob": 0.0},
        goals=NOT_SLOWER,
    ),
    "sst-torcheeg": Case(
        "sst-emotionnet", None, torch.channels_last_3d, {"variant": "torcheeg"}, goals=NOT_SLOWER
    ),
    "hamnet-pretrain": Case(
        "hamnet", TwinHAMNet, torch.channels_last, {"stage": "pretrain"}, HAMNET, {100: (6, 1)}
    ),
    "hamnet-finetune": Case("hamnet", TwinHAMNet, torch.channels_last, {}, HAMNET, {100: (6, 1)}),
    "scalingnet": Case(
        "scalingnet", TwinScalingNet, torch.channels_last, {}, (1, 8, 16), {8: (1.5, 1)}
    ),
    "resattentionet": Case(
        "resattentionet",
        TwinResAttentioNet,
        None,
        {"drop_prob": 0.0},
        goals=NOT_SLOWER,
        error_limit=2e-1,
    ),
}


def pytest_generate_tests(metafunc):
    """A function per network and batch size; of a smoke run, two samples of each network."""
    smoke = metafunc.config.getoption("--benchmark-smoke")
    cases = [(n, b) for n, case in CASES.items() for b in ((2,) if smoke else case.batches)]
    metafunc.parametrize("name, batch", cases)


def settled(module, *inputs):
    """Put statistics of these inputs into the norms, as training would: with the 1 that a fresh
    norm holds for a variance, LDM-EEG's logits hardly depend on its input."""
    norms = [m for m in module.modules() if hasattr(m, "running_var")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module


def torcheeg_network():
    spec = importlib.util.find_spec("torcheeg")
    if spec is None:
        pytest.skip("torcheeg is not installed")
    by_path = runpy.run_path(str(TESTS / "data" / "make_sst_torcheeg.py"))["torcheeg_class"]
    return by_path(spec.submodule_search_locations[0])()


def as_torcheeg_has_them(frequency_maps, time_maps):
    return (torch.cat([frequency_maps[:, 0], time_maps[:, 0]], 1),)


def build(case, batch):
    """Return our network, the rival, and the inputs of each: those measured, and 8 others."""
    torch.manual_seed(0)
    net = models.create(case.model, **case.options)
    inputs, others = net.example_inputs(batch), net.example_inputs(8)
    if case.twin is None:
        rival_inputs = [as_torcheeg_has_them(*maps) for maps in (inputs, others)]
        rival = settled(torcheeg_network(), *rival_inputs[1])
        net.load_state_dict(convert(rival.state_dict()))
        return net, rival, inputs, *rival_inputs
    rival = case.twin(**case.options)
    rival.load_state_dict(settled(net, *others).state_dict())
    return net, rival, inputs, inputs, others


def contenders(bench, case, net, rival, inputs, rival_inputs, call):
    """Return ``call(forward, module, inputs)`` of ours and of each rival."""
    prefix = "" if case.twin else "torcheeg "
    rivals = {}
    for suffix, memory_format in {"": torch.contiguous_format, " channels_last": case.last}.items():
        if memory_format is None:
            continue
        own = copy.deepcopy(rival).to(memory_format=memory_format)
        rivals[f"{prefix}eager{suffix}"] = call(own, own, rival_inputs)
        if (compiled := bench.compile(own)) is not None:
            rivals[f"{prefix}compile{suffix}"] = call(compiled, own, rival_inputs)
    if (compiled := bench.compile(net)) is not None:
        rivals["ours compile"] = call(compiled, net, inputs)
    return call(net, net, inputs), rivals


def in_double(tensors):
    return [t.double() for t in tensors]


def shapes(inputs):
    return " ".join(str(tuple(x.shape)) for x in inputs)


def bench_forward(bench, name, batch):
    case = CASES[name]
    net, rival, inputs, rival_inputs, others = build(case, batch)
    net.eval(), rival.eval()
    exact = copy.deepcopy(rival).double()
    with torch.no_grad():
        truth = exact(*in_double(rival_inputs))
        # What a sample's logits have in common with all others' is no merit.
        common = exact(*in_double(others)).mean(0)
        bench.compare(
            f"{name} eval batch {batch}",
            shapes(inputs),
            *contenders(bench, case, net, rival, inputs, rival_inputs, forward_pass),
            lambda logits: relative_error(logits - common, truth - common),
            error_limit=1e-3,
            rival_error_limit=1e-2,
        )


def bench_train(bench, name, batch):
    case = CASES[name]
    net, rival, inputs, rival_inputs, _ = build(case, batch)
    net.train(), rival.train()
    targets = torch.arange(batch) % net.config["n_outputs"]
    step = functools.partial(training_step, targets=targets)
    exact = copy.deepcopy(rival).double()
    truth = step(exact, exact, in_double(rival_inputs))()
    bench.compare(
        f"{name} train batch {batch}",
        shapes(inputs),
        *contenders(bench, case, net, rival, inputs, rival_inputs, step),
        error_of(truth, {} if case.twin else convert(truth)),
        error_limit=case.error_limit,
        rival_error_limit=2 * case.error_limit,
        goal=case.goals.get(batch),
        predicted_ms=case.predicted_ms.get(batch),
    )


def forward_pass(forward, module, inputs):
    return lambda: forward(*inputs)


def training_step(forward, module, inputs, targets):
    """Each call returns the logits, and the gradients by name."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def step():
        logits = forward(*inputs)
        grads = torch.autograd.grad(F.cross_entropy(logits, targets), list(trainable.values()))
        return {"logits": logits.detach(), **dict(zip(trainable, grads, strict=True))}

    return step


def error_of(truth, renamed):
    """Error of the worst tensor, relative to its norm plus a hundredth of that of all gradients.

    The hundredth is for those that all but cancel: of a norm in front of another norm, say.
    ``renamed`` is the truth under the names that a contender has for it.
    """
    n_values = len(truth)
    scale = 0.01 * sum(float(truth[n].square().sum()) for n in truth if n != "logits") ** 0.5
    truth = truth | renamed

    def error(values):
        assert len(values) == n_values
        return max(
            float((value.double() - truth[n]).norm() / (truth[n].norm() + scale))
            for n, value in values.items()
        )

    return error
