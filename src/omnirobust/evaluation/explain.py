"""What the domain weights of an attack say: which domains are hard, and whether they are hard by other measures too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from omnirobust.attacks.recipes import attack_product
from omnirobust.attacks.results import AttackResult
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Models, named_models
from omnirobust.domains.grid import Transforms
from omnirobust.domains.transforms.seeded import as_views
from omnirobust.evaluation.metrics import Interval
from omnirobust.evaluation.rank_correlation import Correlation, bootstrap, correlation

_VERDICTS = {
    "holds": "Weights rise with {}: ",
    "reversed": "Weights fall with {}: ",
    "not shown": "Weights are not shown to rise or fall with {}: ",
}


@dataclass(frozen=True)
class Ranked:
    """A domain's place in the order of weights.

    Attributes:
        name: of the domain.
        weight: mean over problems, in [0, 1], with its interval.
        top: the share of problems in which no domain weighs more.
    """

    name: str
    weight: Interval
    top: float


@dataclass(frozen=True)
class Order:
    """Whether mean weights fall in an order that was expected.

    Attributes:
        names: the expected order, largest weight first.
        holds: whether the mean weights strictly fall in it.
        share: of bootstrap samples of problems in which they do, in [0, 1].
    """

    names: tuple[str, ...]
    holds: bool
    share: float

    def __str__(self) -> str:
        holds = "holds" if self.holds else "does not hold"
        return f"{' > '.join(self.names)} {holds}; it does in {_percent(self.share)} of resamples."


@dataclass(frozen=True)
class Explanation:
    """What the weights of one attack say.

    Attributes:
        axis: the factor looked at: models, transforms, examples; None for all combinations of several.
        names: the domains, K of them.
        ranking: the domains, largest mean weight first.
        correlations: of the weights with each measure of difficulty, by its name.
        weights: those that all this is about, (B, K).
    """

    axis: str | None
    names: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    correlations: dict[str, Correlation]
    weights: Tensor = field(repr=False)

    def order_holds(self, names: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Order:
        """Check an expected order of mean weights, such as the paper's w_C > w_D > w_A > w_B: ("c", "d", "a", "b").

        Args:
            names: domains, largest weight first; others may be left out.
            resamples: bootstrap samples of problems, >= 1.
            seed: of the resampling.

        Raises:
            ValueError: if a name is unknown or stands twice, or there are fewer than two.
        """
        if len(set(names)) < max(len(names), 2) or not set(names) <= set(self.names):
            raise ValueError(f"names must be two or more different ones of {', '.join(self.names)}, got {list(names)}")
        chosen = self.weights[:, [self.names.index(name) for name in names]].double().cpu().numpy()

        def falls(counts: np.ndarray) -> float:
            return float((np.diff(counts @ chosen) < 0).all())

        draws = np.random.default_rng(seed).multinomial(len(chosen), np.full(len(chosen), 1 / len(chosen)), resamples)
        share = float(np.mean([falls(counts) for counts in draws.astype(np.float64)]))
        return Order(tuple(names), falls(np.ones(len(chosen))) == 1.0, share)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The ranking, and every correlation with its verdict, in plain words."""
        order = ", ".join(f"{r.name} {r.weight.estimate:.3f} ({_range(r.weight)})" for r in self.ranking)
        first = f"Mean weights over {len(self.weights)} problems, largest first: {order}."
        return (first, *(_sentence(name, c, self.axis) for name, c in self.correlations.items()))


def rank(
    result: AttackResult, axis: str | None = None, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Ranked, ...]:
    """Rank an attack's domains by their mean weight, largest first, ties in the order of names.

    Args:
        result: of an attack, B >= 1 problems.
        axis: rank the members of this factor by marginal weights; None: all domains.
        level: of the bootstrap intervals over problems, in (0, 1).
        resamples: bootstrap samples, >= 1.
        seed: of the resampling.

    Raises:
        ValueError: if ``axis`` is no factor of the result, or it holds no problem.
    """
    names, weights = _weights(result, axis)
    return _rank(names, weights, level, resamples, seed)


