# SPDX-License-Identifier: BSD-3-Clause
"""Variance per window behind a bank of recursive filters, and its gradient.

A lane owns a chain, one band of one row (channel of a batch entry), and goes along time; the bands
of a row are neighbours, so that a warp reads few rows and writes results as they lie in memory.
A section 1 + (c1 z^-1 + ..) / (1 + a1 z^-1 + a2 z^-2) has the states

    s1' = -k s1 + g s2,   s2' = u - a2 (g s1 + k s2),   y = u + c1 s1 + c2 s2

with k = a1 / (1 + a2), g = sqrt(1 - k^2): a rotation, then a damping. Rounding is damped with them,
where the usual direct forms amplify it by 1 / (distance of the poles from 1)^2: float32 is enough
for all bands. 6 operations a section.

Time is cut into slots, at every multiple of `step` and at every end of a window: `per` (1 or 2)
slots a step. A lane reads BLOCK samples at once, in tiles (LANES, BLOCK) that are prefetched, and
takes what is left of a slot one by one. Sums over a slot are taken about the last value before it.
Where a window is one slot, its variance is written; else `_combine` joins mean and squares of slots
afterwards. At a window's edge a state that is not finite restarts as zero.

Few chains cannot fill a GPU: time is then cut into spans of whole steps as well. From state s a
span of n samples ends in A^n s + e, e being where it ends from zero. So spans run once from zero
for their e, `_scan` finds the states they start in, and they run again from there.

Backward, the adjoint filter is the filter run backwards in time, on dy = sum over windows of
2 grad (y - mean) / (window - ddof). The pass forward keeps its state before each block, and y where
a slot's rest follows; the pass backward filters a block again from there, in registers, then takes
it in reverse, and sums the bands of a row.

Per sample, channel and band 12 n_sections + 4 FLOP, twice that with spans; backward three times
this. Memory: x is read once per pass; backward also 2 n_sections / BLOCK floats written and read
again per sample, channel and band. Computed in float32, or in float64 for float64.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16  # samples
MAX_SECTIONS = 10
MAX_REGISTERS = 255  # left to itself, ptxas stops at 168 and spills
SCHEDULERS = 528  # of an H200


def configs(rows: int, bands: int, windows: int, step: int) -> dict[str, int]:
    """Lanes of a program, of which a multiple of ``bands`` works, and the spans of time."""
    lanes = max(128, triton.next_power_of_2(bands))
    while lanes > 32 and lanes // 2 >= rows * bands:
        lanes //= 2
    warps = triton.cdiv(rows, lanes // bands) * (lanes // 32)
    spans = 1
    if 2 * warps <= SCHEDULERS and windows * step >= 512:
        while spans < 64 and 2 * spans <= windows and 2 * spans * warps <= 4 * SCHEDULERS:
            spans *= 2
    return dict(LANES=lanes, num_warps=lanes // 32, spans=spans)


@triton.jit
def _columns(tile, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """The columns (LANES,) of a tile (LANES, BLOCK); each thread has whole rows."""
    parts = (tile,)
    for level in tl.static_range(BLOCK.bit_length() - 1):
        halves = ()
        for i in tl.static_range(1 << level):
            pairs = tl.reshape(parts[i], (LANES, 2, BLOCK >> (level + 1)))
            first, second = tl.split(tl.permute(pairs, (0, 2, 1)))
            halves = halves + (first, second)
        parts = halves
    columns = ()
    for i in tl.static_range(BLOCK):
        columns = columns + (tl.reshape(parts[i], (LANES,)),)
    return columns


@triton.jit
def _tile(columns, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of _columns."""
    parts = ()
    for i in tl.static_range(BLOCK):
        parts = parts + (tl.reshape(columns[i], (LANES, 1)),)
    for level in tl.static_range(BLOCK.bit_length() - 1):
        joined = ()
        for i in tl.static_range(BLOCK >> (level + 1)):
            pairs = tl.permute(tl.join(parts[2 * i], parts[2 * i + 1]), (0, 2, 1))
            joined = joined + (tl.reshape(pairs, (LANES, 2 << level)),)
        parts = joined
    return parts[0]


