"""What an attack is where some of its models can only be asked: how it moves, for how long, from where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from omnirobust.attacks.options import AttackOptions
from omnirobust.attacks.presets import AttackSettings
from omnirobust.core.decisions import Rays
from omnirobust.core.hops import Hops
from omnirobust.core.search import Search
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.blackbox.box import BlackBox as BlackBox
from omnirobust.domains.blackbox.grid import QueryGrid
from omnirobust.domains.blackbox.kept import Kept
from omnirobust.domains.classifier import Model, Models, named_models

_DECIDE = (Rays, Hops)
_SEARCHES = (Search, *_DECIDE)

_STEPS = 1000
"""Steps of a search where neither steps nor queries are given."""


def boxes_of(models: Models) -> dict[str, BlackBox]:
    """Return those models that only answer, by name."""
    return {name: model for name, model in named_models(models).items() if isinstance(model, BlackBox)}


def options_of(
    boxes: Mapping[str, BlackBox],
    models: Models,
    threat_model: ThreatModel,
    given: AttackOptions,
    task: str,
    views: int = 1,
) -> AttackOptions:
    """Return the options of an attack on models of which ``boxes`` only answer: what is not given is chosen for them.

    Under linf a search moves, unless a direction or a preset is given; problems stop once they are fooled, and steps
    are as many as the questions allow: one for each of ``views`` transformations, which are seen once more by the end.

    Raises:
        ValueError: if inputs share a perturbation, or the questions do not suffice for one step.
    """
    if task == "universal":
        raise ValueError(
            "a BlackBox can be no model of perturbations that inputs share, of attack_universal: ask for one each"
        )
    chosen: dict[str, Any] = {"stop_when_fooled": True, **given}
    linf, labels = threat_model.name == "linf", [name for name, box in boxes.items() if box.output == "labels"]
    if (linf or labels) and chosen.get("direction") is None and chosen.get("preset") is None:
        told = len(boxes) < len(named_models(models)) or any(box.guides for box in boxes.values())
        kind = Search if not labels else Rays if linf else Hops
        chosen["direction"] = kind(informed=told)
    searching = isinstance(chosen.get("direction"), _SEARCHES)
    _check_range(threat_model, chosen.get("direction"))
    if labels and not isinstance(chosen.get("direction"), _DECIDE):
        must = "preset must be None" if chosen.get("direction") is None else "direction must be None, Rays or Hops"
        raise ValueError(f"{must}, for model {labels[0]!r} says labels alone")
    if searching and chosen.get("keep") == "last":
        raise ValueError("keep must be 'best' where a search moves, got 'last': it may have rejected that proposal")
    stores = [Kept.place(Path(box.store)) for box in boxes.values() if box.store is not None]
    if len(set(stores)) < len(stores):
        raise ValueError(f"store must belong to one model alone, got {stores[0]} for several")
    for name, box in boxes.items():
        least = 2 if views == 1 and task == "ensemble" else 3 * views
        if box.queries is not None and box.queries < least:
            raise ValueError(f"queries of model {name!r} must be >= {least}, one step's, got {box.queries}")
    if "steps" not in chosen:
        limits = [box.queries for box in boxes.values() if box.queries is not None]
        each = 1 if searching else 1 + min(box.samples // 2 * 2 for box in boxes.values())
        if limits or searching:
            most = min(limits) // (each * views) if limits else _STEPS // each
            chosen["steps"] = max(
                1, most - bool(labels) - 2 * (task == "transforms")
            )  # its last asks for the best in the ball
    return cast(AttackOptions, chosen)


def _check_range(threat_model: ThreatModel, direction: object) -> None:
    """Refuse features with ranges of their own where questions lie a share of the range apart."""
    low, high = threat_model.bounds
    if isinstance(direction, Search):  # goes from one end of the ball to the other
        return
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not high - low < inf:
        raise ValueError(
            "bounds must be two finite numbers beside a BlackBox unless orb.Search moves, which needs linf and scores"
        )


def grid_maker(settings: AttackSettings, options: AttackOptions, views: int = 0) -> Callable[..., QueryGrid]:
    """Return what makes the domains of models of which some only answer, from what ``DomainGrid`` takes."""
    searching, spare = isinstance(settings.direction, _SEARCHES), 0 if settings.keep == "best" and not views else 1
    spare *= max(views, 1)  # a view of what is judged may differ by a rounding from that of what was asked
    decides = isinstance(settings.direction, _DECIDE)
    return partial(QueryGrid, search=searching, decides=decides, stop=options["stop_when_fooled"], spare=spare)


def transfer(boxes: Mapping[str, BlackBox], models: Models) -> dict[str, Model]:
    """Return what is differentiable among the models and the surrogates: a perturbation of these is a good start."""
    own = {name: model for name, model in named_models(models).items() if name not in boxes}
    return own | {f"{name}/{guide}": m for name, box in boxes.items() for guide, m in box.guides.items()}
