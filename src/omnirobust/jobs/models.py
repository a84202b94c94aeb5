"""Find models by name: the zoo's, or those of the user's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from omnirobust import zoo
from omnirobust._models import Classifier
from omnirobust._own_code import broken, load_own
from omnirobust.stores import fingerprint

WEIGHTS, CARD = "model.safetensors", "card.json"
"""What a training leaves in its run folder: weights, and how the network is built."""


def load_models(names: Sequence[str], data: str) -> dict[str, nn.Module]:
    """Load models in evaluation mode.

    Args:
        names: each "a" (the zoo's model "<data>/a"), "mnist/a", "a@seed1"; the run folder of a training, or its
            "model.safetensors"; or "FILE.py:NAME" or "package.module:NAME" for a model of one's own: a module, or a
            function without arguments that returns one.
        data: name of the data that short names refer to.

    Returns:
        Models by the names they were asked for; those of one's own by NAME, those of trainings by that of the folder.

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


def trained_file(name: str) -> Path | None:
    """Return the weights that ``name`` stands for, if it is the folder of a training or a safetensors file."""
    path = Path(name)
    if path.is_dir() and (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_dir() and (path / "config.json").is_file():
        raise FileNotFoundError(f"models must have been trained, but {name} has no {WEIGHTS} yet")
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise FileNotFoundError(f"models must name an existing file, got {name}")
    return path


def read_source(name: str) -> Mapping[str, Any]:
    """Return how the network of a training is built, from the card beside its weights.

    Raises:
        ValueError: if the card is missing or damaged.
    """
    file = trained_file(name)
    assert file is not None
    try:
        source = json.loads((file.parent / CARD).read_text(encoding="utf-8"))["network"]
        return source | {"shape": tuple(source["shape"]), "classes": int(source["classes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"models must have a readable {CARD} beside their weights, got {file} without one") from error


def build_source(source: Mapping[str, Any]) -> nn.Module:
    """Build an untrained network as its card says: of the zoo's architectures, or by code of one's own.

    Raises:
        ValueError: if there is no such architecture or code.
    """
    if "code" in source:
        return _load_own(source["code"])[1]
    return zoo.build(source["architecture"], tuple(source["shape"]), source["classes"])


def _load(name: str, data: str) -> tuple[str, nn.Module]:
    if (file := trained_file(name)) is not None:
        return _load_trained(name, file)
    if ":" in name:
        return _load_own(name)
    return name, zoo.load(name if "/" in name else f"{Path(data).name}/{name}")


def _load_trained(name: str, file: Path) -> tuple[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):  # weights that are drawn only to be overwritten
        model = build_source(read_source(name))
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"models must hold weights of the network on their card, got {file}, damaged or of another"
        ) from (error)
    return file.resolve().parent.name if file.name == WEIGHTS else file.stem, model.requires_grad_(False)


def _load_own(name: str) -> tuple[str, nn.Module]:
    attribute, found = load_own(name, "models")
    try:
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(broken(name, "models", error)) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"models must be torch modules or functions that return one, got {type(model).__name__}")
    return attribute, model
