# SPDX-License-Identifier: BSD-3-Clause
"""Times contenders on a GPU side by side, after checking their values.

As in harness.py, contenders take turns and ours runs twice a round. Before each run the L2 cache is
swept by reading a buffer larger than itself (writing would leave it dirty), and the GPU is put to
sleep for as long as Python takes to queue the run: CUDA events then see what the GPU does, for ours
and for rivals alike. What a call costs from Python is a figure of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import importlib.util
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

import eegfast
from eegfast.backends import backends, has_kernel, run_on

SMALL_US = 150  # a row whose every run is shorter than this is also timed as a replayed graph


@dataclasses.dataclass
class Contest:
    """What is compared: ``ours`` against ``rivals``, the natural code first.

    ``bytes`` counts each input read once and each output written once, ``flop`` the arithmetic of
    the best formulation known, at ``flop_rate`` a second. ``ours_too`` are other ways to call ours.
    """

    shape: str
    ours: Callable[[], object]
    rivals: dict[str, Callable[[], object] | None]
    error: Callable[[object], float]
    error_limit: float
    rival_error_limit: float
    bytes: float
    flop: float
    flop_rate: float = 67e12
    ours_too: dict[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    graph: bool = False  # time replayed graphs however long a run is


class Refused(Exception):
    """Why a contender does not take part."""


class GpuBenchmark:
    """Runs contests; what a bench_*.py module wants of ``bench`` is here too."""

    def __init__(self, device: torch.device, compile_seconds: float, smoke: bool):
        self.device, self.smoke = device, smoke
        self.compile_seconds = compile_seconds
        self.on_gpu = device.type == "cuda"
        self.copy_bytes_per_second = 0.0
        self._swept = None
        if self.on_gpu:
            cache = torch.cuda.get_device_properties(device).L2_cache_size
            self._swept = torch.zeros(4 * cache // 4, device=device)
            self.copy_bytes_per_second = self.measure_copy()
        torch._dynamo.config.recompile_limit = 256
        torch._dynamo.config.automatic_dynamic_shapes = False
        # float32 means float32, for every contender.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def compile(self, function: Callable) -> Callable | None:
        """Return torch.compile's version; None where no time is given to compilers."""
        if self.compile_seconds <= 0:
            return None
        return torch.compile(function, dynamic=False, fullgraph=True)

    def measure_copy(self) -> float:
        source = torch.randn(2**29, device=self.device)
        target = torch.empty_like(source)
        runs = [self._run(lambda: target.copy_(source), 0.0) for _ in range(13)][3:]
        return 2 * source.nbytes / statistics.median(runs)

    def contest(self, contest: Contest, op: str, inference: bool) -> dict:
        """Check and time all contenders; raises where ours is wrong."""
        with torch.inference_mode() if inference else contextlib.nullcontext():
            return self._contest(contest, op)

    def _contest(self, c: Contest, op: str) -> dict:
        measured = c.error(c.ours())
        assert measured <= c.error_limit, f"error {measured:.2g} > {c.error_limit:.2g}"
        refused: dict[str, str] = {}
        triton = {"triton": in_triton(op, c.ours)} if has_triton(op) else {}
        entrants = {**c.rivals, **c.ours_too, **triton}
        good: dict[str, Callable] = {}
        for name, function in entrants.items():
            try:
                self._admit(name, function, c)
                good[name] = function
            except Exception as error:
                refused[name] = " ".join(str(error).split())[:160] or type(error).__name__
        first, *others = good
        turns = {"ours": c.ours, first: good[first], "ours again": c.ours}
        turns |= {name: good[name] for name in others}
        times, host = self._take_turns(turns)
        figures = {}
        ours = times["ours"]
        for name, runs in times.items():
            low, middle, high = statistics.quantiles(runs, n=4)
            pairs = zip(runs, ours, strict=True)
            figures[name] = {
                "median_us": 1e6 * statistics.median(runs),
                "min_us": 1e6 * min(runs),
                "spread": (high - low) / middle,
                "ratio_to_ours": statistics.median(a / b for a, b in pairs),
                "queued_in_us": 1e6 * host[name],
                "peak_mb": self._peak_mb(turns[name]),
            }
        if self.on_gpu and (c.graph or 1e6 * statistics.median(ours) < SMALL_US):
            self._graphs(turns, figures, refused)
        return {
            "shape": c.shape,
            "error": measured,
            "error_limit": c.error_limit,
            "floor_us": 1e6 * max(c.bytes / 4.3e12, c.flop / c.flop_rate),
            "bytes": c.bytes,
            "flop": c.flop,
            "copy_gbps": self.copy_bytes_per_second / 1e9,
            "kernels": [n for n in (op, op + "_backward") if has_kernel(n, self.device.type)],
            "contenders": figures,
            "refused": refused,
        }

    def _admit(self, name: str, function: Callable | None, c: Contest) -> None:
        if function is None or ("compile" in name and self.compile_seconds <= 0):
            raise Refused("no time for compilers")
        begin = time.perf_counter()
        try:
            value = c.error(function())
        finally:
            if "compile" in name:
                self.compile_seconds -= time.perf_counter() - begin
        if not value <= c.rival_error_limit:
            raise Refused(f"computes something else ({value:.2g})")

    def _take_turns(self, turns: dict[str, Callable]) -> tuple[dict, dict]:
        host, slowest = {}, 0.0
        for name, function in turns.items():
            queued, took = [], 0.0
            while len(queued) < 3 and took < 0.3:
                before = time.perf_counter()
                function()
                queued.append(time.perf_counter() - before)
                self._synchronize()
                took = time.perf_counter() - before
            host[name] = min(queued)  # on a GPU, what Python takes to queue it
            slowest = max(slowest, took)
        rounds = max(3 if slowest > 0.3 else 7, min(50, int(0.06 / slowest)))
        rounds = 3 if self.smoke else rounds
        times: dict[str, list[float]] = {name: [] for name in turns}
        gc.disable()
        try:
            for _ in range(rounds):
                for name, function in turns.items():
                    times[name].append(self._run(function, host[name]))
        finally:
            gc.enable()
        return times, host

    def _run(self, function: Callable, host_seconds: float) -> float:
        if not self.on_gpu:
            before = time.perf_counter()
            function()
            return time.perf_counter() - before
        if self._swept is not None:
            self._swept.sum()
        # Cycles at 2 GHz, somewhat longer than Python needs.
        torch.cuda._sleep(int(2e9 * min(1.5 * host_seconds + 20e-6, 20e-3)))
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return 1e-3 * begin.elapsed_time(end)

    def _graphs(self, turns: dict[str, Callable], figures: dict, refused: dict) -> None:
        """Times of replays: no launches from Python, and the gaps between kernels are short."""
        graphs = {}
        stream = torch.cuda.Stream()
        for name, function in turns.items():
            try:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(2):
                        function()
                torch.cuda.synchronize()
                # torch.cuda.graph() would collect garbage and empty the cache each time.
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.stream(stream):
                    graph.capture_begin()
                    try:
                        function()
                    finally:
                        graph.capture_end()
                graph.replay()
                torch.cuda.synchronize()
                graphs[name] = graph
            except Exception as error:
                refused[f"{name} in a graph"] = " ".join(str(error).split())[:160]
                torch.cuda.synchronize()
        runs = {name: [] for name in graphs}
        for _ in range(3 if self.smoke else 30):
            for name, graph in graphs.items():
                runs[name].append(self._run(graph.replay, 10e-6))
        for name in graphs:
            figures[name]["graph_us"] = 1e6 * statistics.median(runs[name])

    def _peak_mb(self, function: Callable) -> float | None:
        if not self.on_gpu:
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def has_triton(op: str) -> bool:
    runs = next(backend.available for backend in backends() if backend.name == "triton")
    return runs and importlib.util.find_spec(f"eegfast._triton.{op}") is not None


def in_triton(op: str, ours: Callable) -> Callable:
    """The same call on the Triton kernels, without the cost of forcing them each time."""
    module = importlib.import_module(f"eegfast._triton.{op}")
    functions = SimpleNamespace(**{n: getattr(module, n) for n in (op, op + "_backward")})

    def call():
        with run_on(functions):
            return ours()

    return call


def environment(device: torch.device) -> dict[str, object]:
    """What a figure means nothing without."""
    facts = {"gpu": platform.processor() or platform.machine(), "driver": ""}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            answer = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
            facts["driver"] = answer[0] if answer else ""
    info = eegfast.build_info()
    return {
        **facts,
        "eegfast": eegfast.__version__,
        "cuda_archs": info.get("cuda_archs", ""),
        "torch": torch.__version__,
        "tf32": False,
        "date": datetime.date.today().isoformat(),
    }
