# SPDX-License-Identifier: BSD-3-Clause
"""What the forward and the backward kernels of the Mobile unit share; the formulas are in
``mobile_unit3d.py``.

Work is cut into units: a sample's band of whole rows, through all its depth. A program takes one
unit after another and EB expanded channels at a time, as tiles (POS, EB) whose last axis is the
channels'. Triton has no shared memory to index, so what the stencil needs of its neighbours goes
through a scratch in global memory that is the program's own, (depth, positions, EB): all write,
`tl.debug_barrier` makes it visible to the program, all read it shifted. It stays in the caches.
A band's scratch holds a row more on either side, whose values are computed again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 528  # about so many share the batch: 4 for each of the 132 SM of an H200
MOST_CHANNELS = 16  # of x: their weights are held in registers
MIN_ROWS = 4  # of a band that is only cut to have more of them
MOST_VOXELS = 8192  # of a band, about
# Loads of the scratch must stay behind the barriers: no software pipelining.
OPTIONS = dict(num_stages=1, enable_fp_fusion=True)
STATISTICS = dict(BLOCK=256, RUN=16)  # voxels at once, and how often in float32


def configs(chans: int, expanded: int, backward: bool) -> dict[str, int]:
    """Expanded channels and positions of a tile, and warps: four elements per thread, all of one
    position, so a value of x is loaded for four channels, and 27 x 4 taps fit the registers. Many
    channels of x, and backward unaligned rows of the expanded ones, leave room for two."""
    tile = min(16, max(triton.next_power_of_2(expanded), 4))
    two = chans > 8 or (backward and expanded % 16)
    return dict(EB=tile, POS=512 // tile, num_warps=8 if two else 4)


def check(x: Tensor, expanded: int) -> None:
    refuse = "eegfast._triton.mobile_unit3d: "
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise NotImplementedError(f"{refuse}no kernel for {x.dtype}")
    if x.shape[1] > MOST_CHANNELS or not x.shape[1] or not expanded:
        raise NotImplementedError(f"{refuse}{x.shape[1]} channels, {expanded} expanded")
    batch, volume = x.shape[0], x.shape[2:].numel()
    if batch * volume >= 2**31 - 2**16 or 2 * x.shape[1] * volume >= 2**31:
        raise NotImplementedError(f"{refuse}2**31 voxels, or elements of a sample")


def bands(x: Tensor) -> tuple[int, int]:
    """Rows of a band, and bands of a sample: enough to fill the card, and of moderate scratch."""
    depth, height, width = x.shape[2:]
    count = min(triton.cdiv(height, MIN_ROWS), triton.cdiv(PROGRAMS, x.shape[0]))
    count = max(count, min(height, triton.cdiv(depth * height * width, MOST_VOXELS)))
    rows = triton.cdiv(height, count)
    return rows, triton.cdiv(height, rows)


def work(x: Tensor) -> tuple[dict[str, int], int, int]:
    """Sizes that the kernels take, programs, and elements of a channel of a program's scratch."""
    depth, height, width = x.shape[2:]
    rows, count = bands(x)
    span = min(rows + 2, height) * width
    if depth * span * 32 >= 2**31:
        raise NotImplementedError("eegfast._triton.mobile_unit3d: a row of 2**26 voxels")
    units = x.shape[0] * count
    sizes = dict(units=units, bands=count, rows=rows, span=span)
    sizes |= dict(depth=depth, height=height, width=width)
    return sizes, min(units, PROGRAMS), depth * span


@triton.jit
def relu(value):
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scale_of(weight, var, eps):
    return tl.div_rn(weight, tl.sqrt_rn(var + eps))


@triton.jit
def first_norm(weight_ptr, bias_ptr, mean_ptr, var_ptr, eps, C: tl.constexpr):
    """For each channel of x the mean, the scale and the shift that make the first norm: tuples."""
    means, scales, shifts = (), (), ()
    for c in tl.static_range(C):
        weight, var = tl.load(weight_ptr + c).to(tl.float32), tl.load(var_ptr + c)
        means = means + (tl.load(mean_ptr + c),)
        scales = scales + (scale_of(weight, var, eps),)
        shifts = shifts + (tl.load(bias_ptr + c).to(tl.float32),)
    return means, scales, shifts