def explain(
    result: AttackResult,
    difficulty: Mapping[str, Tensor] | None = None,
    axis: str | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Explanation:
    """Say what the weights of an attack tell of its domains, and whether other measures of difficulty agree.

    Args:
        result: of an attack, B >= 1 problems.
        difficulty: measures by name, larger = harder: (B, K), or (K,) where it is the same for every problem. The
            smallest distortion of every image, the accuracy a model keeps, the weights under another norm.
        axis: look at this factor's marginal weights, K its members; None: at all domains.
        level: of the confidence intervals, in (0, 1).
        resamples: bootstrap samples of problems, >= 1.
        seed: of the resampling.

    Returns:
        The ranking, the correlations, and sentences that state them.

    Raises:
        ValueError: if an argument does not fit; the sentence names the measure.

    Reference: the paper, Section 4.1 (w_C > w_D > w_A > w_B) and Appendix F, Tables A9 and A10.
    """
    if axis is None and len(result.axes) == 1:
        axis = next(iter(result.axes))
    names, weights = _weights(result, axis)
    found = {}
    for name, values in (difficulty or {}).items():
        try:
            found[name] = correlation(weights, values, level=level, resamples=resamples, seed=seed)
        except ValueError as error:
            raise ValueError(f"difficulty {name!r}: {error}") from error
    return Explanation(axis, names, _rank(names, weights, level, resamples, seed), found, weights)


def resists_alone(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    transforms: Transforms | None = None,
    shared: bool = False,
    steps: int = 50,
    batch_size: int | None = None,
) -> Tensor:
    """Attack every domain by itself and say where it resists: difficulty without the others.

    Its mean over problems, ``.float().mean(0)``, is the robust accuracy that single attacks leave each domain.

    Args:
        models: as for ``attack_product``.
        x: (B, *S); (B, E, *S) where ``shared``: then each image is attacked by itself too.
        y: labels, (B,); (B, E) where ``shared``.
        threat_model: what the attacker may do; a radius given for each problem is for its every image.
        transforms: as for ``attack_product``.
        shared: whether the domains hold the E images of a group.
        steps: of each attack.
        batch_size: images attacked together; None for all.

    Returns:
        (B, K) bool, K = models x transforms x examples, in the order of ``attack_product``.

    Cost: that of one attack with all K domains.
    """
    each = x.shape[1] if shared else 1
    images, labels = (x.flatten(0, 1), y.flatten()) if shared else (x, y)
    threat_model = threat_model.select(torch.arange(len(x)).repeat_interleave(each), images.ndim - 1)
    views = (None,) if transforms is None else as_views(transforms, images[:2].detach())
    found = []
    for (name, model), view in product(named_models(models).items(), views):
        alone = attack_product(
            {name: model}, images, labels, threat_model, transforms=None if view is None else (view,), steps=steps,
            batch_size=batch_size, stop_when_fooled=True,
        )  # fmt: skip
        found.append(~alone.fooled.view(len(x), each))
    return torch.cat(found, 1)


def _weights(result: AttackResult, axis: str | None) -> tuple[tuple[str, ...], Tensor]:
    if not len(result.weights):
        raise ValueError("result must hold at least one problem, got none")
    if axis is None:
        return result.names, result.weights
    return result.axes.get(axis, ()), result.marginal(axis)


def _rank(names: tuple[str, ...], weights: Tensor, level: float, resamples: int, seed: int) -> tuple[Ranked, ...]:
    values = weights.double().cpu().numpy()
    means = {
        name: lambda counts, column=values[:, k]: float(counts @ column / counts.sum()) for k, name in enumerate(names)
    }
    found = bootstrap(len(values), means, level=level, resamples=resamples, seed=seed)
    top = (values == values.max(axis=1, keepdims=True)).mean(axis=0)
    ranked = [Ranked(name, found[name], float(top[k])) for k, name in enumerate(names)]
    return tuple(sorted(ranked, key=lambda r: -r.weight.estimate))


def _sentence(name: str, c: Correlation, axis: str | None) -> str:
    if c.constant == c.groups:
        return f"Nothing can be said of weights and {name}: in no problem do both differ between domains."
    within = f"{c.within.estimate:.2f} within problems ({_range(c.within, 2)})"
    pooled = f"{c.pooled.estimate:.2f} pooled ({_range(c.pooled, 2)})"
    means = "" if axis == "examples" else f", {c.means.estimate:.2f} between mean values ({_range(c.means, 2)})"
    left_out = f"; {c.constant} of {c.groups} problems, where either is constant, tell nothing" if c.constant else ""
    hardest = f"the domain of largest weight is the hardest in {_percent(c.hardest.estimate)}, against"
    return (
        f"{_VERDICTS[c.verdict].format(name)}Spearman's rho is {within}, {pooled}{means}; {hardest} "
        f"{_percent(c.chance)} by chance{left_out}."
    )


def _range(interval: Interval, digits: int = 3) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{100 * share:.0f} %"
