"""Random models in an evaluation: against counts over many draws, and against models whose worst case is known."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.universal import learn_universal, score_universal
from omnirobust.domains.losses import margin
from omnirobust.evaluation import (
    AutoAttack,
    GradientAttack,
    RobustnessReport,
    evaluate_robustness,
    minimal_eps,
    minimal_l2,
    robustness_curve,
    wilson_interval,
)
from omnirobust.evaluation.fresh import Drawn
from omnirobust.evaluation.metrics import drawn_interval

W = torch.randn(4, 27, generator=torch.Generator().manual_seed(0))
FEW = [GradientAttack("margin", margin), GradientAttack("noise", margin, start="normal")]
_OWN = torch.Generator().manual_seed(5)


def linear(v: Tensor) -> Tensor:
    return 3 * v.flatten(1) @ W.T.to(v)


class Smoothed(nn.Module):
    """Votes over eight noisy copies, with a gradient: the mean of their softmaxes, as logits."""

    def forward(self, v: Tensor) -> Tensor:
        copies = v.repeat(8, 1, 1, 1)
        return linear(copies + 0.3 * torch.randn_like(copies)).softmax(1).view(8, len(v), -1).mean(0).log()


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": lambda v: linear(v + 0.4 * torch.randn_like(v)),
    "dropout": lambda v: linear(F.dropout(v, 0.3)),
    "crop": lambda v: linear(v.roll((int(torch.randint(2, ())), int(torch.randint(2, ()))), (-2, -1))),
    "smoothed": Smoothed(),
    "numpy": lambda v: linear(v + 0.4 * torch.from_numpy(np.random.randn(*v.shape)).to(v)),  # noqa: NPY002
    "own generator": lambda v: linear(v + 0.4 * torch.randn(v.shape, generator=_OWN)),
}


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Tensor]:
    x = torch.rand(60, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return x, linear(x).argmax(1)


def counted(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, draws: int = 400) -> float:
    """Return the accuracy over many passes."""
    torch.manual_seed(0)
    return float(torch.stack([model(x).argmax(1) == y for _ in range(draws)]).float().mean())


@pytest.mark.parametrize("name", RANDOM)
def test_a_ball_of_nothing_takes_nothing(problem, name):
    """Many attacks that can do nothing: each is one more pass in which noise may fool."""
    model, (x, y) = RANDOM[name], problem
    report = evaluate_robustness(model, x, y, {"a": orb.Linf(1e-6), "b": orb.L2(1e-6)}, attacks=FEW, steps=3, draws=40)
    truth = counted(model, x, y)
    assert 0.4 < truth < 0.97
    for rate in (report.clean, report.union, *report.accuracy.values()):
        assert rate == pytest.approx(truth, abs=0.12 if name == "crop" else 0.04)  # crops are one draw a batch
    assert report.interval().low < truth < report.interval().high
    assert "is random" in report.notes[0]
    assert not any("lowered the margin" in note for note in report.notes)  # it goes up and down from draw to draw
    foreign = name in ("numpy", "own generator")
    assert any("no seed of torch reaches" in note for note in report.notes) == foreign


@pytest.mark.parametrize("name", ["noise", "dropout", "smoothed"])
def test_what_is_reported_is_what_many_draws_of_the_same_perturbations_show(problem, name):
    model, (x, y) = RANDOM[name], problem
    threats = {"linf": orb.Linf(0.08), "l2": orb.L2(0.3)}
    report = evaluate_robustness(model, x, y, threats, attacks=FEW, steps=15, samples=4, draws=20)
    for threat in threats:
        assert report.accuracy[threat] == pytest.approx(counted(model, x + report.delta[threat], y), abs=0.04)
    assert report.union < report.clean - 0.1
    assert report.union <= min(report.accuracy.values()) + 0.03
    assert report.average == pytest.approx(sum(report.accuracy.values()) / 2)
    assert sum(report.breaks["linf"].values()) <= int((report.clean_correct & ~report.correct[:, 0]).sum())


def test_a_random_linear_model_is_as_robust_as_its_closed_form_says():
    """Two classes of logits (0, w x + b), b normal: under linf its margin moves by eps |w|_1 at most, in any draw."""
    w, sigma, eps = torch.randn(20, generator=torch.Generator().manual_seed(3)), 1.0, 0.05

    def model(v: Tensor) -> Tensor:
        score = (v - 0.5) @ w + sigma * torch.randn(len(v))
        return torch.stack([torch.zeros_like(score), score], 1)

    x = 0.2 + 0.6 * torch.rand(150, 20, generator=torch.Generator().manual_seed(4))
    score = (x - 0.5) @ w
    y = (score > 0).long()
    normal = torch.distributions.Normal(0.0, sigma)
    clean = float(normal.cdf(score.abs()).mean())
    worst = float(normal.cdf(score.abs() - eps * w.abs().sum()).mean())
    report = evaluate_robustness(model, x, y, orb.Linf(eps), steps=20, draws=30)
    assert report.clean == pytest.approx(clean, abs=0.03)
    assert report.union == pytest.approx(worst, abs=0.03) and worst < clean - 0.1
    assert report.interval().low < worst < report.interval().high


def test_the_union_takes_the_worst_threat_of_each_input_not_luck_among_threats(problem):
    x, y = problem
    model = RANDOM["noise"]
    many = {str(k): orb.Linf(1e-6 + 1e-9 * k) for k in range(8)}
    report = evaluate_robustness(model, x, y, many, attacks=FEW[:1], steps=1)
    assert report.union == pytest.approx(counted(model, x, y), abs=0.06)
    both = evaluate_robustness(model, x, y, {"none": orb.Linf(1e-6), "some": orb.Linf(0.1)}, attacks=FEW, steps=15)
    assert both.union == pytest.approx(both.accuracy["some"], abs=0.03)


def test_it_is_reproducible_whatever_the_callers_generator_and_leaves_it_alone(problem):
    x, y = problem
    for name in ("noise", "dropout"):
        reports = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            reports.append(evaluate_robustness(RANDOM[name], x, y, orb.Linf(0.05), attacks=FEW, steps=5, seed=3))
            assert torch.equal(torch.get_rng_state(), state)
        a, b = (r.drawn for r in reports)
        assert a is not None and b is not None and torch.equal(a.right, b.right) and torch.equal(a.clean, b.clean)
        assert torch.equal(reports[0].delta["linf:0.05"], reports[1].delta["linf:0.05"])
    other = evaluate_robustness(RANDOM["dropout"], x, y, orb.Linf(0.05), attacks=FEW, steps=5, seed=4).drawn
    assert other is not None and not torch.equal(other.clean, b.clean)


def test_a_model_that_is_not_random_is_asked_once_and_has_no_draws(problem):
    x, y = problem
    report = evaluate_robustness(linear, x, y, orb.Linf(0.05), attacks=FEW, steps=5, samples=3, draws=7)
    plain = evaluate_robustness(linear, x, y, orb.Linf(0.05), attacks=FEW, steps=5)
    assert report.drawn is None and report.notes == () and report.settings["draws"] == 1
    assert torch.equal(report.delta["linf:0.05"], plain.delta["linf:0.05"])
    assert torch.equal(report.withstood(), report.correct[:, 0].double())
    assert report.interval() == wilson_interval(int(report.correct.sum()), 60)


def test_rows_that_see_each_other_are_named_and_the_evaluation_goes_on(problem):
    x, y = problem
    report = evaluate_robustness(lambda v: linear(v - v.mean(0) + 0.5), x, y, orb.Linf(0.05), attacks=FEW, steps=5)
    (note,) = report.notes
    assert "couples rows" in note and "running statistics" in note and report.drawn is None


def test_a_coin_for_the_whole_batch_widens_the_interval():
    """The model is right on all inputs or on none, as one coin a call has it: examples tell nothing of that."""
    x, y = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(50, dtype=torch.int64)

    def model(v: Tensor) -> Tensor:
        lead = 1.0 if float(torch.rand(())) < 0.5 else -1.0
        return torch.stack([lead + 0 * v[:, 0], 0 * v[:, 0]], 1)

    report = evaluate_robustness(lambda v: model(v) + 1e-3 * v, x, y, orb.Linf(1e-6), attacks=FEW, steps=2, draws=20)
    assert report.drawn is not None
    rates = report.drawn.right[..., 0].float().mean(1)
    assert set(rates.tolist()) == {0.0, 1.0}
    interval = report.interval()
    assert interval.low < 0.5 < interval.high and interval.high - interval.low > 0.3


def test_curves_are_means_over_draws_too(problem):
    x, y = problem
    model = RANDOM["noise"]
    curve = robustness_curve(model, x, y, orb.Linf, [1e-6, 0.05, 0.15], attacks=FEW, steps=10, samples=4)
    assert curve.union[0] == pytest.approx(counted(model, x, y), abs=0.06)
    assert curve.union[0] > curve.union[1] + 0.05 > curve.union[2] + 0.1
    assert curve.average == pytest.approx(curve.union)


@pytest.mark.parametrize("values", [{"draws": 0}, {"samples": 0}, {"draws": 1.5}])
def test_counts_are_checked(problem, values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1"):
        evaluate_robustness(linear, *problem, orb.Linf(0.1), **values)


def test_the_interval_of_draws_covers_and_is_wilsons_for_one_draw():
    right = torch.rand(1, 70, generator=torch.Generator().manual_seed(0)) < 0.8
    plain, ours = wilson_interval(int(right.sum()), 70), drawn_interval(right)
    assert ours.estimate == pytest.approx(plain.estimate)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    generator, covered = torch.Generator().manual_seed(1), 0
    for _ in range(300):  # examples with rates of their own, and a coin that all examples of a draw share
        rates = torch.rand(40, generator=generator)
        shared = 0.4 * (torch.rand(12, 1, generator=generator) < 0.5)
        hits = torch.rand(12, 40, generator=generator) < 0.6 * rates + shared
        interval = drawn_interval(hits)
        covered += interval.low <= 0.5 <= interval.high
    assert covered >= 0.93 * 300


def test_the_worst_of_some_threats_is_chosen_on_other_draws():
    right = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    worst = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.3, 0.1], [0.0, 0.0, 0.0], [1.0, 0.2, 1.0], [0.4, 0.9, 0.8]])
    lead = torch.tensor([[0, 0, 0], [2.0, 1.0, 0], [3.0, 2.0, 1.0], [5.0, 0, 4.0], [0, 0, 0]])
    drawn = Drawn(right[..., 0], right, worst)
    for threats, chosen in (((0, 1, 2), (1, 1, 2, 2, 1)), ((0, 2), (2, 0, 2, 2, 2)), ((1,), (1, 1, 1, 1, 1))):
        expected = torch.stack([right[:, i, k] for i, k in enumerate(chosen)], 1)
        assert torch.equal(drawn.under(threats, lead), expected)


class Images(nn.Module):
    """Four classes of images, with noise inside."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, v: Tensor) -> Tensor:
        return linear(v + self.sigma * torch.randn_like(v))


