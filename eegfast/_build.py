# SPDX-License-Identifier: BSD-3-Clause
"""Loads the compiled module ``eegfast._C``, or says in one sentence why there is none."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import torch

# The oldest torch whose stable C++ ABI the extension is built for.
MIN_TORCH = (2, 11)


def _load() -> tuple[ModuleType | None, str]:
    """Return the extension and "", or None and the reason why the reference runs instead."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        return None, f"eegfast's kernels need torch >= 2.11, this is torch {torch.__version__}"
    try:
        return importlib.import_module("eegfast._C"), ""
    except ModuleNotFoundError:
        package = Path(__file__).parent
        if (package.parent / "csrc" / "library.cpp").exists():
            return None, (
                f"{package} is a source folder without built kernels; run "
                "`pip install -e . --no-build-isolation` there, or leave the folder"
            )
        return None, "this install was made without kernels (EEGFAST_BUILD=0)"
    except ImportError as error:
        return None, f"eegfast._C could not be loaded under torch {torch.__version__}: {error}"


extension, missing_reason = _load()

if extension is None:
    warnings.warn(
        f"eegfast runs on its PyTorch reference, correct but slow: {missing_reason}.",
        RuntimeWarning,
        stacklevel=2,
    )


def build_info() -> dict[str, object]:
    """Tell how the kernels were built and what they run on.

    Returns
    -------
    dict
        ``kernels`` (bool), ``reason`` (why there are none, else ""), and, where there are kernels,
        ``compiler``, ``torch_target``, ``torch_built_with``, ``cuda`` (bool), ``cuda_reason``,
        ``cuda_archs``, ``isa`` (the instruction set in use) and ``isa_available``.
    """
    if extension is None:
        return {"kernels": False, "reason": missing_reason}
    return {
        "kernels": True,
        "reason": "",
        **extension.build_info(),
        "isa": extension.isa(),
        "isa_available": extension.isa_available(),
    }
