"""Write what was found from Python into a run folder, with the files that the same job of the command line leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from omnirobust.attacks.options import OPTIONS, AttackOptions, Plan
from omnirobust.attacks.results import AttackResult, Origin
from omnirobust.core.choices import Labels
from omnirobust.core.draws import seeded
from omnirobust.core.threat_models import told_range
from omnirobust.core.weights import Uniform
from omnirobust.domains.checks import as_labels
from omnirobust.domains.classifier import Classifier, Model
from omnirobust.evaluation.robustness import RobustnessReport
from omnirobust.jobs.attack import describe_job
from omnirobust.jobs.differences import differences
from omnirobust.jobs.evaluate import EvaluationJob, describe_evaluation
from omnirobust.jobs.evaluation_files import write_results as write_evaluation_results
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.job import AttackJob, Grouping
from omnirobust.jobs.names import predict, told_rule
from omnirobust.jobs.setting import Setting, labelled
from omnirobust.jobs.summary import write_results
from omnirobust.zoo.data import ImageData
from omnirobust.zoo.sources import Source

NAMELESS = "tensors"
"""What inputs are called whose data set nobody names."""


def write_attack(
    result: AttackResult, out: str | Path, average: AttackResult | None = None, data: ImageData | None = None
) -> RunFolder:
    """Write the result of an attack as a finished run, see ``AttackResult.save``."""
    origin = _origin(result)
    plan: Plan = origin.plan
    ours = "average" if isinstance(plan.settings.rule, Uniform) else "min-max"
    results = {ours: result} if average is None else {"average": average, ours: result}
    if average is not None:
        _check_average(result, average)
    setting = _setting(origin, data)
    rules = {name: told_rule(_origin(found).plan.settings.rule) for name, found in results.items()}
    with _anew(out, describe_job(setting) | {"rules": rules}) as folder:
        write_results(folder, setting, {name: _whole(found) for name, found in results.items()})
    return folder


def write_evaluation(report: RobustnessReport, out: str | Path, name: str, data: ImageData | None = None) -> RunFolder:
    """Write the report on one model as a finished run, see ``RobustnessReport.save``."""
    origin, told = report.origin, report.settings
    if origin is None:
        raise ValueError(
            "report must be what evaluate_robustness returned, not a copy or what was read back: those hold no model"
        )
    images = _images(origin.x, origin.y, origin.classes, data)
    job = EvaluationJob(
        images.name, (name,), origin.threats, steps=told["steps"], restarts=told["restarts"], images=len(images),
        start=origin.first_row, split=images.split, seed=told["seed"],
        batch_size=told["batch_size"] or max(len(images), 1), precision=told["precision"], samples=told["samples"],
        draws=origin.draws,
    )  # fmt: skip
    models = cast("dict[str, Source]", {name: origin.model})
    predicted = predict(models, images.x, origin.x.device)
    config: dict[str, Any] = {**describe_evaluation(job, images, models), "attacks": origin.attacks}
    given = {
        n: {"norm": "given", "eps": None, "bounds": told_range(next(iter(origin.threats.values())))["bounds"]}
        for n in told["universal"]
    }
    with _anew(out, config | {"threats": {**config["threats"], **given}}) as folder:
        write_evaluation_results(folder, images, {name: report.to("cpu")}, predicted, origin.threats)
    return folder


@contextmanager
def _anew(out: str | Path, config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Hold the folder of a run of these settings while its results are written, over those of an earlier one."""
    folder = RunFolder.create(out, config)
    with folder.held():
        folder.file("metrics.json").unlink(missing_ok=True)  # the results that it speaks of are about to go
        yield folder


def _origin(result: AttackResult) -> Origin:
    if "losses" in result.axes:
        raise ValueError(
            "result must be of an attack on classifiers, for a page counts labels, got one of attack_losses: keep its "
            "tensors, or give the attack a store"
        )
    if result.origin is None:
        raise ValueError(
            "result must be what an attack returned, not a copy of it or what was read back: those hold no models"
        )
    return result.origin


def _check_average(result: AttackResult, average: AttackResult) -> None:
    ours, theirs = _origin(result), _origin(average)
    if not isinstance(theirs.plan.settings.rule, Uniform) or isinstance(ours.plan.settings.rule, Uniform):
        raise ValueError(
            "average must be the result under rule=Uniform(), of a result under another rule, got "
            f"{theirs.plan.settings.rule!r} for one under {ours.plan.settings.rule!r}"
        )
    settings = ({k: v for k, v in found.settings.items() if k != "rule"} for found in (result, average))
    for key, value, other in differences(*settings):
        raise ValueError(f"average must be of the same attack, got one with {key} {other}, not {value}")
    same = result.axes == average.axes and all(
        a.shape == b.shape and torch.equal(a, b.to(a)) for a, b in ((ours.x, theirs.x), (ours.y, theirs.y))
    )
    if not same:
        raise ValueError("average must be of the same attack, got one on other models, inputs or labels")


