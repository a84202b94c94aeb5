from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.masking import GradientMaskingWarning
from omnirobust.core.draws import normal_start
from omnirobust.core.threat_models import Clip
from omnirobust.domains import losses
from omnirobust.evaluation import STRONG, GradientAttack, evaluate_robustness
from omnirobust.evaluation.race import Race
from omnirobust.evaluation.suite import EvaluationAttack

THREATS = {"linf": orb.Linf, "l2": orb.L2, "l1": orb.L1, "l0": orb.L0}
RADII = {"linf": (0.05, 0.15, 0.3), "l2": (0.1, 0.3, 0.6), "l1": (0.2, 0.5, 1.0), "l0": (0, 1, 2)}


class Linear(nn.Module):
    """Logits W x + b."""

    def __init__(self, classes: int, size: int = 6, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(classes, size, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(0.3 * torch.randn(classes, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.W.T + self.b


def problem(classes: int, rows: int = 30, seed: int = 1):
    """Return a linear model, inputs of which some touch the ends of the range, and the labels it gives them."""
    model = Linear(classes)
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, 6, generator=g, dtype=torch.float64) * 1.3 - 0.15).clamp(0, 1)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def largest_fall(slope: Tensor, x: Tensor, norm: str, eps: float) -> float:
    """Return max -slope . delta over ||delta|| <= eps, 0 <= x + delta <= 1, for one input, in closed form."""
    room = torch.where(slope > 0, x, 1 - x)
    gain, order = slope.abs(), slope.abs().argsort(descending=True)
    if norm == "linf":
        return float((gain * room.clamp_max(eps)).sum())
    if norm == "l0":
        return float((gain * room).sort(descending=True).values[: int(eps)].sum())
    if norm == "l1":  # spend the budget on the steepest coordinates, each to its end
        before = room[order].cumsum(0) - room[order]
        return float((gain[order] * torch.minimum(room[order], (eps - before).clamp_min(0))).sum())
    low, high = 0.0, 1e6  # l2: clip(t * gain, room), t by bisection
    for _ in range(200):
        middle = (low + high) / 2
        within = float((gain * middle).minimum(room).norm()) <= eps
        low, high = (middle, high) if within else (low, middle)
    return float((gain * (gain * low).minimum(room)).sum())


def withstands(model: Linear, x: Tensor, y: Tensor, norm: str, eps: float) -> list[bool]:
    with torch.no_grad():
        W, logits = model.W.detach(), model(x)
        return [
            all(
                float(logits[i, y[i]] - logits[i, j]) > largest_fall(W[y[i]] - W[j], x[i], norm, eps)
                for j in range(len(W))
                if j != y[i]
            )
            for i in range(len(x))
        ]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("norm", THREATS)
def test_robust_accuracy_of_a_linear_model_is_exact(norm, classes):
    model, x, y = problem(classes, rows=20)
    threats = [THREATS[norm](eps) for eps in RADII[norm]]
    report = evaluate_robustness(model, x, y, threats, steps=30)
    assert report.clean == 1.0
    shares = []
    for k, eps in enumerate(RADII[norm]):
        exact = withstands(model, x, y, norm, eps)
        assert report.correct[:, k].tolist() == exact
        shares.append(sum(exact) / len(exact))
    assert list(report.accuracy.values()) == pytest.approx(shares)
    assert shares[0] > shares[-1]


@pytest.fixture
def small(models, x, y):
    """A smooth network, its inputs and labels, some of them wrong."""
    y = y.clone()
    y[2] = (y[2] + 1) % 4
    return models["a"], x, y


def both(eps: float = 0.02):
    return {"small": orb.Linf(eps), "far": orb.L2(4 * eps), "few": orb.L0(1)}


def test_union_is_what_withstands_all_and_average_the_mean(small):
    model, x, y = small
    report = evaluate_robustness(model, x, y, both(), steps=10)
    assert report.names == ("small", "far", "few")
    rows = report.correct.tolist()
    assert report.union == sum(all(r) for r in rows) / 9
    assert report.average == pytest.approx(sum(sum(r) for r in rows) / 27)
    assert report.accuracy == {name: sum(r[k] for r in rows) / 9 for k, name in enumerate(report.names)}
    assert report.clean == 8 / 9 and not report.clean_correct[2]
    assert report.interval("far").estimate == report.accuracy["far"]
    assert report.interval().low < report.union < report.interval().high
    assert 0 < report.union < report.clean


def test_what_is_wrong_already_is_not_attacked_and_counts_as_wrong(small):
    model, x, y = small
    report = evaluate_robustness(model, x, y, both(), steps=5)
    assert not report.correct[2].any()
    assert all(not delta[2].any() for delta in report.delta.values())


def test_perturbations_are_allowed_and_do_what_the_report_says(small):
    model, x, y = small
    threats = both()
    report = evaluate_robustness(model, x, y, threats, steps=10)
    for k, (name, threat) in enumerate(threats.items()):
        delta = report.delta[name]
        assert threat.around(x).contains(delta).all()
        with torch.no_grad():
            logits = model((x + delta).clamp(0, 1))
        assert torch.equal(logits.argmax(1) == y, report.correct[:, k])
        torch.testing.assert_close(losses.signed_margin(logits, y), report.margin[:, k])
        assert sum(report.breaks[name].values()) == int((report.clean_correct & ~report.correct[:, k]).sum())


def test_each_attack_runs_only_on_what_stands_and_the_result_is_as_if_all_ran_on_all(small):
    model, x, y = small
    restarts = 2
    report = evaluate_robustness(model, x, y, orb.Linf(0.04), steps=10, restarts=restarts)
    with torch.no_grad():
        right, order = model(x).argmax(1) == y, model(x).argsort(dim=1, descending=True)
    rivals = order[order != y.unsqueeze(1)].view(9, 3)
    for attack in STRONG:
        race = isinstance(attack, Race)  # of three rivals none is given up
        for target in range(3) if race else [None]:
            for restart in range(restarts):
                stream = 10_000 + restart + 1000 * (0 if target is None else target + 1)
                delta = 10 * normal_start(x.float(), 0, stream, 0).double()
                delta = delta if restart > 0 or (not race and attack.start == "normal") else torch.zeros_like(x)
                legs = ((0.06, 2), (0.048, 4), (0.04, 4)) if race else ((0.06, 3), (0.048, 3), (0.04, 4))
                given_up = torch.zeros(9, dtype=torch.bool)
                for eps, steps in legs if race or attack.wide else ((0.04, 4),):
                    result = orb.attack_ensemble(
                        [model], x, y if target is None else rivals[:, target], orb.Linf(eps), steps=steps,
                        loss=attack.loss, targeted=target is not None, init=delta, stop_when_fooled=eps == 0.04,
                    )  # fmt: skip
                    delta = torch.where(given_up.view(-1, 1, 1, 1), delta, result.delta)
                    with torch.no_grad():
                        given_up |= (model((x + delta).clamp(0, 1)).argmax(1) == y) if not race else False
                delta = delta.clamp(-0.04, 0.04)
                with torch.no_grad():
                    right &= model((x + delta).clamp(0, 1)).argmax(1) == y
    assert torch.equal(report.correct[:, 0], right)
    assert right.any() and len(report.breaks["linf:0.04"]) >= 1


def test_a_larger_radius_never_looks_safer(small):
    model, x, y = small
    radii = (0.08, 0.02, 0.05, 0.01)
    report = evaluate_robustness(model, x, y, [orb.Linf(e) for e in radii], steps=2)
    assert report.names == ("linf:0.08", "linf:0.02", "linf:0.05", "linf:0.01")
    ascending = report.correct[:, [3, 1, 2, 0]]
    assert (ascending[:, :-1] | ~ascending[:, 1:]).all()


def test_a_ball_inside_another_never_looks_more_dangerous():
    model, x, y = problem(4)
    nothing = GradientAttack("weak", losses.smooth_margin)
    eps = 0.15
    threats = {"wide": orb.L2(eps * 6**0.5), "linf": orb.Linf(eps), "l2": orb.L2(eps), "l1": orb.L1(eps)}
    report = evaluate_robustness(model, x, y, threats, steps=1, attacks=[nothing])
    wide, linf, l2, l1 = report.correct.T
    assert (l1 | ~l2).all() and (l2 | ~linf).all() and (linf | ~wide).all()


class Flat(orb.FeasibleSet):
    """Perturbations that are one number for each image."""

    def project(self, delta: Tensor) -> Tensor:
        low, high = self.lower.flatten(1).amax(1), self.upper.flatten(1).amin(1)
        mean = delta.flatten(1).mean(1).clamp(low.clamp_min(-self.eps), high.clamp_max(self.eps))
        return mean.view(-1, 1, 1, 1).expand_as(delta).clone()


class FlatLinf(orb.ThreatModel):
    def around(self, x: Tensor, *, shared: bool = False, clip: Clip = "image") -> orb.FeasibleSet:
        ball = super().around(x, shared=shared, clip=clip)
        return Flat(ball.p, ball.eps, ball.lower, ball.upper)


def test_sets_of_ones_own_borrow_nothing_from_the_ball_of_their_norm(small):
    model, x, y = small
    threats = {"ball": orb.Linf(0.3), "flat": FlatLinf(math.inf, 0.3), "again": FlatLinf(math.inf, 0.3)}
    alone = {name: evaluate_robustness(model, x, y, {name: t}, steps=5, restarts=1) for name, t in threats.items()}
    report = evaluate_robustness(model, x, y, threats, steps=5, restarts=1)
    for name in ("flat", "again"):
        assert report.delta[name].flatten(1).std(1).max() < 1e-9  # of the ball's own examples none is flat
        assert report.accuracy[name] == alone[name].accuracy[name]
    assert report.accuracy["ball"] < report.accuracy["flat"]


def test_examples_of_a_smaller_radius_are_not_searched_again(small):
    model, x, y = small
    report = evaluate_robustness(model, x, y, [orb.Linf(0.08), orb.Linf(0.05)], steps=10)
    fell = int((report.clean_correct & ~report.correct[:, 1]).sum())
    assert fell > 0 and report.breaks["linf:0.08"]["from another threat"] == fell
    large, little = report.delta.values()
    assert torch.equal(large[~report.correct[:, 1]], little[~report.correct[:, 1]])


def test_the_order_of_threats_does_not_matter(small):
    model, x, y = small
    names = ("small", "far", "few")
    there = evaluate_robustness(model, x, y, both(), steps=5)
    back = evaluate_robustness(model, x, y, dict(reversed(both().items())), steps=5)
    assert back.names == names[::-1]
    assert torch.equal(back.correct.flip(1), there.correct)
    assert all(torch.equal(back.delta[name], there.delta[name]) for name in names)


@pytest.mark.parametrize("seed", range(3))
def test_restarts_never_raise_an_accuracy(models, x, y, seed):
    before = None
    for restarts in (1, 2, 4):
        report = evaluate_robustness(models["c"], x, y, both(0.02), steps=3, restarts=restarts, seed=seed)
        assert before is None or (before | ~report.correct).all()
        before = report.correct


@pytest.mark.processors
def test_an_input_does_not_see_its_batch_mates(small, rounding):
    model, x, y = small
    model = rounding(model)
    whole = evaluate_robustness(model, x, y, both(), steps=8)
    cut = evaluate_robustness(model, x, y, both(), steps=8, batch_size=4)
    first = evaluate_robustness(model, x[:3], y[:3], both(), steps=8)
    rest = evaluate_robustness(model, x[3:], y[3:], both(), steps=8, first_row=3)
    assert torch.equal(cut.correct, whole.correct) and torch.equal(first.correct, whole.correct[:3])
    for name in both():
        torch.testing.assert_close(cut.delta[name], whole.delta[name])
        torch.testing.assert_close(torch.cat([first.delta[name], rest.delta[name]]), whole.delta[name])


def test_the_same_seed_gives_the_same_and_another_other_noise(small):
    model, x, y = small
    attack = [GradientAttack("noisy", losses.smooth_margin, start="normal")]
    runs = [
        evaluate_robustness(model, x, y, orb.Linf(0.03), steps=1, attacks=attack, seed=seed).delta["linf:0.03"]
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_masks_and_radii_by_input_are_respected(small):
    model, x, y = small
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[:, 3:] = True
    eps = torch.linspace(0, 0.4, 9, dtype=torch.float64)
    threats = {"patch": orb.Linf(0.5, mask=mask), "own": orb.Linf(eps)}
    report = evaluate_robustness(model, x, y, threats, steps=10)
    assert not report.delta["patch"][..., :3].any() and report.delta["patch"].any()
    assert (report.delta["own"].abs().amax((1, 2, 3)) <= eps).all()
    assert report.correct[0, 1] == report.clean_correct[0]
    alone = evaluate_robustness(model, x[4:], y[4:], {"own": orb.Linf(eps[4:])}, steps=10, attacks=STRONG[:1])
    some = evaluate_robustness(model, x, y, {"own": orb.Linf(eps)}, steps=10, attacks=STRONG[:1])
    assert torch.equal(alone.correct[:, 0], some.correct[4:, 0])


def test_another_data_range_changes_nothing(small):
    model, x, y = small

    def stretched(v):
        return model((v + 1) / 4)

    plain = evaluate_robustness(model, x, y, orb.Linf(0.04), steps=10)
    wide = evaluate_robustness(stretched, 4 * x - 1, y, orb.Linf(0.16, bounds=(-1, 3)), steps=10)
    assert torch.equal(plain.correct, wide.correct)
    torch.testing.assert_close(wide.delta["linf:0.16"], 4 * plain.delta["linf:0.04"])


class Clueless:
    """An attack of one's own: it does nothing, slowly."""

    name = "clueless"

    def fits(self, threat, classes):
        return threat.name == "l2"

    def runs(self, problem):
        yield self.name, lambda rows: torch.zeros_like(problem.x[rows])


def test_attacks_of_ones_own_run_and_where_none_fits_the_default_ones_do(small):
    model, x, y = small
    assert isinstance(Clueless(), EvaluationAttack)
    report = evaluate_robustness(model, x, y, {"a": orb.L2(0.5), "b": orb.Linf(0.1)}, attacks=[Clueless()], steps=5)
    assert torch.equal(report.correct[:, 0], report.clean_correct)
    assert report.accuracy["b"] < report.clean
    idle = "a: on 8 of 8 inputs that stand no attack lowered the margin at all; gradients may be masked there"
    assert report.notes[0].startswith(idle) and len(report.notes) == 2
    assert report.notes[1] == "b: clueless does not exist here; the default attacks ran instead."


def test_universal_perturbations_are_scored_and_count_in_the_union(small):
    model, x, y = small
    deltas = {"big": torch.where(x.mean(0) > 0.5, -0.3, 0.3), "none": torch.zeros(1, 6, 6)}
    report = evaluate_robustness(model, x, y, orb.Linf(0.01), steps=3, universal=deltas)
    assert report.names == ("linf:0.01", "big", "none")
    with torch.no_grad():
        right = model((x + deltas["big"]).clamp(0, 1)).argmax(1) == y
    assert torch.equal(report.correct[:, 1], right & report.clean_correct)
    assert torch.equal(report.correct[:, 2], report.clean_correct)
    assert report.correct[:, 0].any() and report.union == report.correct.all(1).double().mean()
    fell = report.clean_correct & ~right
    assert fell.any() and torch.equal(report.delta["big"][fell], deltas["big"].expand_as(x)[fell])


@pytest.mark.parametrize("batch_size", [None, 4])
def test_progress_counts_up_to_its_end(small, batch_size):
    model, x, y = small
    seen: list[tuple[int, int]] = []
    evaluate_robustness(
        model, x, y, both(), steps=3, restarts=2, batch_size=batch_size,
        progress=lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    done, totals = zip(*seen, strict=True)
    assert set(totals) == {9 * 3 * 2 * 4}  # inputs, threats, restarts, attacks
    assert list(done) == sorted(done) and done[-1] == totals[0]


def test_the_report_is_ready_for_json_and_echoes_the_settings(small):
    model, x, y = small
    threats = {"own": orb.Linf(torch.full((9,), 0.25)), "l0": orb.L0(2)}
    report = evaluate_robustness(model, x, y, threats, steps=3, seed=5, batch_size=6)
    back = json.loads(json.dumps(report.describe()))
    assert back["settings"]["threats"]["own"] == {"norm": "linf", "eps": [0.25] * 9, "bounds": [0, 1], "masked": False}
    assert back["settings"]["attacks"] == ["margin", "targeted", "cross-entropy", "dlr"]
    assert {key: back["settings"][key] for key in ("steps", "restarts", "seed", "batch_size")} == {
        "steps": 3, "restarts": 1, "seed": 5, "batch_size": 6,
    }  # fmt: skip
    assert back["examples"] == 9 and back["union"] == report.union and back["accuracy"] == report.accuracy


def test_the_model_is_left_as_it_was():
    model, x, y = problem(4, rows=4)
    model.train()
    evaluate_robustness(model, x, y, orb.L2(0.2), steps=2)
    assert model.training and model.W.requires_grad and model.W.grad is None


def test_no_inputs_give_an_empty_report():
    model, x, y = problem(4)
    report = evaluate_robustness(model, x[:0], y[:0], [orb.L2(0.2), orb.Linf(0.1)])
    assert report.correct.shape == (0, 2) and report.union == 0.0


def steps_only(x: Tensor) -> Tensor:
    return (x.flatten(1)[:, :3] > 0.5).double() + torch.tensor([0.3, 0.0, 0.1], dtype=torch.float64)


def test_a_model_that_lets_no_gradient_through_is_told_in_a_sentence():
    _, x, _ = problem(3)
    y = steps_only(x).argmax(1)

    def blind(v):
        return steps_only(v) + 0 * v.sum()

    with pytest.raises(ValueError, match="zero input gradient on every row"):
        evaluate_robustness(blind, x, y, orb.Linf(0.1), steps=2)


def test_inputs_that_no_gradient_reaches_do_not_stop_the_others():
    """Dead inputs, alone in their batch or the last that stand, are left standing and told of."""
    model, x, y = problem(4, rows=8)
    x[6:] = 0.0
    bias = torch.tensor([2.0, 0, 0, 0], dtype=torch.float64)

    def gated(v):
        return model(v) * (v.flatten(1).norm(dim=1, keepdim=True) > 0).double() + bias

    with torch.no_grad():
        y = gated(x).argmax(1)
    attacks = (GradientAttack("margin", losses.smooth_margin), GradientAttack("again", losses.neg_cross_entropy))
    with pytest.warns(GradientMaskingWarning, match="margin on 2 of 8, again on 2 of 2"):
        report = evaluate_robustness(gated, x, y, orb.Linf(0.9), steps=5, batch_size=2, attacks=attacks)
    assert report.correct[:, 0].tolist() == [False] * 6 + [True] * 2
    assert report.notes[0].startswith(
        "linf:0.9: gradient masking: attacks began on inputs without any gradient, margin on 2 of 8, again on 2 of 2;"
    )


def test_a_loss_that_saturates_is_told_of_and_one_that_does_not_is_not():
    """Where a model is very sure the probability margin has no gradient in float32."""
    model, x, _ = problem(5, rows=10)
    x = x.float()
    x[:, 0] = torch.tensor([0.9] * 4 + [0.1] * 6)

    def sure(v):
        return (model(v.double()) * (1 + 1e6 * (v[:, :1] > 0.5))).float()

    with torch.no_grad():
        y = sure(x).argmax(1)

    def notes(loss):
        return evaluate_robustness(sure, x, y, orb.Linf(0.01), steps=2, attacks=[GradientAttack("mine", loss)]).notes

    with pytest.warns(GradientMaskingWarning):
        told = notes(losses.probability_margin)
    assert "gradient masking" in told[0] and "mine on 4 of 10" in told[0] and "losses.smooth_margin" in told[0]
    for loss in (losses.smooth_margin, losses.neg_cross_entropy):
        assert not any("masking" in note for note in notes(loss))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threats": []}, "threats must hold at least one threat model, got none"),
        ({"threats": "linf:0.1"}, "threats must be threat models such as Linf"),
        ({"threats": [0.1]}, r"threats must be threat models such as Linf\(0.1\), got 0.1"),
        ({"threats": {"a": 3}}, r"threats must be threat models such as Linf\(0.1\), got 3"),
        ({"threats": [orb.L2(1), orb.L2(1)]}, "threats must have names that differ, got 'l2:1' twice"),
        ({"threats": [orb.L2(1), orb.L2(2, bounds=(0, 2))]}, "threats must share their bounds"),
        ({"threats": orb.L2(torch.ones(3))}, r"eps"),
        ({"attacks": "strong"}, "attacks must be 'default', 'autoattack' or a sequence of attacks, got 'strong'"),
        ({"attacks": ()}, "attacks must be 'default', 'autoattack' or a sequence"),
        ({"attacks": [losses.dlr]}, r"attacks must hold attacks such as AutoAttack\(\)"),
        ({"attacks": [GradientAttack]}, r"attacks must hold attacks such as AutoAttack\(\)"),
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"restarts": 1.5}, "restarts must be a whole number >= 1, got 1.5"),
        ({"batch_size": -1}, "batch_size must be a whole number >= 1, got -1"),
        ({"precision": "fp8"}, "precision must be 'fp32' or 'bf16', got 'fp8'"),
        ({"x": torch.full((30, 6), 3.0)}, r"x must lie in bounds \[0.0, 1.0\]"),
        ({"x": [1.0]}, "x must be a tensor, got list"),
        ({"y": [0] * 30}, r"y must be class indices of shape \(30,\), int64, got list"),
        ({"y": torch.zeros(30, 1, dtype=torch.int64)}, r"y must be class indices of shape .*, got shape \(30, 1\)"),
        ({"y": torch.zeros(30)}, "y must be an int64 tensor of class indices"),
        ({"y": torch.zeros(29, dtype=torch.int64)}, r"y must be class indices of shape .*, got shape \(29,\)"),
        ({"y": torch.full((30,), 7)}, "y must .* 7"),
        ({"universal": {"l2:0.1": torch.zeros(6)}}, "universal must have names that are none of .*, got 'l2:0.1'"),
        ({"universal": {"u": torch.zeros(5)}}, r"universal must hold perturbations of shape \(6,\), got shape \(5,\)"),
        ({"model": nn.Softmax(1)}, "returns probabilities"),
        ({"model": [nn.Identity(), nn.Identity()]}, "model must be one model, got a list"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(change, message):
    model, x, y = problem(4)
    given = {"model": model, "x": x, "y": y, "threats": orb.L2(0.1)} | change
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(**given)


def test_an_evaluation_needs_gradients():
    model, x, y = problem(4)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"call it outside torch.inference_mode"):
        evaluate_robustness(model, x, y, orb.L2(0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientAttack("a", "margin"), "loss must be a function of logits and labels, got 'margin'"),
        (lambda: GradientAttack("a", losses.dlr, start="far"), "start must be 'zero' or 'normal', got 'far'"),
        (lambda: GradientAttack("a", losses.dlr, targets=-1), "targets must be a whole number >= 0, got -1"),
    ],
)
def test_errors_of_attacks_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_names_have_no_interval(small):
    model, x, y = small
    report = evaluate_robustness(model, x, y, orb.L2(math.pi), steps=1)
    with pytest.raises(ValueError, match=r"name must be one of l2:3\.14159, got 'l2'"):
        report.interval("l2")
