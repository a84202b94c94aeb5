"""Turn the results of a job into the files of its run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnirobust.attacks.results import AttackResult
from omnirobust.evaluation.metrics import BEFORE, compare_paired, lift, paired_mean_difference, wilson_interval
from omnirobust.jobs import rates
from omnirobust.jobs.drawn import RandomModels, intervals, mean_rates
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.names import predict
from omnirobust.jobs.rates import by_image, named
from omnirobust.jobs.recheck import recheck, success_of
from omnirobust.jobs.records import EXAMPLES, HISTORY, PERTURBATIONS, row_in_set, write_threats
from omnirobust.jobs.setting import Setting

Results = Mapping[str, AttackResult]


def write_results(
    folder: RunFolder, setting: Setting, results: Results, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write perturbations, history, one row an image, and last, as the sign that the run has ended, the metrics.

    Args:
        folder: of the run.
        setting: what was attacked.
        results: of each attack, by name.
        progress: called with how many checks are done, and how many there are.
    """
    predicted = {
        name: predict(setting.all_models, setting.listed(r.adversarial), setting.device) for name, r in results.items()
    }
    folder.write_tensors(PERTURBATIONS, _perturbations(setting, results))
    folder.write_tensors(HISTORY, _histories(results))
    written = write_threats(folder, {"threat": setting.job.threat_model})
    folder.write_table(EXAMPLES, _examples(setting, results, predicted))
    random = RandomModels.of(setting, next(iter(results.values())).draws)
    metrics, total = _overview(setting, results, random), len(results) + 1
    attacks = metrics["attacks"] = {}
    for name, result in results.items():
        if progress is not None:
            progress(1 + len(attacks), total)
        attacks[name] = _attack(folder, setting, name, result, predicted[name], random)
    if progress is not None:
        progress(total, total)
    folder.conclude(metrics, (PERTURBATIONS, HISTORY, EXAMPLES, *written))


def _perturbations(setting: Setting, results: Results) -> dict[str, Tensor]:
    tensors = {"clean": setting.x, "labels": setting.arranged(setting.images.y)}
    for name, result in results.items():
        tensors |= {f"{name}.delta": result.delta, f"{name}.adversarial": result.adversarial}
    return tensors


def _histories(results: Results) -> dict[str, Tensor]:
    tensors = {}
    for name, result in results.items():
        for key in ("losses", "weights", "fooled", "all_fooled", "best_all_fooled"):
            tensors[f"{name}.{key}"] = getattr(result.history, key)
        if result.history.rows is not None:
            tensors[f"{name}.rows.weights"] = result.history.rows.weights
            tensors |= {f"{name}.{key}": values for key, values in rates.so_far(result, result.history.rows).items()}
    return tensors


