"""Training with gradients, in one process or under torchrun: `train` on the user's module, loss and data."""

from __future__ import annotations

from ._callbacks import Callback, Run
from ._distillation import Distillation
from ._log import plot, read_log
from ._options import Pipeline, TrainOptions
from ._pruning import GradualPruning
from ._qat import finish, left_in_float, prepare_qat
from ._trainer import TrainResult, train

__all__ = [
    "Callback",
    "Distillation",
    "GradualPruning",
    "Pipeline",
    "Run",
    "TrainOptions",
    "TrainResult",
    "finish",
    "left_in_float",
    "plot",
    "prepare_qat",
    "read_log",
    "train",
]
