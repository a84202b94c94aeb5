from __future__ import annotations

import pytest
import torch

import omnirobust as orb
from omnirobust.attacks.results import AttackResult
from omnirobust.core.history import HistoryRows
from omnirobust.evaluation import explain, rank, resists_alone


def result_with(weights: torch.Tensor, axes: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> AttackResult:
    """Return a result of which only the weights matter."""
    B, K = weights.shape
    none = torch.zeros(B, K)
    nothing = HistoryRows(none[None], none[None], None, torch.zeros(1, B, dtype=torch.bool)).means(keep_rows=False)
    return AttackResult(
        adversarial=torch.zeros(B, 1), delta=torch.zeros(B, 1), weights=weights, losses=none, fooled=none.bool(),
        success=none, draws=1, names=names, axes=axes, history=nothing, steps=1, gradient_evaluations=1,
        zero_gradient=torch.zeros(K), settings={},
    )  # fmt: skip


@pytest.fixture
def product():
    """Weights of two models under three transformations, one row for each of forty problems."""
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(40, 6, generator=g) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    weights = weights / weights.sum(1, keepdim=True)
    models, views = ("a", "b"), ("ori", "rot", "crop")
    return result_with(
        weights, {"models": models, "transforms": views}, tuple(f"{m}/{v}" for m in models for v in views)
    )


def test_ranking_orders_mean_weights_and_counts_first_places(product):
    ranked = rank(product)
    means = product.weights.mean(0)
    assert [r.name for r in ranked] == [product.names[k] for k in means.argsort(descending=True)]
    assert sum(r.weight.estimate for r in ranked) == pytest.approx(1.0)
    assert sum(r.top for r in ranked) == pytest.approx(1.0)
    for r in ranked:
        k = product.names.index(r.name)
        assert r.weight.estimate == pytest.approx(float(means[k]))
        assert r.weight.low < r.weight.estimate < r.weight.high
        assert r.top == pytest.approx(float((product.weights.argmax(1) == k).float().mean()))


def test_the_interval_of_a_mean_weight_is_about_two_standard_errors(product):
    for r in rank(product):
        column = product.weights[:, product.names.index(r.name)]
        error = float(column.std() / 40**0.5)
        assert r.weight.high - r.weight.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_factor_is_ranked_by_its_marginal_weights(product):
    ranked = {r.name: r.weight.estimate for r in rank(product, "transforms")}
    grid = product.weights.view(40, 2, 3)
    for k, name in enumerate(("ori", "rot", "crop")):
        assert ranked[name] == pytest.approx(float(grid[:, :, k].sum(1).mean()))


def test_problems_and_ties_are_seen_alike():
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    ranked = rank(result_with(weights, {"models": ("p", "q")}, ("p", "q")))
    assert [(r.name, r.top) for r in ranked] == [("p", 1.0), ("q", 1.0)]


def test_explain_correlates_with_every_measure_and_says_so(product):
    noise = torch.rand(40, 2, generator=torch.Generator().manual_seed(9))
    marginal = product.marginal("models")
    told = explain(product, {"distance": marginal * 3 + 0.01 * noise, "ease": -marginal}, axis="models")
    assert told.names == ("a", "b") and told.axis == "models"
    assert {name: c.verdict for name, c in told.correlations.items()} == {"distance": "holds", "ease": "reversed"}
    first, distance, ease = told.sentences
    assert first.startswith("Mean weights over 40 problems, largest first: b 0.7")
    assert distance.startswith("Weights rise with distance: Spearman's rho is ")
    assert "100 %, against 50 % by chance." in distance
    assert ease.startswith("Weights fall with ease: Spearman's rho is -1.00 within problems (-1.00 to -1.00), ")
    assert "in 0 %, against 50 % by chance." in ease


def test_a_measure_for_all_problems_alike_is_taken(product):
    told = explain(product, {"robust accuracy": torch.arange(6.0)})
    c = told.correlations["robust accuracy"]
    assert c.means.estimate == pytest.approx(1.0)
    assert "1.00 between mean values" in told.sentences[1]


def test_constant_problems_are_told_of():
    weights = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.3, 0.7]])
    told = explain(result_with(weights, {"models": ("p", "q")}, ("p", "q")), {"size": torch.tensor([1.0, 2.0])})
    assert "1 of 3 problems, where either is constant, tell nothing." in told.sentences[1]


