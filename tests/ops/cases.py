# SPDX-License-Identifier: BSD-3-Clause
"""Every operator at small shapes that take its fast paths and its general ones: one table, for
every back end (targets.py), the sanitizers and the fake kernels.

A case draws its tensors in float64; ``inputs`` rounds them to the type under test, so that the
truth in float64 is of the same numbers. Where a ReLU stands on the way, tensors are drawn again
until no activation lies within 1e-5 of its corner, where rounding would decide on the gradient.
Nothing here needs more than torch and pytest.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from numerics import relative_error
from torch import Tensor

from eegfast import ops, reference
from eegfast.backends import has_kernel, run_on

LAST = torch.channels_last_3d
CORNER = 1e-5


@dataclass(frozen=True)
class Case:
    """``draw(generator)`` gives leaves and constants, ``call(leaves, constants)`` the op's result,
    ``corners(leaves, constants)`` what goes into each ReLU."""

    op: str
    name: str
    draw: Callable[[torch.Generator], tuple[list[Tensor], list[Tensor]]]
    call: Callable[[list[Tensor], list[Tensor]], object]
    corners: Callable[[list[Tensor], list[Tensor]], list[Tensor]] | None = None

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}"

    def inputs(self, dtype: torch.dtype, again: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """Leaves and constants on the CPU; ``again`` gives other numbers of the same shapes."""
        seed = zlib.crc32(self.id.encode()) + 1000 * again
        for attempt in range(200):
            generator = torch.Generator().manual_seed(seed + attempt)
            leaves, constants = ([t.to(dtype) for t in part] for part in self.draw(generator))
            if self.corners is None:
                return leaves, constants
            exact = ([t.double() for t in part] for part in (leaves, constants))
            if all(float(c.abs().min()) > CORNER for c in self.corners(*exact)):
                return leaves, constants
        raise AssertionError(f"{self.id}: always an activation near zero")

    def results(self, leaves: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
        out = self.call(leaves, constants)
        return list(out) if isinstance(out, tuple) else [out]

    def gradients(self, leaves, constants, grads) -> tuple[list[Tensor], list[Tensor]]:
        """Results, and the gradient of every leaf for these incoming ones."""
        leaves = [t.detach().requires_grad_() for t in leaves]
        out = self.results(leaves, constants)
        return [o.detach() for o in out], list(torch.autograd.grad(out, leaves, grads))

    def truth(self, leaves, constants, grads) -> tuple[list[Tensor], list[Tensor]]:
        """The same by the reference, in float64 on the CPU."""
        exact = ([t.detach().cpu().double() for t in part] for part in (leaves, constants, grads))
        with run_on(reference):
            return self.gradients(*exact)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _band_power(name, shape, window, step, n_fft, log2=False):
    top = n_fft // 2 + 1
    # The log of a bin that happens to be near zero is ill-conditioned: wide bands only.
    bins = (
        [(0, top), (top // 4, top)]
        if log2
        else [(0, top), (top // 3, top // 3 + 1), (top // 2, top)]
    )

    def draw(generator):
        return [normal(generator, *shape)], []

    def call(leaves, constants):
        options = dict(window=window, step=step, n_fft=n_fft, bins=bins, taper="hamming")
        return ops.band_power(leaves[0], gain=3.0, log2=log2, **options)

    return Case("band_power", name, draw, call)


def resonators(bands, sections, sfreq=200, plain=True):
    """Band-passes of equal second-order sections; not ``plain``, also with other zeros."""
    bank = []
    for low, high in bands:
        angle = 2 * math.pi * (low + high) / 2 / sfreq
        alpha = math.sin(angle) * (high - low) / (low + high)
        poles = [1 + alpha, -2 * math.cos(angle), 1 - alpha]
        section = [alpha, 0.0, -alpha, *poles]
        other = [alpha, 2 * alpha, alpha, *poles], [alpha, -2 * alpha, alpha, *poles]
        bank.append([section] * sections if plain else [*other, section][:sections])
    return torch.tensor(bank, dtype=torch.float64)


BANDS = [(1, 4), (4, 8), (8, 14), (14, 31), (31, 50)]


def _bandpass_power(name, shape, window, step, sections=3, ddof=0, **options):
    sos = resonators(BANDS, sections, **options)

    def draw(generator):
        return [20 * normal(generator, *shape)], []

    def call(leaves, constants):
        return ops.bandpass_power(leaves[0], sos, window=window, step=step, ddof=ddof)

    return Case("bandpass_power", name, draw, call)


def _depthwise_conv3d(name, shape, kernel=(3, 3, 3), stride=1, padding=1, plain=False, last=False):
    channels = shape[1]

    def draw(generator):
        x = normal(generator, *shape)
        x = x.contiguous(memory_format=LAST) if last else x
        weight = normal(generator, channels, 1, *kernel)
        affine = [normal(generator, channels) for _ in range(0 if plain else 5)]
        return [x, weight, *affine], []

    def call(leaves, constants, out_relu=not plain):
        x, weight, bias, *affine = leaves if len(leaves) > 2 else (*leaves, None)
        names = ("in_scale", "in_shift", "out_scale", "out_shift")
        options = dict(zip(names, affine, strict=False))
        return ops.depthwise_conv3d(
            x, weight, bias, stride, padding, in_relu=not plain, out_relu=out_relu, **options
        )

    def corners(leaves, constants):
        scale, shift = (leaves[i][:, None, None, None] for i in (3, 4))
        with run_on(reference):
            return [leaves[0] * scale + shift, call(leaves, constants, out_relu=False)]

    return Case("depthwise_conv3d", name, draw, call, None if plain else corners)


def _filter_bank_power(name, shape, filters, length, padding="same"):
    def draw(generator):
        return [normal(generator, *shape), normal(generator, filters, length)], []

    def call(leaves, constants):
        return ops.filter_bank_power(*leaves, padding)

    return Case("filter_bank_power", name, draw, call)


def _lds_smooth(name, shape, causal, prior):
    def draw(generator):
        y = normal(generator, *shape).cumsum(-3) / 4
        return [y, *([normal(generator, *shape[:-3], *shape[-2:])] if prior else [])], []

    def call(leaves, constants):
        return ops.lds_smooth(leaves[0], causal=causal, prior=leaves[1] if prior else None)

    return Case("lds_smooth", name, draw, call)


def mobile_unit3d_case(name, shape, expanded, training, merge="concat"):
    channels = shape[1]

    def draw(generator):
        parameters = [
            1 + 0.2 * normal(generator, channels),
            0.3 * normal(generator, channels),
            normal(generator, expanded, channels, 1, 1, 1) / channels**0.5,
            1 + 0.2 * normal(generator, expanded),
            0.3 * normal(generator, expanded),
            normal(generator, expanded, 1, 3, 3, 3) / 5,
            normal(generator, channels, expanded, 1, 1, 1) / expanded**0.5,
        ]
        means = [0.3 * normal(generator, n) for n in (channels, expanded)]
        variances = [0.5 + normal(generator, n).square() for n in (channels, expanded)]
        running = [means[0], variances[0], means[1], variances[1]]
        return [0.7 * normal(generator, *shape) + 0.3, *parameters], running

    def call(leaves, constants):
        running = [c.clone() for c in constants]  # updated in training
        return ops.mobile_unit3d(*leaves, *running, training=training, merge=merge)

    def corners(leaves, constants):
        x, weight1, bias1, expand, weight2, bias2, *_ = leaves
        running = [c.clone() for c in constants]
        before1 = F.batch_norm(x, *running[:2], weight1, bias1, training)
        hidden = F.conv3d(F.relu(before1), expand)
        return [before1, F.batch_norm(hidden, *running[2:], weight2, bias2, training)]

    return Case("mobile_unit3d", name, draw, call, corners)


def _scaling_conv1d(name, shape, filters, length, shared=True, levels=None, relu=True):
    count = len(ops.scaling_levels(length, levels))
    kernels = (filters,) if shared else (shape[-2], filters)

    def draw(generator):
        weight, bias = normal(generator, *kernels, length), normal(generator, *kernels, count)
        return [normal(generator, *shape), weight, bias], []

    def call(leaves, constants, relu=relu):
        return ops.scaling_conv1d(*leaves, max_levels=levels, relu=relu)

    def corners(leaves, constants):
        with run_on(reference):
            return [call(leaves, constants, relu=False)]

    return Case("scaling_conv1d", name, draw, call, corners if relu else None)


CASES = [
    _band_power("seed", (2, 5, 700), 200, 200, 256),
    _band_power("seed_log2", (2, 5, 700), 200, 200, 256, log2=True),
    _band_power("overlap", (2, 3, 600), 97, 31, 128),
    _band_power("gaps", (3, 257), 60, 77, 64),
    _band_power("n2048", (1, 2, 4100), 2000, 2048, 2048),
    _band_power("prime", (1, 5, 431), 127, 50, 127),
    _band_power("tiny", (1, 1, 1), 1, 1, 1),
    _bandpass_power("seed", (2, 19, 401), 100, 100),
    _bandpass_power("overlap", (1, 33, 301), 100, 30, plain=False),
    _bandpass_power("gaps", (2, 3, 301), 60, 90, sections=2, ddof=1),
    _bandpass_power("o5", (3, 401), 128, 128, sections=5),
    _depthwise_conv3d("wide16", (3, 5, 5, 16, 16)),
    _depthwise_conv3d("wide8", (2, 17, 5, 8, 8)),
    _depthwise_conv3d("wide32", (1, 2, 5, 32, 32)),
    _depthwise_conv3d("plain", (3, 4, 5, 16, 16), plain=True),
    _depthwise_conv3d("last", (2, 6, 5, 8, 16), last=True),
    _depthwise_conv3d("odd", (1, 3, 4, 5, 63)),
    _depthwise_conv3d("strided", (2, 3, 8, 9, 7), stride=2),
    _depthwise_conv3d("kernel542", (1, 5, 9, 11, 13), (5, 4, 2), (2, 1, 3), (2, 1, 0)),
    _depthwise_conv3d("tiny", (1, 1, 1, 1, 1)),
    _filter_bank_power("hamnet", (3, 5, 200), 18, 41),
    _filter_bank_power("valid", (2, 9, 600), 7, 33, "valid"),
    _filter_bank_power("short", (2, 17, 5), 2, 9),
    _filter_bank_power("padded", (2, 3, 7), 11, 12, 3),
    _lds_smooth("smoother", (2, 40, 7, 5), causal=False, prior=False),
    _lds_smooth("filter", (2, 127, 3, 5), causal=True, prior=True),
    _lds_smooth("long", (300, 13, 5), causal=False, prior=True),
    _lds_smooth("single", (1, 1, 1), causal=False, prior=False),
    mobile_unit3d_case("train_c4", (2, 4, 5, 16, 16), 32, True),
    mobile_unit3d_case("eval_c4", (2, 4, 5, 16, 16), 32, False),
    mobile_unit3d_case("train_c8", (1, 8, 5, 8, 8), 64, True, "add"),
    mobile_unit3d_case("eval_c8", (3, 8, 5, 8, 8), 64, False, "add"),
    mobile_unit3d_case("train_odd", (3, 3, 4, 9, 5), 7, True),
    mobile_unit3d_case("eval_odd", (1, 2, 3, 3, 37), 5, False),
    mobile_unit3d_case("train_narrow", (9, 6, 5, 2, 2), 48, True),
    _scaling_conv1d("k65", (2, 3, 130), 8, 65, levels=6),
    _scaling_conv1d("k33_own", (2, 3, 127), 5, 33, shared=False),
    _scaling_conv1d("k129", (1, 2, 129), 4, 129),
    _scaling_conv1d("linear", (2, 3, 300), 3, 9, relu=False),
    _scaling_conv1d("tiny", (2, 1, 1), 1, 5),
]
FIRST = {case.op: case for case in reversed(CASES)}  # one of each operator
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF)
REFUSE_HALF_ON_CPU = {"band_power", "bandpass_power", "lds_smooth"}

parametrize_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
parametrize_ops = pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)


def kernels_of(case):
    return case.op, case.op + "_backward"


def on(device, *parts):
    """Tensors there, laid out as they are here."""
    return [[t.to(device) for t in part] for part in parts]


def grads_for(case, leaves, constants, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        out = case.results(leaves, constants)
    return [torch.randn(o.shape, generator=generator).to(o.dtype).to(o.device) for o in out]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip([*a[0], *a[1]], [*b[0], *b[1]], strict=True))


def close(case, a, b):
    """Bit for bit where a CUDA kernel runs; the reference's algorithms are torch's to choose."""
    if all(has_kernel(name, "cuda") for name in kernels_of(case)):
        return equal(a, b)
    pairs = zip([*a[0], *a[1]], [*b[0], *b[1]], strict=True)
    return all(relative_error(x, y.double()) <= 1e-4 for x, y in pairs)
