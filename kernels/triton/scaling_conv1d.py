# SPDX-License-Identifier: BSD-3-Clause
"""One kernel, correlated with the signal at all its scales.

With w_0 = weight and w_{l+1} = pool(w_l), which averages neighbours (window 2, stride 2),

    out_l[t] = act(bias_l + sum_j w_l[j] x[t + j - (length_l - 1) / 2])     (x = 0 outside)

A row is an electrode of a sample, (n_times,). Level l is `length >> l | 1` taps long; where that
takes a zero in front, the kernel counts it as any other tap or not at all (`count_include_pad`).
`_pool` writes the kernels of all levels, one after the other: (chans, filters, taps).

Forward, a program has a stretch of a row and some filters, (filters, times), whose sums stay in
registers level by level: a load of x serves all filters. Backward, both gradients are matrix
products in float32 (not TF32). For that of x a stretch of time is a matrix, a row of STEP
neighbours under the other, and the kernel a Toeplitz matrix; so a load of the gradient serves STEP
results, and a NaN of it may reach STEP - 1 results more than its kernel covers. For that of the
kernels, gradients (filters, times) meet the signal at all lags (times, lags); parts of the batch
are summed by `_sum_parts` in double in a fixed order, then carried to the first level.

2 FLOP per result and tap forward, 4 backward. Half types and float32, with sums in float32; float64
is left to the reference. One bit per result is kept for ReLU, as eegfast/scaling_conv1d.h has it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 2112  # about so many share the gradient of the kernels: 16 for each SM of an H200
FUSE = dict(enable_fp_fusion=True)


def forward_config(filters: int, n_times: int) -> dict[str, int]:
    """Filters and samples of a tile: up to 4096 results. Whole 64-bit words of the mask."""
    tile = min(triton.next_power_of_2(filters), 8)
    times = max(64, min(triton.next_power_of_2(n_times), 512))
    return dict(FILTERS=tile, TIMES=times, num_warps=max(1, min(4, tile * times // 512)), **FUSE)


def grad_x_config(n_times: int) -> dict[str, int]:
    """``LINES`` rows of ``STEP`` neighbours, and how many samples of a row at a time.

    Loads are not pipelined: done for all levels at once, that spills.
    """
    lines = max(16, min(triton.next_power_of_2(triton.cdiv(n_times, 16)), 64))
    registers = dict(maxnreg=168) if lines == 64 else {}
    return dict(LINES=lines, STEP=16, DEPTH=16, num_warps=4, num_stages=1, **registers, **FUSE)


def grad_weight_config(filters: int) -> dict[str, int]:
    """Filters and lags of a tile, and how many samples at a time."""
    tile = min(triton.next_power_of_2(filters), 16)
    return dict(FILTERS=tile, TIMES=64, LAGS=32, num_warps=4, num_stages=2, **FUSE)


@triton.jit
def _to_level(tap, LENGTH: tl.constexpr, LEVEL: tl.constexpr, COUNT_PAD: tl.constexpr):
    """The tap of a level that a tap of the first one is averaged into, and its share there."""
    share = tl.full(tap.shape, 1, tl.float32)
    for lower in tl.static_range(LEVEL):
        # Zeros so far, in units of the first level: a bit for each level that was padded.
        here = (tap + (~(LENGTH >> 1) & ((1 << lower) - 1))) >> lower
        alone = (here == 0) & ((LENGTH >> (lower + 1)) % 2 == 0)
        if COUNT_PAD:
            share = share * 0.5
        else:
            share = share * tl.where(alone, 1.0, 0.5)
    return (tap + (~(LENGTH >> 1) & ((1 << LEVEL) - 1))) >> LEVEL, share


@triton.jit
def _pool(
    weight_ptr,  # (chans, filters, LENGTH)
    pooled_ptr,  # (chans, filters, taps), float32
    taps,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    COUNT_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program has one filter."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK)  # (taps of a level,)
    first = 0
    for level in tl.static_range(LEVELS):
        pooled = tl.zeros((BLOCK,), tl.float32)
        for i in range(1 << level):
            tap = (j << level) + (i - (~(LENGTH >> 1) & ((1 << level) - 1)))
            _, share = _to_level(tap, LENGTH, level, COUNT_PAD)
            mask = (tap >= 0) & (tap < LENGTH)
            value = tl.load(weight_ptr + row * LENGTH + tap, mask=mask, other=0).to(tl.float32)
            pooled += share * value
        tl.store(pooled_ptr + row * taps + first + j, pooled, mask=j < ((LENGTH >> level) | 1))
        first += (LENGTH >> level) | 1


@triton.jit
def _unpool(
    grads_ptr,  # (chans, filters, taps), float32
    grad_weight_ptr,  # (chans, filters, LENGTH)
    taps,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    COUNT_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program has one filter: each tap gathers from all levels."""
    row = tl.program_id(0).to(tl.int64)
    tap = tl.arange(0, BLOCK)  # (LENGTH,)
    grad = tl.zeros((BLOCK,), tl.float32)
    first = 0
    for level in tl.static_range(LEVELS):
        to, share = _to_level(tap, LENGTH, level, COUNT_PAD)
        mask = to < ((LENGTH >> level) | 1)
        grad += share * tl.load(grads_ptr + row * taps + first + to, mask=mask, other=0)
        first += (LENGTH >> level) | 1
    to = grad_weight_ptr + row * LENGTH + tap
    tl.store(to, grad.to(grad_weight_ptr.dtype.element_ty), mask=tap < LENGTH)


