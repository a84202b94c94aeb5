"""Algorithm 2 against its text, linear models' closed forms, Lemma 1 and counts of forward passes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from omnirobust.core.projections import project_lp_box, project_simplex
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.core.weights import ExponentiatedGradient, Fixed, ProjectedAscent
from omnirobust.training import Scheme, attack_batch

BOTH = (Linf(0.2), L2(1.0))
ALL = (Linf(0.2), L2(1.0), L1(2.0), L0(3))


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return -log softmax(model(x))_y of one example, (1, *S) and a number, in plain operations."""
    z = model(x)[0]
    return z.exp().sum().log() - z[y]


def algorithm_2(model, x, y, threats, step_sizes, steps, beta, gamma, weights) -> tuple[list[Tensor], Tensor]:
    """Run the R steps of Algorithm 2 as printed, example by example and attack by attack, from delta = 0."""
    K = len(threats)
    found, found_weights = [], []
    for n in range(len(x)):
        image = x[n : n + 1]
        w, delta = weights[n], [torch.zeros_like(image) for _ in threats]
        for _ in range(steps):
            losses, grads = [], []
            for i in range(K):
                point = delta[i].clone().requires_grad_(True)
                f = cross_entropy(model, image + point, int(y[n]))
                losses.append(f.detach())
                grads.append(torch.autograd.grad(w[i] * f, point)[0])
            grad_w = torch.stack(losses) - gamma * (w - 1 / K)
            w_next = project_simplex(w + beta * grad_w)
            delta = [
                project_lp_box(delta[i] + step_sizes[i] * grads[i], t.p, t.eps, 0 - image, 1 - image)
                for i, t in enumerate(threats)
            ]
            w = w_next
        found.append(delta)
        found_weights.append(w)
    return [torch.cat([d[i] for d in found]) for i in range(K)], torch.stack(found_weights)


@pytest.mark.parametrize("persisting", [False, True])
def test_the_paper_preset_is_algorithm_2_word_for_word(models, x, y, persisting: bool) -> None:
    rule = ProjectedAscent(0.05, 2.0)
    weights = torch.full((len(x), 4), 0.25, dtype=x.dtype)
    if persisting:
        g = torch.Generator().manual_seed(3)
        weights = torch.rand(len(x), 4, generator=g, dtype=x.dtype).softmax(1)
    sizes = (1 / 6, 0.1, 0.25, 1.0)
    scheme = Scheme("minmax", ALL, steps=7, rule=rule, preset="paper", start="zero", step_sizes=sizes)
    deltas, w = attack_batch(models["b"], x, y, scheme, weights=weights if persisting else None)
    expected, expected_w = algorithm_2(models["b"], x, y, ALL, sizes, 7, 0.05, 2.0, weights)
    for delta, wanted in zip(deltas, expected, strict=True):
        torch.testing.assert_close(delta, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(w, expected_w, rtol=0, atol=1e-10)
    assert (w - w.mean(0)).abs().max() > 1e-3


def test_the_paper_preset_has_the_papers_numbers(models, x, y) -> None:
    explicit = Scheme(
        "minmax", BOTH, 5, ProjectedAscent(1 / 50, 4.0), preset="paper", start="zero", step_sizes=(1 / 6, 1 / 10)
    )
    named = Scheme("minmax", BOTH, 5, preset="paper", start="zero")
    a, b = (attack_batch(models["a"], x, y, scheme) for scheme in (explicit, named))
    assert all(torch.equal(p, q) for p, q in zip(a[0], b[0], strict=True))
    assert torch.equal(a[1], b[1])


class TwoClasses(nn.Module):
    """Logits (s, -s) with s = w . x: the attack on class 0 lowers s."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1) @ self.w
        return torch.stack([s, -s], 1)


def linear_problem() -> tuple[TwoClasses, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    w = torch.randn(30, generator=g, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(6, 1, 5, 6, generator=g, dtype=torch.float64)
    return TwoClasses(w / 3), x, torch.zeros(6, dtype=torch.int64)


def drop(w: np.ndarray, x: np.ndarray, threat: ThreatModel) -> float:
    """Return the most that s can fall around x: closed forms, exact where the box [0, 1] does not bind."""
    room = np.where(w > 0, x, 1 - x)  # how far each coordinate may go the harmful way
    if threat.name == "linf":
        return float((np.minimum(threat.eps, room) * np.abs(w)).sum())
    if threat.name == "l2":
        return float(threat.eps * np.linalg.norm(w))
    if threat.name == "l0":
        return float(np.sort(room * np.abs(w))[-int(threat.eps) :].sum())
    gain, left = 0.0, float(threat.eps)
    for i in np.argsort(-np.abs(w)):  # l1: the steepest coordinates first, each as far as its box goes
        used = min(left, room[i])
        gain, left = gain + used * abs(w[i]), left - used
    return gain


@pytest.mark.parametrize("threat", [Linf(0.1), Linf(0.5), L2(0.2), L1(0.2), L1(1.0), L0(3)])
def test_default_attacks_reach_the_linear_models_worst_case(threat: ThreatModel) -> None:
    model, x, y = linear_problem()
    (delta,), weights = attack_batch(model, x, y, Scheme("single", (threat,), steps=40))
    w = model.w.detach().numpy()
    fell = -(delta.flatten(1).numpy() @ w)
    best = np.array([drop(w, image.flatten().numpy(), threat) for image in x])
    assert threat.around(x).contains(delta).all()
    np.testing.assert_array_less(fell, best * (1 + 1e-9))
    np.testing.assert_array_less(best * 0.97, fell)
    assert torch.equal(weights, torch.ones(6, 1, dtype=torch.float64))


def test_weights_tell_the_stronger_attack() -> None:
    model, x, y = linear_problem()
    for threats, stronger in (((Linf(0.2), L2(0.2)), 0), ((Linf(0.02), L2(0.8)), 1)):
        for rule in (None, ExponentiatedGradient(0.5)):
            _, weights = attack_batch(model, x, y, Scheme("minmax", threats, rule=rule))
            assert (weights[:, stronger] > 0.5).all()
    assert torch.equal(attack_batch(model, x, y, Scheme("average", BOTH))[1], torch.full((6, 2), 0.5).double())
    fixed = torch.tensor([0.3, 0.7], dtype=torch.float64)
    _, weights = attack_batch(model, x, y, Scheme("minmax", BOTH, rule=Fixed(fixed)))
    assert torch.equal(weights, fixed.expand(6, 2))


def test_worst_is_one_hot_at_the_loss_reached(models, x, y) -> None:
    for seed in (0, 1):
        deltas, weights = attack_batch(models["c"], x, y, Scheme("worst", ALL, steps=3), seed=seed)
        losses = torch.stack([nn.functional.cross_entropy(models["c"](x + d), y, reduction="none") for d in deltas], 1)
        assert torch.equal(weights.argmax(1), losses.argmax(1))
        assert torch.equal(weights.sort(1).values[:, -1], torch.ones(9).double())
        assert len(set(weights.argmax(1).tolist())) > 1


@pytest.mark.parametrize("dpar", [0.0, 0.1])
def test_one_forward_pass_a_step_for_all_attacks(models, x, y, dpar: float) -> None:
    sizes: list[int] = []
    models["a"].register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    for kind, extra in (("average", 0), ("minmax", 0), ("worst", 1)):
        sizes.clear()
        attack_batch(models["a"], x, y, Scheme(kind, ALL, steps=5, dpar=dpar))
        assert sizes == [4 * len(x)] * (5 + extra)


class Counting(nn.Module):
    """BatchNorm and dropout in front of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(x)).flatten(1))


