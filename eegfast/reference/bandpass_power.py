# SPDX-License-Identifier: BSD-3-Clause
"""Plain PyTorch truth of :func:`eegfast.ops.bandpass_power`.

A cascade of biquads is a linear state-space system, so a block of L samples leaves it as
``y = O s + H x`` and the state moves on as ``s' = A s + B x``. The matrices come from running the
recurrence itself once on unit vectors, in float64; the blocks then follow each other in time.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64


class _Carry(torch.autograd.Function):
    """The filter state between segments: a non-finite state restarts as zero, both ways in time."""

    @staticmethod
    def forward(ctx, state: Tensor) -> Tensor:
        return torch.where(torch.isfinite(state), state, 0.0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.where(torch.isfinite(grad), grad, 0.0)


def _recurrence(sos: Tensor, state: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """One sample through a cascade in transposed direct form II; ``state`` is (2 n_sections, k)."""
    after = state.clone()
    for i, (b0, b1, b2, _, a1, a2) in enumerate(sos.tolist()):
        y = b0 * sample + state[2 * i]
        after[2 * i] = b1 * sample - a1 * y + state[2 * i + 1]
        after[2 * i + 1] = b2 * sample - a2 * y
        sample = y
    return sample, after


def _block_matrices(sos: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (BLOCK, n + 1) and states (BLOCK + 1, n, n + 1) after unit states and an impulse."""
    n = 2 * sos.shape[0]
    state = torch.cat([torch.eye(n, dtype=sos.dtype), torch.zeros(n, 1, dtype=sos.dtype)], 1)
    impulse = torch.zeros(n + 1, dtype=sos.dtype)
    impulse[n] = 1
    outputs, states = [], [state]
    for t in range(_BLOCK):
        y, state = _recurrence(sos, state, impulse if t == 0 else torch.zeros_like(impulse))
        outputs.append(y)
        states.append(state)
    return torch.stack(outputs), torch.stack(states)


def _segments(n_times: int, window: int, step: int) -> list[int]:
    """Lengths of the stretches that no window straddles: every window is a run of whole ones."""
    starts = range(0, n_times - window + 1, step)
    edges = sorted({0, *starts, *(start + window for start in starts)})
    return [b - a for a, b in zip(edges, edges[1:], strict=False)]


def _filter(x: Tensor, sos: Tensor, segments: list[int]) -> Tensor:
    """Run one cascade over the first ``sum(segments)`` samples."""
    outputs, states = _block_matrices(sos)
    n = states.shape[1]
    observe, impulse = outputs[:, :n].to(x), outputs[:, n].to(x)
    move, drive = states[:, :, :n].to(x), states[1:, :, n].to(x)
    lag = torch.arange(_BLOCK, device=x.device)[:, None] - torch.arange(_BLOCK, device=x.device)
    toeplitz = torch.where(lag >= 0, impulse[lag.clamp(min=0)], 0.0)
    state = x.new_zeros((*x.shape[:-1], n))
    filtered, start = [], 0
    for segment in segments:
        end = start + segment
        while start < end:
            size = min(_BLOCK, end - start)
            block = x[..., start : start + size]
            filtered.append(state @ observe[:size].T + block @ toeplitz[:size, :size].T)
            state = state @ move[size].T + block @ drive[:size].flip(0)
            start += size
        state = _Carry.apply(state)
    return torch.cat(filtered, -1)


def bandpass_power(x: Tensor, sos: Tensor, window: int, step: int, ddof: int) -> Tensor:
    """``sos`` is float64 on the CPU, ``(bands, n_sections, 6)``, with a0 = 1."""
    if x.numel() == 0 or x.shape[-1] < window or not len(sos):
        windows = max(0, (x.shape[-1] - window) // step + 1)
        return x.new_zeros((*x.shape[:-2], windows, x.shape[-2], len(sos)))
    segments = _segments(x.shape[-1], window, step)
    powers = [
        _filter(x, band, segments).unfold(-1, window, step).var(-1, correction=ddof) for band in sos
    ]
    return torch.stack(powers, -1).transpose(-3, -2).contiguous()


def bandpass_power_backward(
    grad: Tensor, x: Tensor, sos: Tensor, window: int, step: int, ddof: int
) -> Tensor:
    """The adjoint of a causal filter is the same filter run backwards in time."""
    grad_x = torch.zeros_like(x)
    if x.numel() == 0 or x.shape[-1] < window:
        return grad_x
    segments = _segments(x.shape[-1], window, step)
    for band in range(len(sos)):
        filtered = _filter(x, sos[band], segments)
        frames = filtered.unfold(-1, window, step)  # (..., n_chans, windows, window)
        scale = 2 / (window - ddof) * grad[..., band].transpose(-2, -1).unsqueeze(-1)
        frames = scale * (frames - frames.mean(-1, keepdim=True))
        grad_y = torch.ops.aten.unfold_backward(
            frames, filtered.shape, filtered.dim() - 1, window, step
        )
        adjoint = _filter(grad_y.flip(-1), sos[band], segments[::-1])
        grad_x[..., : filtered.shape[-1]] += adjoint.flip(-1)
    return grad_x
