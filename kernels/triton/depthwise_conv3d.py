# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise 3-D convolution between two optional affine maps and ReLUs.

    a[n,c,i] = relu?(in_scale[c] x[n,c,i] + in_shift[c])
    z[n,c,o] = bias[c] + sum_k weight[c,k] a[n,c, stride o + k - pad]     (a = 0 outside the input)
    y[n,c,o] = relu?(out_scale[c] z[n,c,o] + out_shift[c])

x and y are (batch, chans, depth, height, width), contiguous or channels last; any other strides are
copied first. A tile is (rows, positions) for contiguous tensors, a row being a sample's channel,
and (positions, channels of one sample) for channels last, so its last axis is contiguous in memory.

Forward, a program takes one tile of a plane through the depth of the result. Each plane of x is
read once per tap of the kernel's plane (9 loads for 3x3x3; all but the first from cache) and goes
to all results that see it. Backward goes through the depth of the gradient in the same way: the
gradient, shifted by a tap, adds to the gradient of x and to that tap's weight. Sums of a channel
stay in registers over depth and samples, then go to a workspace that `_finish` adds up in double
and in a fixed order. 2 kernel FLOP per result and tap forward, 4 backward.

Sums are float32; float64 tensors are left to the reference. A sample has less than 2**31 elements.
The sums of more than 27 taps do not fit the registers, nor do the taps: backward, each plane of
such a kernel takes a launch of its own, and weights are read where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from eegfast.reference.depthwise_conv3d import memory_format, output_size

MOST_TAPS = tl.constexpr(27)  # that a program holds at once
PROGRAMS = 2112  # backward: about so many share the batch; 16 for each of the 132 SM of an H200
OPTIONS = dict(num_warps=4, enable_fp_fusion=True)


