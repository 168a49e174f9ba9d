# SPDX-License-Identifier: BSD-3-Clause
"""What is compared on a GPU: shapes, rivals (those of bench_*.py), work, goals.

Every row has a tiny shape of the same kind, for a dry run. Goals are percentages of the floor and
ratios to the natural code and to the best rival, written down before any GPU was seen; for the
predicted time the floor is that of the same note, which counts some operators' work differently.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Iterator

import bench_band_power
import bench_bandpass_power
import bench_depthwise_conv3d
import bench_filter_bank_power
import bench_lds_smooth
import bench_mobile_unit3d
import bench_scaling_conv1d
import numpy as np
import torch
from gpu_networks import chain_plans, network_plans
from gpu_rows import (
    BF16,
    BOTH,
    F16,
    F32,
    FLOAT64_RATE,
    FWD,
    HALF,
    Goal,
    Plan,
    assemble,
    limits,
    noise,
    refuse,
    size,
    widened,
    worst,
)
from gpu_timing import Contest
from scipy import signal

from eegfast import ops, reference
from eegfast.nn import fir_bank

GOALS = {
    "band_power de_seed_batch fwd float32": Goal(75, 182, 8, 4),
    "band_power de_seed_batch fwd float16": Goal(65, 91, 8, 4),
    "band_power de_seed_batch fwd bfloat16": Goal(65, 91, 8, 4),
    "band_power de_seed_batch fwd+bwd float32": Goal(60, 540, 10, 4),
    "bandpass_power but_o3_batch fwd float32": Goal(45, 426, 100, 1),
    "depthwise_conv3d dw_16_batch fwd float32": Goal(75, 19.5, 6, 6),
    "depthwise_conv3d dw_16_batch fwd float16": Goal(60, 9.8, 8, 8),
    "depthwise_conv3d dw_16_batch fwd bfloat16": Goal(60, 9.8, 8, 8),
    "depthwise_conv3d dw_16_batch fwd+bwd float32": Goal(65, 58, 6, 6),
    "mobile_unit3d blk8_batch eval fwd float32": Goal(45, 26.9, 8, 4),
    "mobile_unit3d blk8_batch train fwd+bwd float32": Goal(35, 152, 6, 3),
    "scaling_conv1d sc_8064_batch fwd float32": Goal(70, 188, 6, 3),
    "scaling_conv1d sc_8064_batch fwd+bwd float32": Goal(50, 565, 6, 3),
}
# ncu looks at these.
PROFILED = [
    "band_power de_seed_batch fwd float32",
    "bandpass_power but_o3_batch fwd float32",
    "depthwise_conv3d dw_16_batch fwd+bwd float32",
    "mobile_unit3d blk8_batch train fwd+bwd float32",
    "scaling_conv1d sc_8064_batch fwd+bwd float32",
    "filter_bank_power fb_deap_batch fwd+bwd float32",
]


# -- band_power ------------------------------------------------------------------------------------

# FLOP of a window forward and backward: the real transform, its taper and its energies.
WINDOW_FLOP = {256: (3918, 8620), 1024: (19_750, 41_000)}


def band_power(shape, tiny, window, n_fft, step, dtype, bench):
    shape = tiny if bench.smoke else shape
    wide = F32 if dtype in HALF else dtype
    ours, natural, product = bench_band_power.contenders(window, n_fft, wide, bench.device)
    functions = {
        "ours": ours if bench.on_gpu else widened(ours, dtype),
        "eager": widened(natural, dtype),
        "eager matrix product": widened(product, dtype),
        "compile": bench.compile(widened(natural, dtype)),
        "compile matrix product": bench.compile(widened(product, dtype)),
    }
    exact = bench_band_power.contenders(window, n_fft, torch.float64, bench.device)[1]
    windows = shape[0] * shape[1] * (shape[2] // window)
    signal_bytes = shape[0] * shape[1] * shape[2] * size(dtype)
    feature_bytes = windows * 5 * size(dtype)
    forward, backward = WINDOW_FLOP[n_fft]
    return assemble(
        functions,
        [noise(bench, shape, dtype)],
        exact,
        step,
        dtype,
        (1e-6, 2e-5),
        shape=f"{shape} W{window} n{n_fft}",
        bytes=(signal_bytes + feature_bytes) * (1 if step == FWD else 2)
        + (signal_bytes if step == BOTH else 0),
        flop=windows * (forward + (backward if step == BOTH else 0)),
    )


def band_power_plans() -> Iterator[Plan]:
    tiny = (2, 3, 2000)
    rows = [
        ("de_seed_batch", (64, 62, 48_000), 200, 256, FWD, (F32, F16, BF16)),
        ("de_seed_batch", (64, 62, 48_000), 200, 256, BOTH, (F32,)),
        ("de_seed_trial", (1, 62, 48_000), 200, 256, FWD, (F32,)),
        ("de_seed_trial", (1, 62, 48_000), 200, 256, BOTH, (F32, BF16)),
        ("de_win4s", (64, 62, 48_000), 800, 1024, FWD, (F32,)),
        ("de_online", (32, 62, 200), 200, 256, FWD, (F32,)),
        ("de_online_1", (1, 62, 200), 200, 256, FWD, (F32,)),
        ("de_grad", (4096, 62, 200), 200, 256, BOTH, (F32, BF16)),
    ]
    for name, shape, window, n_fft, step, dtypes in rows:
        for dtype in dtypes:
            make = functools.partial(band_power, shape, tiny, window, n_fft, step, dtype)
            yield Plan("band_power", name, step, dtype, make)


# -- bandpass_power --------------------------------------------------------------------------------


def bandpass_power(shape, order, step, bench):
    shape = (2, 3, 600) if bench.smoke else shape
    window, n_times = bench_bandpass_power.WINDOW, shape[-1]
    bands = bench_bandpass_power.BANDS
    sos = np.stack([bench_bandpass_power.plain_sections(order, *band) for band in bands])
    impulse = np.zeros(n_times)
    impulse[0] = 1
    responses = torch.from_numpy(np.stack([signal.sosfilt(s, impulse) for s in sos]))

    def powers(filtered):  # (batch, chans, bands, times)
        frames = filtered.unfold(-1, window, window)
        return frames.var(-1, correction=0).permute(0, 3, 1, 2).contiguous()

    def by_fourier(dtype):
        spectra = torch.fft.rfft(responses, n=2 * n_times).to(bench.device)
        spectra = spectra.to(torch.complex64 if dtype == F32 else torch.complex128)

        def fourier(x):
            spectrum = torch.fft.rfft(x, n=2 * n_times).unsqueeze(-2) * spectra
            return powers(torch.fft.irfft(spectrum, n=2 * n_times)[..., :n_times])

        return fourier

    def by_lfilter():
        coefficients = torch.from_numpy(sos).float().to(bench.device)
        try:
            from torchaudio.functional import lfilter
        except ImportError:
            return refuse("there is no torchaudio")
        for _ in range(2):
            before = time.perf_counter()
            lfilter(torch.randn(1, 500, device=bench.device), *coefficients[0, 0].split(3)[::-1])
        if time.perf_counter() - before > 0.1:
            return refuse("torchaudio filters in a loop of Python here")

        def filtered(x):
            bands = []
            for sections in coefficients:
                y = x
                for section in sections:
                    y = lfilter(y, section[3:], section[:3], clamp=False)
                bands.append(y)
            return powers(torch.stack(bands, -2))

        return filtered

    def state_space(x):
        return reference.bandpass_power(x, torch.from_numpy(sos), window, window, 0)

    functions = {
        "ours": lambda x: ops.bandpass_power(x, sos, window=window),
        "torchaudio lfilter": by_lfilter(),
        "eager FFT": by_fourier(F32),
        # 4,000 and more small products one after the other: once is enough to see.
        "eager state space": state_space if bench.smoke or shape[0] == 1 else None,
        "compile FFT": bench.compile(by_fourier(F32)),
    }
    samples = shape[0] * shape[1] * n_times
    features = samples // window * len(bands)
    # A section is 9, the sums are 3; backward filters again, and once more in reversed time.
    flop = samples * len(bands) * (9 * order + 3) * (1 if step == FWD else 3)
    return assemble(
        functions,
        [noise(bench, shape, F32)],
        by_fourier(torch.float64),
        step,
        F32,
        (1e-4, 1e-4),
        shape=f"{shape} W{window}, 5 bands, order {order}",
        bytes=4 * (samples + features) * (1 if step == FWD else 2)
        + (4 * samples if step == BOTH else 0),
        flop=flop,
    )


def bandpass_power_plans() -> Iterator[Plan]:
    for name, batch, order, steps in (
        ("but_o3_batch", 64, 3, (FWD, BOTH)),
        ("but_o3", 1, 3, (FWD, BOTH)),
        ("but_o5", 1, 5, (FWD,)),
        ("but_o5_batch", 64, 5, (FWD,)),
    ):
        for step in steps:
            make = functools.partial(bandpass_power, (batch, 62, 48_000), order, step)
            yield Plan("bandpass_power", name, step, F32, make)


# -- lds_smooth ------------------------------------------------------------------------------------


def lds_smooth(batch, step, bench):
    batch, windows = (2, 30) if bench.smoke else (batch, 240)
    shape = (batch, windows, 62, 5)
    y = 15 + torch.randn(shape, device=bench.device).cumsum(1) / 10
    product = bench_lds_smooth.matrix_product(windows, bench.device)

    def loop(y):
        return reference.lds_smooth(y, None, 1e-3, 1.0, 0.1, False)

    functions = {
        "ours": lambda y: ops.lds_smooth(y),
        "eager loop": loop,
        "eager matrix product": product,
        "compile matrix product": bench.compile(product),
    }
    return assemble(
        functions,
        [y],
        loop,
        step,
        F32,
        (5e-7, 2e-6),
        shape=str(shape),
        bytes=y.nbytes * (2 if step == FWD else 4),
        flop=8 * y.numel() * (1 if step == FWD else 2),
    )


def lds_smooth_plans() -> Iterator[Plan]:
    for name, batch in (("lds_batch", 64), ("lds", 1)):
        for step in (FWD, BOTH):
            yield Plan("lds_smooth", name, step, F32, functools.partial(lds_smooth, batch, step))


# -- depthwise_conv3d ------------------------------------------------------------------------------


def depthwise_conv3d(shape, step, dtype, bench):
    shape = (2, 4, *shape[2:]) if bench.smoke else shape
    channels = shape[1]
    rivals = bench_depthwise_conv3d
    x = torch.randn(shape, device=bench.device)
    weight = torch.randn(channels, 1, 3, 3, 3, device=bench.device) / 27**0.5
    bias = torch.randn(channels, device=bench.device) / 4

    functions = {
        "ours": rivals.ours,
        "eager": rivals.natural,
        "eager stacked conv2d": rivals.stacked,
        "compile": bench.compile(rivals.natural),
        "compile stacked conv2d": bench.compile(rivals.stacked),
    }
    inputs = [t.to(dtype) for t in (x, weight, bias)]
    own = x.numel() * size(dtype)
    contest = assemble(
        functions,
        inputs,
        rivals.natural,
        step,
        dtype,
        (5e-7, 2e-6),
        # No gradient where rounding decides on the ReLU.
        grad_mask=lambda out: out.abs() > (0.05 if dtype in HALF else 1e-4),
        shape=str(shape),
        bytes=own * (2 if step == FWD else 6),
        flop=54 * x.numel() * (1 if step == FWD else 3),
    )
    if step == FWD:
        x_last, *rest = inputs[0].to(memory_format=rivals.LAST), *inputs[1:]
        contest.rivals["eager channels_last"] = lambda: rivals.natural(x_last, *rest)
    return contest


def depthwise_conv3d_plans() -> Iterator[Plan]:
    for name, shape in (
        ("dw_16_batch", (256, 32, 5, 16, 16)),
        ("dw_16", (16, 32, 5, 16, 16)),
        ("dw_16x_batch", (256, 64, 5, 16, 16)),
        ("dw_8_batch", (1024, 64, 5, 8, 8)),
        ("dw_32_batch", (64, 32, 5, 32, 32)),
        ("dw_16x", (16, 64, 5, 16, 16)),
        ("dw_8", (32, 64, 5, 8, 8)),
        ("dw_32", (8, 32, 5, 32, 32)),
    ):
        for dtype in (F32, BF16, F16):
            for step in (FWD, BOTH):
                make = functools.partial(depthwise_conv3d, shape, step, dtype)
                yield Plan("depthwise_conv3d", name, step, dtype, make)


# -- mobile_unit3d ---------------------------------------------------------------------------------


def mobile_unit3d(shape, step, dtype, bench):
    shape = (2, shape[1], 2, 8, 8) if bench.smoke else shape
    training, both = "train" in step, "bwd" in step
    unit, x = bench_mobile_unit3d.make_unit(shape, bench.device)
    unit, x = unit.to(dtype).train(training), x.to(dtype).requires_grad_(both)
    exact = copy.deepcopy(unit).double()
    exact_x = x.detach().double().requires_grad_(both)
    out = bench_mobile_unit3d.plain(exact, exact_x)
    grad = torch.randn_like(out).to(dtype)
    channels = shape[1]

    def call(forward, module, memory_format):
        own = x.detach().to(memory_format=memory_format).requires_grad_(both)
        if not both:
            return lambda: forward(own)[:, channels:]
        own_grad = grad.to(memory_format=memory_format)
        leaves = [own, *module.parameters()]
        return lambda: torch.autograd.grad(forward(own), leaves, own_grad)

    def bare(x):
        parts = (unit.norm1, unit.expand, unit.norm2, unit.depthwise, unit.project)
        norm1, expand, norm2, depthwise, project = parts
        return ops.mobile_unit3d(
            x,
            *(norm1.weight, norm1.bias, expand.weight, norm2.weight, norm2.bias),
            *(depthwise.weight, project.weight),
            training=True,
        )

    if both:
        truth = torch.autograd.grad(out, [exact_x, *exact.parameters()], grad.double())
    else:
        truth = out.detach()[:, channels:]
    own, rival = limits(dtype, 1e-6, 1e-4, FWD)
    if dtype in HALF and both:
        own, rival = 0.1, 0.5  # statistics in a half type move voxels across the ReLUs' corners
    expanded = 8 * channels
    per_voxel = expanded * (4 * channels + 54) + (2 * channels**2 if training else 0)
    # Backward expands and filters again; both filters' adjoints and gradients, both products'.
    per_voxel += expanded * (10 * channels + 3 * 54) if both else 0
    voxels = x.numel() // channels
    return Contest(
        shape=f"{shape} x8",
        ours=call(unit, unit, torch.contiguous_format),
        ours_too={"ours, no running statistics": call(bare, unit, torch.contiguous_format)}
        if training
        else {},
        rivals=bench_mobile_unit3d.rivals(bench, unit, call),
        error=worst(truth),
        error_limit=own,
        rival_error_limit=rival,
        bytes=x.numel() * size(dtype) * (3 if not both else 7),
        flop=voxels * per_voxel,
    )


def mobile_unit3d_plans() -> Iterator[Plan]:
    for name, shape in (
        ("blk8_batch", (256, 8, 5, 16, 16)),
        ("blk8", (16, 8, 5, 16, 16)),
        ("blk4_batch", (256, 4, 5, 16, 16)),
        ("blk4", (16, 4, 5, 16, 16)),
        ("blk8_narrow", (64, 8, 5, 8, 8)),
    ):
        for dtype in (F32, BF16):
            for step in ("train fwd+bwd", "eval fwd", "train fwd"):
                make = functools.partial(mobile_unit3d, shape, step, dtype)
                yield Plan("mobile_unit3d", name, step, dtype, make)


# -- scaling_conv1d --------------------------------------------------------------------------------


def scaling_conv1d(shape, filters, length, levels, step, dtype, bench):
    shape = (2, 3, 130) if bench.smoke else shape
    options = (filters, length, levels, True)
    ours, rivals = bench_scaling_conv1d.contenders(*options)
    x = torch.randn(shape, device=bench.device)
    weight = torch.randn(filters, length, device=bench.device) / length**0.5
    bias = torch.randn(filters, levels, device=bench.device) / length**0.5
    tensors = [t.to(dtype).requires_grad_(step == BOTH) for t in (x, weight, bias)]
    exact = [t.detach().double().requires_grad_(step == BOTH) for t in tensors]
    out = rivals["eager"](*exact)
    if step == FWD:
        truth = out

        def call(function, inputs):
            return function(*inputs)

    else:
        near = 0.02 if dtype in HALF else 1e-4
        grad = (torch.randn_like(out) * (out.detach() > near)).to(dtype)
        truth = torch.autograd.grad(out, exact, grad.double())

        def call(function, inputs):
            grads = torch.autograd.grad(function(*inputs), inputs, grad)
            return tuple(g.reshape(t.shape) for g, t in zip(grads, tensors, strict=True))

    timed, contenders = bench_scaling_conv1d.calls(bench, tensors, ours, rivals, call)
    own, rival = limits(dtype, 5e-7, 2e-6, step)
    lengths = ops.scaling_levels(length, levels)
    out_bytes, x_bytes = out.numel() * size(dtype), x.numel() * size(dtype)
    mask_bytes = out.numel() / 8
    total = x_bytes + out_bytes
    if step == BOTH:  # and the mask out and in, the gradient and x in, x's gradient out
        total += 2 * mask_bytes + out_bytes + 2 * x_bytes
    return Contest(
        shape=f"{shape} F{filters} K{length} L{levels}",
        ours=timed,
        rivals=contenders,
        error=worst(truth),
        error_limit=own,
        rival_error_limit=rival,
        bytes=total,
        flop=2 * sum(lengths) * filters * x.numel() * (1 if step == FWD else 3),
    )


def scaling_conv1d_plans() -> Iterator[Plan]:
    for name, shape, filters, length, levels in (
        ("sc_8064_batch", (16, 32, 8064), 8, 65, 6),
        ("sc_512", (4, 32, 512), 8, 65, 6),
        ("sc_129_batch", (64, 32, 1024), 8, 129, 7),
        ("sc_8064", (1, 32, 8064), 8, 65, 6),
        ("sc_129", (2, 32, 1024), 8, 129, 7),
        ("sc_33", (4, 32, 512), 8, 33, 6),
    ):
        for dtype in (F32, BF16, F16):
            for step in (FWD, BOTH):
                arguments = (shape, filters, length, levels, step, dtype)
                make = functools.partial(scaling_conv1d, *arguments)
                yield Plan("scaling_conv1d", name, step, dtype, make)


# -- filter_bank_power -----------------------------------------------------------------------------


def filter_bank_power(shape, step, bench):
    shape = (2, 3, 100) if bench.smoke else shape
    rivals = bench_filter_bank_power
    taps = fir_bank(rivals.HAMNET, rivals.SFREQ, rivals.LENGTH).float().to(bench.device)
    functions = {"ours": ops.filter_bank_power, **rivals.RIVALS}
    functions |= {name: bench.compile(f) for name, f in rivals.COMPILED.items()}
    x = noise(bench, shape, F32)
    return assemble(
        functions,
        [x, taps],
        rivals.conv1d,
        step,
        F32,
        (1e-6, 2e-6),
        shape=f"{shape} {len(taps)} x {rivals.LENGTH}",
        # The products at every lag in float64, and for the gradient as many again, twice.
        bytes=x.nbytes * (1 if step == FWD else 3),
        flop=2 * rivals.LENGTH * x.numel() * (1 if step == FWD else 3),
        flop_rate=FLOAT64_RATE,
    )


def filter_bank_power_plans() -> Iterator[Plan]:
    for name, shape in (
        ("fb_deap_batch", (64, 32, 8064)),
        ("fb_hamnet", (100, 16, 200)),
        ("fb_deap", (4, 32, 8064)),
    ):
        for step in (FWD, BOTH):
            make = functools.partial(filter_bank_power, shape, step)
            yield Plan("filter_bank_power", name, step, F32, make)


def plans() -> list[Plan]:
    """All rows: first those with a goal, then the first shapes of each operator, then the rest."""
    by_op = [
        list(of_op())
        for of_op in (
            band_power_plans,
            bandpass_power_plans,
            lds_smooth_plans,
            depthwise_conv3d_plans,
            mobile_unit3d_plans,
            scaling_conv1d_plans,
            filter_bank_power_plans,
            chain_plans,
            network_plans,
        )
    ]
    rows = [
        (plan.title not in GOALS, place, dataclasses.replace(plan, goal=GOALS.get(plan.title)))
        for of_op in by_op
        for place, plan in enumerate(of_op)
    ]
    assert sum(not without for without, *_ in rows) == len(GOALS)
    return [plan for *_, plan in sorted(rows, key=lambda row: row[:2])]
