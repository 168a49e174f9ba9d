# SPDX-License-Identifier: BSD-3-Clause
"""Sum and sum of squares behind a bank of FIR filters, without filtering.

Let the full correlation of a row with a filter be y, of which the first `head` and the last `tail`
outputs do not count. Of all of y, the sum of squares is a sum over the row's products at each lag,
r[d] = sum_t x[t] x[t - d], and those at an end are a quadratic form of as many samples at that end:

    squares = sum_d c[d] r[d] - sum_(a <= b < head) c'[a, b] x[a] x[b] - the same for the tail
    total = c'' sum_t x[t] - sum_(a < head) c'''[a] x[a] - the same for the tail

So both results are matrix products of `products` (or `linears`), which depend on rows alone, and a
table of coefficients, which depends on filters alone; so are the gradients of either. Nothing that
is a filter's and a sample's is stored or computed. The products cancel: all is float64, whatever x
is, and runs on the float64 units of tensor cores.

Order of a row's products: the lags 0 .. length - 1, then of the head and of the tail the pairs of
samples a and (a + d) mod end, each pair once: d end + a for d <= end / 2. Linears: the row's sum,
the samples of the head, those of the tail from the last one on.

    _prepare       the table; and the products at each lag: of 16 samples with all that lie up to K
                   before them, as a matrix product over the row, whose diagonals are summed
    _powers        rows by filters
    _row_weights   of each row: the gradients of its products, summed over filters; for pairs, times
                   the other sample
    _grad_samples  of each row: those at each lag, as a Toeplitz matrix, times the row
    _grad_table    the table's gradient: filters by products, rows being summed in some parts
    _grad_taps     from it, that of the taps
    _add_parts     adds up parts of a row, or of the rows, in a fixed order

Per row, with P = (head^2 + tail^2) / 2: 1.3 length n_times + filters (length + P) FMA forward; 2.4
length n_times + 3 filters (length + P) backward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1056  # about so many share rows that are few or long: 8 for each of an H200's 132 SM
OPTIONS = dict(num_warps=4, enable_fp_fusion=True)


def prepare_config(length: int, n_times: int) -> dict[str, int]:
    """K - 15 lags, DEPTH times 16 samples at a time; BLOCK coefficients, of TAPS at a time."""
    columns = min(128, max(16, triton.next_power_of_2(length + 15)))
    depth = 16 if n_times <= 256 else 32
    return dict(K=columns, DEPTH=depth, BLOCK=32, TAPS=16, num_stages=2, **OPTIONS)


def bank_config(rows: int, filters: int) -> dict[str, int]:
    """Rows and filters of a tile, and how many products at a time; few rows are spread out."""
    tile = 16 if rows <= 32 * PROGRAMS else 32
    return dict(ROWS=tile, FILTERS=_of_filters(filters, tile), DEPTH=32, num_stages=2, **OPTIONS)


def weights_config(filters: int, end: int) -> dict[str, int]:
    """Rows and filters of a tile, lags or samples of an end, and how many others to pair with."""
    ends = 16 if end <= 16 else 32
    size = dict(ROWS=16, FILTERS=_of_filters(filters, 32), ENDS=ends, OTHERS=64 // ends)
    return dict(**size, num_stages=1, **OPTIONS)


def samples_config(n_times: int) -> dict[str, int]:
    """LINES stretches of STEP samples, and how many samples at a time. From 64 lines on, Triton 3.6
    would have Blackwell's tensor cores multiply float64, which they cannot."""
    step = 16 if n_times <= 256 else 32
    lines = max(16, min(32, triton.next_power_of_2(triton.cdiv(n_times, step))))
    return dict(LINES=lines, STEP=step, DEPTH=16, num_stages=2, **OPTIONS)


def table_config(filters: int) -> dict[str, int]:
    """Filters and products of a tile, and how many rows at a time."""
    return dict(FILTERS=_of_filters(filters, 32), FEATURES=32, ROWS=32, num_stages=1, **OPTIONS)


def taps_config() -> dict[str, int]:
    """Taps of a program, and how many products at a time."""
    return dict(TAPS=16, COLUMNS=64, **OPTIONS)


