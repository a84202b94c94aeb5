"""Networks that a training wrote: weights beside a card that says how to build them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnirobust._own_code import broken, load_own
from omnirobust.stores import read_chunk
from omnirobust.zoo.architectures import build

WEIGHTS, CARD = "model.safetensors", "card.json"
"""What a training leaves in its run folder: weights, and how the network is built."""

UNSAFE = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
"""Endings of files that can run code when they are read."""


def trained_file(name: str, argument: str = "models") -> Path | None:
    """Return the weights that ``name`` stands for, if it is the folder of a training or a safetensors file.

    Raises:
        FileNotFoundError: if it is, but there are none.
        ValueError: if it is a file of weights that can run code.
    """
    path = Path(name)
    if path.is_dir() and (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_dir() and (path / "config.json").is_file():
        raise FileNotFoundError(f"{argument} must have been trained, but {name} has no {WEIGHTS} yet")
    if path.suffix in UNSAFE:
        raise ValueError(
            f"{argument} must be safetensors files, got {name}, of a kind that can run code when it is read: save the "
            "model's state_dict with safetensors.torch.save_file"
        )
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must name an existing file, got {name}")
    return path


def read_source(name: str, argument: str = "models") -> Mapping[str, Any]:
    """Return how the network of a training is built, from the card beside its weights.

    Raises:
        ValueError: if the card is missing or damaged.
    """
    file = trained_file(name, argument)
    assert file is not None
    try:
        source = json.loads((file.parent / CARD).read_text(encoding="utf-8"))["network"]
        return source | {"shape": tuple(source["shape"]), "classes": int(source["classes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{argument} must have a readable {CARD} beside their weights, got {file} without one; of weights of your "
            f"own, name the network too: {file}:ARCHITECTURE"
        ) from error


def build_source(source: Mapping[str, Any], argument: str = "models") -> nn.Module:
    """Build an untrained network as its card says: of the zoo's architectures, or by code of one's own.

    Raises:
        ValueError: if there is no such architecture or code.
    """
    if "code" in source:
        return load_own_model(source["code"], argument)[1]
    return build(source["architecture"], tuple(source["shape"]), source["classes"])


def load_trained(name: str, file: Path, argument: str = "models") -> tuple[str, nn.Module]:
    """Load the network of a training, and return what to call it: its folder, or the file if that has another name."""
    with torch.random.fork_rng(devices=[]):  # weights that are drawn only to be overwritten
        model = build_source(read_source(name, argument), argument)
    fill(model, file, argument, "the network on their card")
    return file.resolve().parent.name if file.name == WEIGHTS else file.stem, model.requires_grad_(False)


def fill(model: nn.Module, file: Path, argument: str, network: str) -> None:
    """Read weights into a network.

    Raises:
        ValueError: if the file is damaged or its weights are of another network.
    """
    try:
        model.load_state_dict(read_chunk(file, undigested=True).tensors)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{argument} must hold weights of {network}, got {file}, damaged or of another") from error


def load_own_model(name: str, argument: str) -> tuple[str, nn.Module]:
    """Load a module of one's own code, or call the function without arguments that makes it.

    Raises:
        ValueError: if the code fails, or returns something else.
        FileNotFoundError: if there is no such file.
    """
    attribute, found = load_own(name, argument)
    try:
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ValueError(broken(name, argument, error)) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{argument} must be torch modules or functions that return one, got {type(model).__name__} from {name}"
        )
    return attribute, model
