"""Robust training as data: what is trained, how much of it, and what is measured of the trained models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from omnirobust.core.arguments import check_count
from omnirobust.core.threat_models import L2, Linf
from omnirobust.domains.classifier import Precision
from omnirobust.study import training_cells as study
from omnirobust.study.protocol import Workplace
from omnirobust.training.schemes import Kind, Scheme

Method: TypeAlias = Literal[
    "natural", "linf", "l2", "usgd", "avg", "avg_dpar", "minmax", "minmax_dpar", "avg_printed", "minmax_printed"
]
"""How a model is trained, as Tables 4, A7 and A8 name it; "printed": Algorithm 2 with the steps as it is printed, and
each image's weights and perturbations carried from one epoch to the next."""

Arch: TypeAlias = Literal["a", "c"]
Metric: TypeAlias = Literal["pgd", "strong", "universal", "gradients", "gradients_dpar"]

NAMES: dict[Arch, str] = {"a": "MLP", "c": "LeNet"}
"""Letter of the network, as in the zoo, to the paper's name."""

EPS_LINF, EPS_L2, EPS_UNIVERSAL = 0.2, 2.0, 0.3
"""Radii of Tables 4 and A7; that of l2 varies in Table A8 and the figures."""

EPS_GRID = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""The l2 radii of Table A8."""

EPS_CURVES = 0.5
"""The other l2 radius of Figure A4, where the strengths of the attacks differ most."""

CURVES: tuple[Method, ...] = ("avg", "minmax")
"""The trainings of Figure A4."""

DPAR = 0.1
"""lambda of (17)."""

_MULTI: dict[Method, tuple[Kind, bool]] = {
    "avg": ("average", False),
    "avg_dpar": ("average", True),
    "minmax": ("minmax", False),
    "minmax_dpar": ("minmax", True),
    "avg_printed": ("average", False),
    "minmax_printed": ("minmax", False),
}
"""Schemes against both threats: kind, and whether with DPAR."""

WITHOUT_L2: tuple[Method, ...] = ("natural", "linf", "usgd")
"""Trainings that know no l2 radius: one serves all parts of Table A8."""


@dataclass(frozen=True)
class Effort:
    """How much one training costs. The optimizer is the paper's: Adam at a constant 0.001, batches of 128.

    Attributes:
        epochs: passes over the images, >= 1.
        images: of the training split, from the first; None for all.
        steps: R, ascent steps on each mini-batch, >= 1.
        precision: of attack and training.
        holdout: images at the end of the training split on which robust accuracy is measured after every epoch; 0 for
            none.
    """

    epochs: int
    images: int | None
    steps: int
    precision: Precision = "fp32"
    holdout: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("steps", 1), ("holdout", 0)):
            check_count(name, getattr(self, name), least, whole=False)
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be >= 1 or None, got {self.images}")


@dataclass(frozen=True)
class Training(study.TrainingCell):
    """One trained model of MNIST.

    Attributes:
        arch: letter of the network.
        method: how it is trained.
        eps_l2: radius of the l2 attack; 0 where there is none, see ``training_of``.
        seed: of initial weights, order and random starts, >= 0.
        effort: how long.
    """

    arch: Arch
    method: Method
    eps_l2: float
    seed: int
    effort: Effort

    def __post_init__(self) -> None:
        if self.arch not in NAMES:
            raise ValueError(f"arch must be one of {', '.join(NAMES)}, got {self.arch!r}")
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        check_count("seed", self.seed, 0, whole=False)
        if (self.eps_l2 > 0) == (self.method in WITHOUT_L2):
            raise ValueError(f"eps_l2 must be > 0 where the training has an l2 attack and 0 elsewhere, got {self}")

    @property
    def scheme(self) -> Scheme:
        """What the model is trained against."""
        steps, both = self.effort.steps, (Linf(EPS_LINF), L2(self.eps_l2))
        match self.method:
            case "natural":
                return Scheme()
            case "linf":
                return Scheme("single", both[:1], steps)
            case "l2":
                return Scheme("single", both[1:], steps)
            case "usgd":  # as many steps as the others; with one a mini-batch the model outruns the perturbation
                return Scheme("universal", (Linf(EPS_UNIVERSAL),), steps, step_sizes=(EPS_UNIVERSAL / 5,))
            case _:
                kind, diverse = _MULTI[self.method]
                preset = "paper" if self.method.endswith("_printed") else None
                return Scheme(kind, both, steps, dpar=DPAR if diverse else 0.0, preset=preset)

    @property
    def plan(self) -> study.Training:
        """The same in the words of any training."""
        effort = self.effort
        return study.Training(
            self.arch, self.scheme, effort.epochs, "mnist", effort.images, self.seed, effort.holdout, effort.precision
        )

    def describe(self, cache: Workplace | None = None) -> dict[str, Any]:
        """Return the settings as plain values, the scheme in full."""
        own = {"arch": self.arch, "opt": self.method, "eps_l2": self.eps_l2, "seed": self.seed}
        return own | {"effort": asdict(self.effort), "scheme": self.scheme.fingerprint()}


def training_of(arch: Arch, method: Method, eps_l2: float, seed: int, effort: Effort) -> Training:
    """Return the training of a row of Table A8: those without an l2 attack are the same at every radius."""
    return Training(arch, method, 0.0 if method in WITHOUT_L2 else eps_l2, seed, effort)


@dataclass(frozen=True)
class TrainingBudget:
    """How much of the training experiments is computed.

    Attributes:
        efforts: letter of the network to the cost of one training.
        seeds: letter to how many seeds the trainings of Tables 4 and A7 and of Figure A4 get.
        sweep_seeds: how many the others get, at other radii.
        pgd: test images under the attack of the training, and those under a universal perturbation.
        strong: test images under the strong evaluation, and those whose gradients are compared.
        pgd_steps: steps of the attack of the training when it judges.
        strong_steps: steps of every attack of the strong evaluation.
        grid: l2 radii of Table A8 and the figures.
    """

    efforts: dict[Arch, Effort]
    seeds: dict[Arch, int]
    sweep_seeds: int
    pgd: dict[Arch, int]
    strong: dict[Arch, int]
    pgd_steps: int = 20
    strong_steps: int = 20
    grid: tuple[float, ...] = EPS_GRID

    def seeds_of(self, arch: Arch, method: Method, eps_l2: float) -> int:
        """Return how many seeds a training gets."""
        main = eps_l2 == EPS_L2 or method in WITHOUT_L2 or (eps_l2 == EPS_CURVES and method in CURVES and arch == "a")
        return self.seeds[arch] if main else self.sweep_seeds

    def images(self, arch: Arch, metric: Metric) -> int:
        """Return how many test images a metric takes."""
        return self.pgd[arch] if metric in ("pgd", "universal") else self.strong[arch]


_QUICK = Effort(epochs=10, images=20_000, steps=10, holdout=1000)
_PAPER = Effort(epochs=350, images=None, steps=20, holdout=2000)
_SMOKE = Effort(epochs=1, images=64, steps=2, holdout=32)

TRAINING_BUDGETS: dict[str, TrainingBudget] = {
    "smoke": TrainingBudget(
        {"a": _SMOKE, "c": replace(_SMOKE, holdout=0)}, {"a": 2, "c": 1}, 1, {"a": 100, "c": 24}, {"a": 8, "c": 4},
        pgd_steps=3, strong_steps=3, grid=(0.5, 2.5),
    ),
    "quick": TrainingBudget(
        {"a": _QUICK, "c": replace(_QUICK, epochs=5, precision="bf16", holdout=0)},
        {"a": 3, "c": 1}, 1, {"a": 10_000, "c": 2000}, {"a": 1000, "c": 500},
    ),
    "paper": TrainingBudget(
        {"a": _PAPER, "c": replace(_PAPER, holdout=0)}, {"a": 10, "c": 10}, 10, {"a": 10_000, "c": 10_000},
        {"a": 10_000, "c": 10_000}, strong_steps=100,
    ),
}  # fmt: skip
"""By name; the images that ``reproduce`` is given replace those of "pgd" and "strong" where they are fewer."""


def fewer(budget: TrainingBudget, images: int) -> TrainingBudget:
    """Return the budget with at most so many test images for everything."""
    counts = [{arch: min(n, images) for arch, n in asked.items()} for asked in (budget.pgd, budget.strong)]
    return replace(budget, pgd=counts[0], strong=counts[1])