def test_the_model_is_attacked_in_eval_mode_and_left_as_it_was(x, y) -> None:
    model = Counting().double().train()
    model.drop.eval()
    model.norm.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scheme = Scheme("minmax", BOTH, steps=3, dpar=0.1)
    first, again = attack_batch(model, x, y, scheme), attack_batch(model, x, y, scheme)
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))  # no dropout
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [model.training, model.norm.training, model.drop.training] == [True, True, False]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.processors
@pytest.mark.parametrize("dpar", [0.0, 0.1])
def test_an_example_does_not_depend_on_its_batch(models, x, y, rounding, dpar: float) -> None:
    model = rounding(models["a"])
    scheme = Scheme("minmax", ALL, steps=4, dpar=dpar)
    deltas, weights = attack_batch(model, x, y, scheme, rows=torch.arange(100, 109))
    some = torch.tensor([7, 2, 3])
    apart, apart_weights = attack_batch(model, x[some], y[some], scheme, rows=100 + some)
    for delta, alone in zip(deltas, apart, strict=True):
        torch.testing.assert_close(alone, delta[some], rtol=0, atol=1e-9)
    torch.testing.assert_close(apart_weights, weights[some], rtol=0, atol=1e-9)


def test_starts_follow_generator_or_seed_and_nothing_else(models, x, y) -> None:
    scheme = Scheme("average", BOTH, steps=1, step_sizes=(1e-9, 1e-9))

    def first(**keys) -> Tensor:
        torch.rand(5)
        return attack_batch(models["a"], x, y, scheme, **keys)[0][1]

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(seed=1))
    by_generator = [first(generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(by_generator[0], by_generator[1])
    assert not torch.equal(by_generator[0], by_generator[2])
    assert not torch.equal(by_generator[0], first())


def test_weights_go_on_from_those_given(models, x, y) -> None:
    scheme = Scheme("minmax", BOTH, steps=1, start="zero", rule=ProjectedAscent(0.1, 1.0))
    given = torch.tensor([[0.9, 0.1]], dtype=x.dtype).expand(9, 2)
    loss = nn.functional.cross_entropy(models["a"](x), y, reduction="none").detach()
    _, weights = attack_batch(models["a"], x, y, scheme, weights=given)
    # equal losses: only the pull towards 1/2 is left of (14)
    torch.testing.assert_close(weights, given - 0.1 * (given - 0.5), rtol=0, atol=1e-12)
    assert loss.max() > 0
    with pytest.raises(ValueError, match=r"weights must have shape \(9, 2\), got \(9, 3\)"):
        attack_batch(models["a"], x, y, scheme, weights=torch.full((9, 3), 1 / 3))


def inner_value(
    theta: float, x: float, threats: tuple[tuple[float, ...], ...], loss: Callable[[float], float]
) -> float:
    """Solve the inner maximum of (11) over w in P and delta_i in finite X_i as a linear program.

    Over pairs (i, delta) it is linear in the joint masses w_i q_i(delta), since max over delta is max over mixtures.
    """
    values = np.array([loss(theta * (x + delta)) for points in threats for delta in points])
    solved = linprog(-values, A_eq=np.ones((1, len(values))), b_eq=[1.0], bounds=[(0, None)] * len(values))
    return -solved.fun


def test_lemma_1_both_problems_have_the_same_values_and_minimiser() -> None:
    sets = (tuple(np.linspace(-0.3, 0.3, 7)), tuple(np.linspace(-0.1, 0.6, 8)), (0.0, -0.5))
    data, thetas = [(0.5, 1), (-0.2, -1), (0.9, 1), (-0.6, -1), (0.1, -1)], np.linspace(-4, 4, 41)
    problem_10, problem_11 = [], []
    for theta in thetas:
        worst, joint = 0.0, 0.0
        for x, sign in data:

            def loss(margin: float, sign: int = sign) -> float:
                return float(np.log1p(np.exp(-sign * margin)))

            worst += max(max(loss(theta * (x + delta)) for delta in points) for points in sets)
            joint += inner_value(theta, x, sets, loss)
        problem_10.append(worst)
        problem_11.append(joint)
    np.testing.assert_allclose(problem_10, problem_11, atol=1e-8)
    assert np.argmin(problem_10) == np.argmin(problem_11)
    assert 0 < np.argmin(problem_10) < 40


def test_lemma_1_algorithm_2_without_gamma_reaches_the_worst_attack() -> None:
    model, x, y = linear_problem()
    threats = (Linf(0.05), L2(0.4), L1(0.8))
    w = model.w.detach().numpy()
    s = x.flatten(1).numpy() @ w
    worst = np.array([max(drop(w, image.flatten().numpy(), t) for t in threats) for image in x])
    F = np.log1p(np.exp(-2 * (s - worst)))  # max_i F_i(theta), the inner value of (10)
    deltas, weights = attack_batch(model, x, y, Scheme("minmax", threats, steps=60, rule=ExponentiatedGradient(2.0)))
    losses = torch.stack([nn.functional.cross_entropy(model(x + d), y, reduction="none") for d in deltas], 1)
    joint = (weights * losses).sum(1).detach().numpy()  # the inner value of (11)
    np.testing.assert_allclose(joint, F, rtol=0.02)
    np.testing.assert_array_less(joint, F + 1e-9)


@pytest.mark.parametrize("scheme", [Scheme("natural"), Scheme("universal", (Linf(0.1),))])
def test_schemes_without_attacks_on_single_examples_are_refused(models, x, y, scheme: Scheme) -> None:
    with pytest.raises(ValueError, match="scheme must attack each example by itself, got kind"):
        attack_batch(models["a"], x, y, scheme)


def test_wrong_inputs_are_told(models, x, y) -> None:
    scheme = Scheme("average", BOTH)
    with pytest.raises(ValueError, match=r"x must lie in bounds \[0.0, 1.0\], got values from"):
        attack_batch(models["a"], 255 * x, y, scheme)
    with pytest.raises(ValueError, match="data must hold labels from 0 to 3, the model's classes, got 0 to 4"):
        attack_batch(models["a"], x, torch.tensor([4, *[0] * 8]), scheme)
    for wrong in (y[:3], y.int(), y.unsqueeze(1)):
        with pytest.raises(ValueError, match=r"y must hold int64 classes of shape \(9,\), at least one, got torch.int"):
            attack_batch(models["a"], x, wrong, scheme)
    with pytest.raises(ValueError, match=r"y must hold int64 classes of shape \(0,\), at least one"):
        attack_batch(models["a"], x[:0], y[:0], scheme)
    with pytest.raises(ValueError, match=r"rows must have shape \(9,\), got \(3,\)"):
        attack_batch(models["a"], x, y, scheme, rows=torch.arange(3))


def test_bf16_attacks_nearly_as_well(models, x, y) -> None:
    model, scheme = models["a"].float(), Scheme("average", ALL, steps=10)
    reached = []
    for precision in ("fp32", "bf16"):
        deltas, _ = attack_batch(model, x.float(), y, scheme, precision=precision)
        assert all(d.dtype == torch.float32 for d in deltas)
        assert all(t.around(x.float()).contains(d).all() for t, d in zip(ALL, deltas, strict=True))
        reached.append(torch.stack([nn.functional.cross_entropy(model(x.float() + d), y) for d in deltas]))
    torch.testing.assert_close(*reached, rtol=0.03, atol=0)
    assert not torch.equal(*reached)
