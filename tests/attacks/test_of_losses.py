"""Attacks on losses of one's own: against the attack on classifiers, closed forms, and functions gone wrong."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.options import OPTIONS
from omnirobust.attacks.store import ResultStore

THREATS = [orb.Linf(0.15), orb.L2(1.0), orb.L1(4.0), orb.L0(6)]
RULES = [orb.Uniform(), orb.WorstCase(), orb.ExponentiatedGradient(0.5), orb.ProjectedAscent(0.1, 1.0), orb.MinNorm()]
LossOf = Callable[[Tensor, Tensor], Tensor]


def below(losses: Tensor) -> Tensor:
    return losses < 0


def margins(models: dict[str, nn.Module], y: Tensor) -> dict[str, LossOf]:
    """The margins of classifiers, as losses of one's own."""
    return {
        name: lambda adversarial, rows, model=model: orb.losses.signed_margin(model(adversarial), y[rows])
        for name, model in models.items()
    }


def scaled(losses: dict[str, LossOf], *factors: float) -> dict[str, LossOf]:
    by = factors * (1 if len(factors) > 1 else len(losses))
    return {
        name: lambda adversarial, rows, f=f, c=c: c * f(adversarial, rows)
        for (name, f), c in zip(losses.items(), by, strict=True)
    }


def to(goal: Tensor, factor: float = 1.0) -> LossOf:
    """Return the squared distance to a point, times a factor."""
    return lambda adversarial, rows: factor * (adversarial - goal).pow(2).sum(1)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_margins_written_by_hand_are_attacked_as_the_classifiers_are(models, x, y, threat, rule) -> None:
    kind = {"rule": rule, "steps": 12, "restarts": 2, "stop_when_fooled": True, "history": "full"}
    theirs = orb.attack_ensemble(models, x, y, threat, loss=orb.losses.signed_margin, **kind)
    ours = orb.attack_losses(margins(models, y), x, threat, success=below, **kind)
    for name in ("adversarial", "delta", "weights", "losses", "fooled", "success"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(ours.history.losses, theirs.history.losses)
    assert ours.asr_all == theirs.asr_all and ours.asr_avg == theirs.asr_avg
    assert ours.names == theirs.names and ours.axes == {"losses": ("a", "b", "c")}
    assert not ours.notes and ours.origin is None


def test_one_model_and_its_loss_in_batches_are_attacked_alike(models, x, y) -> None:
    one = {"b": models["b"]}
    kind = {"rule": orb.Uniform(), "steps": 8, "batch_size": 4}
    theirs = orb.attack_ensemble(one, x, y, orb.L2(0.7), loss=orb.losses.signed_margin, **kind)
    ours = orb.attack_losses(margins(one, y), x, orb.L2(0.7), success=below, **kind)
    assert torch.equal(ours.delta, theirs.delta) and ours.weights.unique().tolist() == [1.0]


@pytest.mark.parametrize("threat", THREATS[:3], ids=lambda t: t.name)
def test_the_default_lowers_the_worst_loss_further_than_the_average(models, x, y, threat) -> None:
    of = margins(models, y)
    minmax = orb.attack_losses(of, x, threat)
    average = orb.attack_losses(of, x, threat, rule=orb.Uniform())
    assert float(minmax.losses.amax(1).mean()) < float(average.losses.amax(1).mean())


@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize(("radius", "weight"), [(5.0, 1.0), (5.0, 4.0), (0.5, 1.0)])
def test_two_quadratics_end_where_geometry_says(radius: float, weight: float, factor: float) -> None:
    """Of |d - a|^2 and c |d - b|^2 the worst is least where they are equal on the segment, or at (r, 0)."""
    a, b = torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0, -1.0]).double()
    x = torch.zeros(1, 2).double()
    wide = orb.L2(radius, bounds=(-10.0, 10.0))
    found = orb.attack_losses({"a": to(a, factor), "b": to(b, factor * weight)}, x, wide, steps=300)
    share = weight**0.5 / (1 + weight**0.5)  # |d - a| = sqrt(c) |d - b|
    best = a + share * (b - a) if radius > 2 else torch.tensor([radius, 0.0]).double()
    assert (found.delta[0] - best).abs().max() < 0.03
    worst = max(float((best - a).pow(2).sum()), weight * float((best - b).pow(2).sum()))
    assert factor * worst - 1e-9 <= float(found.losses.max()) <= factor * worst * 1.05
    if radius > 2:  # at the minimax point sum_k w_k grad F_k = 0: w_a |d - a| = w_b c |d - b|
        expected = weight**0.5 / (1 + weight**0.5)
        assert abs(float(found.weights[0, 0]) - expected) < 0.15


