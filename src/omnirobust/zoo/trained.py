"""Networks that a training wrote: weights beside a card that says how to build them."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from omnirobust.core.draws import building
from omnirobust.zoo.architectures import build
from omnirobust.zoo.chunks import read_model
from omnirobust.zoo.own_code import HUBS, broken, load_own

WEIGHTS, CARD = "model.safetensors", "card.json"
"""What a training leaves in its run folder: weights, and how the network is built."""

_NAMED = re.compile(r"(\w[^=/:\\]*)=(.+)")

_ON_CARD = "the network on their card"

_EXPORTED, _SCRIPTED = ".pt2", (".ts", ".ptl", ".torchscript", ".jit")

UNSAFE = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", _EXPORTED, *_SCRIPTED)
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
            f"{argument} must be safetensors files, got {name}, of a kind that can run code when it is read: "
            f"{_instead(path)}"
        )
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must name an existing file, got {name}")
    return path


def _instead(path: Path) -> str:
    """Say what to do with a file that is not read here: one that holds code is loaded by code of the user's."""
    if path.suffix == _EXPORTED:
        load = f"torch.export.load({str(path)!r}).module()"
    elif path.suffix in _SCRIPTED or _is_scripted(path):
        load = f"torch.jit.load({str(path)!r})"
    else:
        return "save the model's state_dict with safetensors.torch.save_file"
    return (
        f"if you trust it, put three lines into a FILE.py, 'import torch', 'def net():' and '    return {load}', and "
        "name FILE.py:net"
    )


def _is_scripted(path: Path) -> bool:
    """Say whether a file is of TorchScript, by the names in it alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def split_name(text: str) -> tuple[str, str]:
    """Split NAME=SOURCE into both; a source without a name, or a path that holds such a sign, is ("", source)."""
    found = _NAMED.fullmatch(text)
    if found is None or not text.isprintable() or Path(text).exists() or Path(text.partition(":")[0]).exists():
        return "", text
    return found[1], found[2]


def check_name(text: str, argument: str) -> None:
    """Refuse what has the sign of NAME=SOURCE, but a NAME that is none.

    Raises:
        ValueError: naming the characters that a NAME may have.
    """
    if "=" not in text or split_name(text)[0] or any(Path(part).exists() for part in (text, text.partition(":")[0])):
        return
    raise ValueError(
        f"{argument} must be SOURCE or NAME=SOURCE, got {text!r}: a NAME begins with a letter, a digit or _, and has "
        "no =, /, :, backslash or control character"
    )


def split_network(name: str) -> tuple[str, str]:
    """Split WEIGHTS:NETWORK, a folder or file of weights and what builds their network; of all else (name, "").

    A FILE.py of the network that is not found from here, but lies in the folder, is that of the folder.
    """
    if Path(name).exists():  # its name may hold colons
        return name, ""
    for at in (at for at, letter in enumerate(name) if letter == ":"):
        path, network = Path(name[:at]), name[at + 1 :]
        if network and (path.suffix == ".safetensors" or (path / WEIGHTS).is_file()):
            file, colon, attribute = network.rpartition(":")
            beside = (path if path.is_dir() else path.parent) / file
            there = file.endswith(".py") and not Path(file).is_file() and beside.is_file()
            return name[:at], f"{beside}{colon}{attribute}" if there else network
    return name, ""


def named_code(name: str) -> str:
    """Return the code that the name of a model names, FILE.py:NAME or package.module:NAME; "" if it names none."""
    weights, network = split_network(split_name(name)[1])
    code = network or weights
    known = code.startswith(HUBS) or Path(code).exists() or ".onnx" in code
    return code if ":" in code and not known else ""


def read_source(name: str, argument: str = "models") -> Mapping[str, Any]:
    """Return the architecture of the network of a training, with shape and classes, from the card beside its weights.

    Raises:
        ValueError: if the card is missing or damaged, or asks for code: a card never runs any.
    """
    file = trained_file(name, argument)
    assert file is not None
    try:
        source = json.loads((file.parent / CARD).read_text(encoding="utf-8"))["network"]
        found = source | {"shape": tuple(map(int, source["shape"])), "classes": int(source["classes"])}
        if "code" not in found:
            return found | {"architecture": str(found["architecture"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{argument} must have a readable {CARD} beside their weights, got {file} without one; of weights of your "
            f"own, name the network too: {file}:ARCHITECTURE"
        ) from error
    raise ValueError(_code_unnamed(name, found["code"], argument))


def _code_unnamed(name: str, code: object, argument: str) -> str:
    """Say that a card asks for code, and how to name it; the words of the card are quoted, whatever they hold."""
    asked, plain = repr(code), isinstance(code, str) and code.isprintable() and len(code) <= 1000
    form = f"{name}:{code}" if plain else f"{name}:FILE.py:NAME"
    return (
        f"{argument} must name the code to run, got {name}, whose card asks for {asked[:1000]}: if you trust "
        f"that code, write {shlex.quote(form)}"
    )


def build_source(source: Mapping[str, Any], argument: str = "models") -> nn.Module:
    """Build an untrained network: of the zoo's architectures, or by code of one's own that the user named.

    Raises:
        ValueError: if there is no such architecture or code.
    """
    if "code" in source:
        return load_own_model(source["code"], argument)[1]
    return build(source["architecture"], tuple(source["shape"]), source["classes"])


def load_trained(name: str, file: Path, argument: str = "models") -> tuple[str, nn.Module]:
    """Load the network of a training, of the zoo's architectures, and return what to call it."""
    source = read_source(name, argument)
    with building():  # weights that are drawn only to be overwritten
        check_card(source, file, argument)
        model = build_source(source, argument)
    fill(model, file, argument, _ON_CARD)
    return short_name(file), model.requires_grad_(False)


