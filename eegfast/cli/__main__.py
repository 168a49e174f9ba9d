# SPDX-License-Identifier: BSD-3-Clause
"""``python -m eegfast.cli`` is the ``eegfast`` command too."""

from eegfast.cli import main

if __name__ == "__main__":
    main()