def _of_filters(filters: int, most: int) -> int:
    return max(16, min(most, triton.next_power_of_2(filters)))


@triton.jit
def _load(ptr, mask):
    """In double; a half type by way of float32."""
    value = tl.load(ptr, mask=mask, other=0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value.to(tl.float64)


@triton.jit
def _pairs(end):
    """How many products an end has."""
    return end * (end // 2 + 1)


@triton.jit
def _products_of_row(length, head, tail):
    return length + _pairs(head) + _pairs(tail)


@triton.jit
def _product_of(a, b, end):
    """The product of an end's samples ``a`` and ``b``."""
    d = tl.where(b < a, b - a + end, b - a)
    swap = (2 * d > end) | ((2 * d == end) & (b < a))
    return tl.where(2 * d > end, end - d, d) * end + tl.where(swap, b, a)


@triton.jit
def _pair(q, length, head, tail):
    """Of a row's product ``q``: the end it is of, its samples there, and if it is a pair at all."""
    at_tail = q >= length + _pairs(head)
    end = tl.where(at_tail, tail, head)
    before = length + tl.where(at_tail, _pairs(head), 0)
    p, size = tl.maximum(q - before, 0), tl.maximum(end, 1)
    d, a = p // size, p % size
    known = (q >= length) & (p < _pairs(end)) & ((2 * d < end) | (a < d))
    return at_tail, end, a, (a + d) % size, known  # d = end / 2 meets all twice


@triton.jit
def _sample(linear, head, tail):
    """Of a row's linear: the end it is of, its sample there, and if it is a sample at all."""
    at_tail = linear > head
    end = tl.where(at_tail, tail, head)
    a = linear - 1 - tl.where(at_tail, head, 0)
    return at_tail, end, a, (a >= 0) & (a < end)


@triton.jit
def _result(row, filter, rows, filters):
    """Offset of results and their gradients, (batch, filters, rows)."""
    return ((row // rows).to(tl.int64) * filters + filter) * rows + row % rows


@triton.jit
def _products(x, sums_ptr, row, live, q, all_rows, n_times, length, head, tail):
    """Products ``q`` of the rows, (rows, products)."""
    at_tail, _, a, b, known = _pair(q, length, head, tail)
    known = known & (a < n_times) & (b < n_times)
    a, b = tl.where(at_tail, n_times - 1 - a, a), tl.where(at_tail, n_times - 1 - b, b)
    mask = live[:, None] & known[None, :]
    pairs = _load(x[:, None] + a[None, :], mask) * _load(x[:, None] + b[None, :], mask)
    lags = sums_ptr + (q.to(tl.int64) * all_rows)[None, :] + row[:, None]
    return pairs + _load(lags, live[:, None] & (q < length)[None, :])


@triton.jit
def _linears(x, sums_ptr, row, live, linear, all_rows, n_times, length, head, tail):
    """Linears of the rows, (rows, linears)."""
    at_tail, _, a, known = _sample(linear, head, tail)
    at = tl.where(at_tail, n_times - 1 - a, a)
    samples = _load(x[:, None] + at[None, :], live[:, None] & (known & (a < n_times))[None, :])
    total = sums_ptr + tl.cast(length, tl.int64) * all_rows + row[:, None] + 0 * linear[None, :]
    return samples + _load(total, live[:, None] & (linear == 0)[None, :])


@triton.jit
def _coefficients(
    taps_ptr, table_ptr, block, f, filters, length, head, tail,
    BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """A part of the column of filter ``f``. Every coefficient is a sum over the first ``count``
    taps, each times the one ``d`` after it or, of a linear, times 1; of a head the last come first.
    """
    products = _products_of_row(length, head, tail)
    q = block * BLOCK + tl.arange(0, BLOCK)  # (products and linears,)
    linear = q >= products
    pair_tail, pair_end, a, b, is_pair = _pair(q, length, head, tail)
    sample_tail, sample_end, sample, is_sample = _sample(q - products, head, tail)
    d = tl.where(is_pair, tl.abs(b - a), tl.where(linear, 0, q))
    count = tl.where(q < length, length - q, tl.where(q == products, length, 0))
    count = tl.where(is_pair, pair_end - tl.maximum(a, b), count)
    count = tl.where(is_sample, sample_end - sample, count)[:, None]
    of_head = (is_pair & ~pair_tail) | (is_sample & ~sample_tail)
    step = tl.where(of_head, -1, 1)
    first = tl.where(of_head, length - 1, 0)
    sums = tl.zeros((BLOCK, TAPS), tl.float64)
    for start in range(0, length, TAPS):
        m = (start + tl.arange(0, TAPS))[None, :]  # (1, taps)
        own = taps_ptr + f * length + first[:, None] + m * step[:, None]  # (block, taps)
        factor = _load(own + (d * step)[:, None], (m < count) & (linear == 0)[:, None])
        sums += _load(own, m < count) * tl.where(linear[:, None], 1, factor)
    sign = tl.where(linear | (d == 0), 1, 2) * tl.where(is_pair | is_sample, -1, 1)
    to = table_ptr + q * filters + f
    tl.store(to, tl.sum(sums, axis=1) * sign, mask=q < products + 1 + head + tail)


@triton.jit
def _prepare(
    x_ptr,  # (all_rows, n_times)
    taps_ptr,  # (filters, length)
    table_ptr,  # (products and linears, filters)
    sums_ptr,  # (parts, length + 1, all_rows), or None
    rows, all_rows, n_times, stride, filters, length, head, tail,
    table_programs, per_part,
    K: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """A program has a part of the table, or some lags of a part of a row."""
    if tl.program_id(0) < table_programs:
        block, f = tl.program_id(0) // filters, tl.program_id(0) % filters
        _coefficients(taps_ptr, table_ptr, block, f, filters, length, head, tail, BLOCK, TAPS)
    elif sums_ptr is not None:
        task = tl.program_id(0) - table_programs
        row, task = task % all_rows, task // all_rows
        lag_blocks = tl.cdiv(length, K - 15)
        first_lag, part = task % lag_blocks * (K - 15), task // lag_blocks
        begin = part * per_part
        stop = tl.minimum(n_times, begin + per_part)
        x = x_ptr + row.to(tl.int64) * stride
        line, now = tl.arange(0, DEPTH), tl.arange(0, 16)  # (depth,), (16,)
        column = tl.arange(0, K)  # the last is 15 - first_lag after the first of the 16
        by_column = tl.zeros((16, K), tl.float64)
        total = tl.zeros((16, DEPTH), tl.float64)
        for start in range(begin, stop, 16 * DEPTH):
            t = start + 16 * line[None, :] + now[:, None]  # (16, depth)
            own = _load(x + t, t < stop)
            t = start + 16 * line[:, None] + (column - (first_lag + K - 16))[None, :]  # (depth, k)
            before = _load(x + t, (t >= 0) & (t < n_times))
            by_column = tl.dot(own, before, by_column, out_dtype=tl.float64)
            total += own
        at = now[:, None] + column[None, :]
        diagonals = tl.gather(by_column, tl.minimum(at, K - 1), axis=1)
        by_lag = tl.sum(diagonals, axis=0)  # (k,), whole for the first K - 15
        lag = first_lag + (K - 16) - column
        to = sums_ptr + ((part * (length + 1) + lag).to(tl.int64) * all_rows + row)
        tl.store(to, by_lag, mask=(lag >= first_lag) & (lag < length))
        to = sums_ptr + ((part * (length + 1) + length).to(tl.int64) * all_rows + row)
        if first_lag == 0:
            tl.store(to, tl.sum(total))


@triton.jit
def _add_parts(
    parts_ptr,  # (parts, values)
    sums_ptr,  # (values,)
    parts, values,
    LINES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    value = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)  # (values,)
    by_line = tl.zeros((LINES, VALUES), tl.float64)
    for first in range(0, parts, LINES):
        part = first + tl.arange(0, LINES)  # (lines,)
        source = parts_ptr + (part[:, None] * tl.cast(values, tl.int64) + value[None, :])
        by_line += _load(source, (part < parts)[:, None] & (value < values)[None, :])
    tl.store(sums_ptr + value, tl.sum(by_line, axis=0), mask=value < values)


@triton.jit
def _powers(
    x_ptr,  # (all_rows, n_times)
    sums_ptr,  # (length + 1, all_rows)
    table_ptr,  # (products and linears, filters)
    total_ptr,  # (batch, filters, rows)
    squares_ptr,  # (batch, filters, rows)
    rows, all_rows, n_times, stride, filters, length, head, tail,
    ROWS: tl.constexpr, FILTERS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    groups = tl.cdiv(filters, FILTERS)
    row = tl.program_id(0) // groups * ROWS + tl.arange(0, ROWS)  # (rows,)
    f = tl.program_id(0) % groups * FILTERS + tl.arange(0, FILTERS)  # (filters,)
    live = row < all_rows
    x = x_ptr + row.to(tl.int64) * stride
    column, products = table_ptr + f[None, :], _products_of_row(length, head, tail)
    squares = tl.zeros((ROWS, FILTERS), tl.float64)
    for first in range(0, products, DEPTH):
        q = first + tl.arange(0, DEPTH)  # (depth,)
        values = _products(x, sums_ptr, row, live, q, all_rows, n_times, length, head, tail)
        mask = (q < products)[:, None] & (f < filters)[None, :]
        share = tl.load(column + q[:, None] * filters, mask=mask, other=0)
        squares = tl.dot(values, share, squares, out_dtype=tl.float64)
    total = tl.zeros((ROWS, FILTERS), tl.float64)
    for first in range(0, 1 + head + tail, DEPTH):
        q = first + tl.arange(0, DEPTH)
        values = _linears(x, sums_ptr, row, live, q, all_rows, n_times, length, head, tail)
        mask = (q < 1 + head + tail)[:, None] & (f < filters)[None, :]
        share = tl.load(column + (products + q)[:, None] * filters, mask=mask, other=0)
        total = tl.dot(values, share, total, out_dtype=tl.float64)
    to = _result(row[:, None], f[None, :], rows, filters)
    mask = live[:, None] & (f < filters)[None, :]
    tl.store(total_ptr + to, total, mask=mask)
    tl.store(squares_ptr + to, tl.where(squares < 0, 0, squares), mask=mask)


@triton.jit
def _grads(ptr, row, f, rows, all_rows, filters):
    """The gradient of a result, by row and filter; ``row`` and ``f`` make a tile's shape."""
    if ptr is None:
        return tl.zeros((row + f).shape, tl.float64)
    else:
        mask = (row < all_rows) & (f < filters)
        return tl.load(ptr + _result(row, f, rows, filters), mask=mask, other=0)


@triton.jit
def _row_weights(
    grad_total_ptr,  # (batch, filters, rows), or None
    grad_squares_ptr,  # (batch, filters, rows), or None
    x_ptr,  # (all_rows, n_times)
    table_ptr,  # (products and linears, filters)
    weights_ptr,  # (all_rows, length + 1): of each lag, of the sum
    ends_ptr,  # (all_rows, head + tail): gradients of the samples there, of pairs and linears
    rows, all_rows, n_times, stride, filters, length, head, tail,
    ROWS: tl.constexpr, FILTERS: tl.constexpr, ENDS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """A program has rows, and either the lags or some samples of an end."""
    of_head, products = tl.cdiv(head, ENDS), _products_of_row(length, head, tail)
    tasks = 1 + of_head + tl.cdiv(tail, ENDS)
    task = tl.program_id(0) % tasks
    row = tl.program_id(0) // tasks * ROWS + tl.arange(0, ROWS)  # (rows,)
    live = row < all_rows
    WIDTH: tl.constexpr = ENDS * OTHERS
    column = tl.arange(0, WIDTH)
    if task == 0:
        weights = weights_ptr + row.to(tl.int64)[:, None] * (length + 1)
        constant = tl.zeros((ROWS, FILTERS), tl.float64)
        for first in range(0, filters, FILTERS):
            f = first + tl.arange(0, FILTERS)  # (filters,)
            grad = _grads(grad_total_ptr, row[:, None], f[None, :], rows, all_rows, filters)
            share = tl.load(table_ptr + products * filters + f, mask=f < filters, other=0)
            constant += grad * share[None, :]
        tl.store(weights + length, tl.sum(constant, axis=1)[:, None], mask=live[:, None])
        for first_lag in range(0, length, WIDTH):
            q = first_lag + column  # (lags,)
            sums = tl.zeros((ROWS, WIDTH), tl.float64)
            for first in range(0, filters, FILTERS):
                f = first + tl.arange(0, FILTERS)
                grad = _grads(grad_squares_ptr, row[:, None], f[None, :], rows, all_rows, filters)
                mask = (f < filters)[:, None] & (q < length)[None, :]
                share = tl.load(table_ptr + q[None, :] * filters + f[:, None], mask=mask, other=0)
                sums = tl.dot(grad, share, sums, out_dtype=tl.float64)
            sums *= tl.where(q == 0, 2, 1)[None, :]
            tl.store(weights + q[None, :], sums, mask=live[:, None] & (q < length)[None, :])
    else:
        at_tail = task > of_head
        end = tl.where(at_tail, tail, head)
        first_own = tl.where(at_tail, task - 1 - of_head, task - 1) * ENDS
        own = first_own + column % ENDS  # (width,): OTHERS times the same
        pairs = length + tl.where(at_tail, _pairs(head), 0)
        samples = products + 1 + tl.where(at_tail, head, 0)
        x = x_ptr + row.to(tl.int64) * stride
        sums = tl.zeros((ROWS, WIDTH), tl.float64)
        for first in range(0, filters, FILTERS):
            f = first + tl.arange(0, FILTERS)
            grad = _grads(grad_squares_ptr, row[:, None], f[None, :], rows, all_rows, filters)
            for first_other in range(0, end, OTHERS):
                other = first_other + column // ENDS
                q = pairs + _product_of(own, other, end)
                mask = (f < filters)[:, None] & ((own < end) & (other < end))[None, :]
                share = tl.load(table_ptr + q[None, :] * filters + f[:, None], mask=mask, other=0)
                share *= tl.where(own == other, 2, 1)[None, :]
                at = tl.where(at_tail, n_times - 1 - other, other)
                known = live[:, None] & ((other < end) & (other < n_times))[None, :]
                value = _load(x[:, None] + at[None, :], known)
                sums += tl.dot(grad, share, out_dtype=tl.float64) * value
            grad = _grads(grad_total_ptr, row[:, None], f[None, :], rows, all_rows, filters)
            mask = (f < filters)[:, None] & ((own < end) & (column < ENDS))[None, :]
            share = table_ptr + (samples + own)[None, :] * filters + f[:, None]
            share = tl.load(share, mask=mask, other=0)
            sums = tl.dot(grad, share, sums, out_dtype=tl.float64)
        total = tl.sum(tl.reshape(sums, (ROWS, OTHERS, ENDS)), axis=1)  # (rows, own)
        own = first_own + tl.arange(0, ENDS)
        to = ends_ptr + row.to(tl.int64)[:, None] * (head + tail)
        to += (own + tl.where(at_tail, head, 0))[None, :]
        tl.store(to, total, mask=live[:, None] & (own < end)[None, :])


@triton.jit
def _grad_samples(
    x_ptr,  # (all_rows, n_times)
    weights_ptr,  # (all_rows, length + 1)
    ends_ptr,  # (all_rows, head + tail)
    grad_x_ptr,  # (all_rows, n_times)
    n_times, stride, length, head, tail,
    LINES: tl.constexpr, STEP: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A program has LINES x STEP samples of a row."""
    blocks = tl.cdiv(n_times, LINES * STEP)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    x = x_ptr + row.to(tl.int64) * stride
    weights = weights_ptr + row * (length + 1)
    line = tl.program_id(0) % blocks * (LINES * STEP) + tl.arange(0, LINES) * STEP  # (lines,)
    step = tl.arange(0, STEP)  # (step,)
    sums = tl.zeros((LINES, STEP), tl.float64) + tl.load(weights + length)
    for first in range(1 - length, STEP + length - 1, DEPTH):
        k = first + tl.arange(0, DEPTH)  # (depth,): samples from the line's first on
        t = line[:, None] + k[None, :]
        lag = tl.abs(k[:, None] - step[None, :])
        weight = tl.load(weights + lag, mask=lag < length, other=0)
        value = _load(x + t, (t >= 0) & (t < n_times))
        sums = tl.dot(value, weight, sums, out_dtype=tl.float64)
    t = line[:, None] + step[None, :]
    back = n_times - 1 - t
    ends = ends_ptr + row * (head + tail)
    sums += tl.load(ends + t, mask=t < head, other=0)
    sums += tl.load(ends + head + back, mask=(back >= 0) & (back < tail), other=0)
    if grad_x_ptr.dtype.element_ty != tl.float64:
        sums = sums.to(tl.float32)
    to = grad_x_ptr + (row * n_times + t)
    tl.store(to, sums.to(grad_x_ptr.dtype.element_ty), mask=t < n_times)


@triton.jit
def _grad_table(
    grad_total_ptr,  # (batch, filters, rows), or None
    grad_squares_ptr,  # (batch, filters, rows), or None
    x_ptr,  # (all_rows, n_times)
    sums_ptr,  # (length + 1, all_rows)
    grads_ptr,  # (parts, filters, products and linears)
    rows, all_rows, n_times, stride, filters, length, head, tail,
    parts,
    FILTERS: tl.constexpr, FEATURES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A program has some products or some linears, filters, and a part of the rows."""
    products, linears = _products_of_row(length, head, tail), 1 + head + tail
    of_products = tl.cdiv(products, FEATURES)
    blocks, groups = of_products + tl.cdiv(linears, FEATURES), tl.cdiv(filters, FILTERS)
    block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    f = rest % groups * FILTERS + tl.arange(0, FILTERS)  # (filters,)
    part = rest // groups
    column = tl.arange(0, FEATURES)
    sums = tl.zeros((FILTERS, FEATURES), tl.float64)
    if block < of_products:
        q = block * FEATURES + column  # (products,)
        for first in range(part * ROWS, all_rows, parts * ROWS):
            row = first + tl.arange(0, ROWS)  # (rows,)
            x = x_ptr + row.to(tl.int64) * stride
            live = row < all_rows
            values = _products(x, sums_ptr, row, live, q, all_rows, n_times, length, head, tail)
            grad = _grads(grad_squares_ptr, row[None, :], f[:, None], rows, all_rows, filters)
            sums = tl.dot(grad, values, sums, out_dtype=tl.float64)
    else:
        q = (block - of_products) * FEATURES + column  # (linears,)
        for first in range(part * ROWS, all_rows, parts * ROWS):
            row = first + tl.arange(0, ROWS)
            x = x_ptr + row.to(tl.int64) * stride
            live = row < all_rows
            values = _linears(x, sums_ptr, row, live, q, all_rows, n_times, length, head, tail)
            grad = _grads(grad_total_ptr, row[None, :], f[:, None], rows, all_rows, filters)
            sums = tl.dot(grad, values, sums, out_dtype=tl.float64)
    at = block * FEATURES + tl.where(block < of_products, 0, products - of_products * FEATURES)
    stop = products + tl.where(block < of_products, 0, linears)
    to = grads_ptr + ((part * filters + f).to(tl.int64) * (products + linears))[:, None]
    to += (at + column)[None, :]
    tl.store(to, sums, mask=(f < filters)[:, None] & (at + column < stop)[None, :])


@triton.jit
def _grad_taps(
    grads_ptr,  # (filters, products and linears)
    taps_ptr,  # (filters, length)
    grad_taps_ptr,  # (filters, length)
    length, head, tail,
    TAPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program has some taps of a filter; what each product adds to them."""
    blocks = tl.cdiv(length, TAPS)
    f, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    tap = block * TAPS + tl.arange(0, TAPS)  # (taps,)
    column = tl.arange(0, COLUMNS)
    own = (tap < length)[:, None]
    products = _products_of_row(length, head, tail)
    h, grads = taps_ptr + f * length, grads_ptr + f * (products + 1 + head + tail)
    sums = tl.zeros((TAPS, COLUMNS), tl.float64)
    for first in range(0, length, COLUMNS):
        d = first + column  # (lags,)
        grad = tl.load(grads + d, mask=d < length, other=0)
        before, after = tap[:, None] - d[None, :], tap[:, None] + d[None, :]
        near = tl.load(h + before, mask=own & (before >= 0), other=0)
        near += tl.load(h + after, mask=own & (after < length), other=0)
        sums += (grad * tl.where(d == 0, 1, 2))[None, :] * near
    for first in range(0, 1 + head + tail, COLUMNS):
        linear = first + column
        at_tail, end, a, known = _sample(linear, head, tail)
        grad = tl.load(grads + products + linear, mask=linear < 1 + head + tail, other=0)
        m = tl.where(at_tail[None, :], tap[:, None], length - 1 - tap[:, None])
        takes = known[None, :] & (a[None, :] + m < end[None, :])
        sums += tl.where((linear == 0)[None, :], grad[None, :], tl.where(takes, -grad[None, :], 0))
    for at_tail in tl.static_range(2):
        end, m = head, length - 1 - tap  # (taps,): the tap counted from that end
        pairs = grads + length
        if at_tail:
            end, m = tail, tap
            pairs += _pairs(head)
        for first in range(0, end * end, COLUMNS):
            a, b = (first + column) // end, (first + column) % end  # (columns,)
            grad = tl.load(pairs + _product_of(a, b, end), mask=a < end, other=0)
            other = m[:, None] + (b - a)[None, :]
            mask = own & (other >= 0) & (m[:, None] + b[None, :] < end) & (a < end)[None, :]
            at = other
            if not at_tail:
                at = length - 1 - other
            sums -= (2 * grad)[None, :] * tl.load(h + at, mask=mask, other=0)
    tl.store(grad_taps_ptr + f * length + tap, tl.sum(sums, axis=1), mask=tap < length)


def _sizes(x: Tensor, taps: Tensor, head: int, tail: int) -> tuple[Tensor, list[int]]:
    """x as (all_rows, n_times) with neighbouring samples, and what most kernels are told."""
    signal = (x if x.stride(-1) == 1 else x.contiguous()).reshape(-1, x.shape[-1])
    return signal, [x.shape[-2], *signal.shape, signal.stride(0), *taps.shape, head, tail]


def _counts(length: int, head: int, tail: int) -> tuple[int, int]:
    """Products and linears of a row."""
    return length + sum(end * (end // 2 + 1) for end in (head, tail)), 1 + head + tail


def _check(x: Tensor, taps: Tensor, head: int, tail: int) -> None:
    rows, (filters, length) = x.shape[:-1].numel(), taps.shape
    tiles = triton.cdiv(length, 16) + triton.cdiv(x.shape[-1], 256)  # at least the programs
    table = max(filters, 1) * sum(_counts(length, head, tail))
    if max(x.shape[-1], table + rows * tiles, length * max(head, tail)) >= 2**31 - 4096:
        raise NotImplementedError("eegfast._triton.filter_bank_power: sizes of 2**31")


def _add(parts: Tensor, sums: Tensor) -> Tensor:
    """Sum over the first axis."""
    values = sums.numel()
    grid = (triton.cdiv(values, 32),)
    _add_parts[grid](parts, sums, len(parts), values, LINES=16, VALUES=32, **OPTIONS)
    return sums


def _prepared(signal: Tensor, taps: Tensor, sums: Tensor | None, sizes: list[int]) -> Tensor:
    """The table, (products and linears, filters); and ``sums`` is filled."""
    _, rows, n_times, _, filters, length, head, tail = sizes
    table = taps.new_empty((sum(_counts(length, head, tail)), filters))
    config = prepare_config(length, n_times)
    of_table, of_rows, by_part, per_part = (
        filters * triton.cdiv(len(table), config["BLOCK"]),
        0,
        sums,
        0,
    )
    if sums is not None:  # long rows are cut where they are too few
        of_rows = rows * triton.cdiv(length, config["K"] - 15)
        tile = 16 * config["DEPTH"]
        tiles = triton.cdiv(n_times, tile)
        per_part = tile * triton.cdiv(tiles, min(tiles, triton.cdiv(PROGRAMS, of_rows)))
        parts = triton.cdiv(n_times, per_part)
        of_rows *= parts
        by_part = sums if parts == 1 else sums.new_empty((parts, *sums.shape))
    if of_table + of_rows:
        arguments = (signal, taps, table, by_part, *sizes, of_table, per_part)
        _prepare[(of_table + of_rows,)](*arguments, **config)
    if by_part is not sums:
        _add(by_part, sums)
    return table


def filter_bank_power(
    x: Tensor, taps: Tensor, head: int, tail: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`eegfast.reference.filter_bank_power`."""
    _check(x, taps, head, tail)
    filters, length = taps.shape
    total = taps.new_empty((*x.shape[:-2], filters, x.shape[-2]))
    squares = torch.empty_like(total)
    sums = taps.new_empty((length + 1, x.shape[:-1].numel()))
    if not x.numel():
        return total.zero_(), squares.zero_(), sums.zero_()
    taps = taps.contiguous()
    signal, sizes = _sizes(x, taps, head, tail)
    with torch.cuda.device_of(x):
        table = _prepared(signal, taps, sums, sizes)
        if filters:
            tile = bank_config(len(signal), filters)
            grid = triton.cdiv(len(signal), tile["ROWS"]) * triton.cdiv(filters, tile["FILTERS"])
            _powers[(grid,)](signal, sums, table, total, squares, *sizes, **tile)
    return total, squares, sums


def filter_bank_power_backward(
    grad_total: Tensor | None,
    grad_squares: Tensor | None,
    x: Tensor,
    taps: Tensor,
    sums: Tensor | None,
    head: int,
    tail: int,
    need_x: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`eegfast.reference.filter_bank_power_backward`."""
    _check(x, taps, head, tail)
    grad_x = torch.empty(x.shape if need_x else 0, dtype=x.dtype, device=x.device)
    grad_taps = torch.empty(0 if sums is None else taps.shape, dtype=taps.dtype, device=x.device)
    if 0 in (*x.shape, len(taps)):
        return grad_x.zero_(), grad_taps.zero_()
    grads = [g if g is None else g.contiguous() for g in (grad_total, grad_squares)]
    taps = taps.contiguous()
    signal, sizes = _sizes(x, taps, head, tail)
    with torch.cuda.device_of(x):
        if need_x:
            _launch_grad_x(grads, signal, taps, grad_x, sizes)
        if sums is not None:
            _launch_grad_taps(grads, signal, taps, sums.contiguous(), grad_taps, sizes)
    return grad_x, grad_taps


def _launch_grad_x(grads, signal, taps, grad_x, sizes) -> None:
    _, rows, n_times, stride, filters, length, head, tail = sizes
    table = _prepared(signal, taps, None, sizes)
    weights, ends = table.new_empty((rows, length + 1)), table.new_empty((rows, head + tail))
    tile = weights_config(filters, max(head, tail))
    tasks = 1 + sum(triton.cdiv(end, tile["ENDS"]) for end in (head, tail))
    grid = (triton.cdiv(rows, tile["ROWS"]) * tasks,)
    _row_weights[grid](*grads, signal, table, weights, ends, *sizes, **tile)
    tile = samples_config(n_times)
    grid = (rows * triton.cdiv(n_times, tile["LINES"] * tile["STEP"]),)
    rest = n_times, stride, length, head, tail
    _grad_samples[grid](signal, weights, ends, grad_x, *rest, **tile)


def _launch_grad_taps(grads, signal, taps, sums, grad_taps, sizes) -> None:
    _, rows, _, _, filters, length, head, tail = sizes
    counts = _counts(length, head, tail)
    tile = table_config(filters)
    tiles = sum(triton.cdiv(count, tile["FEATURES"]) for count in counts)
    tiles *= triton.cdiv(filters, tile["FILTERS"])
    parts = min(triton.cdiv(rows, tile["ROWS"]), triton.cdiv(PROGRAMS, tiles))
    table = by_part = taps.new_empty((parts, filters, sum(counts)))
    _grad_table[(tiles * parts,)](*grads, signal, sums, by_part, *sizes, parts, **tile)
    if parts > 1:
        table = _add(by_part, torch.empty_like(by_part[0]))
    tile = taps_config()
    grid = (filters * triton.cdiv(length, tile["TAPS"]),)
    _grad_taps[grid](table, taps, grad_taps, length, head, tail, **tile)