def _whole(result: AttackResult) -> AttackResult:
    """Return a result on the processor with the rows of its history."""
    return replace(result, history=replace(result.history, rows=_origin(result).rows)).to("cpu")


@dataclass(frozen=True)
class _Aim:
    """What an attack was to leave or to reach.

    Attributes:
        labels: of every input, (N,) int64; -1 where nobody said.
        leaves: whether it was to leave these "true" labels, or each model's own "predicted" ones.
        target: the class to reach; None if it was untargeted.
    """

    labels: Tensor
    leaves: Labels = "true"
    target: int | None = None


def _setting(origin: Origin, data: ImageData | None) -> Setting:
    """Return what the job of an attack would have loaded, had it been asked for by names."""
    plan, x, models = origin.plan, origin.x, cast("dict[str, Source]", dict(origin.models))
    inputs = x.flatten(0, 1) if plan.shared else x
    images = _images(inputs, torch.full((len(inputs),), -1), _classes(models, inputs), data)
    clean = predict(models, images.x, x.device)
    aim = _aim(origin, clean)
    images = replace(images, y=aim.labels)
    job = AttackJob(
        images.name, tuple(models), plan.threat_model, len(images), split=images.split, labels=aim.leaves,
        start=0 if plan.shared else plan.options["first_row"],
        groups=Grouping(x.shape[1], "given") if plan.shared else None,
        transforms=tuple(origin.transforms or ()), clip=plan.clip if plan.shared else None, target=aim.target,
        options=_options(plan, len(x)),
    )  # fmt: skip
    shown = labelled(images, clean[:, 0], next(iter(models)))
    missing = images.missing if bool((images.y >= 0).all()) else ()
    transforms = None if origin.transforms is None else dict(origin.transforms)
    rows = torch.arange(len(images)) + job.start
    return Setting(job, shown, rows, 0, models, {}, transforms, clean, x.device, missing)


def _options(plan: Plan, B: int) -> AttackOptions:
    """Return the options of a plan that a job has."""
    own = {name: plan.options[name] for name, option in OPTIONS.items() if option.settable}
    return cast(AttackOptions, own | {"batch_size": own["batch_size"] or max(B, 1)})


def _aim(origin: Origin, clean: Tensor) -> _Aim:
    """Find out what an attack was to leave or to reach, given what its models said before it, (N, M)."""
    plan, x = origin.plan, origin.x
    E = x.shape[1] if plan.shared else 1
    sizes = (len(origin.models), len(origin.transforms or "1"), E)

    def spread(labels: Tensor, name: str) -> Tensor:
        return as_labels(x, labels, sizes, plan.shared, name).cpu()

    y, given = spread(origin.y, "y"), plan.options["true_labels"]
    truth = None if given is None else spread(given, "true_labels")
    labels = _one_each(y if truth is None and not plan.options["targeted"] else truth)
    if truth is not None and labels is None:
        raise ValueError("true_labels must be one label an input for a result that is saved, got several")
    if plan.options["targeted"]:
        if len(y.unique()) != 1:
            raise ValueError(
                "y must be one class to reach, the same for every image and model, for a targeted result that is saved "
                f"or reported, got {len(y.unique())} different ones: a page has one target"
            )
        return _Aim(torch.full((len(clean),), -1) if labels is None else labels, target=int(y.unique()))
    if labels is not None and (truth is None or torch.equal(y, truth)):
        return _Aim(labels)
    own = clean.unflatten(0, (-1, E)).transpose(1, 2).unsqueeze(2).expand(-1, *sizes)
    if not torch.equal(y, own):
        raise ValueError("y must be one label an input, or each model's own predictions, for a result that is saved")
    return _Aim(torch.full((len(clean),), -1) if labels is None else labels, "predicted")


def _one_each(labels: Tensor | None) -> Tensor | None:
    """Return labels (B, models, transforms, E) as one for each input, (N,); None where they differ or are not there."""
    if labels is None or not bool((labels == labels[:, :1, :1]).all()):
        return None
    return labels[:, 0, 0].flatten()


def _classes(models: Mapping[str, Model], x: Tensor) -> int:
    """Return how many classes the models tell apart."""
    with torch.no_grad(), seeded(0, x[:1]):
        return max(Classifier(name, model)(x[:1]).shape[1] for name, model in models.items())


def _images(x: Tensor, y: Tensor, classes: int, data: ImageData | None) -> ImageData:
    """Return inputs and labels as a set, by the name and with the classes of the one that they were taken from."""
    x, y = x.cpu(), y.cpu()
    if data is None:
        return ImageData(x, y, NAMELESS, "given", tuple(map(str, range(classes))))
    if x.shape[1:] != data.x.shape[1:] or len(x) > len(data):
        raise ValueError(
            f"data must be the set that the inputs {tuple(x.shape)} are of, got one of shape {tuple(data.x.shape)}"
        )
    rows = data.rows[: len(x)] if data.rows is not None and torch.equal(x, data.x[: len(x)]) else None
    return replace(data, x=x, y=y, rows=rows)
