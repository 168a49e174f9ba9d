# SPDX-License-Identifier: BSD-3-Clause
"""One self-contained HTML page, a JSON and a CSV file out of results.

It knows arrays and dictionaries only: no model, no data set. Needs
``pip install 'eegfast[report]'``.
"""

from eegfast.report.files import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