@triton.jit
def stack(values, C: tl.constexpr, COLUMNS: tl.constexpr):
    """Vectors as the columns of a matrix, with zeros up to a power of 2: (rows, COLUMNS)."""
    for _ in tl.static_range(C, COLUMNS):
        values = values + (tl.zeros_like(values[0]),)
    for level in tl.static_range(4):
        if (COLUMNS >> level) > 1:
            joined = ()
            for i in tl.static_range(COLUMNS >> (level + 1)):
                joined = joined + (tl.join(values[i], values[i + (COLUMNS >> (level + 1))]),)
            values = joined
    return tl.reshape(values[0], (values[0].shape[0], COLUMNS))


@triton.jit
def columns(ptr, row, live, stride_row, stride_column, COUNT: tl.constexpr):
    """Columns of a matrix for some of its rows, 0 where not live: a tuple of vectors."""
    values = ()
    for i in tl.static_range(COUNT):
        at = row * stride_row + i * stride_column
        values = values + (tl.load(ptr + at, mask=live, other=0).to(tl.float32),)
    return values


@triton.jit
def folded_expand(
    expand_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, eps, e, live, C: tl.constexpr
):
    """The expansion and the second norm in one: C weights and a shift for each channel."""
    weight = tl.load(weight_ptr + e, mask=live, other=0).to(tl.float32)
    scale = scale_of(weight, tl.load(var_ptr + e, mask=live, other=1), eps)
    shift = tl.load(bias_ptr + e, mask=live, other=0).to(tl.float32)
    shift -= tl.load(mean_ptr + e, mask=live, other=0) * scale
    folded = ()
    for c in tl.static_range(C):
        weight = tl.load(expand_ptr + e * C + c, mask=live, other=0).to(tl.float32)
        folded = folded + (weight * scale,)
    return folded, shift


@triton.jit
def activated(x, at, mask, mean, scale, shift):
    """One channel behind the first norm and its ReLU; 0 where masked."""
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    return tl.where(mask, relu((value - mean) * scale + shift), 0)


