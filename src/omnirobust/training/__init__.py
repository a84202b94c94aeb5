"""Training: the loop, and the schemes that say what a model is trained against."""

from omnirobust.training.accuracy import accuracy
from omnirobust.training.fit import FitResult, TrainingDivergedError, fit
from omnirobust.training.schemes import Scheme

__all__ = ["FitResult", "Scheme", "TrainingDivergedError", "accuracy", "fit"]
