"""What a training needs, loaded by name and tried out before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from omnirobust import zoo
from omnirobust.core.draws import building
from omnirobust.core.threat_models import ThreatModel, whole_range
from omnirobust.domains.outputs import reason
from omnirobust.jobs.names import (
    build_source,
    named_code,
    read_source,
    split_name,
    split_network,
    trained_file,
)
from omnirobust.jobs.train_job import TrainingJob
from omnirobust.training.accuracy import restored_modes
from omnirobust.training.ampgd import attack_batch
from omnirobust.training.objective import Objective
from omnirobust.training.outputs import check_labels, logits_of, needs_second_derivatives
from omnirobust.training.schemes import Scheme
from omnirobust.zoo.architectures import architecture_letter, seeded_build
from omnirobust.zoo.chunks import model_fingerprint, read_model
from omnirobust.zoo.data import ImageData, load
from omnirobust.zoo.own_code import digests
from omnirobust.zoo.recipes import Recipe
from omnirobust.zoo.sources import Known, named_model
from omnirobust.zoo.states import check_given_back, check_state

Source = Mapping[str, Any]
"""How a network is built again: "architecture", a letter of the zoo, or "code", one's own; and shape and classes."""


@dataclass(frozen=True)
class TrainingSetting:
    """What one training works on.

    Attributes:
        job: the settings.
        model: the network, with the weights that it begins with.
        source: how to build it again.
        train: images to train on.
        validation: images that choose the epoch; None for none.
        first_weights: fingerprint of the weights that it begins with.
    """

    job: TrainingJob
    model: nn.Module
    source: Source
    train: ImageData
    validation: ImageData | None
    first_weights: str


def load_training(job: TrainingJob) -> TrainingSetting:
    """Load what a job names, and try it out on two images.

    Raises:
        ValueError: if data, model, threat models and regulariser do not fit.
        FileNotFoundError: if a file or a trained model is missing.
    """
    # With a limit, rows that lie sorted by class come in an order whose beginning and end hold all of them alike.
    every = load(job.data, "train", limit=sys.maxsize, label=job.label, resize=job.resize)
    train, validation = _split(job, every)
    for threat in job.scheme.threats:
        _check_threat(threat, train.x)
    _check_test(job, every)
    model, source = _initial(job, every)
    try_out(model, train, job.scheme)
    try_step(model, train, job.scheme, job.recipe)
    return TrainingSetting(job, model, source, train, validation, model_fingerprint(model))


def _split(job: TrainingJob, every: ImageData) -> tuple[ImageData, ImageData | None]:
    """Take training images from the beginning of the split, and those for validation from its end."""
    kept = len(every) - job.recipe.holdout
    if kept < 1:
        raise ValueError(
            f"validation must leave images to train on, got {job.recipe.holdout} of {len(every)}: a fifth of them is "
            f"--validation {len(every) // 5}"
        )
    if job.images is not None and job.images > kept:
        raise ValueError(
            f"images must be at most {kept}, the train split less {job.recipe.holdout} for validation, got {job.images}"
        )
    count = kept if job.images is None else job.images
    held_out = every.part(slice(kept, None)) if job.recipe.holdout else None
    return every.part(slice(count)), held_out


def _told(threat: ThreatModel) -> str:
    low, high = threat.bounds
    return "" if isinstance(low, Tensor) or isinstance(high, Tensor) else f"[{low:g}, {high:g}] "


def _check_threat(threat: ThreatModel, x: Tensor) -> None:
    """Refuse data out of bounds, and a radius that no model can withstand or that changes nothing."""
    from omnirobust.jobs.report.numbers import radius  # its package draws pages, which takes a second to load

    threat.around(x)
    eps = float(threat.eps)
    name = f"{threat.name}:{radius(eps)}"
    widest = whole_range(threat, x)
    least = 1.0 if threat.p == 0 else 0.0
    if eps >= widest:
        raise ValueError(
            f"threat must have a radius below {widest:g}, at which it may turn any image of the data range "
            f"{_told(threat)}into any other, got {name}"
        )
    if eps < least or eps == 0:
        raise ValueError(f"threat must have a radius {'>= 1' if least else '> 0'}, got {name}, which changes nothing")


def _check_test(job: TrainingJob, train: ImageData) -> None:
    """Refuse a training whose result could not be judged at its end."""
    if not job.test_images or not job.scheme.threats:
        return
    try:
        test = load(job.data, "test", limit=job.test_images, label=job.label, resize=job.resize)
    except ValueError as error:
        raise ValueError(
            f"test_images must be 0 where there is no test split to judge on, got {job.test_images}: {error}"
        ) from error
    if not len(test) or test.shape != train.shape or len(test.classes) > len(train.classes):
        raise ValueError(
            f"test_images must be 0 unless the test split is like the train split, got {job.test_images}: "
            f"{len(test)} images {test.shape} of {len(test.classes)} classes, not {train.shape} of {len(train.classes)}"
        )
    for threat in job.scheme.threats:
        _check_threat(threat, test.x)


