"""Models by one string: of the zoo, of timm, of the Hugging Face hub, of one's own code, or of a file of weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from torch import Tensor, nn

from omnirobust.core.draws import building
from omnirobust.zoo.architectures import Shape, build
from omnirobust.zoo.checkpoints import load, parse_name
from omnirobust.zoo.chunks import read_chunk
from omnirobust.zoo.onnx.source import split_onnx
from omnirobust.zoo.own_code import HUBS
from omnirobust.zoo.pretrained import load_hf, load_rb, load_timm
from omnirobust.zoo.trained import (
    check_name,
    fill,
    load_own_model,
    load_own_source,
    load_trained,
    short_name,
    split_name,
    split_network,
    trained_file,
)

if TYPE_CHECKING:
    from omnirobust.domains.blackbox.box import BlackBox


class Known(NamedTuple):
    """What is known of the images that a model is for: their shape, how many classes, and some of them; None if not."""

    shape: tuple[int, ...] | None
    classes: int | None
    images: Tensor | None = None


Facts: TypeAlias = Callable[[], Known]
"""Asked only by sources that need it."""

Source: TypeAlias = "nn.Module | BlackBox"
"""A model by one string: a module, or a model that only answers."""

_KINDS = (
    "data/letter, timm:NAME, hf:ORG/NAME, rb:NAME, FILE.py:NAME, package.module:NAME, FILE.safetensors:ARCHITECTURE, "
    "FILE.onnx, the run folder of a training or FOLDER:FILE.py:NAME"
)


def load_model(
    source: str, *, classes: int | None = None, shape: Shape | None = None, pretrained: bool = True,
    images: Tensor | None = None,
) -> Source:  # fmt: skip
    """Load a classifier of images in [0, 1] from wherever it is, in evaluation mode with frozen parameters.

    Weights are read from safetensors files; those of timm that exist in no other format, by torch's reader that runs no
    code.

    Args:
        source: one of

            - "mnist/a", a model of the zoo that was trained here;
            - "timm:NAME", a model of timm with its pretrained weights, for instance "timm:resnet18.a1_in1k";
            - "hf:ORG/NAME" or "hf:FOLDER", an image classifier of the Hugging Face hub or one saved in its layout;
            - "rb:NAME" or "rb:DATASET/NORM/NAME", a model of RobustBench: cifar10, cifar100 or imagenet, Linf or L2;
              not given, the set of as many ``classes`` (cifar10 if that is None) and Linf;
            - "FILE.py:NAME" or "package.module:NAME", a module or a ``BlackBox``, or a function without arguments that
              returns one;
            - "FILE.safetensors:ARCHITECTURE", weights of one's own for an architecture: a letter or name of the zoo's
              ("c", "resnet50"), "timm:NAME", or code as above;
            - the run folder of ``omnirobust train``, or its "model.safetensors"; where its card asks for code, which is
              never run unless it is named, "FOLDER:FILE.py:NAME";
            - "FILE.onnx", through onnxruntime, with the gradients of a copy in torch where the two agree, else a
              ``BlackBox``; "FILE.onnx:queries", a ``BlackBox`` in any case.

            Models of timm and of the hub resize and normalise inside, as their own configuration says.
        classes: number of logits; None for those of the weights. Models of timm and of the hub are
            refused if they have another.
        shape: (channels, height, width) of the images, for weights of an architecture of the zoo.
        pretrained: False gives a model of timm random weights, which needs no download.
        images: (n, *S), those at hand: on the first of them the copy of an ONNX file must agree with onnxruntime. None
            for random ones.

    Raises:
        ValueError: if the source is unknown, does not fit, needs a package that is not here, or fails.
        FileNotFoundError: if a file is missing, or a model of the zoo has not been trained.
    """
    _, model = named_model(source, lambda: Known(shape, classes, images), "source", pretrained=pretrained)
    return model


def named_model(
    source: str, facts: Facts, argument: str, *, data: str | None = None, pretrained: bool = True
) -> tuple[str, Source]:
    """Load a model as ``load_model`` does, and return what to call it.

    Args:
        source: as ``load_model`` takes it, perhaps as NAME=SOURCE; a letter alone is the zoo's of ``data``.
        facts: what is known of the images.
        argument: what messages call the source.
        data: name of the data that letters refer to; None for none.
        pretrained: see ``load_model``.
    """
    called, plain = split_name(source)
    check_name(source, argument)
    name, model = _found(plain, facts, argument, data, pretrained)
    if isinstance(model, nn.Module):
        with suppress(NotImplementedError):  # an exported program has no modes
            model.eval()
        for parameter in model.parameters():  # a scripted module has no requires_grad_ of its own
            parameter.requires_grad_(False)
    return called or name, model


def _found(source: str, facts: Facts, argument: str, data: str | None, pretrained: bool) -> tuple[str, Source]:
    kind, _, rest = source.partition(":")
    if source.startswith(HUBS):
        if not rest:
            raise ValueError(f"{argument} must have a name after {kind}:, got {source!r}")
        if kind == "timm":
            return Path(rest).name, load_timm(rest, facts().classes, argument, pretrained=pretrained)
        return Path(rest).name, (load_hf if kind == "hf" else load_rb)(rest, facts().classes, argument)
    if (file := split_onnx(source)) is not None:
        from omnirobust.zoo.onnx.model import load_onnx  # it knows black boxes: who has none enters no file for it

        return file.path.stem, load_onnx(file, argument, facts().shape, facts().images)
    weights, network = split_network(source)
    if network:
        return _weights_of(weights, network, facts, argument)
    if (file := trained_file(source, argument)) is not None:
        return load_trained(source, file, argument)
    _refuse_paths(source, argument)
    if ":" in source:
        return load_own_source(source, argument)
    if data is None and "/" not in source:
        raise ValueError(f"{argument} must be {_KINDS}, got {source!r}")
    name = source if "/" in source else f"{Path(str(data)).name}/{source}"
    try:
        parse_name(name)
    except ValueError as error:
        raise ValueError(f"{argument}{str(error).removeprefix('name')}") from error
    return source, load(name)


def _refuse_paths(source: str, argument: str) -> None:
    """Raise ValueError for what is meant as a file or a folder, but stands for no model."""
    kind, _, rest = source.partition(":")
    trained_file(kind, argument)  # it refuses weights that can run code, whatever follows them
    if source.endswith(".py"):
        raise ValueError(f"{argument} must say what to take from a file, as in {source}:NAME, got {source!r}")
    if not rest and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        there = "which holds no trained model" if Path(source).exists() else "which does not exist"
        raise ValueError(f"{argument} must be {_KINDS}, got {source!r}, {there}")


def _classes_of(file: Path, make: Callable[[int], nn.Module]) -> int:
    """Return how many classes weights are of: what differs from a network of two classes is of the last layer."""
    with suppress(ValueError, OSError):  # of a damaged file ``fill`` tells
        stored = read_chunk(file, undigested=True).tensors
        for name, value in make(2).state_dict().items():
            if name in stored and stored[name].ndim and stored[name].shape != value.shape:
                return max(1, len(stored[name]))
    return 2


def _weights_of(name: str, architecture: str, facts: Facts, argument: str) -> tuple[str, nn.Module]:
    """Load weights of one's own into the architecture that is named."""
    file = trained_file(name, argument)
    assert file is not None
    shape, classes, _ = facts()
    kind, _, rest = architecture.partition(":")
    with building():  # weights that are drawn only to be overwritten
        if kind == "timm":
            known = classes or _classes_of(file, lambda n: load_timm(rest, n, argument, pretrained=False).model)
            model = load_timm(rest, known, argument, pretrained=False)
            fill(model.model, file, argument, architecture)
            return short_name(file), model
        if ":" in architecture:
            model = deepcopy(load_own_model(architecture, argument)[1])  # a package gives the same object again
        else:
            if shape is None:
                raise ValueError(f"shape and classes must be given with {name}:{architecture}, got {shape}, {classes}")
            known = classes or _classes_of(file, partial(build, architecture, shape))
            model = build(architecture, shape, known)
    fill(model, file, argument, f"{architecture} for such images and classes")
    return short_name(file), model
