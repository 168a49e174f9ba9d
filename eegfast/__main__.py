# SPDX-License-Identifier: BSD-3-Clause
"""``python -m eegfast`` is the ``eegfast`` command, as ``torchrun -m eegfast`` needs it."""

from eegfast.cli import main

if __name__ == "__main__":
    main()