def check_card(source: Mapping[str, Any], file: Path, argument: str) -> None:
    """Compare what a card asks for with the header of its weights, before anything of that size is made.

    The card may be a stranger's: the network is built without memory for its values.

    Raises:
        ValueError: if the card asks for another network than that of the weights, or for none.
    """
    told = f"{argument} must have a {CARD} that fits their weights, got {file.parent / CARD}"
    try:
        with safe_open(file, framework="pt") as stored:
            there = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(_of_another(file, argument, _ON_CARD)) from error
    try:
        with torch.device("meta"):
            wanted = build_source(source, argument).state_dict()
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from error
    except (RuntimeError, TypeError, OverflowError) as error:  # torch's of sizes beyond all bounds
        raise ValueError(f"{told}: no network takes images {source['shape']} in {source['classes']} classes") from error
    for key, value in wanted.items():
        if there.get(key) != tuple(value.shape):
            held = f"is of shape {there[key]}" if key in there else "is not there"
            raise ValueError(
                f"{told}, for images {source['shape']} in {source['classes']} classes: it asks for {key} of shape "
                f"{tuple(value.shape)}, which {held} in {file.name}"
            )


def _of_another(file: Path, argument: str, network: str) -> str:
    return f"{argument} must hold weights of {network}, got {file}, damaged or of another"


def short_name(file: Path) -> str:
    """Return what to call the network of a file of weights: its folder, or the file if that has another name."""
    return file.resolve().parent.name if file.name == WEIGHTS else file.stem


def fill(model: nn.Module, file: Path, argument: str, network: str) -> None:
    """Read weights into a network.

    Raises:
        ValueError: if the file is damaged or its weights are of another network.
    """
    try:
        read_model(file, model)
    except (ValueError, OSError) as error:
        raise ValueError(_of_another(file, argument, network)) from error


def load_own_model(name: str, argument: str) -> tuple[str, nn.Module]:
    """Load a module of one's own code, or call the function without arguments that makes it.

    Raises:
        ValueError: if the code fails, or returns something else.
        FileNotFoundError: if there is no such file.
    """
    attribute, model = load_own_source(name, argument)
    if not isinstance(model, nn.Module):
        raise ValueError(_no_module(model, name, argument))
    return attribute, model


def load_own_source(name: str, argument: str) -> tuple[str, Any]:
    """Load a module of one's own code as ``load_own_model`` does, or a ``BlackBox``, known by its mark.

    Raises:
        ValueError: if the code fails, or returns something else.
        FileNotFoundError: if there is no such file.
    """
    attribute, found = load_own(name, argument)
    try:
        model = found if _is_model(found) or not callable(found) else found()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ValueError(broken(name, argument, error)) from error
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not _is_model(model):
        raise ValueError(_no_module(model, name, argument))
    return attribute, model


def _is_model(found: object) -> bool:
    return isinstance(found, nn.Module) or getattr(found, "answers_only", None) is True


def _no_module(found: object, name: str, argument: str) -> str:
    return f"{argument} must be torch modules or functions that return one, got {type(found).__name__} from {name}"
