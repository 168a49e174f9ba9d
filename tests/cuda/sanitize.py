# SPDX-License-Identifier: BSD-3-Clause
"""Every case of the table once, forward and backward, in each type: what compute-sanitizer runs.

python tests/cuda/sanitize.py [--device cpu]

Inputs come from the host, so that only kernels under test can leave memory unwritten.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ops")]

from cases import CASES, DTYPES, HALF, REFUSE_HALF_ON_CPU, grads_for, on  # noqa: E402

from eegfast.backends import has_kernel  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    begin, done, reference = time.monotonic(), 0, set()
    for case in CASES:
        missing = [n for n in (case.op, case.op + "_backward") if not has_kernel(n, device.type)]
        reference |= set(missing)
        if case.op in missing:
            continue
        for dtype in DTYPES:
            if dtype in HALF and device.type == "cpu" and case.op in REFUSE_HALF_ON_CPU:
                continue
            here = case.inputs(dtype)
            wide = grads_for(case, *([t.float() for t in part] for part in here))
            leaves, constants, grads = on(device, *here, [g.to(dtype) for g in wide])
            if missing:
                case.results(leaves, constants)
            else:
                case.gradients(leaves, constants, grads)
            done += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(
        f"{done} calls in {time.monotonic() - begin:.0f} s; not run: {sorted(reference) or 'none'}"
    )
    return 0 if done or not torch.cuda.is_available() else 1


if __name__ == "__main__":
    sys.exit(main())
