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

from eegfast.training.answers import Answers
from eegfast.training.builders import InputsBuilder
from eegfast.training.data import ResidentLoader, WindowDataset
from eegfast.training.estimators import LogisticBaseline, NetworkEstimator
from eegfast.training.evaluation import Evaluation, cross_validate
from eegfast.training.experiment import Progress, run_experiment
from eegfast.training.fit import FitResult, TrainingOptions, evaluate, fit, predict_proba
from eegfast.training.inputs import Prepared, prepare
from eegfast.training.module import ClassificationModule, balanced_class_weights
from eegfast.training.nulls import NullResult, permute_within, refit_null, swap_null
from eegfast.training.pipeline import Pipeline
from eegfast.training.prediction import Prediction
from eegfast.training.recipe import Recipe, load_recipe, recipe_names
from eegfast.training.results import Results, score, summarise
from eegfast.training.runs import Fit, Run
from eegfast.training.sequences import cut_sequences
from eegfast.training.streaming import Stream
from eegfast.training.tables import compare, write_results, write_table

__all__ = [
    "Answers",
    "ClassificationModule",
    "Evaluation",
    "Fit",
    "FitResult",
    "InputsBuilder",
    "LogisticBaseline",
    "NetworkEstimator",
    "NullResult",
    "Pipeline",
    "Prediction",
    "Prepared",
    "Progress",
    "Recipe",
    "ResidentLoader",
    "Results",
    "Run",
    "Stream",
    "TrainingOptions",
    "WindowDataset",
    "balanced_class_weights",
    "compare",
    "cross_validate",
    "cut_sequences",
    "evaluate",
    "fit",
    "load_recipe",
    "permute_within",
    "predict_proba",
    "prepare",
    "recipe_names",
    "refit_null",
    "run_experiment",
    "score",
    "summarise",
    "swap_null",
    "write_results",
    "write_table",
]
