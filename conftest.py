# SPDX-License-Identifier: BSD-3-Clause
"""Adds ``pytest --benchmark``: runs benchmarks/, not the tests, and prints what it measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; torch, not imported yet, would take all of them in each.
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def pytest_addoption(parser):
    group = parser.getgroup("eegfast")
    group.addoption(
        "--backend", action="append", help="of tests/backends, run this back end's part only"
    )
    group.addoption(
        "--light", action="store_true", help="of tests/backends, one case of each operator only"
    )
    group.addoption("--benchmark", action="store_true", help="run benchmarks/, not the tests")
    group.addoption(
        "--benchmark-smoke",
        action="store_true",
        help="like --benchmark, three rounds and without torch.compile: are the values right?",
    )
    group.addoption(
        "--benchmark-eager",
        action="store_true",
        help="leave out the rivals that torch.compile makes, which take most of the time",
    )
    group.addoption("--benchmark-threads", type=int, help="torch threads (default: all cores)")
    group.addoption(
        "--benchmark-cold",
        action="store_true",
        help="leave glibc's malloc as it is: large outputs then cost page faults each time",
    )
    group.addoption(
        "--benchmark-results",
        metavar="FILE",
        help="add the figures to FILE (JSON), in place of those of the same settings",
    )


def _benchmarking(config) -> bool:
    return config.getoption("--benchmark") or config.getoption("--benchmark-smoke")


def pytest_configure(config):
    if _benchmarking(config):
        sys.path.insert(0, str(ROOT / "benchmarks"))
        config.addinivalue_line("python_functions", "bench_*")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args[:] = [str(ROOT / "benchmarks")]


@pytest.fixture(scope="session")
def bench(pytestconfig):
    import harness
    import torch

    if pytestconfig.getoption("--benchmark-threads"):
        torch.set_num_threads(pytestconfig.getoption("--benchmark-threads"))
    cold = pytestconfig.getoption("--benchmark-cold")
    if not cold:
        harness.warm_allocator()
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.automatic_dynamic_shapes = False
    session = harness.Benchmark(
        pytestconfig.getoption("--benchmark-smoke"),
        cold,
        pytestconfig.getoption("--benchmark-eager"),
    )
    pytestconfig.stash[_SESSION] = session
    return session


_SESSION = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    session = config.stash.get(_SESSION, None)
    if session is None or not session.rows:
        return
    from harness import environment, merge_results

    say = terminalreporter.write_line
    terminalreporter.section("benchmark")
    say(", ".join(f"{key} {value}" for key, value in environment(session.cold).items()))
    if session.smoke:
        say("smoke run: the values were checked; the times mean nothing")
    for row in session.rows:
        say("")
        say(
            f"{row.name}  {row.shape}  error {row.error:.1e} (limit {row.error_limit:.0e})"
            + ("" if row.quiet or session.smoke else "  NOT QUIET: do not quote")
        )
        say(f"  {'':28s}{'median ms':>11s}{'min ms':>11s}{'spread':>9s}{'x ours':>9s}")
        for name in row.times:
            say(
                f"  {name:28s}{row.median_ms(name):11.3f}{row.min_ms(name):11.3f}"
                f"{row.spread(name):9.0%}{row.ratio(name):9.2f}"
            )
    if config.getoption("--benchmark-results") and not session.smoke:
        merge_results(Path(config.getoption("--benchmark-results")), session.rows)
