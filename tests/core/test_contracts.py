"""Mistakes in domains, rules and sets of one's own are told in one sentence, and what is right passes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.universal import learn_universal
from omnirobust.core.contracts import check_set
from omnirobust.training import Scheme, fit

GOALS = torch.tensor([[0.0, 2.0], [1.0, 0.0], [-1.0, 0.0]])
BALL = orb.FeasibleSet(p=2, eps=1.0, lower=-torch.full((4, 2), 3.0), upper=torch.full((4, 2), 3.0))
RULE = orb.ProjectedAscent(beta=0.1, gamma=0.0)


class Goals:
    """Three goals in the plane, and four points that begin at the origin."""

    names: tuple[str, ...] = ("north", "east", "west")
    members: tuple[str, ...] = names

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        return {"goals": self.members}

    def select(self, rows: Tensor) -> Goals:
        return self

    def evaluate(self, delta: Tensor, grad: bool = True) -> orb.Evaluation:
        away = delta.unsqueeze(1) - GOALS
        return orb.Evaluation((away**2).sum(2), None, (2 * away).unbind(1) if grad else None)


def changed(**fields):
    """Goals whose evaluation has other fields, made from the right ones."""

    class Changed(Goals):
        def evaluate(self, delta, grad=True):
            e = super().evaluate(delta, grad)
            made = {name: make(e) for name, make in fields.items() if grad or name != "grads"}
            return orb.Evaluation(**{"losses": e.losses, "fooled": None, "grads": e.grads} | made)

    return Changed()


def run(domains=None, rule=RULE, ball=BALL, steps=5):
    domains = Goals() if domains is None else domains
    return orb.solve(domains, ball, rule, steps=steps, step_size=0.05, direction=orb.RawGradient())


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (
            changed(losses=lambda e: e.losses.T),
            r"losses of shape .* = \(4, 3\), got torch.float32 of shape \(3, 4\)",
        ),
        (changed(losses=lambda e: e.losses[:, :2]), r"Changed.evaluate must return floating losses"),
        (changed(losses=lambda e: e.losses.long()), r"floating losses .* got torch.int64"),
        (changed(losses=lambda e: e.losses.tolist()), "floating losses .* got list"),
        (
            changed(fooled=lambda e: e.losses[:, 0] < 1),
            r"fooled as None or bool .* got torch.bool of shape \(4,\)",
        ),
        (changed(fooled=lambda e: e.losses), "fooled as None or bool of shape .* got torch.float32"),
        (changed(grads=lambda e: None), "a tuple of K = 3 gradients where grad is true, got NoneType"),
        (changed(grads=lambda e: e.grads[:2]), "a tuple of K = 3 gradients where grad is true, got 2 of them"),
        (changed(grads=lambda e: torch.stack(e.grads)), "a tuple of K = 3 gradients .* got torch.float32 of shape"),
        (changed(grads=lambda e: (*e.grads[:2], e.grads[2][:, :1])), r"shape \(4, 2\), got .* \(4, 1\) for 'west'"),
        (changed(grads=lambda e: tuple(g * torch.nan for g in e.grads)), "became NaN at step 1: a gradient or"),
        (changed(losses=lambda e: e.losses * torch.nan), "domain 'north' gave a NaN loss at step 0"),
    ],
)
def test_an_evaluation_that_does_not_fit(domains, message):
    with pytest.raises(ValueError, match=message):
        run(domains)


def test_names_and_axes_that_do_not_fit():
    class Bare(Goals):
        def evaluate(self, delta, grad=True):
            return (delta,)

    with pytest.raises(ValueError, match=r"Bare.evaluate must return an Evaluation, got tuple"):
        run(Bare())
    Bare.members = ("a", "b")
    with pytest.raises(ValueError, match=r"axes of Bare must have a product of 3 members, as names, got \[2\]"):
        run(Bare())
    Bare.names = ()
    with pytest.raises(ValueError, match="Bare must have at least one domain"):
        run(Bare())


@dataclass(frozen=True)
class Own:
    """A rule that keeps the weights, save for what ``answer`` makes of them; it knows nothing of dtypes."""

    answer: str = "right"

    def init(self, B, K):
        return torch.full((B, K), 1 / K) if self.answer != "first" else torch.ones(B, K)

    def step(self, weights, losses):
        return {
            "right": lambda: weights, "first": lambda: weights, "double": lambda: weights.double(),
            "sum": lambda: 2 * weights, "negative": lambda: torch.tensor([2.0, -0.5, -0.5]).expand(len(weights), 3),
            "nan": lambda: weights * torch.nan, "row": lambda: weights[0], "numpy": lambda: weights.numpy(),
        }[self.answer]()  # fmt: skip


WRONG = [
    ("first", r"Own.init\(4, 3\) must return weights >= 0 that sum to 1 in each row, got \[1.0, 1.0, 1.0\]"),
    ("sum", r"Own.step must return weights >= 0 that sum to 1 in each row, got \[0.6667, 0.6667, 0.6667\]"),
    ("negative", r"Own.step must return .* got \[2.0, -0.5, -0.5\]"),
    ("nan", r"Own.step must return .* got \[nan, nan, nan\]"),
    ("row", r"Own.step must return weights of shape \(4, 3\), got torch.float32 of shape \(3,\)"),
    ("numpy", r"Own.step must return weights of shape \(4, 3\), got numpy.ndarray"),
]


@pytest.mark.parametrize(("answer", "message"), WRONG)
def test_a_rule_that_leaves_the_simplex(answer, message):
    with pytest.raises(ValueError, match=message):
        run(rule=Own(answer))


@pytest.mark.parametrize("answer", ["right", "double"])
def test_a_rule_of_ones_own_that_keeps_the_weights_is_the_average(answer):
    own, average = run(rule=Own(answer)), run(rule=orb.Uniform())
    assert torch.equal(own.delta, average.delta) and torch.equal(own.weights, average.weights)


def tiny() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(12, 1, 4, 4)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), x, torch.arange(12) % 3


@pytest.mark.parametrize("persist", ["none", "example"])
def test_training_takes_a_rule_that_knows_nothing_of_dtypes(persist):
    threats, found = (orb.Linf(0.1), orb.L2(0.5), orb.L1(1.0)), []
    for kind, rule in (("minmax", Own()), ("average", None)):
        model, x, y = tiny()
        scheme = Scheme(kind, threats, steps=2, rule=rule, persist=persist if rule else "none")
        found.append(fit(model, (x, y), scheme, epochs=2, batch_size=6, seed=1).model.state_dict())
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
    model, x, y = tiny()
    with pytest.raises(ValueError, match=r"Own.step must return weights >= 0"):
        fit(model, (x, y), Scheme("minmax", threats, steps=2, rule=Own("sum")), epochs=1)


def test_universal_perturbations_take_such_a_rule():
    model, x, y = tiny()
    own, even = (
        learn_universal({"m": model.eval()}, x, y, orb.Linf(0.1), epochs=1, batch_size=6, rule=rule)
        for rule in (Own(), orb.Uniform())
    )
    assert torch.allclose(own.delta, even.delta)


def threat_of(cls):
    """A threat model whose sets are of a class."""

    class Own(orb.ThreatModel):
        def around(self, x, *, shared=False, clip="image"):
            ball = super().around(x, shared=shared, clip=clip)
            return cls(ball.p, ball.eps, ball.lower, ball.upper) if isinstance(cls, type) else cls(x)

    return Own(float("inf"), 0.1)


class Even(orb.FeasibleSet):
    """Perturbations that are the same everywhere in an image."""

    def project(self, delta: Tensor) -> Tensor:
        low, high = self.lower.flatten(1).amax(1), self.upper.flatten(1).amin(1)
        eps = torch.as_tensor(self.eps)
        mean = delta.flatten(1).mean(1).clamp(low.clamp_min(-eps), high.clamp_max(eps))
        return mean.view(-1, 1, 1, 1).expand_as(delta).contiguous()

    def contains(self, delta: Tensor, tol: float = 1e-6) -> Tensor:
        return super().contains(delta, tol) & ((delta - self.project(delta)).abs().flatten(1).amax(1) <= tol)


def of(name, make):
    return threat_of(type(name, (Even,), make))


SETS = [
    (of("Flat", {"project": lambda _, d: d.flatten(1)}), r"Flat.project must return .* of shape \(12, 1, 4, 4\)"),
    (of("Nan", {"project": lambda self, d: d * torch.nan}), "Nan.project must return finite perturbations"),
    (of("Far", {"project": lambda self, d: d * 0 + 5}), "Far.project must return perturbations between lower"),
    (of("Lazy", {"project": lambda self, d: d.clamp(self.lower, self.upper)}), "Lazy.* members .* contains is false"),
    (of("Sure", {"contains": lambda self, d: True}), r"Sure.contains must return bool of shape \(12,\), got bool"),
    (threat_of(lambda x: x), "Own.around must return a FeasibleSet of shape .* got Tensor"),
    (threat_of(lambda x: orb.Linf(0.1).around(x[:3])), r"Own.around must return .* got one of shape \(3, 1, 4, 4\)"),
]  # fmt: skip


@pytest.mark.parametrize(("threat", "message"), SETS)
def test_a_set_that_does_not_hold_what_it_projects_to(threat, message):
    model, x, y = tiny()
    for call in (
        lambda: orb.attack_ensemble({"m": model.eval()}, x, y, threat, steps=2),
        lambda: orb.evaluation.evaluate_robustness(model.eval(), x, y, threat, steps=2),
        lambda: check_set(threat, x),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="must return"):
        fit(model, (x, y), Scheme("single", (threat,), steps=2), epochs=1)


def test_a_set_of_ones_own_passes():
    model, x, y = tiny()
    threat = threat_of(Even)
    result = orb.attack_ensemble({"m": model.eval()}, x, y, threat, steps=5)
    assert threat.around(x).contains(result.delta).all() and result.delta.abs().max() > 0.01


def test_solve_looks_at_what_it_returns():
    """A projection that leads astray only later is found in the end."""

    class Drifting(Even):
        def project(self, delta: Tensor) -> Tensor:
            return super().project(delta) if bool((delta == 0).all()) else delta.clamp(-0.05, 0.05)

    model, x, y = tiny()
    ball = orb.Linf(0.1).around(x)
    ball = Drifting(ball.p, ball.eps, ball.lower, ball.upper)
    grid = orb.DomainGrid({"m": model.eval()}, x, y, loss=orb.losses.margin)
    with pytest.raises(ValueError, match=r"Drifting.project must return"):
        orb.solve(grid, ball, RULE, steps=3, step_size=0.02, direction=orb.RawGradient())


def test_losses_that_hang_on_their_graph_are_as_good() -> None:
    attached = changed(losses=lambda e: e.losses.requires_grad_() * 1)
    found, plain = run(attached), run()
    assert not found.losses.requires_grad and torch.equal(found.delta, plain.delta)
    assert torch.equal(found.weights, plain.weights) and torch.equal(found.losses, plain.losses)
