# SPDX-License-Identifier: BSD-3-Clause
"""LDM-EEG's Mobile unit, forward; backward is in ``_mobile_unit3d_backward.py``.

    a = relu(norm1(x))                 (C channels)
    p = relu(norm2(expand a))          (E channels, like q)
    q = depthwise 3x3x3 of p, zero padding 1
    out = (x, project q) along the channels, or their sum

Statistics of the batch need no expanded tensor: with m and G the mean and the covariance of a, the
expansion's mean is W m and its variance w G w^T for each row w of W. Three launches find them (sums
of x, moments of a, and these), all finished in double; one more does the rest.

Of E channels nothing of the batch's size is stored, only each program's scratch for EB channels of
a band of rows (``_mobile_unit3d.py``): p is written there once and read at its nine neighbours of a
plane. To compute p again at each of them instead, with x read nine times, would cost some 33
instructions per neighbour in a plane, so 300 per voxel and expanded channel for C = 8; this is
about 135 (sm_90: 33 for p and its halo, 70 per plane, one more than the depth, for the rest), 43 of
them FMA, and 11 x 4 bytes of the caches. The projected sums of one step of EB channels
wait in the scratch for the next. A thread has four channels of one position, their 27 taps in
registers.

x is float32 or a half type, computed on in float32; C is at most 16, a sample has less than 2**30
elements. Anything else, E = 0 and float64 included, is left to the reference.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from eegfast._triton._mobile_unit3d import (
    OPTIONS,
    add_plane,
    band_of,
    check,
    columns,
    configs,
    first_norm,
    folded_expand,
    launch_moments,
    moment_row,
    put_expanded,
    relu,
    stack,
    work,
)
from eegfast._triton._mobile_unit3d_backward import mobile_unit3d_backward

__all__ = ["mobile_unit3d", "mobile_unit3d_backward"]


@triton.jit
def _second_statistics(
    bias1_ptr,  # (C,)
    expand_ptr,  # (E, C)
    moments_ptr,  # (parts, C, 1 + C)
    mean_ptr,  # (E,)
    var_ptr,
    voxels,
    parts,
    expanded,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    EB: tl.constexpr,
):
    e = tl.program_id(0) * EB + tl.arange(0, EB)  # (EB,)
    column = tl.arange(0, COLUMNS)
    at = e[:, None] * C + column[None, :]
    mask = (e < expanded)[:, None] & (column < C)[None, :]
    weights = tl.load(expand_ptr + at, mask=mask, other=0).to(tl.float32).to(tl.float64)
    origin, offset = tl.zeros((EB,), tl.float64), tl.zeros((EB,), tl.float64)
    square = tl.zeros((EB,), tl.float64)
    for c in tl.static_range(C):
        total, products = moment_row(moments_ptr, parts, c, column, C, COLUMNS)
        weight = tl.load(expand_ptr + e * C + c, mask=e < expanded, other=0)
        weight = weight.to(tl.float32).to(tl.float64)
        origin += weight * relu(tl.load(bias1_ptr + c).to(tl.float32)).to(tl.float64)
        offset += weight * total
        square += weight * tl.sum(weights * products[None, :], axis=1)
    offset, square = offset / voxels, square / voxels
    var = square - offset * offset
    tl.store(mean_ptr + e, (origin + offset).to(tl.float32), mask=e < expanded)
    tl.store(var_ptr + e, tl.where(var < 0, 0, var).to(tl.float32), mask=e < expanded)


@triton.jit
def _copy(from_ptr, to_ptr, count, BLOCK: tl.constexpr):
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(to_ptr + i, tl.load(from_ptr + i, mask=i < count, other=0), mask=i < count)


@triton.jit
def _forward(
    x_ptr,  # (batch, C, depth, height, width)
    weight1_ptr,  # (C,)
    bias1_ptr,
    expand_ptr,  # (E, C)
    weight2_ptr,  # (E,)
    bias2_ptr,
    depthwise_ptr,  # (E, 27)
    project_ptr,  # (C, E)
    mean1_ptr,  # (C,)
    var1_ptr,
    mean2_ptr,  # (E,)
    var2_ptr,
    to_mean1_ptr,  # where given statistics are copied to; None otherwise
    to_var1_ptr,
    to_mean2_ptr,
    to_var2_ptr,
    out_ptr,  # (batch, C or 2 C, depth, height, width)
    scratch_ptr,  # (programs, EB + C, depth, span), float32
    expanded,
    units,
    bands,
    rows,
    span,
    depth,
    height,
    width,
    eps1,
    eps2,
    CONCAT: tl.constexpr,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,  # a power of 2, at least C
    EB: tl.constexpr,
    POS: tl.constexpr,
):
    pid, plane = tl.program_id(0), height * width
    if pid == 0:
        if to_mean1_ptr is not None:
            _copy(mean1_ptr, to_mean1_ptr, C, 16)
            _copy(var1_ptr, to_var1_ptr, C, 16)
        if to_mean2_ptr is not None:
            _copy(mean2_ptr, to_mean2_ptr, expanded, POS)
            _copy(var2_ptr, to_var2_ptr, expanded, POS)
    chan = tl.arange(0, COLUMNS)[None, :]
    scratch = scratch_ptr + pid.to(tl.int64) * (EB + C) * (depth * span)
    projected = scratch + EB * depth * span  # (C, depth, span)
    for unit in range(pid, units, tl.num_programs(0)):
        sample, own, end, first, last = band_of(unit, bands, rows, height, width)
        x = x_ptr + sample * (C * depth * plane)
        out = out_ptr + sample * ((2 * C if CONCAT else C) * depth * plane)
        for e0 in range(0, expanded, EB):
            e = e0 + tl.arange(0, EB)  # (EB,)
            live = e < expanded
            norm = first_norm(weight1_ptr, bias1_ptr, mean1_ptr, var1_ptr, eps1, C)
            # fmt: off
            folded, shift = folded_expand(
                expand_ptr, weight2_ptr, bias2_ptr, mean2_ptr, var2_ptr, eps2, e, live, C
            )
            put_expanded(
                scratch, x, norm, folded, shift, live, first, last, span, depth, plane, C, EB, POS
            )
            # fmt: on
            tl.debug_barrier()
            taps = columns(depthwise_ptr, e, live, 27, 1, 27)
            for start in range(own, end, POS):
                at = start + tl.arange(0, POS)  # (POS,)
                sums = (tl.zeros((POS, EB), tl.float32),) * 3
                for d in range(depth + 1):
                    # fmt: off
                    sums = add_plane(
                        sums, scratch, taps, at, end, first, d, span, depth, height, width,
                        False, EB,
                    )
                    # fmt: on
                    results = ()
                    for c in tl.static_range(C):
                        project = tl.load(project_ptr + c * expanded + e, mask=live, other=0)
                        product = sums[2] * project.to(tl.float32)[None, :]
                        results = results + (tl.sum(product, axis=1),)
                    result = stack(results, C, COLUMNS)  # (POS, COLUMNS)
                    there = (at < tl.where(d > 0, end, 0))[:, None] & (chan < C)
                    wait = projected + (chan * depth + d - 1) * span + (at - first)[:, None]
                    if e0 > 0:
                        result += tl.load(wait, mask=there, other=0)
                    if e0 + EB < expanded:
                        tl.store(wait, result, mask=there)
                    else:
                        to = (chan * depth + d - 1) * plane + at[:, None]
                        value = tl.load(x + to, mask=there, other=0)
                        if CONCAT:
                            tl.store(out + to, value, mask=there)
                            to += C * depth * plane
                        else:
                            result += value.to(tl.float32)
                        tl.store(out + to, result.to(out_ptr.dtype.element_ty), mask=there)
                    sums = (tl.zeros((POS, EB), tl.float32), sums[0], sums[1])
            tl.debug_barrier()  # the next channels take the place of these


def mobile_unit3d(
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    expand_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    mean1: Tensor | None,
    var1: Tensor | None,
    mean2: Tensor | None,
    var2: Tensor | None,
    eps1: float,
    eps2: float,
    concat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`eegfast.reference.mobile_unit3d`."""
    batch, chans = x.shape[:2]
    expanded = expand_weight.shape[0]
    check(x, expanded)
    if not x.numel() and (mean1 is None or mean2 is None):
        raise NotImplementedError("eegfast._triton.mobile_unit3d: statistics of nothing")
    out = x.new_empty((batch, 2 * chans if concat else chans, *x.shape[2:]))
    if not x.numel():
        return out, *(s.clone() for s in (mean1, var1, mean2, var2))
    sizes, programs, volume = work(x)
    tile = configs(chans, expanded, False)
    x = x.contiguous()
    norm1 = norm1_weight.contiguous(), norm1_bias.contiguous()
    expand = expand_weight.contiguous()
    rest = (norm2_weight, norm2_bias, depthwise_weight, project_weight)
    made = [x.new_empty(n, dtype=torch.float32) for n in (chans, chans, expanded, expanded)]
    given = [None if s is None else s.contiguous() for s in (mean1, var1, mean2, var2)]
    with torch.cuda.device_of(x):
        if mean1 is None or mean2 is None:
            first = made[:2] if mean1 is None else given[:2]
            found = launch_moments(x, *norm1, *first, eps1, mean1 is None, mean2 is None)
        if mean2 is None:
            _second_statistics[(triton.cdiv(expanded, 16),)](
                norm1[1],
                expand,
                found,
                *made[2:],
                x.numel() // chans,
                found.shape[0],
                expanded,
                C=chans,
                COLUMNS=triton.next_power_of_2(chans),
                EB=16,
                **OPTIONS,
            )
        _forward[(programs,)](
            x,
            *norm1,
            expand,
            *(t.contiguous() for t in rest),
            *(m if g is None else g for m, g in zip(made, given, strict=True)),
            *(None if g is None else m for m, g in zip(made, given, strict=True)),
            out,
            x.new_empty(programs * (tile["EB"] + chans) * volume, dtype=torch.float32),
            expanded,
            **sizes,
            eps1=eps1,
            eps2=eps2,
            CONCAT=concat,
            C=chans,
            COLUMNS=triton.next_power_of_2(chans),
            **tile,
            **OPTIONS,
        )
    return out, *made