def test_where_nothing_varies_nothing_is_said():
    weights = torch.tensor([[0.2, 0.8], [0.3, 0.7]])
    told = explain(result_with(weights, {"models": ("p", "q")}, ("p", "q")), {"size": torch.ones(2)})
    assert told.sentences[1].startswith("Nothing can be said of weights and size: ")


def test_of_examples_mean_values_are_not_compared():
    weights = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    result = result_with(weights, {"examples": ("image_0", "image_1")}, ("image_0", "image_1"))
    assert "between mean values" not in explain(result, {"size": weights}).sentences[1]


def test_an_expected_order_holds_or_not(product):
    told = explain(product)
    good, bad = told.order_holds(("b/crop", "a/crop", "a/ori")), told.order_holds(("a/ori", "b/crop"))
    assert good.holds and good.share > 0.99
    assert not bad.holds and bad.share < 0.05
    assert str(bad) == "a/ori > b/crop does not hold; it does in 0 % of resamples."


def test_the_share_of_an_order_of_equals_is_that_of_chance():
    g = torch.Generator().manual_seed(1)
    first = torch.rand(500, 1, generator=g)
    weights = torch.cat([first, 1 - first], 1)
    weights = torch.cat([weights, weights.flip(1)])  # both means are exactly one half
    order = explain(result_with(weights, {"models": ("p", "q")}, ("p", "q"))).order_holds(("p", "q"))
    assert not order.holds
    assert 0.4 < order.share < 0.6


def test_a_real_attack_explains_itself(models, x, y):
    result = orb.attack_ensemble(models, x, y, orb.Linf(0.05), steps=10)
    alone = resists_alone(models, x, y, orb.Linf(0.05), steps=10)
    told = explain(result, {"accuracy left": alone.float().mean(0)}, axis="models")
    assert {r.name for r in told.ranking} == set(models)
    assert len(told.sentences) == 2


def test_resisting_alone_is_what_one_attack_for_each_model_leaves(models, x, y):
    alone = resists_alone(models, x, y, orb.Linf(0.05), steps=10)
    for k, model in enumerate(models.values()):
        single = orb.attack_ensemble([model], x, y, orb.Linf(0.05), steps=10)
        assert torch.equal(alone[:, k], ~single.fooled[:, 0])


def test_resisting_alone_keeps_the_order_of_a_product(models, x, y):
    views = {"ori": lambda v: v, "flip": lambda v: v.flip(3), "dim": lambda v: 0.5 * v}
    groups, labels = x[:8].view(4, 2, 1, 6, 6), y[:8].view(4, 2)
    eps = torch.tensor([0.02, 0.05, 0.08, 0.3], dtype=torch.float64)
    whole = orb.attack_product(models, groups, labels, orb.Linf(eps), transforms=views, shared=True, steps=3)
    alone = resists_alone(models, groups, labels, orb.Linf(eps), transforms=views, shared=True, steps=10)
    assert alone.shape == whole.fooled.shape
    k = whole.names.index("b/dim/image_1")
    single = orb.attack_transforms(
        models["b"], groups[:, 1], labels[:, 1], {"dim": views["dim"]}, orb.Linf(eps), steps=10
    )
    assert torch.equal(alone[:, k], ~single.fooled[:, 0])


def test_errors_name_the_argument(product):
    with pytest.raises(ValueError, match="axis must be one of models, transforms, got 'examples'"):
        explain(product, axis="examples")
    with pytest.raises(ValueError, match=r"difficulty 'size': difficulty must have shape \(40, 6\) or \(6,\)"):
        explain(product, {"size": torch.ones(40, 5)})
    with pytest.raises(ValueError, match="names must be two or more different ones of a/ori"):
        explain(product).order_holds(("a/ori", "c"))
    with pytest.raises(ValueError, match="two or more"):
        explain(product).order_holds(("a/ori", "a/ori"))
    empty = result_with(torch.zeros(0, 2), {"models": ("p", "q")}, ("p", "q"))
    with pytest.raises(ValueError, match="result must hold at least one problem"):
        rank(empty)
