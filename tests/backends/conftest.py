# SPDX-License-Identifier: BSD-3-Clause
"""``target`` is each row of tests/ops/targets.py that can run here, or that --backend asks for."""

from __future__ import annotations

import pytest
from numerics import exact_and_poisoned
from targets import LIGHT, TARGETS


def pytest_generate_tests(metafunc):
    if "target" not in metafunc.fixturenames:
        return
    asked = metafunc.config.getoption("--backend")
    rows = [row for row in TARGETS if not asked or row.backend in asked]
    here = [row for row in rows if not row.absent()]
    if asked and {row.backend for row in here} != set(asked):
        reasons = "; ".join(f"{row.id}: {row.absent()}" for row in rows if row.absent())
        raise pytest.UsageError(f"--backend {' '.join(asked)}: {reasons or 'no such back end'}")
    metafunc.parametrize("target", here, ids=lambda row: row.id)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--light"):
        items[:] = [item for item in items if _case(item) in (None, *LIGHT)]


def _case(item):
    case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
    return case and case.id


@pytest.fixture(autouse=True)
def _exact_and_poisoned():
    with exact_and_poisoned():
        yield