def configs(chans: int, plane: int, taps: int, last: bool, backward: bool) -> dict[str, int]:
    """Rows (or channels) and positions of a tile: two elements per thread, or one to spare
    registers, whose limit keeps ptxas from spilling for the sake of occupancy."""
    many = taps > MOST_TAPS.value
    tile = 128 if backward or many else 256
    rows = min(triton.next_power_of_2(chans), 64)
    if not last:
        rows = tile // min(triton.next_power_of_2(plane), tile)
    registers = {}
    if backward or many:
        registers = dict(maxnreg=224 if many else 168)
    return dict(ROWS=rows, POSITIONS=tile // rows) | registers


@triton.jit
def _by_row(values, LAST: tl.constexpr):
    """Values of the rows, to be broadcast over a tile."""
    return values[None, :] if LAST else values[:, None]


@triton.jit
def _by_position(values, LAST: tl.constexpr):
    return values[:, None] if LAST else values[None, :]


@triton.jit
def _sum_positions(tile, LAST: tl.constexpr):
    return tl.sum(tile, axis=0 if LAST else 1)


@triton.jit
def _rows(block, samples, chans, ROWS: tl.constexpr, LAST: tl.constexpr):
    """Sample and channel of each row of a tile, and which rows there are; ``samples`` in all."""
    if LAST:
        blocks = tl.cdiv(chans, ROWS)
        chan = block % blocks * ROWS + tl.arange(0, ROWS)
        sample = tl.zeros((ROWS,), tl.int64) + block // blocks
        return sample, chan, (chan < chans) & (sample < samples)
    else:
        row = block * ROWS + tl.arange(0, ROWS)
        return (row // chans).to(tl.int64), row % chans, row < samples * chans


@triton.jit
def _within(at, count, d, depth):
    """Which positions are in a plane of ``count``, if its index ``d`` is one of ``depth``."""
    return at < tl.where((d >= 0) & (d < depth), count, 0)


@triton.jit
def _first_element(sample, chan, chans, volume, LAST: tl.constexpr):
    """Offset of each row's first element."""
    if LAST:
        return sample * (tl.cast(chans, tl.int64) * volume) + chan
    else:
        return (sample * chans + chan) * volume


@triton.jit
def _of_channel(ptr, chan, live, OTHERWISE: tl.constexpr, LAST: tl.constexpr):
    if ptr is None:
        return _by_row(tl.full(chan.shape, OTHERWISE, tl.float32), LAST)
    else:
        return _by_row(tl.load(ptr + chan, mask=live, other=0).to(tl.float32), LAST)


@triton.jit
def _held_weights(ptr, chan, live, TAPS: tl.constexpr, LAST: tl.constexpr):
    """Each tap's weights of the rows, if all fit the registers: a tuple."""
    values = ()
    if TAPS <= MOST_TAPS:
        for tap in tl.static_range(TAPS):
            values = values + (_of_channel(ptr + tap, chan * TAPS, live, 0, LAST),)
    return values


@triton.jit
def _weight(held, ptr, chan, live, TAPS: tl.constexpr, TAP: tl.constexpr, LAST: tl.constexpr):
    """One tap's weights of the rows."""
    if TAPS <= MOST_TAPS:
        return held[TAP]
    else:
        return _of_channel(ptr + TAP, chan * TAPS, live, 0, LAST)


@triton.jit
def _relu(value):
    return tl.where(value <= 0, 0, value)  # NaN passes


@triton.jit
def _forward(
    x_ptr,  # (batch, chans, in_d, in_h, in_w) or channels last
    weight_ptr,  # (chans, KD, KH, KW)
    bias_ptr,  # (chans,) or None, like the four below
    in_scale_ptr,
    in_shift_ptr,
    out_scale_ptr,
    out_shift_ptr,
    y_ptr,  # (batch, chans, out_d, out_h, out_w), laid out as x
    batch, chans, in_d, in_h, in_w, out_d, out_h, out_w, pad_d, pad_h, pad_w,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    IN_RELU: tl.constexpr, OUT_RELU: tl.constexpr,
    LAST: tl.constexpr, ROWS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(out_h * out_w, POSITIONS)
    sample, chan, live = _rows(tl.program_id(0) // blocks, batch, chans, ROWS, LAST)
    at = tl.program_id(0) % blocks * POSITIONS + tl.arange(0, POSITIONS)
    h, w = at // out_w, at % out_w
    rows = _by_row(live, LAST)
    step = chans if LAST else 1
    plane_x, plane_y = in_h * in_w * step, out_h * out_w * step
    x = x_ptr + _by_row(_first_element(sample, chan, chans, in_d * in_h * in_w, LAST), LAST)
    y = y_ptr + _by_row(_first_element(sample, chan, chans, out_d * out_h * out_w, LAST), LAST)

    TAPS: tl.constexpr = KD * KH * KW
    weights = _held_weights(weight_ptr, chan, live, TAPS, LAST)
    bias = _of_channel(bias_ptr, chan, live, 0, LAST)
    in_scale = _of_channel(in_scale_ptr, chan, live, 1, LAST)
    in_shift = _of_channel(in_shift_ptr, chan, live, 0, LAST)
    out_scale = _of_channel(out_scale_ptr, chan, live, 1, LAST)
    out_shift = _of_channel(out_shift_ptr, chan, live, 0, LAST)

    # Planes q SD to q SD + SD - 1 of the padded input reach the results of depth q, q - 1, ...: as
    # many as SEEN, whose sums are `sums`.
    SEEN: tl.constexpr = (KD + SD - 1) // SD
    zero = tl.zeros((rows & _by_position(at >= 0, LAST)).shape, tl.float32)
    sums = (zero,) * SEEN
    for q in range(out_d + SEEN - 1):
        for r in tl.static_range(min(SD, KD)):
            d = q * SD + r - pad_d
            seen = _within(at, out_h * out_w, d, in_d)
            for kh in tl.static_range(KH):
                for kw in tl.static_range(KW):
                    h_in, w_in = h * SH + kh - pad_h, w * SW + kw - pad_w
                    good = (h_in >= 0) & (h_in < in_h) & (w_in >= 0) & (w_in < in_w)
                    mask = rows & _by_position(good & seen, LAST)
                    offset = _by_position((h_in * in_w + w_in) * step, LAST) + d * plane_x
                    value = tl.load(x + offset, mask=mask, other=0).to(tl.float32)
                    value = value * in_scale + in_shift
                    if IN_RELU:
                        value = _relu(value)
                    value = tl.where(mask, value, 0)
                    added = ()
                    for j in tl.static_range(SEEN):
                        so_far = sums[j]
                        if r + j * SD < KD:
                            weight = _weight(
                                weights,
                                weight_ptr,
                                chan,
                                live,
                                TAPS,
                                ((r + j * SD) * KH + kh) * KW + kw,
                                LAST,
                            )
                            so_far += weight * value
                        added = added + (so_far,)
                    sums = added
        d_out = q - (SEEN - 1)
        result = (sums[SEEN - 1] + bias) * out_scale + out_shift
        if OUT_RELU:
            result = _relu(result)
        offset = _by_position(at * step, LAST) + d_out * plane_y
        mask = rows & _by_position(_within(at, out_h * out_w, d_out, out_d), LAST)
        tl.store(y + offset, result.to(y_ptr.dtype.element_ty), mask=mask)
        sums = (zero,) + sums[: SEEN - 1]


@triton.jit
def _masked_grad(grad, y, offset, mask):
    """The gradient where ReLU let the result through."""
    value = tl.load(grad + offset, mask=mask, other=0).to(tl.float32)
    if y is not None:
        result = tl.load(y + offset, mask=mask, other=0).to(tl.float32)
        value = tl.where(result <= 0, 0, value)
    return value


@triton.jit
def _backward(
    grad_ptr,  # (batch, chans, out_d, out_h, out_w), laid out as x
    x_ptr,  # (batch, chans, in_d, in_h, in_w) or channels last
    weight_ptr,  # (chans, KD, KH, KW)
    in_scale_ptr,  # (chans,) or None, like the two below
    in_shift_ptr,
    out_scale_ptr,
    y_ptr,  # as grad, or None without ReLU
    grad_x_ptr,  # as x, or None
    sums_ptr,  # (parts chans, blocks, KD KH KW + 3): of each tap, of in_scale, in_shift, of grad
    batch, parts, chans, blocks, in_d, in_h, in_w, out_d, out_h, out_w, pad_d, pad_h, pad_w,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SD: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    IN_RELU: tl.constexpr,
    NEED_ACTIVE: tl.constexpr,  # the gradient of x or of what it is mapped with
    NEED_IN: tl.constexpr,  # the sums for in_scale and in_shift
    NEED_TOTAL: tl.constexpr,  # that of the gradient
    FIRST: tl.constexpr,  # planes FIRST to END - 1 of the weight's gradient are summed
    END: tl.constexpr,
    LAST: tl.constexpr, ROWS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) % blocks
    part, chan, exists = _rows(tl.program_id(0) // blocks, parts, chans, ROWS, LAST)
    at = block * POSITIONS + tl.arange(0, POSITIONS)
    h, w = at // in_w, at % in_w
    step = chans if LAST else 1
    plane_x, plane_y = in_h * in_w * step, out_h * out_w * step
    place = _by_position(at * step, LAST)

    TAPS: tl.constexpr = KD * KH * KW
    weights = ()
    if NEED_ACTIVE:
        weights = _held_weights(weight_ptr, chan, exists, TAPS, LAST)
    in_scale = _of_channel(in_scale_ptr, chan, exists, 1, LAST)
    in_shift = _of_channel(in_shift_ptr, chan, exists, 0, LAST)
    out_scale = _of_channel(out_scale_ptr, chan, exists, 1, LAST)

    zero = tl.zeros((_by_row(exists, LAST) & _by_position(at >= 0, LAST)).shape, tl.float32)
    by_tap = (zero,) * ((END - FIRST) * KH * KW)
    by_scale, by_shift, total = zero, zero, zero
    for turn in range(tl.cdiv(batch, parts)):
        sample = part + turn * parts
        rows = _by_row(exists & (sample < batch), LAST)
        of_x = _first_element(sample, chan, chans, in_d * in_h * in_w, LAST)
        of_y = _first_element(sample, chan, chans, out_d * out_h * out_w, LAST)
        x, grad = x_ptr + _by_row(of_x, LAST), grad_ptr + _by_row(of_y, LAST)
        y = None
        if y_ptr is not None:
            y = y_ptr + _by_row(of_y, LAST)
        # The gradient's plane q reaches planes q SD to q SD + KD - 1 of the padded input, whose
        # sums are `actives`.
        actives = (zero,) * KD
        for q in range(tl.cdiv(in_d + pad_d, SD)):
            raws, values = (), ()
            for kd in tl.static_range(KD):
                d = q * SD + kd - pad_d
                mask = rows & _by_position(_within(at, in_h * in_w, d, in_d), LAST)
                raw = tl.load(x + (place + d * plane_x), mask=mask, other=0).to(tl.float32)
                value = raw * in_scale + in_shift
                if IN_RELU:
                    value = _relu(value)
                raws, values = raws + (raw,), values + (tl.where(mask, value, 0),)
            seen = _within(at, in_h * in_w, q, out_d)
            for kh in tl.static_range(KH):
                for kw in tl.static_range(KW):
                    h_pad, w_pad = h + pad_h - kh, w + pad_w - kw
                    h_out, w_out = h_pad // SH, w_pad // SW
                    good = (h_pad >= 0) & (h_out * SH == h_pad) & (h_out < out_h)
                    good &= (w_pad >= 0) & (w_out * SW == w_pad) & (w_out < out_w)
                    mask = rows & _by_position(good & seen, LAST)
                    offset = _by_position((h_out * out_w + w_out) * step, LAST) + q * plane_y
                    g = _masked_grad(grad, y, offset, mask)
                    if NEED_ACTIVE:
                        added = ()
                        for kd in tl.static_range(KD):
                            weight = _weight(
                                weights,
                                weight_ptr,
                                chan,
                                exists,
                                TAPS,
                                (kd * KH + kh) * KW + kw,
                                LAST,
                            )
                            added = added + (actives[kd] + weight * g,)
                        actives = added
                    added = ()
                    for i in tl.static_range((END - FIRST) * KH * KW):
                        so_far = by_tap[i]
                        if i % (KH * KW) == kh * KW + kw:
                            so_far += values[FIRST + i // (KH * KW)] * g
                        added = added + (so_far,)
                    by_tap = added
            if NEED_ACTIVE:  # planes q SD to q SD + SD - 1 are complete
                for r in tl.static_range(min(SD, KD)):
                    d = q * SD + r - pad_d
                    mask = rows & _by_position(_within(at, in_h * in_w, d, in_d), LAST)
                    active = tl.where(mask, actives[r] * out_scale, 0)
                    if IN_RELU:
                        active = tl.where(values[r] <= 0, 0, active)
                    if NEED_IN:
                        by_scale += active * raws[r]
                        by_shift += active
                    if grad_x_ptr is not None:
                        to = grad_x_ptr + _by_row(of_x, LAST) + (place + d * plane_x)
                        value = (active * in_scale).to(grad_x_ptr.dtype.element_ty)
                        tl.store(to, value, mask=mask)
                if grad_x_ptr is not None:
                    for r in range(KD, SD):  # planes that no result sees
                        d = q * SD + r - pad_d
                        to = grad_x_ptr + _by_row(of_x, LAST) + (place + d * plane_x)
                        mask = rows & _by_position(_within(at, in_h * in_w, d, in_d), LAST)
                        tl.store(to, zero.to(grad_x_ptr.dtype.element_ty), mask=mask)
                actives = actives[min(SD, KD) :] + (zero,) * min(SD, KD)
        if NEED_TOTAL:
            mask = rows & _by_position(at < out_h * out_w, LAST)
            for q in range(out_d):
                total += _masked_grad(grad, y, place + q * plane_y, mask)

    to = sums_ptr + ((part * chans + chan) * blocks + block) * (TAPS + 3)
    for i in tl.static_range((END - FIRST) * KH * KW):
        tl.store(to + (FIRST * KH * KW + i), _sum_positions(by_tap[i], LAST), mask=exists)
    if NEED_IN:
        tl.store(to + TAPS, _sum_positions(by_scale, LAST), mask=exists)
        tl.store(to + (TAPS + 1), _sum_positions(by_shift, LAST), mask=exists)
    if NEED_TOTAL:
        tl.store(to + (TAPS + 2), _sum_positions(total, LAST), mask=exists)


@triton.jit
def _store(ptr, offset, value, mask):
    """Store a double, if it is wanted, to a half type by way of float32 as everywhere else."""
    if ptr is not None:
        tl.store(ptr + offset, value.to(tl.float32).to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _finish(
    sums_ptr,  # (parts, chans, blocks, TAPS + 3), what `_backward` wrote
    weight_ptr,  # (chans, TAPS)
    bias_ptr,  # (chans,) or None
    out_scale_ptr,
    grad_weight_ptr,  # as weight, or None, like the five below
    grad_bias_ptr,  # (chans,)
    grad_in_scale_ptr,
    grad_in_shift_ptr,
    grad_out_scale_ptr,
    grad_out_shift_ptr,
    parts, chans, blocks,
    TAPS: tl.constexpr,
    VALUES: tl.constexpr,  # a power of 2
    LINES: tl.constexpr,
):  # fmt: skip
    """A program adds up the sums of one channel."""
    chan = tl.program_id(0)
    value = tl.arange(0, VALUES)  # (values,)
    line = tl.arange(0, LINES)
    by_line = tl.zeros((LINES, VALUES), tl.float64)
    for first in range(0, parts * blocks, LINES):
        at = first + line  # (lines,)
        row = ((at // blocks).to(tl.int64) * chans + chan) * blocks + at % blocks
        mask = (at < parts * blocks)[:, None] & (value < TAPS + 3)[None, :]
        by_line += tl.load(
            sums_ptr + (row[:, None] * (TAPS + 3) + value[None, :]), mask=mask, other=0
        ).to(tl.float64)
    sums = tl.sum(by_line, axis=0)  # (values,)
    scale = tl.full((), 1, tl.float64)
    if out_scale_ptr is not None:
        scale = tl.load(out_scale_ptr + chan).to(tl.float64)
    tap = chan.to(tl.int64) * TAPS + value
    _store(grad_weight_ptr, tap, sums * scale, value < TAPS)
    by_scale = tl.sum(tl.where(value == TAPS, sums, 0), axis=0)
    by_shift = tl.sum(tl.where(value == TAPS + 1, sums, 0), axis=0)
    total = tl.sum(tl.where(value == TAPS + 2, sums, 0), axis=0)
    _store(grad_bias_ptr, chan, total * scale, None)
    _store(grad_in_scale_ptr, chan, by_scale, None)
    _store(grad_in_shift_ptr, chan, by_shift, None)
    if grad_out_scale_ptr is not None:
        weight = tl.load(weight_ptr + tap, mask=value < TAPS, other=0).to(tl.float64)
        by_out = tl.sum(tl.where(value < TAPS, weight * sums, 0), axis=0)
        if bias_ptr is not None:
            by_out += tl.load(bias_ptr + chan).to(tl.float64) * total
        _store(grad_out_scale_ptr, chan, by_out, None)
    _store(grad_out_shift_ptr, chan, total, None)


def _check(x: Tensor, weight: Tensor, size: Sequence[int]) -> None:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise NotImplementedError(f"eegfast._triton.depthwise_conv3d: no kernel for {x.dtype}")
    sample = x.shape[1] * max(x.shape[2:].numel(), size[0] * size[1] * size[2])
    if sample >= 2**31 - 512:
        raise NotImplementedError("eegfast._triton.depthwise_conv3d: samples of 2**31 elements")
    if x.shape[0] * x.shape[1] >= 2**31 - 512:
        raise NotImplementedError("eegfast._triton.depthwise_conv3d: 2**31 channels of all samples")


def _given(*values: Tensor | None) -> list[Tensor | None]:
    return [v if v is None else v.contiguous() for v in values]


def _sizes(x: Tensor, size: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
    """Sizes of x and of the result, and the zeros before; of an empty x, the depth is 0."""
    in_size = x.shape[2:] if x.numel() else (0, 1, 1)
    return (*in_size, *size, *padding[::2])


def _tiles(samples: int, chans: int, last: bool, tile: dict[str, int]) -> int:
    """How many blocks of rows there are (`_rows`)."""
    if last:
        return samples * triton.cdiv(chans, tile["ROWS"])
    return triton.cdiv(samples * chans, tile["ROWS"])


def _constants(weight: Tensor, stride: Sequence[int]) -> dict:
    names = ("KD", "KH", "KW", "SD", "SH", "SW")
    return dict(zip(names, (*weight.shape[2:], *stride), strict=True)) | OPTIONS


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    out_scale: Tensor | None,
    out_shift: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    in_relu: bool,
    out_relu: bool,
) -> Tensor:
    """See :func:`eegfast.reference.depthwise_conv3d`."""
    size = output_size(x, weight, stride, padding)
    _check(x, weight, size)
    layout = memory_format(x)
    shape = (*x.shape[:2], *size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if not y.numel():
        return y
    batch, chans, last = x.shape[0], x.shape[1], layout == torch.channels_last_3d
    tile = configs(chans, size[1] * size[2], weight[0].numel(), last, False)
    blocks = triton.cdiv(size[1] * size[2], tile["POSITIONS"])
    given = _given(weight, bias, in_scale, in_shift, out_scale, out_shift)
    tensors = (x.contiguous(memory_format=layout), *given, y)
    options = dict(IN_RELU=in_relu, OUT_RELU=out_relu, LAST=last, **_constants(weight, stride))
    with torch.cuda.device_of(x):
        _forward[(blocks * _tiles(batch, chans, last, tile),)](
            *tensors, batch, chans, *_sizes(x, size, padding), **options, **tile
        )
    return y


def depthwise_conv3d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    out_scale: Tensor | None,
    y: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    in_relu: bool,
    out_relu: bool,
    wanted: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`eegfast.reference.depthwise_conv3d_backward`."""
    size = list(grad.shape[2:])
    _check(x, weight, size)
    layout = memory_format(x)
    grads = [x.new_empty(shape) for shape in (weight.shape, *((x.shape[1],),) * 5)]
    grads.insert(0, torch.empty_like(x, memory_format=layout))
    grads = [g if want else x.new_empty(0) for g, want in zip(grads, wanted, strict=True)]
    if not grad.numel():
        for g in grads:
            g.zero_()
        return tuple(grads)
    need_x, need_weight, need_bias, need_in_scale, need_in_shift, need_scale, need_shift = wanted
    need_taps = bool(need_weight or need_scale)
    need_in = bool(need_in_scale or need_in_shift)
    need_total = bool(need_bias or need_scale or need_shift)

    batch, chans, last = x.shape[0], x.shape[1], layout == torch.channels_last_3d
    sizes = _sizes(x, size, padding)
    plane = max(sizes[1] * sizes[2], sizes[4] * sizes[5])
    taps = weight[0].numel()
    tile = configs(chans, plane, taps, last, True)
    blocks = triton.cdiv(plane, tile["POSITIONS"])
    # Samples are dealt out to `parts`.
    parts = min(batch, triton.cdiv(PROGRAMS * tile["ROWS"], chans * blocks))
    length = parts * chans * blocks * (taps + 3) if any(wanted[1:]) else 0
    sums = torch.empty(length, dtype=torch.float32, device=x.device)
    weight, bias, *given = _given(weight, bias, in_scale, in_shift, out_scale)
    x, grad = (t.contiguous(memory_format=layout) for t in (x, grad))
    y = None if y is None else y.contiguous(memory_format=layout)
    options = dict(IN_RELU=in_relu, LAST=last, **_constants(weight, stride), **tile)

    def launch(active, total, first, end):
        grad_x = grads[0] if active and need_x else None
        tensors = (grad, x, weight, *given, y, grad_x, sums)
        needs = dict(NEED_ACTIVE=active, NEED_IN=active and need_in, NEED_TOTAL=total)
        _backward[(blocks * _tiles(parts, chans, last, tile),)](
            *tensors, batch, parts, chans, blocks, *sizes, **options, **needs, FIRST=first, END=end
        )

    with torch.cuda.device_of(x):
        active, planes = bool(need_x or need_in), weight.shape[2] if need_taps else 0
        if taps <= MOST_TAPS.value or not planes:
            launch(active, need_total, 0, planes)
        else:
            if active or need_total:
                launch(active, need_total, 0, 0)
            for kd in range(planes):
                launch(False, False, kd, kd + 1)
        if any(wanted[1:]):
            results = (g if want else None for g, want in zip(grads[1:], wanted[1:], strict=True))
            tensors = (sums, weight, bias, given[-1], *results)
            values = triton.next_power_of_2(taps + 3)
            _finish[(chans,)](
                *tensors, parts, chans, blocks, TAPS=taps, VALUES=values, LINES=16, **OPTIONS
            )
    return tuple(grads)
