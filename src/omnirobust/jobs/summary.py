"""Turn the results of a job into the files of its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from omnirobust.data import ImageData
from omnirobust.evaluation.metrics import compare_paired, lift, success_rates, wilson_interval
from omnirobust.jobs.models import predict
from omnirobust.jobs.recheck import recheck
from omnirobust.results import AttackResult
from omnirobust.runs import RunFolder
from omnirobust.threat_models import ThreatModel


@dataclass(frozen=True)
class Setting:
    """What the results of a job belong to.

    Attributes:
        threat_model: what the attacker may do.
        images: the clean images.
        models: those attacked, K.
        others: those only scored, M.
        clean: every model's class of the clean images, (N, K + M).
        y: the attack's labels, (N,) or (N, K).
        targeted: whether ``y`` are classes to reach.
    """

    threat_model: ThreatModel
    images: ImageData
    models: dict[str, nn.Module]
    others: dict[str, nn.Module]
    clean: Tensor
    y: Tensor
    targeted: bool = False

    @property
    def all_models(self) -> dict[str, nn.Module]:
        """Those attacked, then those only scored."""
        return self.models | self.others

    def labels(self, models: int) -> Tensor:
        """Return the label that each of so many models is judged by, (N, models)."""
        columns = self.y if self.y.ndim == 2 else self.y[:, None].expand(-1, models)
        return columns[:, :models]


def write_results(folder: RunFolder, setting: Setting, results: Mapping[str, AttackResult]) -> None:
    """Write perturbations, history, one row an example, and last, as the sign that the run has ended, the metrics."""
    predicted = {name: predict(setting.all_models, r.adversarial) for name, r in results.items()}
    folder.write_tensors("perturbations.safetensors", _perturbations(setting, results))
    folder.write_tensors("history.safetensors", _histories(results))
    folder.write_table("examples.parquet", _examples(setting, results, predicted))
    folder.write_json("metrics.json", _metrics(folder, setting, results, predicted))


def _perturbations(setting: Setting, results: Mapping[str, AttackResult]) -> dict[str, Tensor]:
    tensors = {"clean": setting.images.x, "labels": setting.images.y}
    for name, result in results.items():
        tensors |= {f"{name}.delta": result.delta, f"{name}.adversarial": result.adversarial}
    return tensors


def _histories(results: Mapping[str, AttackResult]) -> dict[str, Tensor]:
    tensors = {}
    for name, result in results.items():
        for key in ("losses", "weights", "fooled", "all_fooled", "best_all_fooled"):
            tensors[f"{name}.{key}"] = getattr(result.history, key)
        if result.history.rows is not None:
            tensors[f"{name}.rows.weights"] = result.history.rows.weights
    return tensors


def _examples(
    setting: Setting, results: Mapping[str, AttackResult], predicted: Mapping[str, Tensor]
) -> dict[str, list[Any]]:
    """Return the columns of the table of examples: names read ATTACK.WHAT.MODEL."""
    columns: dict[str, list[Any]] = {"row": list(range(len(setting.images))), "label": setting.images.y.tolist()}
    for k, model in enumerate(setting.all_models):
        columns[f"clean.predicted.{model}"] = setting.clean[:, k].tolist()
    for name, result in results.items():
        columns[f"{name}.fooled_all"] = result.fooled.all(1).tolist()
        for k, model in enumerate(setting.all_models):
            columns[f"{name}.predicted.{model}"] = predicted[name][:, k].tolist()
        for k, model in enumerate(setting.models):
            columns[f"{name}.fooled.{model}"] = result.fooled[:, k].tolist()
            columns[f"{name}.weight.{model}"] = result.weights[:, k].tolist()
            columns[f"{name}.loss.{model}"] = result.losses[:, k].tolist()
    return columns


def _metrics(
    folder: RunFolder, setting: Setting, results: Mapping[str, AttackResult], predicted: Mapping[str, Tensor]
) -> dict[str, Any]:
    judged = setting.images.y[:, None]
    names = list(results)
    metrics: dict[str, Any] = {
        "images": len(setting.images),
        "models": list(setting.models),
        "transfer": list(setting.others),
        "clean_accuracy": _rates(setting.clean == judged, setting.all_models),
        "attacks": {name: _attack(folder, setting, name, results[name], predicted[name]) for name in names},
        "comparison": None,
    }
    if len(names) == 2:
        baseline, ours = (results[name].fooled.all(1) for name in names)
        metrics["comparison"] = {
            "of": names[1],
            "with": names[0],
            "lift": lift(float(ours.double().mean()), float(baseline.double().mean())),
            **compare_paired(ours, baseline).describe(),
        }
    return metrics


def _attack(folder: RunFolder, setting: Setting, name: str, result: AttackResult, predicted: Tensor) -> dict[str, Any]:
    N, K = len(setting.images), len(setting.models)
    success = wilson_interval(int(result.fooled.all(1).sum()), N)
    saved = folder.read_tensors("perturbations.safetensors")
    checked = recheck(
        setting.models, setting.threat_model, saved["clean"], saved[f"{name}.delta"], saved[f"{name}.adversarial"],
        setting.y, targeted=setting.targeted,
    )  # fmt: skip
    return {
        **success_rates(result.fooled),
        "asr_all_interval": [success.low, success.high],
        "accuracy": _rates(~result.fooled, setting.models),
        "mean_weights": dict(zip(setting.models, result.weights.double().mean(0).tolist(), strict=True)),
        "transfer_accuracy": _rates(predicted[:, K:] == setting.images.y[:, None], setting.others),
        "gradient_evaluations": result.gradient_evaluations,
        "zero_gradient": dict(zip(setting.models, result.zero_gradient.tolist(), strict=True)),
        "recheck": checked.describe(),
    }


def _rates(right: Tensor, models: Mapping[str, nn.Module]) -> dict[str, float]:
    return dict(zip(models, right.double().mean(0).tolist(), strict=True))
