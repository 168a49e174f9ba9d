# SPDX-License-Identifier: BSD-3-Clause
"""Training by Lightning and evaluation by subject. Needs ``pip install 'eegfast[train]'``."""

try:
    import lightning as _lightning  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
    import torchmetrics as _torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"eegfast.training needs {error.name}: pip install 'eegfast[train]'"
    ) from error

from eegfast.training.builders import InputsBuilder
from eegfast.training.data import ResidentLoader, WindowDataset
from eegfast.training.estimators import LogisticBaseline, NetworkEstimator
from eegfast.training.evaluation import Evaluation, cross_validate
from eegfast.training.fit import FitResult, TrainingOptions, evaluate, fit, predict_proba
from eegfast.training.module import ClassificationModule, balanced_class_weights
from eegfast.training.nulls import NullResult, permute_within, refit_null, swap_null
from eegfast.training.pipeline import Pipeline, Prediction
from eegfast.training.sequences import cut_sequences
from eegfast.training.streaming import Stream

__all__ = [
    "ClassificationModule",
    "Evaluation",
    "FitResult",
    "InputsBuilder",
    "LogisticBaseline",
    "NetworkEstimator",
    "NullResult",
    "Pipeline",
    "Prediction",
    "ResidentLoader",
    "Stream",
    "TrainingOptions",
    "WindowDataset",
    "balanced_class_weights",
    "cross_validate",
    "cut_sequences",
    "evaluate",
    "fit",
    "permute_within",
    "predict_proba",
    "refit_null",
    "swap_null",
]