def test_autoattack_runs_its_version_for_random_models(problem, monkeypatch):
    from pyautoattack import AutoAttack as Peer

    x, y, seen = *problem, []
    run = Peer.run_standard_evaluation

    def record(self, images, labels, batch_size):
        seen.append((self.version, tuple(self.attacks_to_run), self.apgd.eot_iter, len(images)))
        self.apgd.n_iter_orig = self.apgd.n_iter = 15
        return run(self, images, labels, batch_size=batch_size)

    monkeypatch.setattr(Peer, "run_standard_evaluation", record)
    report = evaluate_robustness(Images(0.3), x[:20], y[:20], orb.Linf(0.1), attacks="autoattack")
    assert {part[:3] for part in seen} == {("rand", ("apgd-ce",), 20), ("rand", ("apgd-dlr",), 20)}
    assert [n for *_, n in seen[:3]] == sorted((n for *_, n in seen[:3]), reverse=True)  # only those left alone again
    assert report.union < report.clean - 0.1
    ours = evaluate_robustness(Images(0.3), x[:20], y[:20], orb.Linf(0.1), attacks=FEW, steps=20, samples=4)
    assert abs(report.union - ours.union) < 0.15
    nothing = evaluate_robustness(Images(0.3), x[:20], y[:20], orb.Linf(1e-6), attacks="autoattack", draws=20)
    assert nothing.union == pytest.approx(counted(Images(0.3), x[:20], y[:20]), abs=0.07)
    seen.clear()  # images of three rows, which the standard version's Square cannot take
    evaluate_robustness(Images(0.3), x[:3], y[:3], orb.L2(0.1), attacks="autoattack", draws=20)
    assert {part[:3] for part in seen} == {("rand", ("apgd-ce",), 20), ("rand", ("apgd-dlr",), 20)}
    seen.clear()
    evaluate_robustness(Images(0.0), x[:5], y[:5], orb.Linf(0.1), attacks=[AutoAttack(parts=("apgd-ce",))])
    assert seen[0][:3] == ("standard", ("apgd-ce",), 1)