@triton.jit
def _forward(
    x_ptr,  # (rows, n_times)
    pooled_ptr,  # (chans or 1, filters, taps), float32
    bias_ptr,  # (chans or 1, filters, LEVELS) or None
    out_ptr,  # (rows, filters, LEVELS, n_times)
    mask_ptr,  # (rows, filters, LEVELS, mask_bytes) or None
    chans,
    filters,
    n_times,
    mask_bytes,
    taps,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    OWN_KERNELS: tl.constexpr,  # of each electrode
    OWN_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    FILTERS: tl.constexpr,
    TIMES: tl.constexpr,
):
    blocks, groups = tl.cdiv(n_times, TIMES), tl.cdiv(filters, FILTERS)
    block, group = tl.program_id(0) % blocks, tl.program_id(0) // blocks % groups
    row = tl.program_id(0) // blocks // groups
    chan, row = (row % chans).to(tl.int64), row.to(tl.int64)
    t = block * TIMES + tl.arange(0, TIMES)  # (times,)
    f = group * FILTERS + tl.arange(0, FILTERS)  # (filters,)
    x = x_ptr + row * n_times
    kernels = pooled_ptr + f * taps  # (filters,)
    if OWN_KERNELS:
        kernels += chan * filters * taps
    first = 0
    for level in tl.static_range(LEVELS):
        reach = ((LENGTH >> level) | 1) // 2
        sums = tl.zeros((FILTERS, TIMES), tl.float32)
        for j in range((LENGTH >> level) | 1):
            s = t + (j - reach)
            value = tl.load(x + s, mask=(s >= 0) & (s < n_times), other=0).to(tl.float32)
            weight = tl.load(kernels + (first + j), mask=f < filters, other=0)
            sums += weight[:, None] * value[None, :]
        first += (LENGTH >> level) | 1
        if bias_ptr is not None:
            offset = f * LEVELS + level
            if OWN_BIAS:
                offset += chan * filters * LEVELS
            sums += tl.load(bias_ptr + offset, mask=f < filters, other=0).to(tl.float32)[:, None]
        out = sums.to(out_ptr.dtype.element_ty).to(tl.float32)  # ReLU of what is stored
        line = (row * filters + f) * LEVELS + level  # (filters,)
        if RELU:
            zero = out <= 0  # NaN passes
            if mask_ptr is not None:
                kept = tl.where(zero | (t >= n_times)[None, :], 0, 1)
                bits = tl.reshape(kept, (FILTERS, TIMES // 8, 8)) << tl.arange(0, 8)[None, None, :]
                byte = block * (TIMES // 8) + tl.arange(0, TIMES // 8)  # (times / 8,)
                to = mask_ptr + (line[:, None] * mask_bytes + byte[None, :])
                mask = (f < filters)[:, None] & (byte < mask_bytes)[None, :]
                tl.store(to, tl.sum(bits, axis=2).to(tl.uint8), mask=mask)
            out = tl.where(zero, 0, out)
        to = out_ptr + (line[:, None] * n_times + t[None, :])
        mask = (f < filters)[:, None] & (t < n_times)[None, :]
        tl.store(to, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _masked_grad(grad_ptr, mask_ptr, line, s, n_times, mask_bytes, inside):
    """The gradient at samples ``s`` of ``line`` where ReLU let the result through, else 0."""
    if mask_ptr is not None:
        byte = tl.load(mask_ptr + (line * mask_bytes + (s >> 3)), mask=inside, other=0)
        inside = inside & (((byte.to(tl.int32) >> (s & 7)) & 1) != 0)
    return tl.load(grad_ptr + (line * n_times + s), mask=inside, other=0).to(tl.float32)


@triton.jit
def _grad_x(
    grad_ptr,  # (rows, filters, LEVELS, n_times)
    mask_ptr,  # (rows, filters, LEVELS, mask_bytes) or None
    pooled_ptr,  # (chans or 1, filters, taps), float32
    grad_x_ptr,  # (rows, n_times)
    chans,
    filters,
    n_times,
    mask_bytes,
    taps,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    OWN_KERNELS: tl.constexpr,
    LINES: tl.constexpr,
    STEP: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A program has LINES x STEP samples of a row."""
    blocks = tl.cdiv(n_times, LINES * STEP)
    row = tl.program_id(0) // blocks
    chan, row = (row % chans).to(tl.int64), row.to(tl.int64)
    start = tl.program_id(0) % blocks * (LINES * STEP) + tl.arange(0, LINES) * STEP  # (lines,)
    step = tl.arange(0, STEP)  # (step,)
    kernel = pooled_ptr
    if OWN_KERNELS:
        kernel += chan * filters * taps
    sums = tl.zeros((LINES, STEP), tl.float32)
    for f in range(filters):
        first = 0
        for level in tl.static_range(LEVELS):
            reach = ((LENGTH >> level) | 1) // 2
            line = (row * filters + f) * LEVELS + level
            for u0 in range(0, STEP + 2 * reach, DEPTH):
                u = u0 + tl.arange(0, DEPTH)  # (depth,): the samples from `start` - reach on
                s = start[:, None] + (u - reach)[None, :]  # (lines, depth)
                inside = (s >= 0) & (s < n_times)
                grad = _masked_grad(grad_ptr, mask_ptr, line, s, n_times, mask_bytes, inside)
                j = step[None, :] - u[:, None] + 2 * reach  # (depth, step)
                known = (j >= 0) & (j < ((LENGTH >> level) | 1))
                weight = tl.load(kernel + (f * taps + first + j), mask=known, other=0)
                sums = tl.dot(grad, weight, sums, input_precision="ieee")
            first += (LENGTH >> level) | 1
    t = start[:, None] + step[None, :]
    to = grad_x_ptr + (row * n_times + t)
    tl.store(to, sums.to(grad_x_ptr.dtype.element_ty), mask=t < n_times)


@triton.jit
def _grad_weight(
    grad_ptr,  # (batch, chans, filters, LEVELS, n_times)
    mask_ptr,  # (batch, chans, filters, LEVELS, mask_bytes) or None
    x_ptr,  # (batch, chans, n_times)
    kernels_ptr,  # (chans, parts, filters, taps), float32, or None
    biases_ptr,  # (chans, parts, filters, LEVELS), float32, or None
    batch,
    chans,
    parts,
    filters,
    n_times,
    mask_bytes,
    taps,
    lag_blocks,
    LENGTH: tl.constexpr,
    LEVELS: tl.constexpr,
    FILTERS: tl.constexpr,
    TIMES: tl.constexpr,
    LAGS: tl.constexpr,
):
    """A program has LAGS taps of one level, some filters, and a part of one electrode's samples."""
    groups = tl.cdiv(filters, FILTERS)
    block, rest = tl.program_id(0) % lag_blocks, tl.program_id(0) // lag_blocks
    f = rest % groups * FILTERS + tl.arange(0, FILTERS)  # (filters,)
    part, chan = rest // groups % parts, (rest // groups // parts).to(tl.int64)
    # The level of this block of taps, and where its taps and blocks begin.
    level, first, begin, seen, passed = block * 0, block * 0, block * 0, 0, 0
    for lower in tl.static_range(LEVELS):
        here = block >= passed
        level, first = tl.where(here, lower, level), tl.where(here, seen, first)
        begin = tl.where(here, passed, begin)
        seen += (LENGTH >> lower) | 1
        passed += (((LENGTH >> lower) | 1) + LAGS - 1) // LAGS
    length = (LENGTH >> level) | 1
    j = (block - begin) * LAGS + tl.arange(0, LAGS)  # (lags,)
    by_lag = tl.zeros((FILTERS, LAGS), tl.float32)
    by_time = tl.zeros((FILTERS, TIMES), tl.float32)
    blocks = tl.cdiv(n_times, TIMES)
    for unit in range(part, batch * blocks, parts):
        row = (unit // blocks) * chans + chan
        t = unit % blocks * TIMES + tl.arange(0, TIMES)  # (times,)
        line = ((row * filters + f) * LEVELS + level)[:, None]
        inside = (f < filters)[:, None] & (t < n_times)[None, :]
        grad = _masked_grad(grad_ptr, mask_ptr, line, t[None, :], n_times, mask_bytes, inside)
        by_time += grad
        if kernels_ptr is not None:
            s = t[:, None] + (j - length // 2)[None, :]  # (times, lags)
            known = (t < n_times)[:, None] & (s >= 0) & (s < n_times)
            value = tl.load(x_ptr + (row * n_times + s), mask=known, other=0).to(tl.float32)
            by_lag = tl.dot(grad, value, by_lag, input_precision="ieee")
    line = (chan * parts + part) * filters + f  # (filters,)
    if kernels_ptr is not None:
        to = kernels_ptr + (line[:, None] * taps + (first + j)[None, :])
        tl.store(to, by_lag, mask=(f < filters)[:, None] & (j < length)[None, :])
    if biases_ptr is not None:
        to = biases_ptr + line * LEVELS + level
        tl.store(to, tl.sum(by_time, axis=1), mask=f < tl.where(block == begin, filters, 0))


@triton.jit
def _sum_parts(
    parts_ptr,  # (groups, parts, values), float32
    sums_ptr,  # (groups, values)
    parts,
    values,
    LINES: tl.constexpr,
    VALUES: tl.constexpr,
):
    blocks = tl.cdiv(values, VALUES)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    value = tl.program_id(0) % blocks * VALUES + tl.arange(0, VALUES)  # (values,)
    line = tl.arange(0, LINES)  # (lines,)
    by_line = tl.zeros((LINES, VALUES), tl.float64)
    for first in range(0, parts, LINES):
        part = first + line
        mask = (part < parts)[:, None] & (value < values)[None, :]
        source = parts_ptr + ((group * parts + part)[:, None] * values + value[None, :])
        by_line += tl.load(source, mask=mask, other=0).to(tl.float64)
    total = tl.sum(by_line, axis=0).to(tl.float32)
    to = sums_ptr + group * values + value
    tl.store(to, total.to(sums_ptr.dtype.element_ty), mask=value < values)


def _check(x: Tensor, filters: int) -> None:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise NotImplementedError(f"eegfast._triton.scaling_conv1d: no kernel for {x.dtype}")
    if x.shape[-1] >= 2**31 - 2048:
        raise NotImplementedError("eegfast._triton.scaling_conv1d: rows of 2**31 samples")
    if x.shape[:-1].numel() * filters * triton.cdiv(x.shape[-1], 64) >= 2**31:
        raise NotImplementedError("eegfast._triton.scaling_conv1d: more programs than a launch has")


def _lengths(length: int, levels: int) -> list[int]:
    return [length >> level | 1 for level in range(levels)]


def _mask_bytes(n_times: int) -> int:
    return triton.cdiv(n_times, 64) * 8


def _pooled(weight: Tensor, levels: int, count_include_pad: bool) -> Tensor:
    """The kernels of all levels, (chans, filters, taps), in float32."""
    chans, filters, length = weight.shape
    taps = sum(_lengths(length, levels))
    pooled = torch.empty((chans, filters, taps), dtype=torch.float32, device=weight.device)
    _pool[(chans * filters,)](
        weight.contiguous(),
        pooled,
        taps,
        LENGTH=length,
        LEVELS=levels,
        COUNT_PAD=count_include_pad,
        BLOCK=triton.next_power_of_2(length),
        **FUSE,
    )
    return pooled


def scaling_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    levels: int,
    relu: bool,
    count_include_pad: bool,
    save_mask: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`eegfast.reference.scaling_conv1d`."""
    _check(x, weight.shape[1])
    n_chans, n_times = x.shape[-2:]
    filters, length = weight.shape[1:]
    shape, mask_bytes = (*x.shape[:-1], filters, levels), _mask_bytes(n_times)
    out = x.new_empty((*shape, n_times))
    mask = x.new_empty((*shape, mask_bytes) if relu and save_mask else 0, dtype=torch.uint8)
    if not out.numel():
        return out, mask
    tile = forward_config(filters, n_times)
    blocks = triton.cdiv(n_times, tile["TIMES"]) * triton.cdiv(filters, tile["FILTERS"])
    with torch.cuda.device_of(x):
        pooled = _pooled(weight, levels, count_include_pad)
        _forward[(blocks * x.shape[:-1].numel(),)](
            x.contiguous(),
            pooled,
            None if bias is None else bias.contiguous(),
            out,
            mask if mask.numel() else None,
            n_chans,
            filters,
            n_times,
            mask_bytes,
            pooled.shape[-1],
            LENGTH=length,
            LEVELS=levels,
            OWN_KERNELS=weight.shape[0] > 1,
            OWN_BIAS=bias is not None and bias.shape[0] > 1,
            RELU=relu,
            **tile,
        )
    return out, mask


def _summed(parts: Tensor, groups: int, to: Tensor) -> Tensor:
    """Sum (chans, parts, filters, any) over parts, and over chans if there is one group."""
    values = parts.shape[2] * parts.shape[3]
    _sum_parts[(groups * triton.cdiv(values, 32),)](
        parts,
        to,
        parts.shape[0] * parts.shape[1] // groups,
        values,
        LINES=32,
        VALUES=32,
        **FUSE,
    )
    return to


def scaling_conv1d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    bias_chans: int,
    levels: int,
    count_include_pad: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`eegfast.reference.scaling_conv1d_backward`."""
    _check(x, weight.shape[1])
    n_chans, n_times = x.shape[-2:]
    weight_chans, filters, length = weight.shape
    grad_x = torch.empty(x.shape if need_x else 0, dtype=x.dtype, device=x.device)
    grad_weight = x.new_empty(weight.shape if need_weight else 0)
    grad_bias = x.new_empty((bias_chans, filters, levels) if need_bias else 0)
    if not grad.numel():
        return grad_x.zero_(), grad_weight.zero_(), grad_bias.zero_()
    rows, lengths = x.shape[:-1].numel(), _lengths(length, levels)
    taps = sum(lengths)
    grad, mask_bytes = grad.contiguous(), _mask_bytes(n_times)
    mask = None if mask is None else mask.contiguous()
    sizes = dict(filters=filters, n_times=n_times, mask_bytes=mask_bytes, taps=taps)
    with torch.cuda.device_of(x):
        if need_x:
            tile = grad_x_config(n_times)
            _grad_x[(rows * triton.cdiv(n_times, tile["LINES"] * tile["STEP"]),)](
                grad,
                mask,
                _pooled(weight, levels, count_include_pad),
                grad_x,
                chans=n_chans,
                **sizes,
                LENGTH=length,
                LEVELS=levels,
                OWN_KERNELS=weight_chans > 1,
                **tile,
            )
        if need_weight or need_bias:
            tile = grad_weight_config(filters)
            lag_blocks = sum(triton.cdiv(n, tile["LAGS"]) for n in lengths)
            groups = triton.cdiv(filters, tile["FILTERS"])
            units = rows // n_chans * triton.cdiv(n_times, tile["TIMES"])
            parts = min(units, triton.cdiv(PROGRAMS, n_chans * lag_blocks * groups))
            kernels = biases = None
            work = dict(dtype=torch.float32, device=x.device)
            if need_weight:
                kernels = torch.empty((n_chans, parts, filters, taps), **work)
            if need_bias:
                biases = torch.empty((n_chans, parts, filters, levels), **work)
            _grad_weight[(lag_blocks * groups * parts * n_chans,)](
                grad,
                mask,
                x.contiguous(),
                kernels,
                biases,
                batch=rows // n_chans,
                chans=n_chans,
                parts=parts,
                **sizes,
                lag_blocks=lag_blocks,
                LENGTH=length,
                LEVELS=levels,
                **tile,
            )
            if need_bias:
                _summed(biases, bias_chans, grad_bias)
            if need_weight:
                summed = torch.empty((weight_chans, filters, taps), **work)
                _unpool[(weight_chans * filters,)](
                    _summed(kernels, weight_chans, summed),
                    grad_weight,
                    taps,
                    LENGTH=length,
                    LEVELS=levels,
                    COUNT_PAD=count_include_pad,
                    BLOCK=triton.next_power_of_2(length),
                    **FUSE,
                )
    return grad_x, grad_weight, grad_bias
