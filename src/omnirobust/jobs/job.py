"""The settings of one attack from the command line: ensembles, universal perturbations, transformations, products."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

from omnirobust._device import check_name
from omnirobust.attacks.options import OPTIONS, AttackOptions, Plan, check_names
from omnirobust.attacks.presets import Task
from omnirobust.core.arguments import check_count, check_seed
from omnirobust.core.choices import Labels
from omnirobust.core.threat_models import Clip, ThreatModel
from omnirobust.core.types import WeightRule
from omnirobust.core.weights import Uniform
from omnirobust.domains.groups import GroupBy
from omnirobust.zoo.trained import split_name


@dataclass(frozen=True)
class Grouping:
    """Which images share a perturbation.

    Attributes:
        size: E, images a group, >= 1.
        by: "random", "class" for groups of one class each, or "given" for images in their order.
        seed: of the shuffle.
    """

    size: int = 5
    by: GroupBy | Literal["given"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("group size", self.size, whole=False)
        check_seed("seed", self.seed)
        if self.by not in ("random", "class", "given"):
            raise ValueError(f"groups must be by 'random', 'class' or 'given', got {self.by!r}")


@dataclass(frozen=True)
class AttackJob:
    """Settings of one attack on models x transformations x images of a group.

    Attributes:
        data: name of the data set.
        models: names of the models to attack, see ``load_models``.
        threat_model: what the attacker may do; its radius is one number.
        images: how many images to take, >= 1; None for all from ``start``.
        start: index of the first image.
        split: of the data.
        label: the column of the classes, where the data has several; None for its only one.
        resize: (height, width) that images are resized to; None to take them as they are.
        groups: images that share a perturbation; None for one perturbation an image.
        transforms: names of the transformations to withstand, see ``load_transforms``; none for the images as they are.
        clip: with groups, "image" or "intersection"; None for that of the preset.
        rule_name: what tables call the rule that is held against the average.
        own_rule: where it comes from if it is of one's own code, see ``load_rule``; empty if not.
        labels: "true", or "predicted" for each model's own prediction.
        target: class to reach instead of the label to leave; None for untargeted.
        transfer: names of models that are not attacked, but scored.
        device: where to attack: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is one. Results do not
            say where they were found.
        queries: how many inputs each model that only answers may be asked for each image, >= 2; None for as many as the
            steps take.
        options: those of the attack that differ from their defaults, see ``AttackOptions``. Those that belong to a
            single call (``store``, say) are the job's own affair, and ``targeted`` follows from ``target``.
    """

    data: str
    models: tuple[str, ...]
    threat_model: ThreatModel
    images: int | None = 200
    start: int = 0
    split: str = "test"
    label: str | None = None
    resize: tuple[int, int] | None = None
    groups: Grouping | None = None
    transforms: tuple[str, ...] = ()
    clip: Clip | None = None
    rule_name: str = "min-max"
    own_rule: str = ""
    labels: Labels = "true"
    target: int | None = None
    transfer: tuple[str, ...] = ()
    device: str = "auto"
    queries: int | None = None
    options: AttackOptions = field(default_factory=AttackOptions)

    def __post_init__(self) -> None:
        for name, least in {"images": 1, "start": 0, "queries": 2}.items():
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, least, whole=False)
        check_name(self.device)
        check_names("AttackJob", self.options, {name for name, o in OPTIONS.items() if o.settable})
        if self.labels not in ("true", "predicted"):
            raise ValueError(f"labels must be true or predicted, got {self.labels!r}")
        if isinstance(self.threat_model.eps, Tensor):
            raise ValueError("eps must be one number for the whole job, got a tensor")
        if self.target is not None and self.labels == "predicted":
            raise ValueError("labels must be true with a target: a targeted attack does not look at the labels")
        # by their sources: one model under two names is one model
        if repeated := {split_name(m)[1] for m in self.models} & {split_name(m)[1] for m in self.transfer}:
            raise ValueError(f"transfer must name models that are not attacked, got {', '.join(sorted(repeated))}")
        if self.clip is not None and self.groups is None:
            raise ValueError(f"clip must be left out unless images share a perturbation, got {self.clip}")
        if self.clip not in (None, "image", "intersection"):
            raise ValueError(f"clip must be image or intersection, got {self.clip!r}")
        assert self.plan

    @cached_property
    def plan(self) -> Plan:
        """The options resolved; those of a rule held against the average."""
        alone: Task = "transforms" if self.transforms else "ensemble"
        return Plan.of(alone if self.groups is None else "universal", self.threat_model, self.options, self.clip)

    @property
    def batch_size(self) -> int:
        """Perturbations that are found together, and saved together when done."""
        return self.options.get("batch_size") or (250 if self.plan.task == "ensemble" else 50)

    def rules(self) -> dict[str, WeightRule]:
        """Return what is compared: the average, and the rule of this job under its name."""
        rule = self.plan.settings.rule
        both: dict[str, WeightRule] = {"average": Uniform()}
        return both if isinstance(rule, Uniform) else both | {self.rule_name: rule}
