# SPDX-License-Identifier: BSD-3-Clause
"""Kalman filter and RTS smoother along the windows, and its transpose.

    f[t] = f[t-1] + K[t] (y[t] - f[t-1]),  f[-1] = prior
    s[t] = f[t] + J[t] (s[t+1] - f[t]),    s[T-1] = f[T-1]

A first kernel computes the gains K and J, a lane a window: the predicted variance is a fractional
linear function of the one before, so that of window t is the t-th power of a 2 x 2 matrix. Then a
lane owns one feature of one batch entry and goes along its windows, so that neighbouring lanes read
neighbouring features. The passes hand each other the series through memory with a barrier between.

Per element: 8 FLOP; read once (twice for the mean of the windows), the filtered value written and
read again (in a float32 workspace for 16-bit elements), the result written. Computed in float32, or
in float64 for float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def configs(series: int) -> dict:
    """Few series are spread over all multiprocessors; of many, a warp is to be easy to replace."""
    if series <= 16384:
        return dict(BLOCK=32, STAGES=8, num_warps=1)
    return dict(BLOCK=128, STAGES=4, num_warps=4)


@triton.jit
def _times(a, b, c, d, e, f, g, h):
    """The product of two 2 x 2 matrices, scaled: only ratios of its elements are used."""
    top, right = a * e + b * g, a * f + b * h
    left, low = c * e + d * g, c * f + d * h
    scale = 1.0 / (top + right + left + low)
    return top * scale, right * scale, left * scale, low * scale


@triton.jit
def _gains(
    gains,  # (2, windows): K, then J
    windows,
    bits,  # of the last window's number
    q: tl.float64,
    r: tl.float64,
    p0: tl.float64,
    BLOCK: tl.constexpr,
):
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    zero = tl.zeros((BLOCK,), tl.float64)
    one = zero + 1.0
    a, b, c, d = one, zero, zero, one  # the power
    e, f, g, h = zero + (r + q), zero + q * r, one, zero + r  # the square
    for bit in range(bits):
        odd = ((window >> bit) & 1) == 1
        ae, bf, cg, dh = _times(e, f, g, h, a, b, c, d)
        a, b = tl.where(odd, ae, a), tl.where(odd, bf, b)
        c, d = tl.where(odd, cg, c), tl.where(odd, dh, d)
        e, f, g, h = _times(e, f, g, h, e, f, g, h)
    before = (a * p0 + b) / (c * p0 + d)
    kalman = before / (before + r)
    filtered = before - kalman * before
    predicted = filtered + q
    rts = tl.where(predicted > 0, filtered / tl.where(predicted > 0, predicted, one), zero)
    tl.store(gains + window, kalman, mask=window < windows)
    tl.store(gains + windows + window, rts, mask=window < windows)


@triton.jit
def _forward(
    y,  # (batch, windows, features)
    prior,  # (batch, features)
    gains,
    filtered,  # like y in float32: out itself, or a workspace
    out,  # like y
    series,  # batch * features
    windows,
    features,
    OWN_PRIOR: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    live = index < series
    first = index // features * windows * features + index % features
    kind: tl.constexpr = gains.dtype.element_ty
    if OWN_PRIOR:
        mean = tl.zeros((BLOCK,), kind)
        at = first
        for _ in tl.range(windows, num_stages=STAGES):
            mean += tl.load(y + at, mask=live, other=0).to(kind)
            at += features
        mean = mean / windows
    else:
        mean = tl.load(prior + index, mask=live, other=0).to(kind)

    at = first
    for t in tl.range(windows, num_stages=STAGES):
        seen = tl.load(y + at, mask=live, other=0).to(kind)
        mean += tl.load(gains + t) * (seen - mean)
        tl.store(filtered + at, mean, mask=live)
        at += features
    if not CAUSAL:
        tl.debug_barrier()
        at -= features
        tl.store(out + at, mean, mask=live)
        for step in tl.range(1, windows, num_stages=STAGES):
            at -= features
            own = tl.load(filtered + at, mask=live, other=0).to(kind)
            mean = own + tl.load(gains + 2 * windows - 1 - step) * (mean - own)
            tl.store(out + at, mean, mask=live)


@triton.jit
def _backward(
    grad,  # (batch, windows, features)
    gains,
    between,  # like grad in float32: grad_y itself, or a workspace
    grad_y,  # like grad
    grad_prior,  # (batch, features)
    series,
    windows,
    features,
    OWN_PRIOR: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    live = index < series
    first = index // features * windows * features + index % features
    kind: tl.constexpr = gains.dtype.element_ty

    # The RTS pass reversed: forward in time.
    carried = tl.zeros((BLOCK,), kind)
    at = first
    for t in tl.range(windows, num_stages=STAGES):
        total = tl.load(grad + at, mask=live, other=0).to(kind)
        if not CAUSAL:
            total += carried
            rts = tl.load(gains + windows + t)
            carried = tl.where(t + 1 == windows, 0.0, rts * total)
            total -= carried
        tl.store(between + at, total, mask=live)
        at += features

    # The filter reversed.
    tl.debug_barrier()
    carried = tl.zeros((BLOCK,), kind)
    for step in tl.range(windows, num_stages=STAGES):
        at -= features
        total = tl.load(between + at, mask=live, other=0).to(kind) + carried
        gradient = tl.load(gains + windows - 1 - step) * total
        tl.store(between + at, gradient, mask=live)
        carried = total - gradient
    tl.store(grad_prior + index, carried, mask=live)

    # Where the prior was the mean, every window has its share in it.
    if OWN_PRIOR:
        tl.debug_barrier()
        share = carried / windows
        at = first
        for _ in tl.range(windows, num_stages=STAGES):
            gradient = tl.load(between + at, mask=live, other=0).to(kind)
            tl.store(grad_y + at, gradient + share, mask=live)
            at += features


def _launch_gains(like: Tensor, windows: int, q: float, r: float, p0: float) -> Tensor:
    kind = torch.promote_types(like.dtype, torch.float32)
    gains = torch.empty((2, windows), dtype=kind, device=like.device)
    _gains[(triton.cdiv(windows, 128),)](
        gains, windows, (windows - 1).bit_length(), q, r, p0, BLOCK=128, enable_fp_fusion=True
    )
    return gains


def lds_smooth(
    y: Tensor, prior: Tensor | None, q: float, r: float, p0: float, causal: bool
) -> Tensor:
    y = y.contiguous()  # (..., windows, n_chans, bands)
    out = torch.empty_like(y)
    if out.numel() == 0:
        return out
    windows, features = y.shape[-3], y.shape[-2] * y.shape[-1]
    series = y.numel() // windows
    gains = _launch_gains(y, windows, q, r, p0)
    in_place = causal or y.dtype == gains.dtype
    filtered = out if in_place else torch.empty_like(y, dtype=gains.dtype)
    config = configs(series)
    _forward[(triton.cdiv(series, config["BLOCK"]),)](
        y,
        y if prior is None else prior.contiguous(),
        gains,
        filtered,
        out,
        series,
        windows,
        features,
        OWN_PRIOR=prior is None,
        CAUSAL=causal,
        enable_fp_fusion=True,
        **config,
    )
    return out


def lds_smooth_backward(
    grad: Tensor, q: float, r: float, p0: float, causal: bool, own_prior: bool
) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    grad_y = torch.empty_like(grad)
    grad_prior = grad.new_empty(grad.shape[:-3] + grad.shape[-2:])
    if grad_y.numel() == 0:
        return grad_y, grad_prior.zero_()
    windows, features = grad.shape[-3], grad.shape[-2] * grad.shape[-1]
    series = grad.numel() // windows
    gains = _launch_gains(grad, windows, q, r, p0)
    in_place = grad.dtype == gains.dtype
    between = grad_y if in_place else torch.empty_like(grad, dtype=gains.dtype)
    config = configs(series)
    _backward[(triton.cdiv(series, config["BLOCK"]),)](
        grad,
        gains,
        between,
        grad_y,
        grad_prior,
        series,
        windows,
        features,
        OWN_PRIOR=own_prior,
        CAUSAL=causal,
        enable_fp_fusion=True,
        **config,
    )
    return (grad_y if in_place or own_prior else between.to(grad.dtype)), grad_prior
