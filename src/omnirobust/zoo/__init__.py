"""Trained models: the paper's architectures, their recipes, and where their weights are kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from omnirobust._files import cache_dir
from omnirobust.zoo.architectures import ARCHITECTURES, build
from omnirobust.zoo.cards import Card, fgsm_accuracy
from omnirobust.zoo.checkpoints import MissingWeightsError, card, load, load_model_file, names
from omnirobust.zoo.preprocessing import Preprocessed, Preprocessing
from omnirobust.zoo.recipes import RECIPES, Recipe, RecipeName
from omnirobust.zoo.sources import load_model
from omnirobust.zoo.straight import StraightThrough

if TYPE_CHECKING:
    from omnirobust.jobs.train_zoo import train as train

__all__ = [
    "ARCHITECTURES",
    "RECIPES",
    "Card",
    "MissingWeightsError",
    "Preprocessed",
    "Preprocessing",
    "Recipe",
    "RecipeName",
    "StraightThrough",
    "build",
    "cache_dir",
    "card",
    "fgsm_accuracy",
    "load",
    "load_model",
    "load_model_file",
    "names",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import ``train`` when it is named: training lies above the models that it trains."""
    if name == "train":
        return import_module("omnirobust.jobs.train_zoo").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
