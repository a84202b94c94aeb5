"""Find the models that a job names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.core.draws import seeded
from omnirobust.core.types import WeightRule
from omnirobust.core.weights import off_simplex
from omnirobust.domains.classifier import Classifier, Model
from omnirobust.domains.frozen import Frozen
from omnirobust.domains.outputs import rows_named
from omnirobust.zoo.chunks import fingerprint, model_fingerprint
from omnirobust.zoo.data import ImageData, load
from omnirobust.zoo.naming import told_apart
from omnirobust.zoo.own_code import broken, digests, load_own
from omnirobust.zoo.sources import Known, Source, named_model
from omnirobust.zoo.trained import CARD as CARD
from omnirobust.zoo.trained import WEIGHTS as WEIGHTS
from omnirobust.zoo.trained import build_source as build_source
from omnirobust.zoo.trained import named_code as named_code
from omnirobust.zoo.trained import read_source as read_source
from omnirobust.zoo.trained import short_name as short_name
from omnirobust.zoo.trained import split_name as split_name
from omnirobust.zoo.trained import split_network as split_network
from omnirobust.zoo.trained import trained_file as trained_file


def load_rule(name: str) -> WeightRule:
    """Load a weight rule.

    Args:
        name: "FILE.py:NAME" or "package.module:NAME": a rule, or a class or function without arguments that gives one.

    Raises:
        ValueError: if there is no such thing, it is no rule, its code fails, its weights leave the simplex, or those of
            a problem depend on other problems.
        FileNotFoundError: if there is no such file.
    """
    short, found = load_own(name, "rule")
    if short == "average":
        raise ValueError(f"rule must not be called average, which it is held against, got {name}")
    try:
        rule = found if isinstance(found, WeightRule) and not isinstance(found, type) else found()
        first = rule.init(2, 3)
        losses = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.5, 0.0]])
        weights = first.clone(), rule.step(first, losses)
        alone = rule.step(rule.init(1, 3), losses[:1])
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ValueError(broken(name, "rule", error)) from error
    for values, told in zip(weights, ("init(2, 3)", "step(weights, losses)"), strict=True):
        _check(values, f"rule must give weights >= 0 of sum 1, of shape (2, 3) for {told}, got {name}: ")
    if not torch.allclose(weights[1][:1], alone, atol=1e-5):
        raise ValueError(f"rule must give a problem the weights that it gives it alone, got others from {name}")
    return rule


def told_rule(rule: WeightRule) -> str:
    """Return a rule as text, the same in every process."""
    bare = type(rule).__repr__ is object.__repr__  # it names a place in memory
    return f"{type(rule).__name__}()" if bare else repr(rule)


def _check(weights: object, refusal: str) -> None:
    if not isinstance(weights, Tensor):
        raise ValueError(refusal + type(weights).__name__)
    if tuple(weights.shape) != (2, 3):
        raise ValueError(refusal + f"shape {tuple(weights.shape)}")
    if bool(off_simplex(weights).any()):
        raise ValueError(refusal + f"{weights.tolist()}")


def load_models(names: Sequence[str], data: str, images: ImageData | None = None) -> dict[str, Source]:
    """Load models in evaluation mode: see ``load_attacked``."""
    return load_attacked(names, (), data, images)[0]


def load_attacked(
    names: Sequence[str], transfer: Sequence[str], data: str, images: ImageData | None = None, any_classes: bool = False
) -> tuple[dict[str, Source], dict[str, Source]]:
    """Load models in evaluation mode.

    Args:
        names: each "a" (the zoo's model "<data>/a"), or a source as ``zoo.load_model`` takes it: "mnist/a", "a@seed1",
            "timm:NAME", "hf:ORG/NAME", "FILE.py:NAME", "package.module:NAME", "FILE.safetensors:ARCHITECTURE", the
            run folder of a training, or "FOLDER:FILE.py:NAME" where its card asks for code, "FILE.onnx"; any as
            "NAME=SOURCE".
        transfer: of further models, likewise.
        data: name of the data that short names refer to.
        images: of that data, whose shape and classes models are built for; None to load one where it is needed.
        any_classes: whether models may have other classes than the data.

    Returns:
        Both by the names they were asked for; those of elsewhere by NAME or FILE, trainings by their folder, with as
        much of the path before it as tells all of them apart.

    Raises:
        ValueError: for an unknown or repeated name, or something that is no model.
        FileNotFoundError: if a model of the zoo has not been trained, or a file is missing.
    """
    if not names:
        raise ValueError("models must name at least one model, got none")
    models: dict[str, Source] = {}
    every = (*names, *transfer)

    @cache
    def facts() -> Known:
        found = load(data, limit=1) if images is None else images
        return Known(found.shape, None if any_classes else len(found.classes), None if images is None else images.x)

    for number, (name, called) in enumerate(zip(every, told_apart(every), strict=True)):
        _, models[called] = named_model(name, facts, "models" if number < len(names) else "transfer", data=data)
    return {name: models.pop(name) for name in list(models)[: len(names)]}, models


def moved(models: dict[str, Source], device: torch.device) -> dict[str, Source]:
    """Move models to ``device``, but for those that only answer.

    Raises:
        ValueError: if one cannot be moved, or its memory does not suffice.
    """
    for name, model in models.items():
        try:
            if isinstance(model, nn.Module):
                model.to(device)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"device must be one that {name} can be moved to, got {device}: {reason}") from error
    return models


def describe_models(models: Mapping[str, Model]) -> dict[str, dict[str, str]]:
    """Return a fingerprint of every model's weights, so that runs on other weights are told apart."""
    return {name: {"weights": _fingerprint(model)} for name, model in models.items()}


def _fingerprint(model: Model) -> str:
    """Return one of the state of a module, or of the parameters of what stands behind a function; a file's is its own.

    Runs on a file that is differentiated, and on one that is only asked, are two.
    """
    if digest := getattr(getattr(model, "f", model), "source_digest", None):
        return digest
    if isinstance(model, nn.Module):
        return model_fingerprint(model)
    return fingerprint({f"{number:04d}": values for number, values in enumerate(Frozen(model).parameters)})


def describe_code(names: Iterable[str]) -> dict[str, Any]:
    """Return digests of the files of the user's own code among what a job names, under one key; nothing without any."""
    found = digests(names)
    return {"own_code": found} if found else {}


def predict(models: Mapping[str, Model], x: Tensor, device: torch.device | None = None) -> Tensor:
    """Return every model's class of every input (B, *S), (B, K) int64, where ``x`` is; of a random one in one draw.

    Args:
        models: K models.
        x: inputs.
        device: where the models are; None for where ``x`` is.

    Raises:
        ValueError: if a model cannot take such inputs.
    """
    with torch.no_grad():
        found = [_predict(Classifier(name, model), x, device or x.device) for name, model in models.items()]
        return torch.stack(found, 1)


def check_answers(
    models: Mapping[str, Model], x: Tensor, device: torch.device, labels: Tensor | None, argument: str = "models"
) -> None:
    """Send two inputs through every model, and see that it has a class for every label.

    Args:
        models: by what messages call them.
        x: inputs, (B, *S), of which two are sent.
        device: where the models are.
        labels: int64, those below 0 being none; None where any classes will do.
        argument: what messages call the models.

    Raises:
        ValueError: if a model cannot take such inputs, returns no logits, or has too few classes.
    """
    last = -1 if labels is None or not labels.numel() else int(labels.max())
    for name, model in models.items():
        classifier = Classifier(name, model)
        try:
            with torch.no_grad():
                _predict(classifier, x[:2], device)
        except ValueError as error:
            if argument == "models":
                raise
            raise ValueError(f"{argument} must name models of such images: {error}") from error
        if getattr(model, "output", None) == "labels":  # who says labels alone does not say how many there are
            continue
        if last >= (classifier.classes or 0):
            raise ValueError(
                f"{argument} must have a class for every label, 0 to {last}, got {name}, which has {classifier.classes}"
            )


def _predict(classifier: Classifier, x: Tensor, device: torch.device) -> Tensor:
    classifier.check_device(x[:0].to(device))
    said, size = [], classifier.pieces(len(x), x)
    for number, part in enumerate(x.split(size)):
        images = classifier.arrange(part.to(device))
        # should it draw, the same in every run, and not from the caller's generator
        with rows_named(lambda row, first=number * size: first + row), seeded(number, images):
            said.append(classifier(images).argmax(1).to(x.device))
    return torch.cat(said)
