# SPDX-License-Identifier: BSD-3-Clause
"""Thin adapters to other tools' interfaces. None of them needs the other tool to be installed."""
