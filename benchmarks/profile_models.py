# SPDX-License-Identifier: BSD-3-Clause
"""Prints where the time of a network goes: our operators, convolutions by kernel, the rest.

python benchmarks/profile_models.py ldm-eeg --batch 16 --train
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import warm_allocator
from torch.profiler import ProfilerActivity, profile

import eegfast
from eegfast import models

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models"))

# By the operator's name, first match; what it calls, copies into another layout say, belongs to it.
KINDS = {
    "eegfast::": "ours",
    "aten::convolution": "convolution",
    "batch_norm": "batch norm",
    "_pool": "pooling",
    "aten::linear": "matrix product",
    "aten::addmm": "matrix product",
    "aten::mm": "matrix product",
    "aten::bmm": "matrix product",
    "aten::cat": "concatenation",
    "aten::copy_": "copy",
    "aten::relu": "elementwise",
    "aten::threshold_backward": "elementwise",
    "aten::add": "elementwise",
    "aten::mul": "elementwise",
    "aten::mean": "sum",
    "aten::sum": "sum",
}


def kind(event) -> str | None:
    """What the event counts as, or None: then its calls are looked at one by one."""
    if event.name.startswith("autograd::"):
        return None
    found = next((kind for name, kind in KINDS.items() if name in event.name), None)
    if found == "ours":
        return event.name.removeprefix("eegfast::") + " (ours)"
    if found != "convolution":
        return found
    x, (_, inputs, *kernel) = event.input_shapes["backward" in event.name :][:2]
    dense = "dense" if inputs == x[1] else "depthwise"
    return f"{dense} convolution {' x '.join(map(str, kernel))}"


def collect(events) -> Counter:
    """Microseconds by kind."""
    times = Counter()
    pending = [event for event in events if event.cpu_parent is None]
    while pending:
        event = pending.pop()
        found = kind(event)
        times[found or "other"] += event.cpu_time_total if found else event.self_cpu_time_total
        if found is None:
            pending += event.cpu_children
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=models.names())
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--train", action="store_true", help="forward, cross-entropy and backward")
    parser.add_argument("--twin", action="store_true", help="profile the plain PyTorch twin")
    parser.add_argument("--calls", type=int, default=10)
    arguments = parser.parse_args()

    warm_allocator()
    net = models.create(arguments.name).train(arguments.train)
    inputs = net.example_inputs(arguments.batch)
    targets = torch.zeros(arguments.batch, dtype=torch.long)
    if arguments.twin:
        twin = importlib.import_module("twin_" + type(net).__module__.rpartition(".")[2])
        net = getattr(twin, "Twin" + type(net).__name__)().train(arguments.train)

    trainable = [p for p in net.parameters() if p.requires_grad]

    def call():
        if arguments.train:
            torch.autograd.grad(F.cross_entropy(net(*inputs), targets), trainable)
        else:
            with torch.no_grad():
                net(*inputs)

    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(arguments.calls):
            call()
    times = collect(profiler.events())
    total = sum(times.values())
    threads, isa = torch.get_num_threads(), eegfast.build_info().get("isa", "reference")
    step = "train" if arguments.train else "eval"
    print(f"{type(net).__name__} {step} batch {arguments.batch}, {threads} threads, {isa}")
    for name, time in times.most_common():
        print(f"{name:36s}{time / 1e3 / arguments.calls:10.3f} ms{time / total:7.1%}")


if __name__ == "__main__":
    main()
