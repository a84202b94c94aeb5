"""What a model is trained against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import inf, isfinite
from typing import get_args

from torch import Tensor

from omnirobust.core.arguments import check_number, check_whole, is_number, repeated
from omnirobust.core.choices import Persist as Persist
from omnirobust.core.choices import SchemeKind as Kind
from omnirobust.core.choices import TrainingPreset as TrainingPreset
from omnirobust.core.choices import TrainingStart as TrainingStart
from omnirobust.core.contracts import check_answers_losses
from omnirobust.core.threat_models import ThreatModel
from omnirobust.core.types import WeightRule
from omnirobust.core.weights import ProjectedAscent, Uniform, WorstCase
from omnirobust.training.threats import check_threats, cut, full_text, mean_radius, told_radius

DEFAULT_RULE = ProjectedAscent(1 / 50, 4.0)
"""How the weights answer the losses for "minmax": beta and gamma of the paper's Table A8."""

_CARRYING: tuple[Kind, ...] = ("single", "average", "minmax", "worst")
"""Kinds whose examples have perturbations of their own to carry."""

_RIVALS: tuple[Kind, ...] = ("msd", "alternate", "ramp")
"""Kinds of other authors that are more than weights: no DPAR, no preset of the paper."""

_ADDED = ("preset", "start", "step_sizes", "dpar_warmup", "pairing", "natural_share")


