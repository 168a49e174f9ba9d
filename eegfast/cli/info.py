# SPDX-License-Identifier: BSD-3-Clause
"""``eegfast info``."""

from __future__ import annotations

import platform


def info() -> None:
    """Print versions, back ends, instruction set, threads, and whether CUDA is in and why."""
    import torch
    from rich.console import Console
    from rich.table import Table

    import eegfast.ops  # noqa: F401  (registers every operator)
    from eegfast import __version__, build_info
    from eegfast.backends import backends, kernels

    facts = build_info()
    rows = [
        ("eegfast", __version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]
    if facts["kernels"]:
        rows += [
            (
                "kernels",
                f"built with {facts['compiler']} against torch {facts['torch_built_with']}",
            ),
            ("runs under", f"torch >= {facts['torch_target']} (stable ABI)"),
            (
                "instruction set",
                f"{facts['isa']} (this machine has {', '.join(facts['isa_available'])}; "
                "EEGFAST_ISA picks one)",
            ),
            ("CUDA in build", f"{'yes' if facts['cuda'] else 'no'}: {facts['cuda_reason']}"),
        ]
        if facts["cuda"]:
            rows.append(("CUDA architectures", facts["cuda_archs"]))
    else:
        rows.append(("kernels", f"none: {facts['reason']}"))

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", value)
    choices = Table("back end", "runs here", "why", box=None, padding=(0, 2, 0, 0))
    for backend in backends():
        choices.add_row(
            backend.name, "[green]yes[/]" if backend.available else "[red]no[/]", backend.reason
        )
    operators = Table("operator", "CPU tensors", "CUDA tensors", box=None, padding=(0, 2, 0, 0))
    for on_cpu, on_cuda in zip(kernels("cpu"), kernels("cuda"), strict=True):
        operators.add_row(on_cpu.op, *(_told(kernel) for kernel in (on_cpu, on_cuda)))
    console = Console(highlight=False)
    for part in (table, choices, operators):
        console.print(part)
        console.print()


def _told(kernel) -> str:
    if kernel.backend == "reference":
        return f"reference: {kernel.reason}"
    return f"{kernel.backend} kernel"
