# SPDX-License-Identifier: BSD-3-Clause
"""Band power by the definition, for any n_fft, on tensor cores; and its gradient.

Energies do not depend on where time begins, so it begins at the window's middle: with h and l the
tapered samples j steps after and before it, and t_j their distance,

    X[k] = sum_j (h + l)_j cos(2 pi k t_j / n_fft) - i sum_j (h - l)_j sin(2 pi k t_j / n_fft),

two real matrix products of half the length with a table of cosines and sines. A program has ROWS
rows (windows of one channel) and takes BINS bins at a time; squares, sums over bands, gain and
logarithm follow in registers. Backward, the weighted spectrum is the left side of the product with
the transposed table. Bins that do not fit one tile are computed again for it, not stored.

Where windows overlap, a backward launch takes every n-th of them, such that they lie apart, and
adds to what the launches before it wrote: the order is fixed, and so are the bits. 16-bit gradients
that are added to more than once are summed in float32 and rounded once.

Per row of n samples and k bins, one precision pass: 4 n bytes read and 2 n k FLOP forward, 4 n k
backward. Samples and tables are float32; no float64.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# A float32 factor is the sum of two of tf32; three of the four products are computed, which leaves
# an error of float32's size. "tf32" computes one: it rounds the whole signal to 11 bits, and since
# low frequencies are strong in EEG, drowns the high ones in that noise.
PRECISION = "tf32x3"

MAX_BANDS = 64  # of one launch


def configs(rows: int, n_bins: int, backward: bool) -> dict:
    """Few rows are spread over all multiprocessors. Splitting a factor in two costs registers: the
    gradient, which holds a spectrum and a product, takes small tiles and many warps."""
    many = rows > 64 * 132 and not backward
    return dict(
        ROWS=64 if many else 32,
        BINS=min(64, max(16, triton.next_power_of_2(n_bins))),
        DEPTH=16,
        num_stages=1,
        num_warps=8 if many or backward else 4,
    )


@triton.jit
def _spectrum(
    x,
    at,  # (ROWS,) where the rows begin in x
    live,  # (ROWS,)
    taper,
    table,  # (2, steps, bins), both padded with zeros
    table_size,  # of one of the two
    bins,
    first_bin,  # in the table
    stride_time,
    used,
    steps,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The sums with cosines and with sines, each (ROWS, BINS)."""
    real = tl.zeros((ROWS, BINS), tl.float32)
    imaginary = tl.zeros((ROWS, BINS), tl.float32)
    column = first_bin + tl.arange(0, BINS)  # (BINS,)
    for first_step in range(0, steps, DEPTH):
        step = first_step + tl.arange(0, DEPTH)  # (DEPTH,)
        later = used // 2 + step
        earlier = used - 1 - later
        inside = step < steps
        paired = inside & (earlier < later)  # not the middle sample of an odd number
        after = tl.load(
            x + at[:, None] + later[None, :].to(tl.int64) * stride_time,
            mask=live[:, None] & inside[None, :],
            other=0,
        ).to(tl.float32)  # (ROWS, DEPTH)
        before = tl.load(
            x + at[:, None] + earlier[None, :].to(tl.int64) * stride_time,
            mask=live[:, None] & paired[None, :],
            other=0,
        ).to(tl.float32)
        after *= tl.load(taper + later, mask=inside, other=0)[None, :]
        before *= tl.load(taper + earlier, mask=paired, other=0)[None, :]
        entry = table + step[:, None] * bins + column[None, :]  # (DEPTH, BINS)
        cosine, sine = tl.load(entry), tl.load(entry + table_size)
        real = tl.dot(after + before, cosine, real, input_precision=PRECISION)
        difference = tl.where(paired[None, :], after - before, 0)
        imaginary = tl.dot(difference, sine, imaginary, input_precision=PRECISION)
    return real, imaginary


