# SPDX-License-Identifier: BSD-3-Clause
"""Backward of the Mobile unit (``mobile_unit3d.py``), in four launches and, where the second norm
took the batch's statistics, one more for the moments of a. With d for a gradient, per expanded
channel e (of W1, taps w, W3) and with s2 and f2 the second norm's scale and 1 / deviation:

    dq = W3[:, e] . dr,  dW3[:, e] = sum q dr,  dw[k] = sum p(u) dq(u - k),
    dp(u) = sum_k w[k] dq(u - k),  g = dp where p > 0,
    dbeta2 = sum g,  S = sum g a  (C values),  da' = sum_e W1[e] s2 g

What batch statistics add is linear in a, so it needs sums over the batch only, and da' is corrected
for it on C channels. With m and G the mean and the covariance of a, and N voxels:

    dgamma2 = f2 (W1[e] . S - mean2 dbeta2),  dW1[e] = s2 (S - dbeta2 m - f2 dgamma2 W1[e] G)
    da = da' - 1/N sum_e s2 W1[e] (dbeta2 + f2 dgamma2 W1[e] . (a - m))
    b = da where a > 0,  dx = s1 (b - dbeta1 / N - f1 (x - mean1) dgamma1 / N) + d out_x

1. `_sums`: p and dq of EB channels go to a program's scratch; passes over it give dw, then q and
   dW3, then g, which takes p's place, then S and da'. Each keeps what it sums, at most 27 + C
   values of a thread's four channels, in registers; programs leave their sums in a workspace.
2. `_finish_second`: a program adds up those of one e, in double and in a fixed order.
3. `_second_norm`, 4. `_first_norm`: the rest, on C channels.

Per voxel and expanded channel: 81 FMA for the taps, 6 C for the mixing of channels, and some 40
values of 4 bytes from the caches, which is as much time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from eegfast._triton._mobile_unit3d import (
    OPTIONS,
    STATISTICS,
    activated,
    add_plane,
    band_of,
    check,
    columns,
    configs,
    first_norm,
    folded_expand,
    launch_moments,
    moment_row,
    neighbours,
    parts_of,
    pick,
    put,
    put_expanded,
    relu,
    scale_of,
    stack,
    sum_lines,
    work,
)

BETA = tl.constexpr(27)  # the sums of a channel: its taps', dbeta2, S, dW3
S = tl.constexpr(28)


@triton.jit
def _put_filtered_grad(
    to,  # (depth, span, EB)
    grad,  # of the projection, of the sample
    project,
    live,
    first,
    last,
    span,
    depth,
    plane,
    C: tl.constexpr,
    EB: tl.constexpr,
    POS: tl.constexpr,
):
    """dq of EB channels for the band and its neighbours."""
    for d in range(depth):
        for start in range(first, last, POS):
            at = start + tl.arange(0, POS)  # (POS,)
            dq = tl.zeros((POS, EB), tl.float32)
            for c in tl.static_range(C):
                dr = tl.load(grad + (c * depth + d) * plane + at, mask=at < last, other=0)
                dq += dr.to(tl.float32)[:, None] * project[c][None, :]
            place = (d * span + at - first)[:, None] * EB + tl.arange(0, EB)[None, :]
            tl.store(to + place, tl.where(live[None, :], dq, 0), mask=(at < last)[:, None])


@triton.jit
def _own(scratch, at, end, first, d, span, depth, EB: tl.constexpr):
    """Values of plane ``d``, if there is one, at the tile's positions: (POS, EB)."""
    place = (d * span + at - first)[:, None] * EB + tl.arange(0, EB)[None, :]
    return tl.load(scratch + place, mask=(at < tl.where(d < depth, end, 0))[:, None], other=0)


@triton.jit
def _add_to(ptr, tile, e, expanded, fresh):
    """Adds a tile's sum over positions to the program's sum of the units before."""
    before = tl.load(ptr, mask=e < tl.where(fresh, 0, expanded), other=0)
    tl.store(ptr, before + tl.sum(tile, axis=0), mask=e < expanded)


