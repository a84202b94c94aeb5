"""Training: the loop, the schemes that say what a model is trained against, and Algorithm 2."""

from omnirobust.training.accuracy import accuracy
from omnirobust.training.ampgd import attack_batch
from omnirobust.training.diversity import cosines, diversity
from omnirobust.training.fit import FitResult, TrainingDivergedError, fit
from omnirobust.training.logs import make_loggers
from omnirobust.training.schemes import DEFAULT_RULE, Scheme

__all__ = [
    "DEFAULT_RULE",
    "FitResult",
    "Scheme",
    "TrainingDivergedError",
    "accuracy",
    "attack_batch",
    "cosines",
    "diversity",
    "fit",
    "make_loggers",
]
