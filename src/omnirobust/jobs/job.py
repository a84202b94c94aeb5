"""The settings of one attack from the command line: ensembles, universal perturbations, transformations, products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from omnirobust._device import check_name
from omnirobust._models import Precision
from omnirobust._types import WeightRule
from omnirobust.directions import Direction
from omnirobust.groups import GroupBy
from omnirobust.losses import Loss
from omnirobust.settings import DEFAULT_CLIP, DEFAULT_OF, PAPER_CLIP, PAPER_OF, AttackSettings, Task
from omnirobust.solver import Keep
from omnirobust.starts import Start
from omnirobust.threat_models import Clip, ThreatModel
from omnirobust.weights import Uniform


@dataclass(frozen=True)
class Grouping:
    """Which images share a perturbation.

    Attributes:
        size: E, images a group, >= 1.
        by: "random", or "class" for groups of one class each.
        seed: of the shuffle.
    """

    size: int = 5
    by: GroupBy = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"group size must be >= 1, got {self.size}")
        if self.by not in ("random", "class"):
            raise ValueError(f"groups must be by 'random' or 'class', got {self.by!r}")


@dataclass(frozen=True)
class AttackJob:
    """Settings of one attack on models x transformations x images of a group.

    Attributes:
        data: name of the data set.
        models: names of the models to attack, see ``load_models``.
        threat_model: what the attacker may do; its radius is one number.
        steps: T, >= 0.
        images: how many images to take, >= 1; None for all from ``start``.
        start: index of the first image.
        split: of the data.
        groups: images that share a perturbation; None for one perturbation an image.
        transforms: names of the transformations to withstand, see ``load_transforms``; none for the images as they are.
        clip: with groups, "image" or "intersection"; None for that of the preset.
        samples: draws of each random transformation a step, >= 1.
        draws: fresh draws on which success is judged, >= 1; None for 10 where something is random.
        preset: "paper" for the paper's settings, None for the tuned default of the norm.
        rule: weight rule held against the average; None for that of the preset.
        rule_name: what tables call it.
        own_rule: where it comes from if it is of one's own code, see ``load_rule``; empty if not.
        direction, step_size, loss, init, keep: instead of those of the preset.
        seed: keys noise and draws.
        batch_size: perturbations found together, and saved together when done, >= 1.
        precision: "fp32" or "bf16".
        stop_when_fooled: drop what fools every domain.
        restarts: independent runs, >= 1.
        labels: "true", or "predicted" for each model's own prediction.
        target: class to reach instead of the label to leave; None for untargeted.
        transfer: names of models that are not attacked, but scored.
        device: where to attack: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is one. Results do not
            say where they were found.
    """

    data: str
    models: tuple[str, ...]
    threat_model: ThreatModel
    steps: int = 50
    images: int | None = 200
    start: int = 0
    split: str = "test"
    groups: Grouping | None = None
    transforms: tuple[str, ...] = ()
    clip: Clip | None = None
    samples: int = 1
    draws: int | None = None
    preset: Literal["paper"] | None = None
    rule: WeightRule | None = None
    rule_name: str = "min-max"
    own_rule: str = ""
    direction: Direction | None = None
    step_size: float | None = None
    loss: Loss | None = None
    init: Start | None = None
    keep: Keep | None = None
    seed: int = 0
    batch_size: int = 250
    precision: Precision = "fp32"
    stop_when_fooled: bool = False
    restarts: int = 1
    labels: Literal["true", "predicted"] = "true"
    target: int | None = None
    transfer: tuple[str, ...] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        self._check_counts()
        check_name(self.device)
        if self.labels not in ("true", "predicted"):
            raise ValueError(f"labels must be true or predicted, got {self.labels!r}")
        if isinstance(self.threat_model.eps, Tensor):
            raise ValueError("eps must be one number for the whole job, got a tensor")
        if self.preset not in (None, "paper"):
            raise ValueError(f"preset must be 'paper' or None, got {self.preset!r}")
        if self.target is not None and self.labels == "predicted":
            raise ValueError("labels must be true with a target: a targeted attack does not look at the labels")
        if repeated := set(self.models) & set(self.transfer):
            raise ValueError(f"transfer must name models that are not attacked, got {', '.join(sorted(repeated))}")
        if self.clip is not None and self.groups is None:
            raise ValueError(f"clip must be left out unless images share a perturbation, got {self.clip}")
        if self.clip not in (None, "image", "intersection"):
            raise ValueError(f"clip must be image or intersection, got {self.clip!r}")
        if (self.samples > 1 or self.draws is not None) and not self.transforms:
            raise ValueError("samples and draws must be left out without transforms: nothing is drawn")

    def _check_counts(self) -> None:
        least_of = {
            "steps": 0, "images": 1, "start": 0, "samples": 1, "draws": 1, "batch_size": 1, "restarts": 1,
        }  # fmt: skip
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")

    @property
    def task(self) -> Task:
        """Which of the paper's attacks this is; products with shared perturbations count as universal."""
        if self.groups is not None:
            return "universal"
        return "transforms" if self.transforms else "ensemble"

    @property
    def resolved_clip(self) -> Clip:
        """How perturbations that images share are kept within the data range."""
        return self.clip or (PAPER_CLIP if self.preset == "paper" else DEFAULT_CLIP)

    def resolved(self) -> AttackSettings:
        """Return the preset with what this job says instead."""
        base = (PAPER_OF if self.preset == "paper" else DEFAULT_OF)[self.task][self.threat_model.name]
        if self.direction is not None:  # a step size belongs to its direction
            base = replace(base, direction=self.direction, step_size=None)
        given = {
            "rule": self.rule,
            "step_size": self.step_size,
            "loss": self.loss,
            "start": self.init,
            "keep": self.keep,
        }
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def rules(self) -> dict[str, WeightRule]:
        """Return what is compared: the average, and the rule of this job under its name."""
        rule = self.resolved().rule
        both: dict[str, WeightRule] = {"average": Uniform()}
        return both if isinstance(rule, Uniform) else both | {self.rule_name: rule}