@triton.jit
def _step(u, state, coefs, SECTIONS: tl.constexpr):
    """One sample through the cascade: what comes out, and the states after it."""
    after = ()
    y = coefs[6 * SECTIONS] * u
    for i in tl.static_range(SECTIONS):
        u, s1, s2 = y, state[2 * i], state[2 * i + 1]
        s1_after = coefs[6 * i] * s1 + coefs[6 * i + 1] * s2
        s2_after = coefs[6 * i + 2] * s1 + (coefs[6 * i + 3] * s2 + u)
        after = after + (s1_after, s2_after)
        y = coefs[6 * i + 4] * s1 + (coefs[6 * i + 5] * s2 + u)
    return y, after


@triton.jit
def _load_vector(pointer, count: tl.constexpr, stride, mask):
    """``count`` tensors, ``stride`` apart."""
    values = ()
    for i in tl.static_range(count):
        values = values + (tl.load(pointer + i * stride, mask=mask, other=0),)
    return values


@triton.jit
def _store_vector(pointer, values, stride, mask):
    for i in tl.static_range(len(values)):
        tl.store(pointer + i * stride, values[i], mask=mask)


@triton.jit
def _zeros(count: tl.constexpr, LANES: tl.constexpr, kind: tl.constexpr):
    values = ()
    for _ in tl.static_range(count):
        values = values + (tl.zeros((LANES,), kind),)
    return values


