# SPDX-License-Identifier: BSD-3-Clause
"""The smoother, against a torch loop over windows and one matrix product."""

from __future__ import annotations

import pytest
import torch
from harness import relative_error

from eegfast import ops, reference

Q, R, P0 = 1e-3, 1.0, 0.1


def matrix_product(windows: int, device: str = "cpu"):
    """The smoother is linear, so it is a fixed matrix over the windows: computed once, as a user
    who knows would."""
    unit = torch.eye(windows, dtype=torch.float64)[:, :, None]
    matrix = reference.lds_smooth(unit, None, Q, R, P0, False)[:, :, 0].to(device, torch.float32)

    def product(y):
        return (matrix @ y.flatten(-2)).unflatten(-1, y.shape[-2:])

    return product


@pytest.mark.parametrize("batch", [1, 64])
def bench_forward(bench, batch):
    shape = (batch, 240, 62, 5)
    generator = torch.Generator().manual_seed(0)
    y = 15 + torch.randn(shape, generator=generator).cumsum(1) / 10
    truth = reference.lds_smooth(y.double(), None, Q, R, P0, False)
    product = matrix_product(240)
    compiled = bench.compile(product)
    with torch.inference_mode():
        bench.compare(
            f"lds_smooth batch {batch}",
            str(shape),
            lambda: ops.lds_smooth(y),
            {
                "torch loop": lambda: reference.lds_smooth(y, None, Q, R, P0, False),
                "matrix product": lambda: product(y),
                "compile matrix product": (lambda: compiled(y)) if compiled else None,
            },
            lambda value: relative_error(value, truth),
            error_limit=5e-7,
            goal=(100, 5),
        )
