# SPDX-License-Identifier: BSD-3-Clause
"""Self-contained HTML pages out of results: of the demo, and of runs side by side.

It knows arrays and dictionaries only: no model, no data set. Needs
``pip install 'eegfast[report]'``.
"""

from eegfast.report.comparison import write_comparison
from eegfast.report.files import ReportFiles, write_report

__all__ = ["ReportFiles", "write_comparison", "write_report"]