def test_what_autoattack_warns_of_reaches_the_notes(problem, caplog):
    x, y = problem
    log = logging.getLogger("auto-attack")
    before = (log.level, log.propagate, list(log.handlers))

    class Flat(nn.Module):
        """No gradient on half of the inputs."""

        def forward(self, v: Tensor) -> Tensor:
            out = linear(v)
            flat = (v.flatten(1)[:, :1] > 0.5).to(out)
            return flat * out.detach() + (1 - flat) * out

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluate_robustness(Flat(), x, y, orb.Linf(0.02), attacks=[AutoAttack(parts=("apgd-dlr",))])
    assert any("linf:0.02: AutoAttack warns: there are " in n and "zero gradient" in n for n in report.notes)
    assert not any("flags_doc" in n for n in report.notes)
    assert (log.level, log.propagate, list(log.handlers)) == before and not caplog.records


def test_reports_move_and_describe_themselves(problem):
    x, y = problem
    report = evaluate_robustness(RANDOM["noise"], x, y, orb.Linf(0.05), attacks=FEW[:1], steps=2, draws=3)
    assert isinstance(report.to("cpu"), RobustnessReport) and report.to("cpu").drawn is not None
    told = report.describe()
    assert told["draws"] == 3 and told["settings"]["random"] is True and told["union"] == report.union
    assert report.clean_interval().estimate == report.clean


