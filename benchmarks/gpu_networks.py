# SPDX-License-Identifier: BSD-3-Clause
"""Whole networks on a GPU, and the way from raw microvolts to logits: rows of gpu_cases.py.

The rivals are those of bench_models.py: the twins in torch's own modules, contiguous and
channels-last. Compilers take minutes for each, so they run only where they are given the time:
``python benchmarks/gpu.py --only '^(network|chain)' --seconds 1200 --compile-seconds 900``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from bench_band_power import BANDS, SFREQ
from bench_band_power import contenders as band_powers
from bench_lds_smooth import matrix_product
from bench_models import CASES, build, contenders, error_of, forward_pass, settled, training_step
from gpu_rows import BOTH, F32, FWD, Plan
from gpu_timing import Contest, GpuBenchmark
from harness import pink_noise, relative_error
from twin_ldm_eeg import TwinLDMEEG

from eegfast import models, ops
from eegfast.datasets import SEED_CHANNELS
from eegfast.features import electrode_maps

# Millions of multiply-adds of a sample, forward, by the published layers.
WORK = {
    "ldm-eeg": 79.7,
    "sst-emotionnet": 212,
    "hamnet-pretrain": 2.6,
    "hamnet-finetune": 5.1,
    "scalingnet": 517,
    "resattentionet": 1.8,
}
COMPILE_SECONDS = 300  # a network is not compiled with less at hand
STEPS = 8  # time maps of a window
CHUNK = 2048  # windows that go through the network together


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(t.nbytes for t in tensors)


def network(name: str, batch: int, train: bool, bench: GpuBenchmark) -> Contest:
    """A forward pass in evaluation mode, or a training step up to the optimizer."""
    case = CASES[name]
    batch = 2 if bench.smoke else batch
    net, rival, inputs, _, others = build(case, batch)
    net, rival = (m.to(bench.device).train(train) for m in (net, rival))
    inputs, others = ([x.to(bench.device) for x in group] for group in (inputs, others))
    call = forward_pass
    exact = copy.deepcopy(rival).double()
    if train:
        targets = torch.arange(batch, device=bench.device) % net.config["n_outputs"]
        call = functools.partial(training_step, targets=targets)
        truth = call(exact, exact, [x.double() for x in inputs])()
        error = error_of(truth, {})
    else:
        with torch.no_grad():
            truth = exact(*(x.double() for x in inputs))
            # What a sample's logits have in common with all others' is no merit.
            common = exact(*(x.double() for x in others)).mean(0)

        def error(logits):
            return relative_error(logits - common, truth - common)

    has_time = bench.compile_seconds >= COMPILE_SECONDS
    compiler = SimpleNamespace(compile=bench.compile if has_time else lambda function: None)
    ours, rivals = contenders(compiler, case, net, rival, inputs, inputs, call)
    compiled = {k: rivals.pop(k) for k in list(rivals) if k.startswith("ours")}
    weights = bytes_of(*net.parameters())
    limit = case.error_limit if train else 1e-3
    return Contest(
        shape=" ".join(str(tuple(x.shape)) for x in inputs),
        ours=ours,
        rivals=rivals,
        ours_too=compiled,
        error=error,
        error_limit=limit,
        rival_error_limit=10 * limit,
        bytes=bytes_of(*inputs) + (2 if train else 1) * weights,
        flop=(3 if train else 1) * 2e6 * WORK[name] * batch,
        graph=batch == 1 and not train,
    )


def chain(shape: tuple[int, ...], tiny: tuple[int, ...], bench: GpuBenchmark) -> Contest:
    """Raw signal, differential entropy per second, smoothing, maps, LDM-EEG's logits.

    A sample is a second: five smoothed bands, and the power of eight parts of it as time maps.
    """
    shape = tiny if bench.smoke else shape
    generator = torch.Generator().manual_seed(0)
    # 1/f noise takes its time: a few recordings, each at several scales.
    some = pink_noise(min(4, shape[0]), *shape[1:], generator=generator)
    scale = 1 + torch.rand(shape[0], 1, 1, generator=generator)
    x = (some[torch.arange(shape[0]) % len(some)] * scale).to(bench.device)
    to_maps = electrode_maps(SEED_CHANNELS).to(bench.device).mT
    to_maps = {dtype: to_maps.to(dtype) for dtype in (torch.float32, torch.float64)}
    part = SFREQ // STEPS
    bins, part_bins = ops.band_bins(BANDS, SFREQ, 256), [(1, 8)]

    def stack(values):  # (N, depth, 62) -> (N, 1, depth, 32, 32)
        maps = (values @ to_maps[values.dtype]).unflatten(-1, (32, 32)).unsqueeze(1)
        std, mean = torch.std_mean(maps, (1, 2, 3, 4), correction=0, keepdim=True)
        return (maps - mean) / std

    def rows_of(bands, parts):
        """(recordings, windows, 62, 5) and (recordings, 8 * windows, 62, 1), a row a window."""
        return bands.flatten(0, 1).mT, parts.unflatten(1, (-1, STEPS)).flatten(0, 1).squeeze(-1)

    def logits_of(network, *features):
        chunks = zip(*(rows.split(CHUNK) for rows in rows_of(*features)), strict=True)
        return torch.cat([network(*map(stack, chunk)) for chunk in chunks])

    def ours_of(x):
        power = functools.partial(ops.band_power, x, gain=100.0, log2=True)
        bands = ops.lds_smooth(power(window=SFREQ, n_fft=256, bins=bins))
        return bands, power(window=part, n_fft=32, bins=part_bins)

    def torchs_of(dtype):
        smooth = matrix_product(shape[-1] // SFREQ, bench.device)
        taper = torch.hann_window(part, periodic=False, dtype=torch.float64)
        taper = taper.to(bench.device, dtype)
        natural = band_powers(SFREQ, 256, dtype, bench.device)[1]

        def features(x):
            spectrum = torch.fft.rfft(x.unfold(-1, part, part) * taper, n=32)
            power = spectrum[..., slice(*part_bins[0])].abs().square().mean(-1, keepdim=True)
            bands = natural(x)
            smoothed = smooth(bands) if dtype == torch.float32 else ops.lds_smooth(bands)
            return smoothed, torch.log2(100 * power).transpose(-3, -2)

        return features

    with torch.no_grad():
        torch.manual_seed(0)
        net = models.create("ldm-eeg", drop_prob=0.0).to(bench.device)
        some = ours_of(pink_noise(8, 62, 4 * SFREQ, generator=generator).to(bench.device))
        settled(net, *map(stack, rows_of(*some))).eval()
        twin = TwinLDMEEG(drop_prob=0.0).to(bench.device)
        twin.load_state_dict(net.state_dict())
        twin.eval()
        last = copy.deepcopy(twin).to(memory_format=torch.channels_last_3d)
        exact = copy.deepcopy(twin).double()
        truth = logits_of(exact, *torchs_of(torch.float64)(x.double()))
        features = torchs_of(torch.float32)

    common = truth.mean(0) if len(truth) > 1 else 0
    n = len(truth)
    return Contest(
        shape=str(shape),
        ours=lambda: logits_of(net, *ours_of(x)),
        rivals={
            "eager": lambda: logits_of(twin, *features(x)),
            "eager channels_last": lambda: logits_of(last, *features(x)),
        },
        error=lambda logits: relative_error(logits - common, truth - common),
        error_limit=1e-3,
        rival_error_limit=1e-2,
        bytes=bytes_of(x, *net.parameters()) + truth.numel() * 4,
        flop=2e6 * WORK["ldm-eeg"] * n,
        graph=n == 1,
    )


def network_plans() -> Iterator[Plan]:
    """Training steps first, then evaluation at batch 1."""
    for step, batches in ((BOTH, {"hamnet": 100, "scalingnet": 8}), (FWD, {})):
        for name in WORK:
            batch = batches.get(name.partition("-")[0], 16) if step == BOTH else 1
            make = functools.partial(network, name, batch, step == BOTH)
            yield Plan("network", f"{name} batch {batch}", step, F32, make)


def chain_plans() -> Iterator[Plan]:
    second, tiny = (1, 62, 200), (2, 62, 800)
    for name, *shapes in (("second", second, second), ("seed_batch", (64, 62, 48_000), tiny)):
        make = functools.partial(chain, *shapes)
        yield Plan("chain", f"raw_to_logits {name}", FWD, F32, make)