FACTORS = st.one_of(st.integers(-60, 60).map(lambda k: 2.0**k), st.floats(1e-9, 1e9))


@settings(deadline=None, max_examples=25)
@given(factor=FACTORS, threat=st.sampled_from(THREATS), normalise=st.booleans(), seed=st.integers(0, 3))
def test_one_factor_of_all_losses_changes_nothing(factor: float, threat, normalise: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    inputs = torch.rand(3, 8, generator=g, dtype=torch.float64)
    ways = torch.randn(3, 8, 4, generator=g, dtype=torch.float64)
    of: dict[str, LossOf] = {
        str(k): lambda adversarial, rows, w=w: (adversarial @ w).tanh().sum(1) + rows for k, w in enumerate(ways)
    }

    def go(losses: dict[str, LossOf]) -> orb.AttackResult:
        return orb.attack_losses(losses, inputs, threat, steps=15, normalise=normalise)

    plain, other = go(of), go(scaled(of, factor))
    if math.frexp(factor)[0] == 0.5:
        assert torch.equal(plain.adversarial, other.adversarial) and torch.equal(plain.weights, other.weights)
    assert torch.allclose(plain.adversarial, other.adversarial, atol=1e-6)
    assert torch.allclose(plain.weights, other.weights, atol=1e-6)
    assert torch.allclose(plain.losses * factor, other.losses)
    assert torch.allclose(plain.history.losses * factor, other.history.losses)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_each_loss_by_its_own_scale_forgets_its_factor(models, x, y, threat) -> None:
    of = margins(models, y)
    own = orb.attack_losses(of, x, threat, steps=10, normalise=True)
    other = orb.attack_losses(scaled(of, 2.0**10, 1.0, 2.0**-7), x, threat, steps=10, normalise=True)
    assert torch.equal(own.adversarial, other.adversarial) and torch.equal(own.weights, other.weights)
    common = orb.attack_losses(scaled(of, 2.0**10, 1.0, 2.0**-7), x, threat, steps=10)
    assert not torch.equal(common.weights, own.weights)


def test_an_offset_of_all_losses_changes_nothing(models, x, y) -> None:
    of = margins(models, y)
    raised = {name: lambda adversarial, rows, f=f: f(adversarial, rows) + 1e4 for name, f in of.items()}
    plain, other = (orb.attack_losses(each, x, orb.L2(1.0), steps=10) for each in (of, raised))
    assert torch.allclose(plain.delta, other.delta, atol=1e-6)
    assert torch.allclose(plain.weights, other.weights, atol=1e-6)


def test_no_success_is_said_where_none_is_known(models, x, y, tmp_path: Path) -> None:
    of = margins(models, y)
    found = orb.attack_losses(of, x, orb.Linf(0.1), steps=6, batch_size=4, store=ResultStore(tmp_path))
    assert found.fooled is None and found.success is None
    rates = [found.asr_all, found.asr_avg, found.asr_gp, *found.success_rate.tolist(), *found.accuracy.tolist()]
    assert all(rate != rate for rate in rates) and bool(found.history.best_all_fooled.isnan().all())
    assert "ASR" not in repr(found) and "mean worst loss" in repr(found)
    of.clear()
    again = orb.attack_losses(margins(models, y), x, orb.Linf(0.1), steps=6, batch_size=4, store=ResultStore(tmp_path))
    assert torch.equal(found.delta, again.delta) and again.fooled is None and again.to("cpu").success is None
    with pytest.raises(ValueError, match="attack_losses"):
        found.report(tmp_path / "page.html")
    with pytest.raises(ValueError, match="stop_when_fooled must be False without success"):
        orb.attack_losses(margins(models, y), x, orb.Linf(0.1), stop_when_fooled=True)


def test_success_is_that_of_the_losses_of_what_is_returned(models, x, y) -> None:
    of, limit = margins(models, y), torch.tensor([0.5, 0.0, -0.5]).double()
    found = orb.attack_losses(of, x, orb.Linf(0.1), success=lambda losses: losses < limit, steps=10)
    by_hand = torch.stack([f(found.adversarial, torch.arange(9)) for f in of.values()], 1)
    assert torch.equal(found.losses, by_hand) and torch.equal(found.fooled, by_hand < limit)
    assert found.asr_all == pytest.approx(float((by_hand < limit).all(1).double().mean()))
    assert bool(found.accuracy.isnan().all())


def test_rows_number_the_inputs_in_batches_restarts_and_when_rows_leave(models, x, y) -> None:
    seen: list[Tensor] = []

    def checked(name: str) -> LossOf:
        def loss(adversarial: Tensor, rows: Tensor) -> Tensor:
            assert rows.dtype == torch.int64 and len(rows) == len(adversarial)
            assert (adversarial - x[rows]).abs().max() <= 0.15 + 1e-9  # half as far again on the detour
            seen.append(rows)
            return orb.losses.signed_margin(models[name](adversarial), y[rows])

        return loss

    kind = {"success": below, "steps": 25, "restarts": 3, "stop_when_fooled": True}
    whole = orb.attack_losses({n: checked(n) for n in models}, x, orb.Linf(0.1), **kind)
    assert {len(rows) for rows in seen} >= {9} and min(map(len, seen)) < 9
    seen.clear()
    cut = orb.attack_losses({n: checked(n) for n in models}, x, orb.Linf(0.1), batch_size=4, first_row=100, **kind)
    assert set(torch.cat(seen).tolist()) == set(range(9))
    assert torch.equal(whole.fooled, cut.fooled)


@pytest.mark.processors
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_results_do_not_depend_on_batches_nor_on_a_budget_of_memory(models, x, y, rounding, threat) -> None:
    of = margins({name: rounding(model) for name, model in models.items()}, y)

    def go(**how) -> orb.AttackResult:
        return orb.attack_losses(of, x, threat, steps=6, restarts=2, init="normal", history="full", **how)

    whole = go()
    for cut in (go(batch_size=2), go(memory=2000), go(batch_size=4, memory=1)):
        assert torch.allclose(whole.delta, cut.delta, atol=1e-9)
        assert torch.allclose(whole.weights, cut.weights, atol=1e-9)
        assert torch.allclose(whole.history.losses, cut.history.losses)


def test_a_budget_of_memory_limits_what_a_function_is_given(models, x, y) -> None:
    sizes = []

    def loss(adversarial: Tensor, rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return orb.losses.signed_margin(models["a"](adversarial), y[rows])

    orb.attack_losses({"a": loss}, x, orb.Linf(0.1), steps=2, memory=1)
    assert sizes[-3:] == [1, 1, 1]


def test_calls_are_counted(models, x, y) -> None:
    found = orb.attack_losses(margins(models, y), x, orb.Linf(0.1), steps=7, restarts=2)
    assert [m.calls for m in models.values()] == [4 + 1 + 2 * 8 + 1] * 3  # a probe, the units, the runs, the judgement
    assert found.gradient_evaluations == 3 * (2 * 7 + 1)


class Stopped(Exception):
    """Stands for a kill."""


def test_a_stopped_attack_goes_on_where_it_was(models, x, y, tmp_path: Path) -> None:
    of, calls = margins(models, y), []

    def counted(limit: int) -> LossOf:
        def loss(adversarial: Tensor, rows: Tensor) -> Tensor:
            calls.append(rows.tolist())
            if len(calls) > limit:
                raise KeyboardInterrupt
            return of["a"](adversarial, rows)

        return loss

    def go(limit: int, store, **other) -> orb.AttackResult:
        calls.clear()
        how = {"success": below, "steps": 5, "batch_size": 3, "store": store, **other}
        return orb.attack_losses({"a": counted(limit), "b": of["b"]}, x, orb.L2(0.8), **how)

    whole = go(10**9, None)
    probe, batch = 4 * 3, 1 + 6 + 1
    assert len(calls) == probe + 3 * batch
    with pytest.raises(KeyboardInterrupt):
        go(probe + batch + 4, ResultStore(tmp_path))
    again = go(10**9, ResultStore(tmp_path))
    assert len(calls) == probe + 2 * batch
    for name in ("adversarial", "weights", "losses", "fooled"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert torch.equal(again.history.losses, whole.history.losses)
    go(10**9, ResultStore(tmp_path), normalise=True)  # of other settings, nothing is taken for this one's
    assert len(calls) == probe + 3 * batch


def test_a_random_loss_is_attacked_in_expectation_and_judged_on_fresh_draws(models, x, y) -> None:
    steady = margins(models, y)

    def noisy(adversarial: Tensor, rows: Tensor) -> Tensor:
        return steady["a"](adversarial, rows) + 0.3 * torch.randn(len(rows), dtype=adversarial.dtype)

    def go(seed: int = 0, draws: int = 200) -> orb.AttackResult:
        how = {"success": below, "steps": 5, "samples": 3, "draws": draws, "seed": seed}
        return orb.attack_losses({"noisy": noisy, "b": steady["b"]}, x, orb.Linf(0.1), **how)

    before = torch.get_rng_state()
    found = go()
    assert torch.equal(torch.get_rng_state(), before)
    assert found.draws == 200 and "loss 'noisy' is random" in found.notes[0] and "200 fresh draws" in found.notes[1]
    sure = steady["a"](found.adversarial, torch.arange(9))
    assert (found.losses[:, 0] - sure).abs().max() < 4 * 0.3 / 200**0.5
    expected = torch.distributions.Normal(0.0, 0.3).cdf(-sure)  # how often noise leaves a loss below zero
    assert (found.success[:, 0] - expected).abs().max() < 4 * 0.5 / 200**0.5
    assert torch.equal(found.fooled, found.success == 1)
    assert found.gradient_evaluations == (3 + 1) * 5 + 2
    assert torch.equal(go().delta, found.delta) and not torch.equal(go(seed=1).losses, found.losses)


def test_rows_that_see_each_other_are_named(models, x, y) -> None:
    of = margins(models, y)["a"]
    found = orb.attack_losses({"coupled": lambda a, rows: of(a, rows) - of(a, rows).mean()}, x, orb.Linf(0.1), steps=2)
    assert "loss 'coupled' couples rows" in found.notes[0]


def test_what_keeps_something_from_call_to_call_is_named(models, x, y) -> None:
    of, calls = margins(models, y)["a"], []

    def counting(adversarial: Tensor, rows: Tensor) -> Tensor:
        calls.append(1)
        return of(adversarial, rows) + len(calls)

    found = orb.attack_losses({"counting": counting}, x, orb.Linf(0.1), steps=2, draws=2)
    assert any("loss 'counting' draws from a source that no seed of torch reaches" in note for note in found.notes)


def test_a_module_in_training_mode_behind_a_function_is_in_evaluation_mode(x) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1)).double()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found = orb.attack_losses({"value": lambda a, rows: network(a)[:, 0]}, x, orb.Linf(0.1), steps=4)
    assert network.training and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not found.notes
    assert torch.equal(found.losses[:, 0], network.eval()(found.adversarial)[:, 0])


def test_a_function_may_write_into_its_arguments(models, x, y) -> None:
    def writing(name: str) -> LossOf:
        def loss(adversarial: Tensor, rows: Tensor) -> Tensor:
            value = orb.losses.signed_margin(models[name](adversarial.mul_(2).div_(2)), y[rows])
            adversarial.data.zero_()
            rows.zero_()
            return value

        return loss

    plain = orb.attack_losses(margins(models, y), x, orb.Linf(0.1), steps=5)
    found = orb.attack_losses({name: writing(name) for name in models}, x, orb.Linf(0.1), steps=5)
    assert torch.equal(found.delta, plain.delta) and torch.equal(found.losses, plain.losses)


def test_inputs_where_no_loss_has_a_gradient_begin_from_noise(x) -> None:
    """The way to leave an embedding: at the input itself the distance is zero, and flat."""
    matrix = torch.randn(36, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    away = {"embedding": lambda a, rows: -((a.flatten(1) - x[rows].flatten(1)) @ matrix).pow(2).sum(1)}
    found = orb.attack_losses(away, x, orb.L2(0.5, bounds=(-9.0, 9.0)), steps=60)
    assert "the attack on these began from noise" in found.notes[0]
    best = -0.25 * float(torch.linalg.svdvals(matrix)[0]) ** 2  # along the first singular vector
    assert bool((found.losses >= best - 1e-9).all()) and bool((found.losses <= 0.95 * best).all())
    with pytest.warns(match="loss 'embedding' is zero"):
        still = orb.attack_losses(away, x, orb.L2(0.5, bounds=(-9.0, 9.0)), steps=6, init="zero")
    assert not still.delta.any() and "Gradient masking: the input gradient of loss 'embedding'" in still.notes[0]


def test_the_unit_of_losses_that_are_flat_at_the_input_is_taken_beside_it(x) -> None:
    g = torch.Generator().manual_seed(1)
    maps = {str(k): torch.randn(36, 6, generator=g, dtype=torch.float64) for k in range(2)}
    away: dict[str, LossOf] = {
        name: lambda a, rows, m=m: -((a.flatten(1) - x[rows].flatten(1)) @ m).pow(2).sum(1) for name, m in maps.items()
    }
    plain, other = (orb.attack_losses(scaled(away, c), x, orb.Linf(0.2), steps=9) for c in (1.0, 2.0**-30))
    assert torch.equal(plain.adversarial, other.adversarial) and torch.equal(plain.weights, other.weights)
    assert plain.weights.std() > 0 and plain.zero_gradient.tolist() == [0, 0]


def test_half_precision_and_losses_of_another_precision(models, x, y) -> None:
    dtypes, network = set(), models["a"].float()

    def loss(adversarial: Tensor, rows: Tensor) -> Tensor:
        dtypes.add(adversarial.dtype)
        return orb.losses.signed_margin(network(adversarial.float()), y[rows]).double()

    found = orb.attack_losses({"a": loss}, x.bfloat16(), orb.Linf(0.1), steps=4, success=below)
    assert dtypes == {torch.bfloat16} and found.adversarial.dtype == torch.bfloat16
    assert found.losses.dtype == found.weights.dtype == torch.float32
    start = loss(x.bfloat16(), torch.arange(9)).float()
    assert bool((found.losses[:, 0] < start).all())


def test_no_input_is_no_problem(models, x, y) -> None:
    found = orb.attack_losses(margins(models, y), x[:0], orb.Linf(0.1), success=below, steps=2)
    assert found.adversarial.shape == (0, 1, 6, 6) and found.losses.shape == (0, 3) and found.asr_all == 0


@pytest.mark.parametrize("name", ["loss", "targeted", "true_labels", "labels", "precision", "transforms", "y"])
def test_options_of_models_and_labels_are_unknown_here(models, x, y, name: str) -> None:
    with pytest.raises(TypeError, match=rf"attack_losses\(\) got an unexpected keyword argument '{name}'"):
        orb.attack_losses(margins(models, y), x, orb.Linf(0.1), **{name: None})


def test_all_other_options_are_shown_and_say_what_they_mean() -> None:
    shown = inspect.signature(orb.attack_losses).parameters
    assert set(OPTIONS) - set(shown) == {"loss", "targeted", "true_labels", "precision"}
    assert list(shown)[:5] == ["losses", "x", "threat_model", "success", "normalise"]
    for name in set(OPTIONS) & set(shown):
        assert f"\n        {name}: " in (orb.attack_losses.__doc__ or "")


def detached(a: Tensor, rows: Tensor) -> Tensor:
    return a.detach().flatten(1).sum(1)


WRONG: dict[str, tuple[object, str]] = {
    "a list": ([detached], r"losses must map names to callables f\(adversarial, rows\), got list"),
    "a function": (detached, r"losses must map names to callables f\(adversarial, rows\), got a function alone"),
    "none": ({}, "losses must hold at least one function, got none"),
    "a number": ({"a": 3}, r"losses must map names to callables f\(adversarial, rows\), got int for 'a'"),
    "no rows": ({"a": lambda a: a}, r"losses must be callable as f\(adversarial, rows\), got 'a', which takes \(a\)"),
    "same names": ({"1": detached, 1: detached}, r"losses must have names that differ as text, got \['1', 1\]"),
    "detached": ({"a": detached}, "loss 'a' must be differentiable in the inputs"),
    "constant": ({"a": lambda a, rows: torch.zeros(len(a))}, "loss 'a' must be differentiable in the inputs"),
    "a mean": ({"a": lambda a, rows: a.mean()}, r"loss 'a' must return a floating number for each of 9 rows, got"),
    "a column": ({"a": lambda a, rows: a[:, 0, 0, :1]}, r"for each of 9 rows, got torch.float64 of shape \(9, 1\)"),
    "whole numbers": ({"a": lambda a, rows: rows}, "for each of 9 rows, got torch.int64"),
    "a text": ({"a": lambda a, rows: "high"}, "for each of 9 rows, got str"),
    "nothing": ({"a": lambda a, rows: None}, "for each of 9 rows, got NoneType"),
    "NaN": (
        {"a": lambda a, rows: a.flatten(1).sum(1) * torch.where(rows == 4, torch.nan, 1.0)},
        "loss 'a' must return finite numbers, got nan in row 4",
    ),
    "infinite": (
        {"a": lambda a, rows: a.flatten(1).sum(1) / (rows != 7)},
        "loss 'a' must return finite numbers, got inf in row 7",
    ),
    "an infinite slope": (
        {"a": lambda a, rows: (a.flatten(1) - a.detach().flatten(1)).abs().sum(1).sqrt()},
        "loss 'a' must have finite input gradients, got nan in row 0",
    ),
    "raises": ({"a": lambda a, rows: {}["no"]}, r"loss 'a' cannot take inputs of shape \(9, 1, 6, 6\).*KeyError: 'no'"),
}  # fmt: skip


@pytest.mark.parametrize(("losses", "told"), WRONG.values(), ids=WRONG)
def test_functions_gone_wrong_are_refused_in_one_sentence(x, losses, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        orb.attack_losses(losses, x, orb.Linf(0.1), steps=2)
    assert "\n" not in str(refused.value)


def test_what_fails_late_is_named_with_its_row(x) -> None:
    """The square root has a slope where it begins, and none once it is reached."""
    falling = {"a": lambda a, rows: (a.flatten(1).sum(1) - x[rows].flatten(1).sum(1) + 0.5 * (rows == 5) + 9).sqrt()}
    with pytest.raises(ValueError, match=re.escape("loss 'a' must return finite numbers, got nan in row")):
        orb.attack_losses(falling, x, orb.Linf(0.9), steps=9, batch_size=5)


@pytest.mark.parametrize(
    ("success", "told"),
    [
        (3, r"success must be a function of losses \(B, K\) or None, got int"),
        (lambda losses: losses, r"success must return bool of shape \(B, K\) = \(9, 3\), got torch.float64"),
        (lambda losses: (losses < 0).all(1), r"success must return bool of shape \(B, K\) = \(9, 3\), got torch.bool"),
        (lambda losses: losses.of("a"), r"success must map losses \(B, K\) = \(9, 3\) to bool, it raised"),
    ],
    ids=["a number", "losses", "one a row", "what raises"],
)  # fmt: skip
def test_a_success_gone_wrong_is_refused(models, x, y, success, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        orb.attack_losses(margins(models, y), x, orb.Linf(0.1), success=success, steps=2)


def test_success_may_write_into_the_losses(models, x, y) -> None:
    of = margins(models, y)
    plain = orb.attack_losses(of, x, orb.Linf(0.1), success=below, steps=4)
    found = orb.attack_losses(of, x, orb.Linf(0.1), success=lambda losses: losses.sub_(0).mul_(7) < 0, steps=4)
    assert torch.equal(found.losses, plain.losses) and torch.equal(found.delta, plain.delta)


RANGES = {
    "ends of each pixel": (orb.Linf(0.2, bounds=(torch.full((1, 6, 6), -0.5), torch.linspace(1, 2, 36).view(1, 6, 6)))),
    "no ends": orb.L2(1.0, bounds=(-float("inf"), float("inf"))),
    "units": orb.ThreatModel(2, 1.0, bounds=(-9.0, 9.0), scale=torch.linspace(0.5, 2, 36).view(1, 6, 6)),
    "a mask": orb.Linf(0.3, mask=torch.arange(36).view(1, 6, 6) % 3 == 0),
    "radii of their own": orb.Linf(torch.linspace(0, 0.3, 9)),
}


@pytest.mark.parametrize("threat", RANGES.values(), ids=RANGES)
def test_ranges_units_masks_and_radii_are_those_of_the_other_attacks(models, x, y, threat) -> None:
    kind = {"rule": orb.ExponentiatedGradient(0.5), "steps": 8, "batch_size": 4}
    theirs = orb.attack_ensemble(models, x, y, threat, loss=orb.losses.signed_margin, **kind)
    ours = orb.attack_losses(margins(models, y), x, threat, success=below, **kind)
    assert torch.equal(ours.delta, theirs.delta) and torch.equal(ours.weights, theirs.weights)
    assert bool(threat.around(x).contains(orb.attack_losses(margins(models, y), x, threat, steps=8).delta).all())


def test_other_units_of_the_features_change_nothing(models, x, y) -> None:
    """The same losses of the same inputs, told in thousandths: with a scale of a thousand all of it is the same."""
    of = margins(models, y)
    milli: dict[str, LossOf] = {name: lambda a, rows, f=f: f(a / 1024, rows) for name, f in of.items()}
    plain = orb.attack_losses(of, x, orb.L2(1.0, bounds=(-2.0, 2.0)), steps=8)
    scale = torch.full((1, 6, 6), 1024.0, dtype=torch.float64)
    ball = orb.ThreatModel(2, 1.0, bounds=(-2048.0, 2048.0), scale=scale)
    other = orb.attack_losses(milli, x * 1024, ball, steps=8)
    assert torch.allclose(other.delta / 1024, plain.delta, atol=1e-9) and torch.allclose(other.weights, plain.weights)


def test_the_papers_algorithm_takes_raw_gradients_and_losses_as_they_are(models, x, y) -> None:
    of = margins(models, y)
    found = orb.attack_losses(of, x, orb.L2(1.0), success=below, preset="paper", steps=8)
    theirs = orb.attack_ensemble(models, x, y, orb.L2(1.0), loss=orb.losses.signed_margin, preset="paper", steps=8)
    assert torch.equal(found.delta, theirs.delta) and torch.equal(found.weights, theirs.weights)
    assert found.settings["unit"] == "none" and found.settings["keep"] == "last"
    with pytest.raises(ValueError, match="preset must be 'paper' or None, got 'transfer'"):
        orb.attack_losses(of, x, orb.L2(1.0), preset="transfer")


def test_weights_of_losses_are_ranked_as_others(models, x, y) -> None:
    found = orb.attack_losses(margins(models, y), x, orb.L2(1.0), steps=8)
    ranked = orb.evaluation.rank(found, "losses", resamples=20)
    assert [r.name for r in ranked] == [found.names[k] for k in found.weights.mean(0).argsort(descending=True)]