@triton.jit
def _add_bands(
    sums,  # (ROWS, BANDS)
    energy,  # (ROWS, BINS)
    edges,  # (bands, 2)
    bands,
    first_bin,  # of the transform
    BINS: tl.constexpr,
    BANDS: tl.constexpr,
):
    k = first_bin + tl.arange(0, BINS)
    for band in range(bands):
        inside = (k >= tl.load(edges + 2 * band)) & (k < tl.load(edges + 2 * band + 1))
        total = tl.sum(tl.where(inside[None, :], energy, 0), axis=1)  # (ROWS,)
        sums += tl.where(tl.arange(0, BANDS)[None, :] == band, total[:, None], 0)
    return sums


@triton.jit
def _band_sums(
    x, at, live, taper, table, table_size, edges, bands, lowest, n_bins, bins, stride_time,
    used, steps, BANDS: tl.constexpr, ROWS: tl.constexpr, BINS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The energies of all bands, (ROWS, BANDS), tile by tile."""
    sums = tl.zeros((ROWS, BANDS), tl.float32)
    for first in range(0, n_bins, BINS):
        # fmt: off
        real, imaginary = _spectrum(
            x, at, live, taper, table, table_size, bins, first, stride_time, used, steps,
            ROWS, BINS, DEPTH, PRECISION,
        )
        # fmt: on
        energy = real * real + imaginary * imaginary
        sums = _add_bands(sums, energy, edges, bands, lowest + first, BINS, BANDS)
    return sums


@triton.jit
def _forward(
    x,  # (batch, n_chans, n_times)
    taper,  # (window,)
    table,
    edges,  # (bands, 2)
    out,  # (batch, windows, n_chans, bands_in_all)
    rows,
    chans,
    windows,
    stride_batch,
    stride_chan,
    stride_time,
    stride_window,
    used,
    steps,
    table_size,
    lowest,
    n_bins,
    bins,
    bands,
    bands_in_all,
    gain,
    LOG2: tl.constexpr,
    BANDS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    live = row < rows
    window, batch = row // chans % windows, row // chans // windows
    at = batch * stride_batch + row % chans * stride_chan + window * stride_window
    # fmt: off
    sums = _band_sums(
        x, at, live, taper, table, table_size, edges, bands, lowest, n_bins, bins, stride_time,
        used, steps, BANDS, ROWS, BINS, DEPTH, PRECISION,
    )
    # fmt: on
    band = tl.arange(0, BANDS)
    start = tl.load(edges + 2 * band, mask=band < bands, other=0)
    stop = tl.load(edges + 2 * band + 1, mask=band < bands, other=1)
    power = sums * (gain / (stop - start).to(tl.float32))[None, :]
    if LOG2:
        power = tl.log2(power)
    to = out + row[:, None] * bands_in_all + band[None, :]
    tl.store(to, power, mask=live[:, None] & (band < bands)[None, :])


@triton.jit
def _backward(
    grad,  # (batch, windows_in_all, n_chans, bands_in_all)
    x,  # (batch, n_chans, n_times)
    taper,
    table,
    edges,
    out,  # like x, contiguous
    rows,
    chans,
    n_times,
    windows,  # of this launch: `first_window` and every `apart`-th after it
    windows_in_all,
    first_window,
    apart,
    stride_batch,
    stride_chan,
    stride_time,
    step_between,
    used,
    steps,
    table_size,
    lowest,
    n_bins,
    bins,
    bands,
    bands_in_all,
    gain,
    accumulate,
    LOG2: tl.constexpr,
    ONE_TILE: tl.constexpr,
    BANDS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    live = row < rows
    chan, batch = row % chans, row // chans // windows
    window = first_window + row // chans % windows * apart
    at = batch * stride_batch + chan * stride_chan + window * step_between * stride_time
    grad_at = ((batch * windows_in_all + window) * chans + chan) * bands_in_all
    out_at = (batch * chans + chan) * n_times + window * step_between

    sums = tl.zeros((ROWS, BANDS), tl.float32)
    if LOG2 and not ONE_TILE:
        # fmt: off
        sums = _band_sums(
            x, at, live, taper, table, table_size, edges, bands, lowest, n_bins, bins, stride_time,
            used, steps, BANDS, ROWS, BINS, DEPTH, PRECISION,
        )
        # fmt: on

    for first in range(0, n_bins, BINS):
        # fmt: off
        real, imaginary = _spectrum(
            x, at, live, taper, table, table_size, bins, first, stride_time, used, steps,
            ROWS, BINS, DEPTH, PRECISION,
        )
        # fmt: on
        if LOG2 and ONE_TILE:
            energy = real * real + imaginary * imaginary
            sums = _add_bands(sums, energy, edges, bands, lowest + first, BINS, BANDS)
        weight = tl.zeros((ROWS, BINS), tl.float32)  # of each bin's energy, twice
        k = lowest + first + tl.arange(0, BINS)
        for band in range(bands):
            start, stop = tl.load(edges + 2 * band), tl.load(edges + 2 * band + 1)
            share = tl.load(grad + grad_at + band, mask=live, other=0).to(tl.float32)  # (ROWS,)
            if LOG2:  # free of gain and width
                here = tl.arange(0, BANDS)[None, :] == band
                share *= 2.8853900817779268 / tl.sum(tl.where(here, sums, 0), axis=1)
            else:
                share *= 2 * gain / (stop - start).to(tl.float32)
            weight += tl.where(((k >= start) & (k < stop))[None, :], share[:, None], 0)
        real *= weight
        imaginary *= weight
        add = tl.full((ROWS,), 0, tl.int32) + accumulate + first > 0
        for first_step in range(0, steps, DEPTH):
            step = first_step + tl.arange(0, DEPTH)  # (DEPTH,)
            column = first + tl.arange(0, BINS)
            entry = table + column[:, None] + step[None, :] * bins  # (BINS, DEPTH)
            cosine, sine = tl.load(entry), tl.load(entry + table_size)
            shared = tl.dot(real, cosine, input_precision=PRECISION)  # (ROWS, DEPTH)
            opposed = tl.dot(imaginary, sine, input_precision=PRECISION)
            later = used // 2 + step
            earlier = used - 1 - later
            inside = live[:, None] & (step < steps)[None, :]
            paired = inside & (earlier < later)[None, :]
            after = (shared + opposed) * tl.load(taper + later, mask=later < used, other=0)[None, :]
            before = shared - opposed
            before *= tl.load(taper + earlier, mask=(earlier >= 0), other=0)[None, :]
            to = out + out_at[:, None] + later[None, :]
            after += tl.load(to, mask=inside & add[:, None], other=0).to(tl.float32)
            tl.store(to, after, mask=inside)
            to = out + out_at[:, None] + earlier[None, :]
            before += tl.load(to, mask=paired & add[:, None], other=0).to(tl.float32)
            tl.store(to, before, mask=paired)
        if not ONE_TILE:
            tl.debug_barrier()  # the next tile adds to what this one wrote


@functools.lru_cache(maxsize=64)
def _edges(bins: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(bins, dtype=torch.int32).to(device)


@functools.lru_cache(maxsize=64)
def _table(used: int, n_fft: int, lowest: int, highest: int, device: torch.device) -> Tensor:
    """Cosines and sines, (2, steps, bins), padded with zeros to whole tiles; kept between calls."""
    with torch.inference_mode(False):
        k = torch.arange(lowest, highest, device=device)
        half_steps = 2 * torch.arange((used + 1) // 2, device=device) + (used % 2 == 0)
        angle = (half_steps[:, None] * k % (2 * n_fft)).double() * (math.pi / n_fft)
        steps, bins = angle.shape
        size = 2, triton.cdiv(steps, 64) * 64, triton.cdiv(bins, 64) * 64
        padded = torch.zeros(size, device=device)
        padded[0, :steps, :bins], padded[1, :steps, :bins] = angle.cos(), angle.sin()
        return padded


def _chunks(bins: list[int], used: int, n_fft: int, device: torch.device):
    """For each launch's share of the bands: the first of them, and arguments that follow."""
    for first in range(0, len(bins) // 2, MAX_BANDS):
        some = tuple(bins[2 * first : 2 * (first + MAX_BANDS)])
        lowest, highest = min(some), max(some)
        table = _table(used, n_fft, lowest, highest, device)
        arguments = dict(
            table=table,
            table_size=table[0].numel(),
            steps=(used + 1) // 2,
            used=used,
            edges=_edges(some, device),
            bands=len(some) // 2,
            BANDS=triton.next_power_of_2(len(some) // 2),
            lowest=lowest,
            n_bins=highest - lowest,
            bins=table.shape[-1],
            PRECISION=PRECISION,
            enable_fp_fusion=True,
        )
        yield first, arguments


def _signal(x: Tensor) -> Tensor:
    """As (batch, n_chans, n_times), a view where there is one."""
    if x.dtype == torch.float64:
        raise NotImplementedError("the Triton kernel of band_power has no float64")
    return x.reshape(-1, *x.shape[-2:]) if x.dim() > 2 else x.reshape(1, *x.shape)


def band_power(
    x: Tensor,
    taper: Tensor,
    window: int,
    step: int,
    n_fft: int,
    bins: list[int],
    gain: float,
    log2: bool,
) -> Tensor:
    windows = max(0, (x.shape[-1] - window) // step + 1)
    out = x.new_empty((*x.shape[:-2], windows, x.shape[-2], len(bins) // 2))
    if out.numel() == 0:
        return out
    signal, taper = _signal(x), taper.contiguous()
    rows = out.numel() // out.shape[-1]
    for first, arguments in _chunks(bins, min(window, n_fft), n_fft, x.device):
        config = configs(rows, arguments["n_bins"], False)
        _forward[(triton.cdiv(rows, config["ROWS"]),)](
            x=signal,
            taper=taper,
            out=out[..., first:],
            rows=rows,
            chans=signal.shape[1],
            windows=windows,
            stride_batch=signal.stride(0),
            stride_chan=signal.stride(1),
            stride_time=signal.stride(2),
            stride_window=step * signal.stride(2),
            bands_in_all=out.shape[-1],
            gain=float(gain),
            LOG2=log2,
            **arguments,
            **config,
        )
    return out


def band_power_backward(
    grad: Tensor,
    x: Tensor,
    taper: Tensor,
    window: int,
    step: int,
    n_fft: int,
    bins: list[int],
    gain: float,
    log2: bool,
) -> Tensor:
    if grad.numel() == 0:
        return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    signal, taper, grad = _signal(x), taper.contiguous(), grad.contiguous()
    batch, chans, n_times = signal.shape
    windows, used = grad.shape[-3], min(window, n_fft)
    apart = min(triton.cdiv(used, step), windows)
    chunks = list(_chunks(bins, used, n_fft, x.device))
    tiles = [configs(1, a["n_bins"], True)["BINS"] >= a["n_bins"] for _, a in chunks]
    once = apart == 1 and len(chunks) == 1 and all(tiles)
    covered = windows * step == n_times and used == step
    make = torch.empty if covered else torch.zeros
    out = make(signal.shape, dtype=x.dtype if once else torch.float32, device=x.device)
    for first, arguments in chunks:
        for first_window in range(apart):
            count = triton.cdiv(windows - first_window, apart)
            rows = batch * chans * count
            config = configs(rows, arguments["n_bins"], True)
            _backward[(triton.cdiv(rows, config["ROWS"]),)](
                grad=grad[..., first:],
                x=signal,
                taper=taper,
                out=out,
                rows=rows,
                chans=chans,
                n_times=n_times,
                windows=count,
                windows_in_all=windows,
                first_window=first_window,
                apart=apart,
                stride_batch=signal.stride(0),
                stride_chan=signal.stride(1),
                stride_time=signal.stride(2),
                step_between=step,
                bands_in_all=grad.shape[-1],
                gain=float(gain),
                accumulate=int(first > 0 or first_window > 0),
                LOG2=log2,
                ONE_TILE=arguments["n_bins"] <= config["BINS"],
                **arguments,
                **config,
            )
    return out.to(x.dtype).view(x.shape)
