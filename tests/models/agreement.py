# SPDX-License-Identifier: BSD-3-Clause
"""Hold a network against its twin in plain PyTorch, over steps of training in float64."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def close(ours, theirs, name, rtol):
    scale = theirs.abs().max().item() if theirs.numel() else 0.0
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=rtol * scale, msg=lambda text: f"{name}: {text}"
    )


def same_training(net, twin, batches, n_outputs, rtol=1e-9, lr=0.1):
    """Same outputs, gradients, parameters and buffers at each step; then the same evaluation."""
    net.double().train()
    twin.double().train()
    twin.load_state_dict(net.state_dict(), strict=True)
    nets = (net, twin)
    optimizers = [torch.optim.SGD(n.parameters(), lr, momentum=0.9) for n in nets]
    for step, x in enumerate(batches):
        labels = torch.arange(len(x)) % n_outputs
        inputs = [x.clone().requires_grad_() for _ in nets]
        outputs = [n(i) for n, i in zip(nets, inputs, strict=True)]
        close(*outputs, f"step {step}: logits", rtol)
        for optimizer, logits in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
        close(inputs[0].grad, inputs[1].grad, f"step {step}: gradient of x", rtol)
        theirs = dict(twin.named_parameters())
        for name, parameter in net.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None and theirs[name].grad is None, name
                continue
            assert parameter.grad.any(), name
            close(parameter.grad, theirs[name].grad, f"step {step}: gradient of {name}", rtol)
        for optimizer in optimizers:
            optimizer.step()
        state = twin.state_dict()
        for name, value in net.state_dict().items():
            close(value, state[name], f"step {step}: {name}", rtol)
    with torch.no_grad():
        close(net.eval()(batches[0]), twin.eval()(batches[0]), "evaluation", rtol)