def _examples(setting: Setting, results: Results, predicted: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return the columns of the table of images: names read ATTACK.WHAT.DOMAIN.

    A domain is a model, or model/transformation; the image is that of the row.
    """
    N = len(setting.images)
    columns: dict[str, list[Any]] = {"row": list(range(N)), "label": setting.images.y.tolist()}
    columns |= row_in_set(setting.images)
    if setting.job.target is not None:
        columns["target"] = [setting.job.target] * N
    if setting.shared:
        columns |= {"group": [n // setting.E for n in range(N)], "image": setting.rows.tolist()}
    for k, model in enumerate(setting.all_models):
        columns[f"clean.predicted.{model}"] = setting.clean[:, k].tolist()
    for name, result in results.items():
        columns[f"{name}.fooled_all"] = result.fooled.all(1).repeat_interleave(setting.E).tolist()
        for k, model in enumerate(setting.all_models):
            columns[f"{name}.predicted.{model}"] = predicted[name][:, k].tolist()
        columns |= _domain_columns(setting, name, result)
    return columns


def _domain_columns(setting: Setting, name: str, result: AttackResult) -> dict[str, list[Any]]:
    values = {"fooled": result.fooled, "weight": result.weights, "loss": result.losses}
    if result.draws > 1:
        values["success"] = result.success
    values |= {key: v for key in ("right", "already") if (v := getattr(result, key)) is not None}
    of_image = {what: by_image(setting, v) for what, v in values.items()}
    names = image_domains(list(setting.models), list(setting.transforms or {}))
    return {
        f"{name}.{what}.{domain}": of_image[what][:, k].tolist() for k, domain in enumerate(names) for what in of_image
    }


def image_domains(models: Sequence[str], transforms: Sequence[str]) -> list[str]:
    """Name the domains of one image: models, transformations, or all pairs "model/transformation"."""
    if not transforms:
        return list(models)
    if len(models) == 1:
        return list(transforms)
    return [f"{model}/{transform}" for model in models for transform in transforms]


def _overview(setting: Setting, results: Results, random: RandomModels) -> dict[str, Any]:
    """Return what holds for all attacks: counts, names, accuracies before any attack, and how two attacks compare."""
    first = next(iter(results.values()))
    drawn = random.accuracy(setting.images.x, setting.images.y, 0)
    return {
        "images": len(setting.images),
        "perturbations": len(first.fooled),
        "left_out": setting.left_out,
        "classes": list(setting.images.classes),
        **({"missing": {"attacked": list(setting.missing)}} if setting.missing else {}),
        "models": list(setting.models),
        "transfer": list(setting.others),
        "domains": list(first.names),
        "axes": {axis: list(members) for axis, members in first.axes.items()},
        "draws": first.draws,
        "clean_accuracy": mean_rates(drawn, _rates(setting.clean == setting.images.y[:, None], setting.all_models)),
        **intervals("clean_accuracy_interval", drawn, setting.all_models),
        "clean_by": _clean_by(setting, first),
        "one_class": _one_class(setting),
        "target": None if setting.job.target is None else _target(setting, first),
        "comparison": _comparison(*results.items()) if len(results) == 2 else None,
    }


def _one_class(setting: Setting) -> dict[str, str]:
    """Return the models that give every clean image the same class though the images are of several, and the class."""
    classes, several = setting.images.classes, len(setting.images.y.unique()) > 1
    said = [setting.clean[:, k].unique().tolist() for k in range(len(setting.all_models))]
    return {
        name: classes[only[0]] if only[0] < len(classes) else str(only[0])
        for name, only in zip(setting.all_models, said, strict=True)
        if several and len(only) == 1
    }


def _target(setting: Setting, like: AttackResult) -> dict[str, Any]:
    """Return the class to reach, and what is in it before the attack: none of that counts as success."""
    target, y, M = setting.job.target, setting.images.y, len(setting.models)
    assert target is not None
    said = (setting.clean[:, :M] == target) & (y != target)[:, None]
    return {
        "class": target,
        "name": setting.images.classes[target],
        "of_class": int((y == target).sum()),
        "said": dict(zip(setting.models, said.sum(0).tolist(), strict=True)),
        "counted": int(like.counted.any(1).sum()),
    }


def _clean_by(setting: Setting, like: AttackResult) -> dict[str, dict[str, float | None]]:
    """Return the accuracy on clean images of every member of every factor, and of every class where images share."""
    _, missed = success_of(
        setting.models, setting.x, setting.arranged(setting.images.y), setting.transforms, shared=setting.shared,
        draws=like.draws, seed=setting.job.plan.options["seed"] + 1, device=setting.device,
    )  # fmt: skip
    by = {axis: rates.shares(1 - missed, like, axis) for axis in like.axes}
    if setting.shared:
        accuracy = 1 - by_image(setting, missed).mean(1)
        by["classes"] = {name: float(accuracy[rows].mean()) for name, rows in rates.classes_of(setting).items()}
    return by


def _attack(
    folder: RunFolder, setting: Setting, name: str, result: AttackResult, predicted: Tensor, random: RandomModels
) -> dict[str, Any]:
    won, M = result.fooled.all(1)[result.counted.any(1)], len(setting.models)
    success = wilson_interval(int(won.sum()), len(won))
    saved = folder.read_tensors(PERTURBATIONS)
    checked = recheck(
        setting.models, setting.job.threat_model, saved["clean"], saved[f"{name}.delta"], saved[f"{name}.adversarial"],
        setting.y, targeted=setting.targeted, transforms=setting.transforms, shared=setting.shared,
        clip=setting.job.plan.clip, draws=result.draws, seed=setting.job.plan.options["seed"] + 1,
        device=setting.device, counted=result.counted.any(1),
    )  # fmt: skip
    return {
        "asr_all": success.estimate,
        "asr_avg": result.asr_avg,
        "asr_all_interval": [success.low, success.high],
        "mean_fooled": float(result.fooled.sum(1).double().mean()),
        "most_fooled": int(result.fooled.sum(1).max()),
        "accuracy": named(rates.right(result).mean(0), result.names),
        **({} if setting.measure is None else {setting.measure: rates.measured(setting, result)}),
        "mean_weights": named(result.weights.double().mean(0), result.names),
        "by": {axis: rates.by_member(setting, result, axis) for axis in result.axes},
        "by_class": rates.by_class(setting, result) if setting.shared else {},
        **_transferred(setting, setting.listed(result.adversarial), predicted[:, M:], random),
        "gradient_evaluations": result.gradient_evaluations,
        "zero_gradient": named(result.zero_gradient, result.names),
        "notes": [note for note in result.notes if not note.startswith(BEFORE)],  # a page says it of all its images
        "recheck": checked.describe(),
    }


def _transferred(setting: Setting, images: Tensor, predicted: Tensor, random: RandomModels) -> dict[str, Any]:
    """Return what the models that were not attacked make of the attacked images.

    Their accuracy; and where there is a target, how many of the images that count they take for it.
    """
    target, M, y = setting.job.target, len(setting.models), setting.images.y
    of_others = replace(random, models={n: m for n, m in random.models.items() if n in setting.others})
    drawn = of_others.accuracy(images, y, 1)
    found: dict[str, Any] = {
        "transfer_accuracy": mean_rates(drawn, _rates(predicted == y[:, None], setting.others)),
        **intervals("transfer_accuracy_interval", drawn, setting.others),
    }
    if target is None or not setting.others:
        return found
    left = (y != target)[:, None] & (setting.clean[:, M:] != target)
    reached = named(((predicted == target) & left).sum(0) / left.sum(0).clamp(min=1), list(setting.others))
    for k, name in enumerate(setting.others):
        if name in of_others.models:
            one, rows = replace(of_others, models={name: of_others.models[name]}), left[:, k]
            reached[name] = one.accuracy(images[rows], torch.full_like(y[rows], target), 2)[name].estimate
    return found | {"transfer_target_success": reached}


def _comparison(baseline: tuple[str, AttackResult], ours: tuple[str, AttackResult]) -> dict[str, Any]:
    (with_name, theirs), (of_name, mine) = baseline, ours
    counted = mine.counted.any(1)
    won, lost = mine.fooled.all(1)[counted], theirs.fooled.all(1)[counted]
    means = paired_mean_difference(rates.mean_success(mine)[counted], rates.mean_success(theirs)[counted])
    if len(won) == 1:  # one image says nothing of others: the whole range
        means = replace(means, low=-1.0, high=1.0)
    return {
        "of": of_name,
        "with": with_name,
        "lift": lift(float(won.double().mean()), float(lost.double().mean())),
        **compare_paired(won, lost).describe(),
        "asr_avg": {"difference": means.estimate, "low": means.low, "high": means.high},
    }


def _rates(right: Tensor, names: Sequence[str] | Mapping[str, object]) -> dict[str, float]:
    return named(right.double().mean(0), list(names)) if right.shape[1] else {}
