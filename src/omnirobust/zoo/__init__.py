"""Trained models: the paper's architectures, their recipes, and where their weights are kept."""

from omnirobust._files import cache_dir
from omnirobust.zoo.architectures import ARCHITECTURES, build
from omnirobust.zoo.cards import Card, fgsm_accuracy
from omnirobust.zoo.checkpoints import MissingWeightsError, card, load, load_model_file, names
from omnirobust.zoo.preprocessing import Preprocessed, Preprocessing
from omnirobust.zoo.recipes import RECIPES, Recipe, RecipeName
from omnirobust.zoo.sources import load_model
from omnirobust.zoo.trainer import train

__all__ = [
    "ARCHITECTURES",
    "RECIPES",
    "Card",
    "MissingWeightsError",
    "Preprocessed",
    "Preprocessing",
    "Recipe",
    "RecipeName",
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
