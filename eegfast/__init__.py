# SPDX-License-Identifier: BSD-3-Clause
"""EEG emotion recognition at hardware speed.

``eegfast.ops`` holds the operators (numpy and torch are all it needs); ``features``, ``datasets``,
``protocols``, ``models``, ``training`` and ``report`` build on them and are imported on their own.
"""

from eegfast._build import build_info
from eegfast._version import __version__
from eegfast.backends import backend

__all__ = ["__version__", "backend", "build_info"]
