# SPDX-License-Identifier: BSD-3-Clause
"""Who is trained on, who is tested, and which numbers may cross from one side to the other."""

from eegfast.protocols.holdout import hold_out_subjects
from eegfast.protocols.leakage import LeakageError, LeakageWarning, check_split
from eegfast.protocols.normalization import (
    NORMALIZATIONS,
    ChannelZScore,
    NoNormalization,
    SubjectZScore,
    TrainZScore,
    make_normalization,
)
from eegfast.protocols.protocol import CustomSplit, Protocol, SklearnSplitter, Split
from eegfast.protocols.published import (
    PooledTrialKFold,
    RandomWindows,
    SEEDIVTrials,
    SEEDTrials,
    SubjectHoldout,
    WithinSessionTrialKFold,
    WithinSessionWindows,
)
from eegfast.protocols.registry import create, names
from eegfast.protocols.samples import Samples
from eegfast.protocols.splits import (
    CrossSession,
    LeaveOneSessionOut,
    LeaveOneSubjectOut,
    SubjectKFold,
)

__all__ = [
    "ChannelZScore",
    "NORMALIZATIONS",
    "CrossSession",
    "CustomSplit",
    "LeakageError",
    "LeakageWarning",
    "LeaveOneSessionOut",
    "LeaveOneSubjectOut",
    "NoNormalization",
    "PooledTrialKFold",
    "Protocol",
    "RandomWindows",
    "SEEDIVTrials",
    "SEEDTrials",
    "Samples",
    "SklearnSplitter",
    "Split",
    "SubjectHoldout",
    "SubjectKFold",
    "SubjectZScore",
    "TrainZScore",
    "WithinSessionTrialKFold",
    "WithinSessionWindows",
    "check_split",
    "create",
    "hold_out_subjects",
    "make_normalization",
    "names",
]