@triton.jit
def _restart(state, slot, steps, windows, LANES: tl.constexpr, PER: tl.constexpr):
    """Where a slot begins with a window's start or end: zero for a state that is not finite, and
    which were not."""
    here = (slot // PER < windows) | (slot // PER >= steps)
    if PER == 2:
        here = tl.where(slot % 2 == 0, slot // 2 < windows, slot // 2 >= steps)
    total = state[0]
    for i in tl.static_range(1, len(state)):
        total += state[i]
    bad = (tl.zeros((LANES,), tl.int32) + here.to(tl.int32) > 0) & (total - total != 0)
    after = ()
    for i in tl.static_range(len(state)):
        after = after + (tl.where(bad, 0.0, state[i]),)
    return after, bad


@triton.jit
def _slot(slot, step, extra, stop, PER: tl.constexpr):
    """Where a slot of time begins and ends."""
    begin = slot // PER * step
    if PER == 2:
        odd = slot % 2
        return begin + odd * extra, tl.minimum(begin + tl.where(odd == 0, extra, step), stop)
    return begin, tl.minimum(begin + step, stop)


@triton.jit
def _slots(span, span_steps, windows, step, stop, PER: tl.constexpr):
    """The first slot of a span and the one behind its last."""
    behind = (span + 1) * span_steps
    return span * span_steps * PER, tl.where(
        behind < windows, behind * PER, stop // step * PER + (PER - 1)
    )


@triton.jit
def _lanes(rows, bands, LANES: tl.constexpr):
    """Row and band of each lane, and whether there is such a row."""
    lane = tl.arange(0, LANES)
    per_program = LANES // bands
    row = tl.program_id(0) * per_program + lane // bands
    return row, lane % bands, (lane // bands < per_program) & (row < rows)


@triton.jit
def _filter(
    x,  # (batch, n_chans, n_times)
    table,  # (6 SECTIONS + 1, bands)
    starts,  # (spans, 2 SECTIONS, chains), or None where there is one span
    ends,  # (spans, 2 SECTIONS + 1, chains): from zero; last, whether the filter restarted; or None
    out,  # (batch, windows, n_chans, bands) if it is of windows; (slots, 2, chains): mean, squares
    means,  # (windows, chains) or None
    kept,  # (blocks, 2 SECTIONS, chains): the states before; or None
    rest,  # (slots, most_rest, chains): y behind the blocks
    rows,
    n_chans,
    bands,
    windows,
    steps,  # window // step
    extra,  # window % step
    step,
    divisor,  # window - ddof
    stop,  # where the last window ends
    span_steps,
    most_rest,
    stride_batch,
    stride_chan,
    stride_time,
    SECTIONS: tl.constexpr,
    PER: tl.constexpr,
    WHOLE: tl.constexpr,  # a window is one slot
    ALIGN: tl.constexpr,  # of all slots and rows
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, band, live = _lanes(rows, bands, LANES)
    kind: tl.constexpr = table.dtype.element_ty
    one = tl.full((), 1, tl.int64)
    chains, chain = one * rows * bands, one * row * bands + band
    coefs = _load_vector(table + band, 6 * SECTIONS + 1, bands, live)
    span = tl.program_id(1)
    state = _zeros(2 * SECTIONS, LANES, kind)
    if starts is not None:
        state = _load_vector(
            starts + span * (2 * SECTIONS * chains) + chain, 2 * SECTIONS, chains, live
        )
    at = x + tl.multiple_of(
        row // n_chans * (one * stride_batch) + row % n_chans * (one * stride_chan), ALIGN
    )
    time = one * stride_time
    y = tl.zeros((LANES,), kind)
    restarted = tl.zeros((LANES,), tl.int32)
    first_slot, stop_slot = _slots(span, span_steps, windows, step, stop, PER)
    for slot in range(first_slot, stop_slot):
        begin, end = _slot(slot, step, extra, stop, PER)
        pivot = y
        total = tl.zeros((LANES,), kind)
        square = tl.zeros((LANES,), kind)
        whole = begin + (end - begin) // BLOCK * BLOCK
        for t in tl.range(begin, whole, BLOCK, num_stages=3):
            times = tl.multiple_of(t + tl.arange(0, BLOCK), ALIGN)[None, :] * time  # (1, BLOCK)
            tile = tl.load(at[:, None] + times, mask=live[:, None], other=0)
            columns = _columns(tile.to(kind), LANES, BLOCK)
            if kept is not None:
                index = begin // BLOCK + slot + (t - begin) // BLOCK
                _store_vector(kept + index * (2 * SECTIONS * chains) + chain, state, chains, live)
            for i in tl.static_range(BLOCK):
                y, state = _step(columns[i], state, coefs, SECTIONS)
                if ends is None:
                    total += y - pivot
                    square += (y - pivot) * (y - pivot)
        for t in range(whole, end):
            sample = tl.load(at + t * time, mask=live, other=0).to(kind)
            y, state = _step(sample, state, coefs, SECTIONS)
            if kept is not None:
                index = slot * most_rest + (t - whole)
                tl.store(rest + index * chains + chain, y, mask=live)
            if ends is None:
                total += y - pivot
                square += (y - pivot) * (y - pivot)
        if ends is None:
            mean = total / (end - begin)
            square -= total * mean
            mean += pivot
            own = slot // PER
            if not WHOLE:
                to = out + slot * (2 * chains) + chain
                tl.store(to, mean, mask=live)
                tl.store(to + chains, square, mask=live)
            elif slot % PER == 0:
                if means is None:
                    result = (row // n_chans * (one * windows) + own) * n_chans + row % n_chans
                    value = tl.where(square < 0, 0.0, square) / divisor  # NaN passes
                    tl.store(out + (result * bands + band), value, mask=live)
                else:
                    tl.store(means + own * chains + chain, mean, mask=live)
        state, bad = _restart(state, slot + 1, steps, windows, LANES, PER)
        y = tl.where(bad, 0.0, y)
        restarted = tl.where(bad, 1, restarted)
    if ends is not None:
        to = ends + span * ((2 * SECTIONS + 1) * chains) + chain
        _store_vector(to, state, chains, live)
        tl.store(to + 2 * SECTIONS * chains, restarted.to(kind), mask=live)


@triton.jit
def _scan(
    powers,  # (bands, N, N), float64: A^n of a span
    ends,  # (spans, N + 1, chains)
    starts,  # (spans, N, chains)
    bands,
    chains,
    spans,
    N: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The states in which the spans of a chain, one a program, start."""
    chain, every = tl.program_id(0).to(tl.int64), tl.full((), 1, tl.int64) * chains
    i = tl.arange(0, PADDED)
    entry = powers + (chain % bands) * N * N + i[:, None] * N + i[None, :]
    matrix = tl.load(entry, mask=(i < N)[:, None] & (i < N)[None, :], other=0)  # (PADDED, PADDED)
    state = tl.zeros((PADDED,), tl.float64)
    for count in range(spans):
        span = count
        if REVERSE:
            span = spans - 1 - count
        tl.store(starts + span * (N * every) + i * every + chain, state, mask=i < N)
        of_span = ends + span * ((N + 1) * every) + chain
        known = i < tl.where(count + 1 < spans, N, 0)
        end = tl.load(of_span + i * every, mask=known, other=0).to(tl.float64)
        restarted = tl.load(of_span + N * every + i * 0, mask=known, other=0)
        moved = tl.sum(matrix * state[None, :], axis=1)
        state = tl.where(restarted != 0, 0.0, moved) + end


@triton.jit
def _combine(
    slots,  # (slots, 2, chains): mean, squares about it
    out,  # (batch, windows, n_chans, bands): the variance
    means,  # (windows, chains), or None
    rows,
    n_chans,
    bands,
    windows,
    steps,  # window // step
    extra,  # window % step
    step,
    divisor,
    stop,
    PER: tl.constexpr,
    LANES: tl.constexpr,
):
    row, band, live = _lanes(rows, bands, LANES)
    one = tl.full((), 1, tl.int64)
    chains, chain = one * rows * bands, one * row * bands + band
    own = tl.program_id(1)
    mean = tl.zeros((LANES,), slots.dtype.element_ty)
    square = tl.zeros((LANES,), slots.dtype.element_ty)
    zero = tl.full((), 0, slots.dtype.element_ty)
    slot, count = own * PER, steps * PER + (PER - 1)
    for some in range(slot, slot + count):
        begin, end = _slot(some, step, extra, stop, PER)
        of_slot = slots + some * (2 * chains) + chain
        away = tl.load(of_slot, mask=live, other=0) - mean
        before, length = zero + (begin - own * step), zero + (end - begin)
        share = length / (before + length)
        square += tl.load(of_slot + chains, mask=live, other=0) + away * away * (before * share)
        mean += away * share
    if means is None:
        to = (row // n_chans * (one * windows) + own) * n_chans + row % n_chans
        tl.store(out + to * bands + band, square / divisor, mask=live)
    else:
        tl.store(means + own * chains + chain, mean, mask=live)


@triton.jit
def _add_bands(tile, bands, LANES: tl.constexpr, ROWS: tl.constexpr, TIMES: tl.constexpr):
    """A tile (LANES, TIMES) summed over the bands of each row: (ROWS, TIMES)."""
    total = tl.zeros((ROWS, TIMES), tile.dtype)
    for band in range(bands):
        lane = tl.minimum(tl.arange(0, ROWS) * bands + band, LANES - 1)
        total += tl.gather(tile, tl.broadcast_to(lane[:, None], (ROWS, TIMES)), 0)
    return total


@triton.jit
def _adjoint(
    x,  # (batch, n_chans, n_times)
    table,  # (6 SECTIONS + 1, bands)
    grad,  # (batch, windows, n_chans, bands)
    means,  # (windows, chains)
    kept,  # (blocks, 2 SECTIONS, chains)
    rest,  # (slots, most_rest, chains)
    starts,  # (spans, 2 SECTIONS, chains), or None where there is one span
    ends,  # (spans, 2 SECTIONS + 1, chains), or None
    out,  # (rows, n_times)
    rows,
    n_chans,
    n_times,
    bands,
    windows,
    steps,  # window // step
    extra,  # window % step
    step,
    scale,  # 2 / (window - ddof)
    stop,
    span_steps,
    most_rest,
    stride_batch,
    stride_chan,
    stride_time,
    SECTIONS: tl.constexpr,
    PER: tl.constexpr,
    GAPS: tl.constexpr,  # between windows
    ALIGN: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,  # of a program, to a power of 2
    BLOCK: tl.constexpr,
):
    row, band, live = _lanes(rows, bands, LANES)
    kind: tl.constexpr = table.dtype.element_ty
    one = tl.full((), 1, tl.int64)
    chains, chain = one * rows * bands, one * row * bands + band
    coefs = _load_vector(table + band, 6 * SECTIONS + 1, bands, live)
    span = tl.program_id(1)
    if ends is not None:
        span += 1  # where the first ends, nobody asks
    state = _zeros(2 * SECTIONS, LANES, kind)
    if starts is not None:
        state = _load_vector(
            starts + span * (2 * SECTIONS * chains) + chain, 2 * SECTIONS, chains, live
        )
    at = x + tl.multiple_of(
        row // n_chans * (one * stride_batch) + row % n_chans * (one * stride_chan), ALIGN
    )
    time = one * stride_time
    own = tl.arange(0, ROWS)
    own_row = tl.program_id(0).to(tl.int64) * (LANES // bands) + own
    known = ((own < LANES // bands) & (own_row < rows))[:, None]
    to = out + tl.multiple_of(own_row * n_times, ALIGN)[:, None]
    restarted = tl.zeros((LANES,), tl.int32)
    first_slot, stop_slot = _slots(span, span_steps, windows, step, stop, PER)
    for back in range(first_slot, stop_slot):
        slot = first_slot + stop_slot - 1 - back
        begin, end = _slot(slot, step, extra, stop, PER)
        # dy = slope y - shift
        slope = tl.zeros((LANES,), kind)
        shift = tl.zeros((LANES,), kind)
        first = tl.maximum(slot // PER - steps + (slot % PER + 2 - PER), 0)
        last = tl.minimum(slot // PER, windows - 1)
        for w in range(first, last + 1):
            of_window = (row // n_chans * (one * windows) + w) * n_chans + row % n_chans
            weight = tl.load(grad + of_window * bands + band, mask=live, other=0).to(kind) * scale
            slope += weight
            shift += weight * tl.load(means + w * chains + chain, mask=live, other=0)
        covered = tl.zeros((LANES,), tl.int32) + last >= first
        whole = begin + (end - begin) // BLOCK * BLOCK
        for left in range(0, end - whole):
            t = end - 1 - left
            index = slot * most_rest + (t - whole)
            y = tl.load(rest + index * chains + chain, mask=live, other=0)
            dy = y * slope - shift
            if GAPS:  # a NaN in a gap concerns nobody
                dy = tl.where(covered, dy, 0.0)
            result, state = _step(dy, state, coefs, SECTIONS)
            if ends is None:
                total = _add_bands(tl.reshape(result, (LANES, 1)), bands, LANES, ROWS, 1)
                tl.store(to + t, total, mask=known)
        for left in tl.range(0, (whole - begin) // BLOCK, num_stages=2):
            t = whole - (left + 1) * BLOCK
            times = tl.multiple_of(t + tl.arange(0, BLOCK), ALIGN)[None, :] * time  # (1, BLOCK)
            tile = tl.load(at[:, None] + times, mask=live[:, None], other=0)
            columns = _columns(tile.to(kind), LANES, BLOCK)
            index = begin // BLOCK + slot + (t - begin) // BLOCK
            of_block = kept + index * (2 * SECTIONS * chains) + chain
            again = _load_vector(of_block, 2 * SECTIONS, chains, live)
            filtered = ()
            for i in tl.static_range(BLOCK):
                y, again = _step(columns[i], again, coefs, SECTIONS)
                filtered = filtered + (y,)
            results = ()
            for i in tl.static_range(BLOCK):
                dy = filtered[BLOCK - 1 - i] * slope - shift
                if GAPS:
                    dy = tl.where(covered, dy, 0.0)
                result, state = _step(dy, state, coefs, SECTIONS)
                results = (result,) + results
            if ends is None:
                total = _add_bands(_tile(results, LANES, BLOCK), bands, LANES, ROWS, BLOCK)
                tl.store(to + (t + tl.arange(0, BLOCK))[None, :], total, mask=known)
        state, bad = _restart(state, slot, steps, windows, LANES, PER)
        restarted = tl.where(bad, 1, restarted)
    if ends is not None:
        into = ends + span * ((2 * SECTIONS + 1) * chains) + chain
        _store_vector(into, state, chains, live)
        tl.store(into + 2 * SECTIONS * chains, restarted.to(kind), mask=live)


@functools.lru_cache(maxsize=64)
def _coefs(sos: bytes, shape: torch.Size) -> Tensor:
    """Of each section its rotation and damping, c1 and c2; last the gain: (6 n + 1, bands)."""
    sections = torch.frombuffer(bytearray(sos), dtype=torch.float64).view(shape).unbind(1)
    rows, gain = [], torch.ones(shape[0], dtype=torch.float64)
    for b0, b1, b2, _, a1, a2 in (section.unbind(-1) for section in sections):
        k = a1 / (1 + a2)
        g = ((1 + a2 + a1) * (1 + a2 - a1)).sqrt() / (1 + a2)
        if not ((g > 0) & (b0 != 0)).all():
            raise NotImplementedError("bandpass_power in Triton: stable sections with b0 != 0")
        c2 = b1 / b0 - a1
        rows += [-k, g, -a2 * g, -a2 * k, (b2 / b0 - a2 - k * c2) / g, c2]
        gain *= b0
    return torch.stack([*rows, gain])


@functools.lru_cache(maxsize=64)
def _table(sos: bytes, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _coefs(sos, shape).to(dtype).to(device)


@functools.lru_cache(maxsize=64)
def _powers(sos: bytes, shape: torch.Size, samples: int, device: torch.device) -> Tensor:
    """A^samples of each band's cascade, (bands, 2 n, 2 n)."""
    with torch.inference_mode(False):
        n = shape[1]
        unit = torch.eye(2 * n, dtype=torch.float64)
        y, after = torch.zeros(2 * n, dtype=torch.float64), []
        for i, section in enumerate(_coefs(sos, shape)[:-1].view(n, 6, -1, 1)):
            s1, s2 = unit[2 * i], unit[2 * i + 1]
            after += [section[0] * s1 + section[1] * s2, section[2] * s1 + section[3] * s2 + y]
            y = y + section[4] * s1 + section[5] * s2
        return torch.linalg.matrix_power(torch.stack(after, 1), samples).to(device)


class _Plan:
    """What both directions of a call share: sizes, slots, spans, launches."""

    def __init__(self, x: Tensor, sos: Tensor, window: int, step: int, windows: int):
        self.x = x.reshape(-1, *x.shape[-2:])
        batch, n_chans, n_times = self.x.shape
        bands, self.sections = sos.shape[:2]
        if not 1 <= self.sections <= MAX_SECTIONS or n_times >= 2**30:
            raise NotImplementedError(f"bandpass_power in Triton: up to {MAX_SECTIONS} sections")
        self.key = sos.contiguous().numpy().tobytes(), sos.shape
        self.kind = torch.promote_types(x.dtype, torch.float32)
        self.chains, rows = batch * n_chans * bands, batch * n_chans
        config = configs(rows, bands, windows, step)
        self.lanes = dict(LANES=config["LANES"], num_warps=config["num_warps"])
        self.span_steps = triton.cdiv(windows, config["spans"])
        self.spans = triton.cdiv(windows, self.span_steps)
        self.programs = triton.cdiv(rows, config["LANES"] // bands)
        self.per = 1 if window % step == 0 else 2
        self.whole = step >= window
        stop = (windows - 1) * step + window
        self.slots = stop // step * self.per + self.per - 1
        lengths = [step] if self.per == 1 else [window % step, step - window % step]
        self.most_rest = max(length % BLOCK for length in lengths)
        self.blocks = stop // BLOCK + self.slots
        strides = self.x.stride()
        align = [step, window, *strides[:2], n_times] if strides[2] == 1 else [1]
        self.sizes = dict(
            rows=rows,
            n_chans=n_chans,
            bands=bands,
            windows=windows,
            steps=window // step,
            extra=window % step,
            step=step,
        )
        self.frame = dict(
            stop=stop,
            span_steps=self.span_steps,
            most_rest=self.most_rest,
            stride_batch=strides[0],
            stride_chan=strides[1],
            stride_time=strides[2],
            SECTIONS=self.sections,
            PER=self.per,
            ALIGN=math.gcd(8, *align),
            BLOCK=BLOCK,
            enable_fp_fusion=True,
            **self.lanes,
        )
        self.inputs = dict(x=self.x, table=_table(*self.key, self.kind, x.device), **self.sizes)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.kind, device=self.x.device)

    def scan(self, run, reverse: bool) -> Tensor | None:
        """The states in which spans start; ``run(spans, ends)`` launches them from zero."""
        if self.spans == 1:
            return None
        n, bands = 2 * self.sections, self.sizes["bands"]
        ends = self.empty(self.spans, n + 1, self.chains)
        starts = self.empty(self.spans, n, self.chains)
        run(self.spans - 1, ends)
        _scan[(self.chains,)](
            _powers(*self.key, self.span_steps * self.sizes["step"], self.x.device),
            ends,
            starts,
            bands,
            self.chains,
            self.spans,
            N=n,
            PADDED=triton.next_power_of_2(n),
            REVERSE=reverse,
            num_warps=1,
            enable_fp_fusion=True,
        )
        return starts

    def filter(self, out: Tensor | None, divisor: int, backward: bool = False) -> dict:
        """Write variances to ``out``, or give what the pass backward needs."""
        nothing = dict(means=None, kept=None, rest=None)

        def run(spans, ends=None, starts=None, to=None, arrays=nothing):
            _filter[(self.programs, spans)](
                **self.inputs,
                **self.frame,
                **arrays,
                starts=starts,
                ends=ends,
                out=to,
                divisor=divisor,
                WHOLE=self.whole,
                maxnreg=MAX_REGISTERS,
            )

        starts = self.scan(run, reverse=False)
        arrays = nothing
        if backward:
            arrays = dict(
                means=self.empty(self.sizes["windows"], self.chains),
                kept=self.empty(self.blocks, 2 * self.sections, self.chains),
                rest=self.empty(self.slots, self.most_rest, self.chains),
            )
        of_slots = out if self.whole else self.empty(self.slots, 2, self.chains)
        run(self.spans, None, starts, of_slots, arrays)
        if not self.whole:
            _combine[(self.programs, self.sizes["windows"])](
                slots=of_slots,
                out=out,
                means=arrays["means"],
                **self.sizes,
                divisor=divisor,
                stop=self.frame["stop"],
                PER=self.per,
                enable_fp_fusion=True,
                **self.lanes,
            )
        return arrays


def bandpass_power(x: Tensor, sos: Tensor, window: int, step: int, ddof: int) -> Tensor:
    windows = max(0, (x.shape[-1] - window) // step + 1)
    out = x.new_empty((*x.shape[:-2], windows, x.shape[-2], len(sos)))
    if out.numel() == 0:
        return out
    _Plan(x, sos, window, step, windows).filter(out, window - ddof)
    return out


def bandpass_power_backward(
    grad: Tensor, x: Tensor, sos: Tensor, window: int, step: int, ddof: int
) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if grad.numel() == 0:
        return out.zero_()
    plan = _Plan(x, sos, window, step, grad.shape[-3])
    arrays = plan.filter(None, window - ddof, backward=True)
    stop, grad = plan.frame["stop"], grad.contiguous()
    out[..., stop:] = 0

    def run(spans, ends=None, starts=None):
        _adjoint[(plan.programs, spans)](
            **plan.inputs,
            **plan.frame,
            **arrays,
            grad=grad,
            starts=starts,
            ends=ends,
            out=out,
            n_times=x.shape[-1],
            scale=2 / (window - ddof),
            GAPS=step > window,
            maxnreg=MAX_REGISTERS,
            ROWS=triton.next_power_of_2(plan.lanes["LANES"] // len(sos)),
        )

    run(plan.spans, None, plan.scan(run, reverse=True))
    return out
