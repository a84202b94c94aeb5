"""Find models by name: the zoo's, or those of the user's own code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from omnirobust import zoo
from omnirobust._models import Classifier
from omnirobust.jobs.own_code import broken, load_own
from omnirobust.stores import fingerprint


def load_models(names: Sequence[str], data: str) -> dict[str, nn.Module]:
    """Load models in evaluation mode.

    Args:
        names: each "a" (the zoo's model "<data>/a"), "mnist/a", "a@seed1", or "FILE.py:NAME" or "package.module:NAME"
            for a model of one's own: a module, or a function without arguments that returns one.
        data: name of the data that short names refer to.

    Returns:
        Models by the names they were asked for; those of one's own by NAME.

    Raises:
        ValueError: for an unknown or repeated name, or something that is no model.
        FileNotFoundError: if a model of the zoo has not been trained, or a file is missing.
    """
    models: dict[str, nn.Module] = {}
    for name in names:
        short, model = _load(name, data)
        if short in models:
            raise ValueError(f"models must be named once each, got {short} twice")
        models[short] = model.eval()
    if not models:
        raise ValueError("models must name at least one model, got none")
    return models


def describe_models(models: dict[str, nn.Module]) -> dict[str, dict[str, str]]:
    """Return a fingerprint of every model's weights, so that runs on other weights are told apart."""
    return {name: {"weights": fingerprint(dict(model.state_dict()))} for name, model in models.items()}


def predict(models: dict[str, nn.Module], x: Tensor) -> Tensor:
    """Return every model's class of every input (B, *S), (B, K) int64.

    Raises:
        ValueError: if a model cannot take such inputs.
    """
    with torch.no_grad():
        return torch.stack([_predict(Classifier(name, model), x) for name, model in models.items()], 1)


def _predict(classifier: Classifier, x: Tensor) -> Tensor:
    classifier.check_device(x)
    parts = [classifier(classifier.arrange(part)).argmax(1) for part in x.split(classifier.pieces(len(x), x))]
    return torch.cat(parts)


def _load(name: str, data: str) -> tuple[str, nn.Module]:
    if ":" in name:
        return _load_own(name)
    return name, zoo.load(name if "/" in name else f"{Path(data).name}/{name}")


def _load_own(name: str) -> tuple[str, nn.Module]:
    attribute, found = load_own(name, "models")
    try:
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(broken(name, "models", error)) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"models must be torch modules or functions that return one, got {type(model).__name__}")
    return attribute, model
