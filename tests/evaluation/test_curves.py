from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.evaluation import GradientAttack, area_under, ball_overlap, evaluate_robustness, robustness_curve

QUICK = [GradientAttack("quick", losses.smooth_margin)]


def test_the_area_of_a_straight_line_is_a_trapezium():
    assert area_under([0.5, 3.0], [1.0, 0.2]) == pytest.approx(2.5 * 0.6)
    assert area_under([0, 1, 2, 4], [1, 1, 0.5, 0]) == pytest.approx(1 + 0.75 + 0.5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 1)), min_size=2, max_size=12))
def test_the_area_is_that_of_numpy(points):
    eps = np.cumsum([step for step, _ in points])
    accuracy = [a for _, a in points]
    assert area_under(eps.tolist(), accuracy) == pytest.approx(np.trapezoid(accuracy, eps))


def test_a_curve_is_what_single_evaluations_say_and_never_rises(models, x, y):
    model, radii = models["a"], [0.005, 0.02, 0.05, 0.1]
    curve = robustness_curve(model, x, y, orb.L2, radii, steps=8, attacks=QUICK)
    right = torch.ones(9, dtype=torch.bool)
    for k, eps in enumerate(radii):  # what fell at a smaller radius falls at a larger one
        right &= evaluate_robustness(model, x, y, orb.L2(eps), steps=8, attacks=QUICK).correct[:, 0]
        assert torch.equal(curve.correct[:, k], right)
    assert curve.union == tuple(curve.correct.double().mean(0).tolist()) == curve.average
    assert curve.union[0] > curve.union[-1]
    assert curve.eps == tuple(radii) and curve.area == area_under(radii, curve.union)
    assert curve.clean == curve.report.clean


def test_one_threat_may_stay_while_another_grows_and_is_attacked_once(models, x, y):
    model = models["a"]

    def threats_at(eps):
        return {"fixed": orb.Linf(0.02), "growing": orb.L2(eps)}

    curve = robustness_curve(model, x, y, threats_at, [0.01, 0.05, 0.2], steps=5, attacks=QUICK)
    report = curve.report
    assert len(report.names) == 4 and [n for n in report.names if n.startswith("fixed")] == ["fixed"]
    fixed = report.correct[:, report.names.index("fixed")]
    growing = [report.correct[:, k] for k, n in enumerate(report.names) if n.startswith("growing")]
    for k in range(3):
        assert torch.equal(curve.correct[:, k], fixed & growing[k])
        assert curve.average[k] == pytest.approx(float(torch.stack([fixed, growing[k]]).double().mean()))


def test_radii_given_by_input_keep_a_curve_apart(models, x, y):
    each = torch.linspace(0.01, 0.3, 9, dtype=torch.float64)
    curve = robustness_curve(models["a"], x, y, lambda eps: {"own": orb.L2(each * eps)}, [1, 2], steps=4, attacks=QUICK)
    assert len(curve.report.names) == 2
    assert (curve.correct[:, 0] | ~curve.correct[:, 1]).all()


def overlapping():
    """Four inputs in the middle of the range, and perturbations whose norms are known."""
    x = torch.full((4, 1, 2, 2), 0.5)
    threats = {"linf": orb.Linf(0.2), "l2": orb.L2(0.3)}
    flat = torch.full_like(x, 0.2)  # linf 0.2, l2 0.4
    single = torch.zeros_like(x)
    single[:, 0, 0, 0] = torch.tensor([0.3, 0.1, 0.2, 0.25])  # l2 and linf the same
    return x, threats, {"linf": flat, "l2": single}


def test_overlap_counts_what_lies_in_the_other_ball():
    x, threats, made = overlapping()
    found = ball_overlap(x, threats, made)
    assert found.names == ("linf", "l2") and found.counts.tolist() == [4, 4]
    torch.testing.assert_close(found.inside, torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    torch.testing.assert_close(found.norms, torch.tensor([[0.2, 0.4], [0.2125, 0.2125]]))


def test_overlap_of_some_and_of_none():
    x, threats, made = overlapping()
    where = {"linf": torch.zeros(4, dtype=torch.bool), "l2": torch.tensor([True, False, False, False])}
    found = ball_overlap(x, threats, made, where=where)
    assert found.counts.tolist() == [0, 1]
    assert found.inside[0].isnan().all() and found.norms[0].isnan().all()
    assert found.inside[1].tolist() == [0.0, 1.0]


def test_radii_by_input_go_with_their_inputs():
    x, _, made = overlapping()
    own = {"own": orb.L2(torch.tensor([0.3, 0.05, 0.2, 0.05]))}
    last = {"own": torch.tensor([False, False, True, True])}
    assert ball_overlap(x, own, {"own": made["l2"]}).inside.tolist() == [[0.5]]
    assert ball_overlap(x, own, {"own": made["l2"]}, where=last).inside.tolist() == [[0.5]]


def test_perturbations_of_a_report_lie_in_their_own_balls(models, x, y):
    threats = {"linf": orb.Linf(0.05), "l2": orb.L2(0.3), "l1": orb.L1(1.0)}
    report = evaluate_robustness(models["a"], x, y, threats, steps=5, attacks=QUICK)
    found = ball_overlap(x, threats, report.delta)
    assert found.inside.diagonal().tolist() == [1.0, 1.0, 1.0]
    mean_l2 = report.delta["l1"].flatten(1).norm(dim=1).mean()
    assert float(found.norms[2, 1]) == pytest.approx(float(mean_l2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: area_under([1, 1], [1, 1]), r"eps must ascend, got \[1, 1\]"),
        (lambda: area_under([1], [1]), "eps must hold at least two radii to span an area, got 1"),
        (lambda: area_under([1, 2], [1]), "accuracy must have one value for each of 2 radii, got 1"),
        (lambda: area_under([], []), r"eps must be a sequence of numbers, got \[\]"),
        (lambda: area_under("ab", [1, 2]), "eps must be a sequence of numbers, got 'ab'"),
        (lambda: area_under([0, math.nan], [1, 1]), "eps must ascend"),
        (lambda: robustness_curve(None, torch.ones(1), torch.ones(1), orb.L2, [2, 1]), "eps must ascend"),
        (lambda: ball_overlap(torch.ones(2, 3), orb.L2(1), {}), "'l2:1' is missing"),
        (
            lambda: ball_overlap(torch.ones(2, 3), orb.L2(1), {"l2:1": torch.ones(2, 4)}),
            r"perturbations must have shape \(2, 3\), got \(2, 4\) for 'l2:1'",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