@triton.jit
def _sum_taps(
    slab, e, expanded, fresh, p_planes, dq_planes, own, end, first, span, depth, height, width,
    WIDTH: tl.constexpr, EB: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """dw: of p times dq around it."""
    sums = (tl.zeros((POS, EB), tl.float32),) * 27  # in the order kh, kw, kd
    for start in range(own, end, POS):
        at = start + tl.arange(0, POS)
        # Of the planes before, at and behind the one of dq that is read.
        before = tl.zeros((POS, EB), tl.float32)
        here = _own(p_planes, at, end, first, 0, span, depth, EB)
        for d in range(depth):
            behind = _own(p_planes, at, end, first, d + 1, span, depth, EB)
            for kh in tl.static_range(3):
                for kw in tl.static_range(3):
                    # fmt: off
                    dq = neighbours(
                        dq_planes, at, end, first, d, span, depth, height, width,
                        2 - kh, 2 - kw, EB,
                    )
                    # fmt: on
                    sums = (
                        sums[: 9 * kh + 3 * kw]
                        + (sums[9 * kh + 3 * kw] + before * dq,)
                        + (sums[9 * kh + 3 * kw + 1] + here * dq,)
                        + (sums[9 * kh + 3 * kw + 2] + behind * dq,)
                        + sums[9 * kh + 3 * kw + 3 :]
                    )
            before, here = here, behind
    for i in tl.static_range(27):
        _add_to(slab + e * WIDTH + (i % 3 * 9 + i // 3), sums[i], e, expanded, fresh)


@triton.jit
def _sum_filtered(
    slab, e, expanded, fresh, p_planes, taps, grad, own, end, first, span, depth, height, width,
    C: tl.constexpr, WIDTH: tl.constexpr, EB: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """dW3: of q times dr."""
    sums = (tl.zeros((POS, EB), tl.float32),) * C
    for start in range(own, end, POS):
        at = start + tl.arange(0, POS)
        q = (tl.zeros((POS, EB), tl.float32),) * 3
        for d in range(depth + 1):
            # fmt: off
            q = add_plane(
                q, p_planes, taps, at, end, first, d, span, depth, height, width, False, EB
            )
            # fmt: on
            there = at < tl.where(d > 0, end, 0)
            added = ()
            for c in tl.static_range(C):
                dr = tl.load(grad + (c * depth + d - 1) * (height * width) + at, there, other=0)
                added = added + (sums[c] + q[2] * dr.to(tl.float32)[:, None],)
            sums = added
            q = (tl.zeros((POS, EB), tl.float32), q[0], q[1])
    for c in tl.static_range(C):
        _add_to(slab + e * WIDTH + (S + C + c), sums[c], e, expanded, fresh)


@triton.jit
def _put_hidden_grad(
    slab, e, expanded, fresh, p_planes, dq_planes, taps, own, end, first, span, depth, height,
    width, WIDTH: tl.constexpr, EB: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """g in the place of p, and dbeta2."""
    total = tl.zeros((POS, EB), tl.float32)
    for start in range(own, end, POS):
        at = start + tl.arange(0, POS)
        dp = (tl.zeros((POS, EB), tl.float32),) * 3
        for d in range(depth + 1):
            # fmt: off
            dp = add_plane(
                dp, dq_planes, taps, at, end, first, d, span, depth, height, width, True, EB
            )
            # fmt: on
            there = at < tl.where(d > 0, end, 0)
            place = ((d - 1) * span + at - first)[:, None] * EB + tl.arange(0, EB)[None, :]
            p = tl.load(p_planes + place, mask=there[:, None], other=0)
            g = tl.where(p <= 0, 0, dp[2])
            total += g
            tl.store(p_planes + place, g, mask=there[:, None])
            dp = (tl.zeros((POS, EB), tl.float32), dp[0], dp[1])
    _add_to(slab + e * WIDTH + BETA, total, e, expanded, fresh)


@triton.jit
def _spread(
    slab, e, expanded, fresh, adds, g_planes, x, norm, folded, da, own, end, first, span, depth,
    plane, C: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, EB: tl.constexpr,
    POS: tl.constexpr,
):  # fmt: skip
    """S, and these channels' part of da', added to what is there if ``adds``."""
    means, scales, shifts = norm
    chan = tl.arange(0, COLUMNS)[None, :]
    sums = (tl.zeros((POS, EB), tl.float32),) * C
    for d in range(depth):
        for start in range(own, end, POS):
            at = start + tl.arange(0, POS)
            g = _own(g_planes, at, end, first, d, span, depth, EB)
            added, values = (), ()
            for c in tl.static_range(C):
                from_x = (c * depth + d) * plane + at
                a = activated(x, from_x, at < end, means[c], scales[c], shifts[c])
                added = added + (sums[c] + g * a[:, None],)
                values = values + (tl.sum(g * folded[c][None, :], axis=1),)
            value = stack(values, C, COLUMNS)  # (POS, COLUMNS)
            to = da + (chan * depth + d) * plane + at[:, None]
            mask = (chan < C) & (at < end)[:, None]
            if adds:
                value += tl.load(to, mask=mask, other=0)
            tl.store(to, value, mask=mask)
            sums = added
    for c in tl.static_range(C):
        _add_to(slab + e * WIDTH + (S + c), sums[c], e, expanded, fresh)


@triton.jit
def _sums(
    grad_ptr,  # (batch, C or 2 C, depth, height, width)
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
    da_ptr,  # as x, float32: da'
    slabs_ptr,  # (programs, E, 28 + 2 C), float32
    scratch_ptr,  # (programs, 2, depth, span, EB), float32
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
    FILTERS: tl.constexpr,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,  # a power of 2, at least C
    EB: tl.constexpr,
    POS: tl.constexpr,
):
    pid, plane = tl.program_id(0), height * width
    WIDTH: tl.constexpr = S + 2 * C
    p_planes = scratch_ptr + pid.to(tl.int64) * 2 * EB * (depth * span)
    dq_planes = p_planes + EB * depth * span
    slab = slabs_ptr + pid.to(tl.int64) * expanded * WIDTH
    for unit in range(pid, units, tl.num_programs(0)):
        sample, own, end, first, last = band_of(unit, bands, rows, height, width)
        x, da = x_ptr + sample * (C * depth * plane), da_ptr + sample * (C * depth * plane)
        grad = grad_ptr + sample * (C * depth * plane)
        if CONCAT:
            grad += (sample + 1) * (C * depth * plane)
        for e0 in range(0, expanded, EB):
            e = e0 + tl.arange(0, EB)  # (EB,)
            live, fresh = e < expanded, unit == pid
            norm = first_norm(weight1_ptr, bias1_ptr, mean1_ptr, var1_ptr, eps1, C)
            # fmt: off
            folded, shift = folded_expand(
                expand_ptr, weight2_ptr, bias2_ptr, mean2_ptr, var2_ptr, eps2, e, live, C
            )
            put_expanded(
                p_planes, x, norm, folded, shift, live, first, last, span, depth, plane,
                C, EB, POS,
            )
            project = columns(project_ptr, e, live, 1, expanded, C)
            _put_filtered_grad(
                dq_planes, grad, project, live, first, last, span, depth, plane, C, EB, POS
            )
            tl.debug_barrier()
            if FILTERS:
                _sum_taps(
                    slab, e, expanded, fresh, p_planes, dq_planes, own, end, first, span,
                    depth, height, width, WIDTH, EB, POS,
                )
                taps = columns(depthwise_ptr, e, live, 27, 1, 27)
                _sum_filtered(
                    slab, e, expanded, fresh, p_planes, taps, grad, own, end, first, span,
                    depth, height, width, C, WIDTH, EB, POS,
                )
                tl.debug_barrier()
            taps = columns(depthwise_ptr, e, live, 27, 1, 27)
            _put_hidden_grad(
                slab, e, expanded, fresh, p_planes, dq_planes, taps, own, end, first, span,
                depth, height, width, WIDTH, EB, POS,
            )
            tl.debug_barrier()
            # Again, rather than held in registers all the while.
            norm = first_norm(weight1_ptr, bias1_ptr, mean1_ptr, var1_ptr, eps1, C)
            folded, shift = folded_expand(
                expand_ptr, weight2_ptr, bias2_ptr, mean2_ptr, var2_ptr, eps2, e, live, C
            )
            _spread(
                slab, e, expanded, fresh, e0 > 0, p_planes, x, norm, folded, da, own, end,
                first, span, depth, plane, C, COLUMNS, WIDTH, EB, POS,
            )
            # fmt: on
            tl.debug_barrier()  # the next channels take the place of these


@triton.jit
def _finish_second(
    bias1_ptr,  # (C,)
    expand_ptr,  # (E, C)
    weight2_ptr,  # (E,)
    mean2_ptr,  # (E,)
    var2_ptr,
    slabs_ptr,  # (programs, E, 28 + 2 C)
    moments_ptr,  # (parts, C, 1 + C), or None: mean2 and var2 are not of the batch
    grad_expand_ptr,  # as the weights
    grad_weight2_ptr,
    grad_bias2_ptr,
    grad_depthwise_ptr,  # this and the next may be None
    grad_project_ptr,
    corrections_ptr,  # (E, 2), float64: factors of W1[e] and of W1[e] (W1[e] . (a - m)) in da
    mean_ptr,  # (C,), float64: m
    programs,
    parts,
    expanded,
    voxels,
    eps2,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program adds up the sums of one expanded channel."""
    e = tl.program_id(0)
    WIDTH: tl.constexpr = S + 2 * C
    slab, stride = slabs_ptr + e * WIDTH, expanded * WIDTH
    column, tap = tl.arange(0, COLUMNS), tl.arange(0, 32)
    if grad_depthwise_ptr is not None:
        by_tap = sum_lines(slab, stride, programs, tap, 27, 32)
        put(grad_depthwise_ptr + e * 27 + tap, by_tap, tap < 27)
        by_project = sum_lines(slab + (S + C), stride, programs, column, C, COLUMNS)
        put(grad_project_ptr + column * expanded + e, by_project, column < C)
    dbeta = tl.sum(sum_lines(slab + BETA, stride, programs, tap, 1, 32), axis=0)
    s = sum_lines(slab + S, stride, programs, column, C, COLUMNS)  # (COLUMNS,)
    weight = tl.load(expand_ptr + e * C + column, mask=column < C, other=0)
    weight = weight.to(tl.float32).to(tl.float64)
    inverse = 1 / tl.sqrt(tl.load(var2_ptr + e).to(tl.float64) + eps2)
    scale = inverse * tl.load(weight2_ptr + e).to(tl.float32).to(tl.float64)
    mean2 = tl.load(mean2_ptr + e).to(tl.float64)
    dgamma = inverse * (tl.sum(weight * s, axis=0) - mean2 * dbeta)
    put(grad_weight2_ptr + e, dgamma)
    put(grad_bias2_ptr + e, dbeta)
    if moments_ptr is not None:
        offset = tl.zeros((COLUMNS,), tl.float64)  # m - o
        weighted = tl.zeros((COLUMNS,), tl.float64)  # W1[e] sum (a - o) (a - o)^T / N
        for c in tl.static_range(C):
            total, products = moment_row(moments_ptr, parts, c, column, C, COLUMNS)
            offset = tl.where(column == c, total / voxels, offset)
            weighted += pick(weight, column, c) * products / voxels
        origin = relu(tl.load(bias1_ptr + column, mask=column < C, other=0).to(tl.float32))
        mean = origin.to(tl.float64) + offset
        if e == 0:
            tl.store(mean_ptr + column, mean, mask=column < C)
        covariance = weighted - tl.sum(weight * offset, axis=0) * offset
        s -= dbeta * mean + inverse * dgamma * covariance
        tl.store(corrections_ptr + 2 * e, -scale * dbeta / voxels)
        tl.store(corrections_ptr + 2 * e + 1, -scale * inverse * dgamma / voxels)
    put(grad_expand_ptr + e * C + column, scale * s, column < C)


@triton.jit
def _second_norm(
    x_ptr,  # (batch, C, volume)
    weight1_ptr,  # (C,)
    bias1_ptr,
    mean1_ptr,
    var1_ptr,
    expand_ptr,  # (E, C)
    corrections_ptr,  # (E, 2), or None: given statistics
    mean_ptr,  # (C,), float64
    da_ptr,  # (batch, C, volume): da', then b
    sums_ptr,  # (parts, C, 2), float64: of b and b (x - mean1)
    expanded,
    voxels,
    volume,
    parts,
    eps1,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
):
    """b of a part of one channel, and its sums."""
    part, own = tl.program_id(0) // C, tl.program_id(0) % C
    column = tl.arange(0, COLUMNS)
    known = column < C
    if corrections_ptr is not None:
        row = tl.zeros((32, COLUMNS), tl.float64)
        constants = tl.zeros((32,), tl.float64)
        for start in range(0, expanded, 32):
            e = start + tl.arange(0, 32)
            here = tl.load(expand_ptr + e * C + own, mask=e < expanded, other=0).to(tl.float32)
            factor = tl.load(corrections_ptr + 2 * e, mask=e < expanded, other=0)
            constants += factor * here
            factor = tl.load(corrections_ptr + 2 * e + 1, mask=e < expanded, other=0)
            at, mask = e[:, None] * C + column[None, :], (e < expanded)[:, None] & known[None, :]
            weights = tl.load(expand_ptr + at, mask=mask, other=0).to(tl.float32)
            row += (factor * here)[:, None] * weights
        constant = tl.sum(constants, axis=0).to(tl.float32)
        factors = tl.sum(row, axis=0).to(tl.float32)[:, None]  # (COLUMNS, 1)
        centre = tl.load(mean_ptr + column, mask=known, other=0).to(tl.float32)[:, None]
    weight = tl.load(weight1_ptr + column, mask=known, other=0).to(tl.float32)
    scale = scale_of(weight, tl.load(var1_ptr + column, mask=known, other=1), eps1)[:, None]
    shift = tl.load(bias1_ptr + column, mask=known, other=0).to(tl.float32)[:, None]
    mean = tl.load(mean1_ptr + column, mask=known, other=0)[:, None]
    own_mean = tl.load(mean1_ptr + own)
    own_scale = scale_of(tl.load(weight1_ptr + own).to(tl.float32), tl.load(var1_ptr + own), eps1)
    own_shift = tl.load(bias1_ptr + own).to(tl.float32)
    totals, products = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for start in range(part * BLOCK, voxels, parts * BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = x_ptr + (i // volume).to(tl.int64) * ((C - 1) * volume) + i
        da = da_ptr + (i // volume).to(tl.int64) * ((C - 1) * volume) + own * volume + i
        b = tl.load(da, mask=i < voxels, other=0)
        if corrections_ptr is not None:
            mask = known[:, None] & (i < voxels)[None, :]  # (COLUMNS, BLOCK)
            a = activated(x[None, :], column[:, None] * volume, mask, mean, scale, shift)
            b += constant + tl.sum(tl.where(mask, factors * (a - centre), 0), axis=0)
        centred = tl.load(x + own * volume, mask=i < voxels, other=0).to(tl.float32) - own_mean
        b = tl.where((centred * own_scale + own_shift <= 0) | (i >= voxels), 0, b)
        tl.store(da, b, mask=i < voxels)
        totals += b.to(tl.float64)
        products += tl.where(i < voxels, b * centred, 0).to(tl.float64)
    to = sums_ptr + tl.program_id(0) * 2
    tl.store(to, tl.sum(totals, axis=0))
    tl.store(to + 1, tl.sum(products, axis=0))


@triton.jit
def _first_norm(
    grad_ptr,  # (batch, C or 2 C, volume)
    x_ptr,  # (batch, C, volume)
    weight1_ptr,  # (C,)
    mean1_ptr,
    var1_ptr,
    b_ptr,  # (batch, C, volume), float32
    sums_ptr,  # (parts, C, 2), float64
    grad_x_ptr,  # as x; may be b
    grad_weight1_ptr,  # (C,)
    grad_bias1_ptr,
    voxels,
    volume,
    parts,
    eps1,
    BATCH: tl.constexpr,  # the statistics are the batch's
    CONCAT: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
):
    part, c = tl.program_id(0) // C, tl.program_id(0) % C
    column = tl.arange(0, 2)
    sums = sum_lines(sums_ptr + 2 * c, 2 * C, parts, column, 2, 2)
    inverse = 1 / tl.sqrt(tl.load(var1_ptr + c).to(tl.float64) + eps1)
    scale = inverse * tl.load(weight1_ptr + c).to(tl.float32).to(tl.float64)
    dbeta, dgamma = pick(sums, column, 0), inverse * pick(sums, column, 1)
    if part == 0:
        put(grad_bias1_ptr + c, dbeta)
        put(grad_weight1_ptr + c, dgamma)
    constant = (-scale * dbeta / voxels).to(tl.float32)
    slope = (-scale * inverse * dgamma / voxels).to(tl.float32)
    scale, mean = scale.to(tl.float32), tl.load(mean1_ptr + c)
    for start in range(part * BLOCK, voxels, parts * BLOCK):
        i = start + tl.arange(0, BLOCK)
        skipped = (i // volume).to(tl.int64) * ((C - 1) * volume) + c * volume
        grad = grad_ptr + (skipped + i)
        if CONCAT:
            grad += (i // volume).to(tl.int64) * (C * volume)
        dx = tl.load(b_ptr + (skipped + i), mask=i < voxels, other=0) * scale
        if BATCH:
            value = tl.load(x_ptr + (skipped + i), mask=i < voxels, other=0).to(tl.float32)
            dx += (value - mean) * slope + constant
        dx += tl.load(grad, mask=i < voxels, other=0).to(tl.float32)
        tl.store(grad_x_ptr + (skipped + i), dx.to(grad_x_ptr.dtype.element_ty), mask=i < voxels)


def mobile_unit3d_backward(
    grad: Tensor,
    x: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    expand_weight: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    mean1: Tensor,
    var1: Tensor,
    mean2: Tensor,
    var2: Tensor,
    batch1: bool,
    batch2: bool,
    eps1: float,
    eps2: float,
    concat: bool,
    filters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`eegfast.reference.mobile_unit3d_backward`."""
    chans, expanded = x.shape[1], expand_weight.shape[0]
    check(x, expanded)
    parameters = (norm1_weight, norm1_bias, expand_weight, norm2_weight, norm2_bias)
    parameters += (depthwise_weight, project_weight)
    grads = [x.new_empty(p.shape if filters or i < 5 else 0) for i, p in enumerate(parameters)]
    grad_x = x.new_empty(x.shape)
    if not x.numel():
        return grad_x, *(g.zero_() for g in grads)
    sizes, programs, scratch = work(x)
    tile, volume = configs(chans, expanded, True), x.shape[2:].numel()
    voxels = x.shape[0] * volume
    grad, x = grad.contiguous(), x.contiguous()
    parameters = [p.contiguous() for p in parameters]
    statistics = [s.contiguous() for s in (mean1, var1, mean2, var2)]
    single, double = (dict(dtype=t, device=x.device) for t in (torch.float32, torch.float64))
    da = grad_x if x.dtype == torch.float32 else torch.empty(x.shape, **single)
    slabs = torch.empty((programs, expanded, S.value + 2 * chans), **single)
    corrections, mean = torch.empty((expanded, 2), **double), torch.empty(chans, **double)
    parts = parts_of(voxels, chans)[0]
    sums = torch.empty((parts, chans, 2), **double)
    padded = triton.next_power_of_2(chans)
    with torch.cuda.device_of(x):
        _sums[(programs,)](
            grad,
            x,
            *parameters,
            *statistics,
            da,
            slabs,
            torch.empty(programs * 2 * tile["EB"] * scratch, **single),
            expanded,
            **sizes,
            eps1=eps1,
            eps2=eps2,
            CONCAT=concat,
            FILTERS=filters,
            C=chans,
            COLUMNS=padded,
            **tile,
            **OPTIONS,
        )
        found = None
        if batch2:
            found = launch_moments(x, *parameters[:2], *statistics[:2], eps1, False, True)
        _finish_second[(expanded,)](
            parameters[1],
            *parameters[2:4],
            *statistics[2:],
            slabs,
            found,
            *grads[2:5],
            *(grads[5:] if filters else (None, None)),
            corrections,
            mean,
            programs,
            found.shape[0] if batch2 else 0,
            expanded,
            voxels,
            eps2,
            C=chans,
            COLUMNS=padded,
            **OPTIONS,
        )
        _second_norm[(parts * chans,)](
            x,
            *parameters[:2],
            *statistics[:2],
            parameters[2],
            corrections if batch2 else None,
            mean,
            da,
            sums,
            expanded,
            voxels,
            volume,
            parts,
            eps1,
            C=chans,
            COLUMNS=padded,
            **STATISTICS,
            **OPTIONS,
        )
        _first_norm[(parts * chans,)](
            grad,
            x,
            parameters[0],
            *statistics[:2],
            da,
            sums,
            grad_x,
            *grads[:2],
            voxels,
            volume,
            parts,
            eps1,
            BATCH=batch1,
            CONCAT=concat,
            C=chans,
            **STATISTICS,
            **OPTIONS,
        )
    return grad_x, *grads
