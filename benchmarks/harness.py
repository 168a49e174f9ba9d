# SPDX-License-Identifier: BSD-3-Clause
"""Times contenders side by side, after checking their values.

All contenders of a comparison take turns in one process (A B C A B C ...), so that a disturbance
hits them alike; the ratio reported is the median of the ratios round by round. Ours runs twice in
each round, both times after a rival, which leaves the caches as a rival does: where the two differ,
the difference between any others is noise too.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

import eegfast

# mallopt parameters of glibc: never give memory back, never map a block of its own. Without this,
# page faults of freshly mapped outputs cost more than most kernels.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def warm_allocator() -> bool:
    """Make glibc's malloc keep its memory; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(
        libc.mallopt(parameter, value)
        for parameter, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, 2**31 - 1),
            (_M_TOP_PAD, 2**28),
        )
    )


@dataclasses.dataclass
class Row:
    """One comparison: seconds per contender, and how many times slower each rival is than ours."""

    name: str
    shape: str
    error: float
    error_limit: float
    times: dict[str, list[float]]
    environment: dict[str, object]
    predicted_ms: float | None = None
    goal: tuple[float, float] | None = None

    def median_ms(self, name: str) -> float:
        return 1e3 * statistics.median(self.times[name])

    def min_ms(self, name: str) -> float:
        return 1e3 * min(self.times[name])

    def spread(self, name: str) -> float:
        """Interquartile range over median."""
        low, middle, high = statistics.quantiles(self.times[name], n=4)
        return (high - low) / middle

    def ratio(self, name: str) -> float:
        pairs = zip(self.times[name], self.times["ours"], strict=True)
        return statistics.median(rival / ours for rival, ours in pairs)

    @property
    def quiet(self) -> bool:
        """Whether the machine was quiet enough for the figures to be quoted."""
        steady = self.min_ms("ours") / self.median_ms("ours") >= 0.7
        return abs(self.ratio("ours again") - 1) <= 0.05 and steady

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "shape": self.shape,
            **self.environment,
            "predicted_ms": self.predicted_ms,
            "goal": self.goal,
            "error": self.error,
            "error_limit": self.error_limit,
            "quiet": self.quiet,
            "contenders": {
                name: {
                    "median_ms": self.median_ms(name),
                    "min_ms": self.min_ms(name),
                    "spread": self.spread(name),
                    "ratio_to_ours": self.ratio(name),
                }
                for name in self.times
            },
        }


class Benchmark:
    """What a bench_*.py function gets as ``bench``."""

    def __init__(self, smoke: bool, cold: bool = False, eager: bool = False):
        self.smoke = smoke
        self.eager = smoke or eager
        self.cold = cold
        self.rows: list[Row] = []

    def compile(self, function: Callable) -> Callable | None:
        """Return torch.compile's version, or None in a run that has no time for it."""
        if self.eager:
            return None
        return torch.compile(function, dynamic=False, fullgraph=True)

    def enough(self, rounds: int, seconds: float) -> bool:
        """30 rounds and 3 seconds; contenders that take seconds each get 10 rounds or a minute."""
        if self.smoke:
            return rounds >= 3
        return (rounds >= 30 and seconds >= 3) or (rounds >= 10 and seconds >= 60)

    def compare(
        self,
        name: str,
        shape: str,
        ours: Callable[[], object],
        rivals: Mapping[str, Callable[[], object] | None],
        error: Callable[[object], float],
        error_limit: float,
        rival_error_limit: float | None = None,
        predicted_ms: float | None = None,
        goal: tuple[float, float] | None = None,
    ) -> Row:
        """Check every contender with ``error``, then time them in turns.

        ``rival_error_limit`` (default: 100 times ours) only has to show that a rival computes the
        same thing. ``predicted_ms`` and ``goal`` (how many times faster than the first rival and
        than the best) were written down before measuring, on two threads; they go into the results.
        """
        first, *others = [(k, f) for k, f in rivals.items() if f]
        contenders = dict([("ours", ours), first, ("ours again", ours), *others])
        measured = error(ours())
        assert measured <= error_limit, f"{name}: error {measured:.2g} > {error_limit:.2g}"
        for rival, function in contenders.items():
            limit = rival_error_limit or 100 * error_limit
            value = error(function())
            assert value <= limit, f"{name}: {rival} computes something else ({value:.2g})"
        for function in contenders.values():
            for _ in range(1 if self.smoke else 3):
                function()
        times: dict[str, list[float]] = {rival: [] for rival in contenders}
        gc.disable()
        try:
            start = time.perf_counter()
            while not self.enough(len(times["ours"]), time.perf_counter() - start):
                for rival, function in contenders.items():
                    before = time.perf_counter()
                    function()
                    times[rival].append(time.perf_counter() - before)
        finally:
            gc.enable()
        facts = environment(self.cold)
        row = Row(name, shape, measured, error_limit, times, facts, predicted_ms, goal)
        self.rows.append(row)
        return row


def environment(cold: bool) -> dict[str, object]:
    """What a figure means nothing without."""
    return {
        "threads": torch.get_num_threads(),
        "isa": eegfast.build_info().get("isa", "reference"),
        "allocator": "cold" if cold else "warm",
        "eegfast": eegfast.__version__,
        "torch": torch.__version__,
        "cpu": cpu_model(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
    }


def merge_results(path: Path, rows: Iterable[Row]) -> None:
    """Put rows into a file of results, in place of those of the same comparison and settings."""
    keys = ("name", "shape", "cpu", "threads", "isa", "allocator")
    merge_rows(path, [row.as_dict() for row in rows], keys)


def merge_rows(path: Path, rows: Iterable[dict], keys: tuple[str, ...]) -> None:
    """The same for rows that are dicts, which ``keys`` tell apart."""
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {tuple(row[k] for k in keys): row for row in [*kept, *rows]}
    path.write_text(json.dumps({"rows": list(merged.values())}, indent=1) + "\n")


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def pink_noise(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """1/f noise of 20 uV, the background of an EEG, as float32."""
    spectrum = torch.fft.rfft(torch.randn(shape, generator=generator, dtype=torch.float64))
    frequency = torch.arange(spectrum.shape[-1], dtype=torch.float64).clamp(min=1)
    noise = torch.fft.irfft(spectrum / frequency.sqrt(), n=shape[-1])
    return (20 * noise / noise.std()).float()


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())


def absolute_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth).abs().max())