@dataclass(frozen=True)
class Scheme:
    """The settings of one way of training.

    With f the cross-entropy and r the ``adversarial_ratio``, all minimise over theta the mean over the data of

        (1 - r) f(theta; x, y) + r (sum_k w_k f(theta, delta_k; x, y) + dpar h),

    where h is the regulariser (16). The delta_k in X_k ascend their losses, and the kinds differ in w.

    Three kinds are other authors' answers to the same question. "msd": one perturbation an example, which at every step
    takes that norm's step after which its loss is highest; w is one-hot at the last of them (multi steepest descent).
    "alternate": one norm a mini-batch, of the largest and the smallest p given, drawn with probability proportional to
    1 minus its accuracy under attack over the mini-batches so far that it was drawn for, equal until both have been
    (E-AT). "ramp": "worst" of two norms, plus ``pairing`` times the divergence of the logits under the attack of the
    smaller p from those under that of the larger, KL(softmax(z_large) || softmax(z_small)), in the mean over the
    examples that the latter leaves right; and every epoch moves theta by 1 - b of what training so would have moved it,
    and by b, ``natural_share``, of what an epoch of natural training would, each of its parameters times its cosine
    with that where it is positive (RAMP).

    Attributes:
        kind: "natural": no attack. "single": one threat model, (8). "average": w = 1/K, (9). "minmax": w ascends (15)
            together with the perturbations, Algorithm 2. "worst": w is one-hot at the perturbation of highest loss,
            (10), the MAX strategy of Tramer and Boneh. "universal": one perturbation for all examples, which persists
            over the mini-batches, the uSGD of Shafahi et al. "msd", "alternate", "ramp": see above.
        threats: the threat models trained against, one or more except for "natural", exactly one for "single" and
            "universal"; for "msd" two or more, none of them l0, which has no steepest direction; for "alternate" of two
            norms or more; for "ramp" two, of different norms. Any mix of norms and radii. A radius eps (N,) has one
            for each of N training examples, by its number, which data must yield (not for "universal"). Validation
            data, whose examples are others, is judged at its mean, as the notes of ``fit`` say.
        steps: ascent steps R of the attacker on each mini-batch.
        rule: how the weights answer the losses for "minmax"; None for ``DEFAULT_RULE``.
        dpar: weight lambda >= 0 of the diversity-promoting attack regulariser (17); the paper's is 0.1.
        persist: what an example goes on from when it comes by again. "none": new weights and perturbations at each
            mini-batch. "example": the weights that it had last (minmax alone; others have none to carry). "all":
            weights and perturbations, which return to their sets around it first: w^(t-1) and delta_i^(t-1), with
            which step t of Algorithm 2 begins. None: "all" under preset "paper", "none" otherwise; see
            ``persisting``. That each example keeps its own is our reading: the paper's text has no mini-batches. Each
            of these ascends first, then theta descends: the printed loop half an iteration on. Descending first, on
            perturbations of an epoch ago, does not defend (0.1 % after 20 epochs, ``benchmarks/carried.py``). Needs
            data that numbers its examples, and for "all" that does not move them: see ``fit`` for the cost.
        adversarial_ratio: share r of the adversarial examples in the loss, in [0, 1]. 0.5 weighs clean and attacked
            examples alike; 1 trains on attacked ones alone.
        preset: "paper" moves delta_k by step_size w_k times the raw gradient, as Algorithm 2 is printed, so that
            attacks of low weight stall, and carries what examples had (``persist``); None steps each attack by the
            normalised gradient of its own norm.
        start: of the perturbations on each mini-batch, "random" in the ball or "zero".
        step_sizes: one a threat model, in units of the input (l0: a share of the radius). None: for linf and l2 five
            radii over ``steps``, at most 1.25, falling linearly, for "msd" for l1 too; for l1 and l0 elsewhere the
            adaptive direction's own; for the preset 1/6 for linf (Table A8) and those of the paper's ensemble attack
            for other norms.
        dpar_warmup: epochs >= 0 over which ``dpar`` rises linearly from 0, so that the network has begun to learn
            before its gradients are to agree; 0 as in the paper.
        pairing: weight >= 0 of the divergence for "ramp"; its authors take 5 from the beginning, 1.5 to fine-tune.
        natural_share: b in [0, 1] for "ramp"; 0 spares the natural epochs.

    Cost: see ``attack_batch`` for the steps. Each example then costs one forward and backward pass with the gradients
    of the parameters for each weight that is not 0 (for "ramp" 2), one for its clean self unless r is 1, and for
    "ramp" another for the natural epoch.

    References: Maini, Wong and Kolter, "Adversarial robustness against the union of multiple perturbation models",
    2020, Algorithm 1; Croce and Hein, "Adversarial robustness against multiple and single lp-threat models via quick
    fine-tuning of robust classifiers", 2022; Jiang and Singh, "RAMP: boosting adversarial robustness against multiple
    lp perturbations", 2024.
    """

    kind: Kind = "natural"
    threats: tuple[ThreatModel, ...] = ()
    steps: int = 20
    rule: WeightRule | None = None
    dpar: float = 0.0
    persist: Persist | None = None
    adversarial_ratio: float = 0.5
    preset: TrainingPreset | None = None
    start: TrainingStart = "random"
    step_sizes: tuple[float, ...] | None = None
    dpar_warmup: int = 0
    pairing: float = 5.0
    natural_share: float = 0.5

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(Kind))
        if isinstance(self.threats, ThreatModel) or not isinstance(self.threats, Iterable):
            raise ValueError(f"threats must be a sequence of threat models, got {self.threats!r}: write [it]")
        object.__setattr__(self, "threats", tuple(self.threats))  # a list is as good
        check_threats(self.kind, self.threats)
        check_whole("steps", self.steps, 1)
        if self.rule is not None and self.kind != "minmax":
            raise ValueError(f"rule must be None unless kind is minmax, got {self.rule!r} with kind {self.kind!r}")
        if self.rule is not None and (isinstance(self.rule, type) or not hasattr(self.rule, "step")):
            raise ValueError(f"rule must be a weight rule such as CVaR(0.5), got {repeated(self.rule)}")
        check_answers_losses(self.rule)
        self._check_persist()
        check_number("adversarial_ratio", self.adversarial_ratio, "in [0, 1]", lambda share: 0 <= share <= 1)
        if self.preset is not None:
            _check_choice("preset", self.preset, get_args(TrainingPreset))
            if self.kind in _RIVALS:
                raise ValueError(f"preset must be None for kind {self.kind}, got {self.preset!r}")
        _check_choice("start", self.start, get_args(TrainingStart))
        self._check_dpar()
        self._check_step_sizes()
        self._check_ramp()

    @property
    def attacks(self) -> bool:
        """Whether adversarial examples enter the loss."""
        return bool(self.threats) and self.adversarial_ratio > 0

    @property
    def persisting(self) -> Persist:
        """What examples carry from one epoch to the next: ``persist``, or what stands for None."""
        if self.persist is not None:
            return self.persist
        return "all" if self.preset == "paper" and self.kind in _CARRYING else "none"

    @property
    def extremes(self) -> tuple[int, int]:
        """The numbers of the threat models of the largest and of the smallest p."""
        order = sorted(range(len(self.threats)), key=lambda k: self.threats[k].p)
        return order[-1], order[0]

    @property
    def names(self) -> tuple[str, ...]:
        """One name a threat model, such as "linf:0.2"; those that would be equal are numbered."""
        plain = [f"{threat.name}:{told_radius(threat.eps)}" for threat in self.threats]
        return tuple(
            name if plain.count(name) == 1 else f"{name}#{plain[: k + 1].count(name)}" for k, name in enumerate(plain)
        )

    @property
    def weight_rule(self) -> WeightRule:
        """The rule that the weights follow."""
        if self.kind == "minmax":
            return self.rule or DEFAULT_RULE
        return WorstCase() if self.kind in ("worst", "ramp") else Uniform()

    def at(self, epoch: int) -> Scheme:
        """Return the scheme of one epoch, from 0: with the share min(1, epoch / dpar_warmup) of ``dpar``."""
        if epoch >= self.dpar_warmup:
            return self
        return replace(self, dpar=self.dpar * epoch / self.dpar_warmup)

    @property
    def examples(self) -> int | None:
        """How many examples the radii are given for; None where each is one for all."""
        return next((len(t.eps) for t in self.threats if isinstance(t.eps, Tensor) and t.eps.ndim), None)

    def of_rows(self, rows: Tensor) -> Scheme:
        """Return the scheme of the examples that ``rows`` (int64) numbers, each with its own radii."""
        if self.examples is None:
            return self
        self.check_rows(rows)
        return replace(self, threats=tuple(cut(threat, rows) for threat in self.threats))

    def check_rows(self, rows: Tensor) -> None:
        """Raise a ValueError if there is a number among ``rows`` that no radius is given for."""
        if self.examples is not None and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.examples:
            worst = int(rows.max()) if int(rows.min()) >= 0 else int(rows.min())
            raise ValueError(f"eps must have a radius for every example, got {self.examples} and an example {worst}")

    def common(self) -> Scheme:
        """Return the scheme with the mean radius in the place of one for each example, for other examples."""
        return self if self.examples is None else replace(self, threats=tuple(map(mean_radius, self.threats)))

    def check_masks(self, x: Tensor) -> None:
        """Raise a ValueError if a mask is one for each example (N, *S): mini-batches are drawn anew in each epoch."""
        for threat in self.threats:
            if threat.mask is not None and threat.mask.ndim >= x.ndim:
                raise ValueError(
                    f"mask must be one for all examples of a training, got shape {tuple(threat.mask.shape)} for "
                    f"inputs {tuple(x.shape[1:])}"
                )

    def fingerprint(self) -> str:
        """Return a text that differs for schemes that train differently.

        Fields that came later are left out at their defaults: checkpoints from before them stay good.
        """
        shown = [f for f in fields(self) if f.name not in _ADDED or getattr(self, f.name) != f.default]
        told = {f.name: getattr(self, f.name) for f in shown} | {"persist": self.persisting}
        return f"Scheme({', '.join(f'{name}={full_text(value)}' for name, value in told.items())})"

    def _check_persist(self) -> None:
        if self.persist is None:
            return
        _check_choice("persist", self.persist, get_args(Persist))
        if self.persist == "example" and self.kind != "minmax":
            raise ValueError(
                f"persist must be 'none' or 'all' unless kind is minmax, got 'example' with kind {self.kind!r}"
            )
        if self.persist == "all" and self.kind not in _CARRYING:
            kinds = ", ".join(_CARRYING)
            raise ValueError(f"persist must be 'none' unless kind is one of {kinds}, got 'all' with kind {self.kind!r}")

    def _check_dpar(self) -> None:
        check_number("dpar", self.dpar, ">= 0", lambda weight: 0 <= weight < inf)
        if self.dpar and self.kind in _RIVALS:
            raise ValueError(f"dpar must be 0 for kind {self.kind}, got {self.dpar}")
        if self.dpar and (len(self.threats) < 2 or self.kind == "universal"):
            raise ValueError(
                f"dpar must be 0 unless two or more attacks can differ, got {self.dpar} with kind {self.kind!r} and "
                f"{len(self.threats)} threat models"
            )
        whole = "a whole number >= 0"
        check_number("dpar_warmup", self.dpar_warmup, whole, lambda epochs: epochs >= 0 and epochs % 1 == 0)
        if self.dpar and self.start == "zero":
            raise ValueError("start must be 'random' with dpar: attacks that start alike have the same gradient")

    def _check_ramp(self) -> None:
        check_number("pairing", self.pairing, ">= 0", lambda weight: 0 <= weight < inf)
        check_number("natural_share", self.natural_share, "in [0, 1]", lambda share: 0 <= share <= 1)
        for name in ("pairing", "natural_share"):
            if self.kind != "ramp" and getattr(self, name) != getattr(Scheme, name):
                raise ValueError(
                    f"{name} must be left out unless kind is ramp, got {getattr(self, name)} with kind {self.kind!r}"
                )

    def _check_step_sizes(self) -> None:
        if self.step_sizes is None:
            return
        if isinstance(self.step_sizes, Iterable):
            object.__setattr__(self, "step_sizes", tuple(self.step_sizes))
        if (
            not isinstance(self.step_sizes, tuple)
            or len(self.step_sizes) != len(self.threats)
            or not all(is_number(s) and isfinite(s) and s > 0 for s in self.step_sizes)
        ):
            raise ValueError(
                f"step_sizes must be {len(self.threats)} numbers > 0, one a threat model, got {self.step_sizes}"
            )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
