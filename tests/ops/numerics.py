# SPDX-License-Identifier: BSD-3-Clause


def relative_error(value, truth):
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-300))


def float64_leaf(x):
    return x.detach().double().clone().requires_grad_()
