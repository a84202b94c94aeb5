"""What a caller asks of a recipe, checked and resolved into a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from omnirobust import _campaign
from omnirobust._campaign import BatchStore, Plan
from omnirobust._contracts import check_set
from omnirobust._grid_checks import as_groups, as_labels
from omnirobust._memory import Meter
from omnirobust._models import Models, Precision
from omnirobust._progress import ProgressHook
from omnirobust._types import WeightRule
from omnirobust.directions import Direction
from omnirobust.domains import DomainGrid, Transforms
from omnirobust.losses import Loss
from omnirobust.results import AttackResult
from omnirobust.settings import DEFAULT_CLIP, DEFAULT_OF, PAPER_CLIP, PAPER_OF, AttackSettings, Task
from omnirobust.solver import Keep
from omnirobust.starts import Start
from omnirobust.threat_models import Clip, ThreatModel
from omnirobust.views import View, as_views
from omnirobust.weights import Fixed

DRAWS = 10
"""Fresh draws that a result is judged on where a transformation is random and nobody says how many."""


@dataclass(frozen=True)
class Request:
    """The arguments of a recipe, as given: see ``attacks.attack_ensemble`` and the others."""

    task: Task
    rule: WeightRule | None
    steps: int
    step_size: float | None
    direction: Direction | None
    loss: Loss | None
    preset: Literal["paper"] | None
    targeted: bool
    keep: Keep | None
    stop_when_fooled: bool
    restarts: int
    seed: int
    batch_size: int | None
    precision: Precision
    progress: bool | ProgressHook
    init: Tensor | Start | None
    history: Literal["means", "full"]
    first_row: int
    store: BatchStore | None
    memory: int | None
    transforms: Transforms | None = None
    shared: bool = False
    clip: Clip | None = None
    samples: int = 1
    draws: int | None = None
    true_labels: Tensor | None = None


def attack(models: Models, x: Tensor, y: Tensor, threat_model: ThreatModel, asked: Request) -> AttackResult:
    """Check the request as a whole, resolve it, and run it."""
    _check_kinds(threat_model, asked)
    _check_counts(asked)
    settings = _resolve(threat_model, asked)
    if isinstance(settings.rule, Fixed) and settings.rule.w.ndim == 2 and len(settings.rule.w) != len(x):
        raise ValueError(f"w of Fixed must have a row for each of {len(x)} problems, got {len(settings.rule.w)}")
    clip = asked.clip or (PAPER_CLIP if asked.preset == "paper" else DEFAULT_CLIP)
    # The arguments are checked whole, before anything runs.
    as_groups(x, asked.shared)
    check_set(threat_model, x, shared=asked.shared, clip=clip)
    grid = DomainGrid(models, x, y, loss=settings.loss, transforms=asked.transforms, shared=asked.shared, clip=clip,
                      samples=asked.samples, memory=asked.memory)  # fmt: skip
    if asked.true_labels is not None:
        as_labels(x, asked.true_labels, grid.sizes, asked.shared, "true_labels")
    plan = Plan(
        models, settings, threat_model, asked.steps, asked.restarts, asked.targeted, asked.stop_when_fooled,
        asked.precision, asked.history, asked.seed, _views(asked, x), asked.shared, clip, asked.samples,
        DRAWS if asked.draws is None else asked.draws, Meter(asked.memory), asked.true_labels,
    )  # fmt: skip
    shape = plan.feasible(x).shape
    if isinstance(asked.init, Tensor) and asked.init.shape != shape:
        raise ValueError(f"init must have shape {tuple(shape)}, got {tuple(asked.init.shape)}")
    return _campaign.run(
        plan, x, y, asked.init if isinstance(asked.init, Tensor) else None,
        batch_size=asked.batch_size, progress=asked.progress, first_row=asked.first_row, store=asked.store,
    )  # fmt: skip


def _views(asked: Request, x: Tensor) -> tuple[View, ...] | None:
    if asked.transforms is None:
        return None
    return as_views(asked.transforms, (x.flatten(0, 1) if asked.shared else x)[:2].detach())


def _resolve(threat_model: ThreatModel, asked: Request) -> AttackSettings:
    if asked.preset not in (None, "paper"):
        raise ValueError(f"preset must be 'paper' or None, got {asked.preset!r}")
    if isinstance(asked.init, str) and asked.init not in ("zero", "normal"):
        raise ValueError(f"init must be a tensor, 'zero' or 'normal', got {asked.init!r}")
    base = (PAPER_OF if asked.preset == "paper" else DEFAULT_OF)[asked.task][threat_model.name]
    if asked.direction is not None:  # a step size belongs to its direction
        base = replace(base, direction=asked.direction, step_size=None)
    given = {"rule": asked.rule, "step_size": asked.step_size, "loss": asked.loss, "keep": asked.keep}
    if isinstance(asked.init, str):
        given["start"] = asked.init
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _check_counts(asked: Request) -> None:
    for name, least in (("steps", 0), ("restarts", 1), ("first_row", 0)):
        value = getattr(asked, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    if not isinstance(asked.seed, int):
        raise ValueError(f"seed must be a whole number, got {asked.seed!r}")
    for name in ("batch_size", "draws"):
        value = getattr(asked, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number >= 1 or None, got {value!r}")


def _check_kinds(threat_model: ThreatModel, asked: Request) -> None:
    rule, direction, loss, init = asked.rule, asked.direction, asked.loss, asked.init
    if torch.is_inference_mode_enabled():
        raise ValueError("an attack needs gradients: call it outside torch.inference_mode()")
    if not isinstance(threat_model, ThreatModel):
        raise ValueError(f"threat_model must be a ThreatModel such as Linf(0.1), got {threat_model!r}")
    if threat_model.mask is not None and not bool(threat_model.mask.any()):
        raise ValueError("mask of the threat model must allow at least one coordinate to change, got False everywhere")
    if isinstance(rule, type):
        raise ValueError(f"rule must be a weight rule such as Uniform(), got the class {rule.__name__}: call it")
    if rule is not None and (not hasattr(rule, "init") or not hasattr(rule, "step")):
        raise ValueError(f"rule must be a weight rule such as Uniform(), got {rule!r}")
    if direction is not None and (isinstance(direction, type) or not hasattr(direction, "start")):
        raise ValueError(f"direction must be a direction such as Sign(), got {direction!r}")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels, got {loss!r}")
    if init is not None and not isinstance(init, Tensor | str):
        raise ValueError(f"init must be a tensor, 'zero' or 'normal', got {type(init).__name__}")