def noisy_line(w: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    def model(v: Tensor) -> Tensor:
        score = (v - 0.5) @ w + sigma * torch.randn(len(v))
        return torch.stack([torch.zeros_like(score), score], 1)

    return model


@pytest.mark.parametrize("norm", ["linf", "l2", "carlini-wagner"])
def test_the_smallest_perturbation_of_a_random_model_fools_reliably(norm):
    w = torch.randn(20, generator=torch.Generator().manual_seed(3))
    x = 0.3 + 0.4 * torch.rand(12, 20, generator=torch.Generator().manual_seed(4))
    score = (x - 0.5) @ w
    y, sigma = (score > 0).long(), 0.2
    model = noisy_line(w, sigma)
    if norm == "carlini-wagner":
        found = minimal_l2(model, x, y, steps=30, binary_steps=5)
    else:
        found = minimal_eps(model, x, y, norm, steps=15, resolution=0.05)
    assert bool(found.found.all()) and "each of 10 draws" in found.notes[0]
    lead = torch.where(y == 1, 1.0, -1.0) * ((x + found.delta - 0.5) @ w) / sigma
    errs = torch.distributions.Normal(0.0, 1.0).cdf(-lead)
    assert float(errs.mean()) > 0.7 and float(errs.min()) > 0.5
    dual = float(w.abs().sum()) if norm == "linf" else float(w.norm())
    nearest = score.abs() / dual  # where half of all draws err
    assert bool((found.distortion >= nearest).all()) and bool((found.distortion <= nearest + 4 * sigma / dual).all())


def test_universal_perturbations_of_random_models_are_scored_on_fresh_draws(problem):
    x, y = problem
    model = Images(0.4)
    nothing = score_universal(model, x, y, torch.zeros(3, 3, 3), draws=30)
    assert nothing.asr == pytest.approx(1 - counted(model, x, y), abs=0.03)
    assert "Success is the share of 30 draws." in nothing.notes[0]
    assert score_universal(linear, x, y, torch.zeros(3, 3, 3)).notes == ()
    learned = learn_universal(model, x, y, orb.Linf(0.2), loss=margin, epochs=3, batch_size=20, samples=3)
    assert "is random" in learned.notes[0] and learned.gradient_evaluations == 3 * 60 * 3
    fooled = 1 - counted(model, learned.apply(x), y)
    assert score_universal(model, x, y, learned, draws=30).asr == pytest.approx(fooled, abs=0.03)
    assert fooled > nothing.asr + 0.1


@pytest.mark.parametrize(("noise", "chance"), [(0.25, False), (30.0, True)])
def test_the_note_on_guessing_says_the_accuracy_that_the_report_does(noise: float, chance: bool) -> None:
    """Of many draws few go against an input, and on some of few draws half do: that made no accuracy."""
    y = torch.arange(60) % 4
    x = torch.zeros(60, 4)
    x[torch.arange(60), y] = 0.5

    def model(v: Tensor) -> Tensor:
        return v + noise * torch.randn_like(v)

    report = evaluate_robustness(model, x, y, [orb.Linf(0.0)], steps=1)
    told = [note for note in report.notes if note.startswith("Before any attack")]
    assert bool(told) == chance
    for note in told:
        assert f"is right on {100 * report.clean:.2f} % of 60 inputs" in note
    assert report.clean == pytest.approx(counted(model, x, y), abs=0.05)