@triton.jit
def band_of(unit, bands, rows, height, width):
    """A unit's sample; its positions of a plane from `own` to `end`; those of its scratch from
    `first` to `last`."""
    top = unit % bands * rows
    own, end = top * width, tl.minimum(top + rows, height) * width
    first = tl.maximum(top - 1, 0) * width
    last = tl.minimum(top + rows + 1, height) * width
    return (unit // bands).to(tl.int64), own, end, first, last


@triton.jit
def put_expanded(
    to,  # (depth, span, EB)
    x,  # of the sample
    norm,
    folded,
    shift,
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
    """p = relu(norm2(expand a)) of EB channels for the band and its neighbours."""
    means, scales, shifts = norm
    for d in range(depth):
        for start in range(first, last, POS):
            at = start + tl.arange(0, POS)  # (positions,)
            hidden = tl.zeros((POS, EB), tl.float32) + shift[None, :]
            for c in tl.static_range(C):
                from_x = (c * depth + d) * plane + at
                a = activated(x, from_x, at < last, means[c], scales[c], shifts[c])
                hidden += a[:, None] * folded[c][None, :]
            p = tl.where(live[None, :], relu(hidden), 0)  # nor 0 times Inf
            place = (d * span + at - first)[:, None] * EB + tl.arange(0, EB)[None, :]
            tl.store(to + place, p, mask=(at < last)[:, None])


@triton.jit
def neighbours(
    scratch,
    at,
    end,
    first,
    d,
    span,
    depth,
    height,
    width,
    KH: tl.constexpr,
    KW: tl.constexpr,
    EB: tl.constexpr,
):
    """Values in plane ``d``, KH - 1 rows and KW - 1 columns off; 0 outside: (POS, EB)."""
    h, w = at // width + (KH - 1), at % width + (KW - 1)
    good = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    good &= at < tl.where(d < depth, end, 0)
    place = d * span + at + ((KH - 1) * width + (KW - 1)) - first
    place = place[:, None] * EB + tl.arange(0, EB)[None, :]
    return tl.load(scratch + place, mask=good[:, None], other=0)


@triton.jit
def add_plane(
    sums,
    scratch,
    taps,
    at,
    end,
    first,
    d,
    span,
    depth,
    height,
    width,
    FLIP: tl.constexpr,
    EB: tl.constexpr,
):
    """Adds plane ``d`` to the sums of planes d + 1, d and d - 1."""
    for kh in tl.static_range(3):
        for kw in tl.static_range(3):
            value = neighbours(scratch, at, end, first, d, span, depth, height, width, kh, kw, EB)
            added = ()
            for kd in tl.static_range(3):
                if FLIP:
                    weight = taps[26 - (kd * 3 + kh) * 3 - kw]
                else:
                    weight = taps[(kd * 3 + kh) * 3 + kw]
                added = added + (sums[kd] + weight[None, :] * value,)
            sums = added
    return sums


@triton.jit
def sum_lines(ptr, stride, lines, column, width, COLUMNS: tl.constexpr, LINES: tl.constexpr = 32):
    """Sum over lines of a matrix, in double, of the columns that are less than `width`."""
    total = tl.zeros((LINES, COLUMNS), tl.float64)
    for start in range(0, lines, LINES):
        line = start + tl.arange(0, LINES)
        mask = (line < lines)[:, None] & (column < width)[None, :]
        place = line.to(tl.int64)[:, None] * stride + column[None, :]
        total += tl.load(ptr + place, mask=mask, other=0).to(tl.float64)
    return tl.sum(total, axis=0)  # (COLUMNS,)


@triton.jit
def pick(values, index, wanted):
    """The element of a vector where ``index`` is ``wanted``."""
    return tl.sum(tl.where(index == wanted, values, 0), axis=0)


@triton.jit
def put(ptr, value, mask=None):
    """Store a double; a half type by way of float32."""
    tl.store(ptr, value.to(tl.float32).to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def channel_sums(
    x_ptr,  # (batch, C, volume)
    sums_ptr,  # (parts, C, 2), float64
    voxels,
    volume,
    parts,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
):
    """Sums of x and of its square about the channel's first value, of a part of the voxels."""
    part, c = tl.program_id(0) // C, tl.program_id(0) % C
    origin = tl.load(x_ptr + c * volume).to(tl.float64)
    sums = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(part * BLOCK, voxels, parts * BLOCK):
        i = start + tl.arange(0, BLOCK)
        sample = i // volume
        place = (sample.to(tl.int64) * (C - 1) + c) * volume + i
        value = tl.load(x_ptr + place, mask=i < voxels, other=0).to(tl.float64)
        value = tl.where(i < voxels, value - origin, 0)
        sums += value
        squares += value * value
    to = sums_ptr + tl.program_id(0) * 2
    tl.store(to, tl.sum(sums, axis=0))
    tl.store(to + 1, tl.sum(squares, axis=0))


@triton.jit
def moments(
    x_ptr,  # (batch, C, volume)
    weight_ptr,  # (C,), of the first norm
    bias_ptr,
    sums_ptr,  # (sum_parts, C, 2) of `channel_sums`, or None: mean and var are given
    mean_ptr,  # (C,), written if there are sums
    var_ptr,
    moments_ptr,  # (parts, C, 1 + C), float64, or None
    voxels,
    volume,
    sum_parts,
    parts,
    eps,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,  # a power of 2, at least 2 C
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
):
    """The first norm's statistics, and of channel ``own`` the sums of a - o and its products with
    all channels' a - o. The origin o = relu(bias) is the mean before the ReLU, so nothing large
    cancels. Sums are float32 over RUN blocks, then double."""
    part, own = tl.program_id(0) // C, tl.program_id(0) % C
    means, scales, shifts = (), (), ()
    column = tl.arange(0, COLUMNS)
    if sums_ptr is not None:
        by_channel = sum_lines(sums_ptr, 2 * C, sum_parts, column, 2 * C, COLUMNS) / voxels
    for c in tl.static_range(C):
        if sums_ptr is None:
            mean, var = tl.load(mean_ptr + c), tl.load(var_ptr + c)
        else:
            offset = pick(by_channel, column, 2 * c)
            square = pick(by_channel, column, 2 * c + 1)
            var = square - offset * offset
            var = tl.where(var < 0, 0, var).to(tl.float32)
            mean = (tl.load(x_ptr + c * volume).to(tl.float64) + offset).to(tl.float32)
            if tl.program_id(0) == 0:
                tl.store(mean_ptr + c, mean)
                tl.store(var_ptr + c, var)
        means = means + (mean,)
        scales = scales + (scale_of(tl.load(weight_ptr + c).to(tl.float32), var, eps),)
        shifts = shifts + (tl.load(bias_ptr + c).to(tl.float32),)
    if moments_ptr is not None:
        mean, scale, shift = means[0], scales[0], shifts[0]
        for c in tl.static_range(1, C):
            mean = tl.where(own == c, means[c], mean)
            scale = tl.where(own == c, scales[c], scale)
            shift = tl.where(own == c, shifts[c], shift)
        totals = (tl.zeros((BLOCK,), tl.float64),) * (1 + C)
        for start in range(part * BLOCK * RUN, voxels, parts * BLOCK * RUN):
            sums = (tl.zeros((BLOCK,), tl.float32),) * (1 + C)
            for begin in range(start, tl.minimum(start + BLOCK * RUN, voxels), BLOCK):
                i = begin + tl.arange(0, BLOCK)
                x = x_ptr + (i // volume).to(tl.int64) * ((C - 1) * volume) + i
                mask = i < voxels
                a = activated(x, own * volume, mask, mean, scale, shift)
                a = tl.where(mask, a - relu(shift), 0)
                added = (sums[0] + a,)
                for c in tl.static_range(C):
                    other = activated(x, c * volume, mask, means[c], scales[c], shifts[c])
                    added = added + (sums[1 + c] + a * (other - relu(shifts[c])),)
                sums = added
            added = ()
            for c in tl.static_range(1 + C):
                added = added + (totals[c] + sums[c].to(tl.float64),)
            totals = added
        for c in tl.static_range(1 + C):
            to = moments_ptr + tl.program_id(0) * (1 + C) + c
            tl.store(to, tl.sum(totals[c], axis=0))


@triton.jit
def moment_row(moments_ptr, parts, c, column, C: tl.constexpr, COLUMNS: tl.constexpr):
    """Of channel c: the sum of its a - o, and its sums of products, (COLUMNS,)."""
    row = moments_ptr + c * (1 + C)
    first = sum_lines(row, C * (1 + C), parts, column, 1, COLUMNS)
    return tl.sum(first, axis=0), sum_lines(row + 1, C * (1 + C), parts, column, C, COLUMNS)


def parts_of(voxels: int, chans: int) -> tuple[int, int]:
    """Programs that share the voxels of `channel_sums` and `moments`."""
    block, run = STATISTICS["BLOCK"], STATISTICS["RUN"]
    most = triton.cdiv(PROGRAMS, chans)
    return min(64, most, triton.cdiv(voxels, block)), min(most, triton.cdiv(voxels, block * run))


def launch_moments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    statistics: bool,
    products: bool,
) -> Tensor | None:
    """Statistics of x, into mean and var, and moments of what the first norm makes of it."""
    chans, volume = x.shape[1], x.shape[2:].numel()
    voxels = x.shape[0] * volume
    double = dict(dtype=torch.float64, device=x.device)
    sum_parts, parts = parts_of(voxels, chans)
    sums = result = None
    if statistics:
        sums = torch.empty((sum_parts, chans, 2), **double)
        channel_sums[(sum_parts * chans,)](
            x, sums, voxels, volume, sum_parts, C=chans, **STATISTICS, **OPTIONS
        )
    if products:
        result = torch.empty((parts, chans, 1 + chans), **double)
    moments[(parts * chans if products else 1,)](
        x,
        weight,
        bias,
        sums,
        mean,
        var,
        result,
        voxels,
        volume,
        sum_parts,
        parts,
        eps,
        C=chans,
        COLUMNS=triton.next_power_of_2(2 * chans),
        **STATISTICS,
        **OPTIONS,
    )
    return result
