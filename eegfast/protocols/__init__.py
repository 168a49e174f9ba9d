# SPDX-License-Identifier: BSD-3-Clause
"""Who is trained on, who is tested, and which numbers may cross from one side to the other."""

from eegfast.protocols.leakage import LeakageError, check_split
from eegfast.protocols.normalization import (
    NORMALIZATIONS,
    NoNormalization,
    SubjectZScore,
    TrainZScore,
    make_normalization,
)
from eegfast.protocols.splits import LeaveOneSubjectOut, SubjectKFold, hold_out_subjects

__all__ = [
    "NORMALIZATIONS",
    "LeakageError",
    "LeaveOneSubjectOut",
    "NoNormalization",
    "SubjectKFold",
    "SubjectZScore",
    "TrainZScore",
    "check_split",
    "hold_out_subjects",
    "make_normalization",
]