def _initial(job: TrainingJob, images: ImageData) -> tuple[nn.Module, Source]:
    """Return the network with the weights that the training begins with, and how to build it again."""
    source = _source(job, images)
    model = seeded_build(job.seed, partial(build_source, source))
    if job.start is not None:
        _fill(model, job.start, job.data)
    return model, source


def _source(job: TrainingJob, images: ImageData) -> Source:
    shape = {"shape": list(images.shape), "classes": len(images.classes)}
    model = job.model if job.model is not None else split_network(split_name(job.start or "")[1])[1]
    if model:
        if ":" in model:
            return {"code": _anywhere(model), "digests": digests([named_code(model)]), **shape}
        letter = model.rpartition("/")[2].partition("@")[0]
        return {"architecture": architecture_letter(letter), **shape}
    assert job.start is not None
    found = _source_of_start(job.start, job.data)
    if tuple(found["shape"]) != images.shape or found["classes"] != len(images.classes):
        raise ValueError(
            f"from must be a model of images {images.shape} in {len(images.classes)} classes, as {job.data} has them, "
            f"got {job.start}, one of {tuple(found['shape'])} in {found['classes']}"
        )
    return found


def _source_of_start(start: str, data: str) -> Source:
    start = split_name(start)[1]
    if trained_file(start, "from") is not None:
        return read_source(start, "from")
    if ":" in start or start.endswith(".onnx"):
        raise ValueError(f"from must be a trained model, got {start}: give code of your own as model")
    facts = zoo.card(start if "/" in start else f"{Path(data).name}/{start}")
    return {"architecture": facts.architecture, "shape": list(facts.shape), "classes": facts.classes}


def _anywhere(name: str) -> str:
    """Return the name of one's own code so that it is found from any folder."""
    where, _, attribute = name.rpartition(":")
    return f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else name


def _fill(model: nn.Module, start: str, data: str) -> None:
    """Give the network the weights of a trained one."""
    start = split_name(start)[1]
    file = trained_file(split_network(start)[0], "from")
    begun = named_model(start, lambda: Known(None, None), "from", data=data)[1] if file is None else model
    try:
        if file is not None:
            read_model(file, model)
        elif isinstance(begun, nn.Module):
            model.load_state_dict(begun.state_dict())
        else:
            raise ValueError("it only answers")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"from must be a model of the same network, got {start}, damaged or of another") from error


def try_out(model: nn.Module, images: ImageData, scheme: Scheme) -> None:
    """Take one attack step on two images, as a training would, so that what cannot work is told before it begins.

    Raises:
        ValueError: if the model cannot take the images, returns no finite logits of their classes, or has no second
            derivatives where the scheme needs them.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have parameters that require gradients, got none")
    check_state(model)
    check_given_back(model)
    x, y = images.x[:2], images.y[:2]
    with building(), restored_modes(model):
        model.eval()
        try:
            logits = logits_of(model, x)
        except RuntimeError as error:  # what torch says of shapes that do not fit
            raise ValueError(
                f"model must take inputs of shape {tuple(x.shape)}, got an error: {reason(error)}"
            ) from error
        check_labels(logits, images.y)
        if not bool(cross_entropy(logits, y).isfinite()):
            raise ValueError(f"model must return finite logits, got {float(logits.detach().sum())} in their sum")
        if scheme.attacks and scheme.kind != "universal":
            kind = "average" if scheme.kind == "alternate" else scheme.kind
            attack_batch(model, x, y, replace(scheme, kind=kind, steps=1))


def try_step(model: nn.Module, images: ImageData, scheme: Scheme, recipe: Recipe) -> None:
    """Take one step on the parameters of a copy, in training mode, on two images.

    Raises:
        ValueError: if the loss has no gradients, or the optimizer cannot follow them.
    """
    try:
        trial = deepcopy(model)
    except Exception:  # what cannot be copied is tried by the training itself
        return
    x, y, K = images.x[:2], images.y[:2], len(scheme.threats)
    attacked = (torch.stack([x] * K), x.new_full((len(x), K), 1 / K)) if scheme.attacks else (None, None)
    with building(), torch.enable_grad():
        try:
            optimizer = recipe.make_optimizer(trial.train().parameters())
            loss, _, _ = Objective(trial, scheme, recipe.precision)(x, y, *attacked)
            with needs_second_derivatives(scheme.dpar > 0):
                loss.backward()
            optimizer.step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # of autograd, of the optimizer, or of the model in training mode
            raise ValueError(
                f"model must take a step of training by {recipe.optimizer}, got: {reason(error)}"
            ) from error
