"""The settings of the attacks against the numbers that the paper prints, and against what the default promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.settings import DEFAULT, PAPER, AttackSettings
from omnirobust.starts import normal_start

NORMS = ["l0", "l1", "l2", "linf"]
THREATS = {"l0": orb.L0(6), "l1": orb.L1(4.0), "l2": orb.L2(1.0), "linf": orb.Linf(0.15)}

PRINTED = {  # alpha, beta, gamma: Appendix C.2, Table 1(a)
    "l0": (1.0, 0.01, 7),
    "l1": (0.25, 0.01, 5),
    "l2": (0.1, 0.01, 3),
    "linf": (0.25, 0.02, 3),
}


@pytest.mark.parametrize("norm", NORMS)
def test_the_preset_holds_the_numbers_of_the_paper(norm: str) -> None:
    alpha, beta, gamma = PRINTED[norm]
    s = PAPER[norm]
    assert s.step_size == pytest.approx(alpha, abs=1e-15)
    assert isinstance(s.rule, orb.ProjectedAscent)
    assert (s.rule.beta, s.rule.gamma) == pytest.approx((beta, gamma), abs=1e-15)
    assert s.direction == orb.RawGradient("constant")
    assert (s.start, s.keep) == ("normal", "last")


@pytest.mark.parametrize("norm", NORMS)
def test_the_preset_lowers_the_hinge_with_a_confidence_of_fifty(norm: str) -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [-60.0, 1.0, -2.0], [0.0, 4.0, 30.0]])
    assert PAPER[norm].loss(logits, torch.tensor([0, 0, 1])).tolist() == [52.0, 0.0, 24.0]


@pytest.mark.parametrize("norm", NORMS)
def test_the_preset_is_what_an_attack_runs(models, x, y, norm: str) -> None:
    """The same attack, told every number of the paper by hand."""

    def hinge(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        rows = torch.arange(len(logits))
        others = logits.masked_fill(torch.nn.functional.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
        return (logits[rows, labels] - others.amax(1) + 50).clamp_min(0)

    alpha, beta, gamma = PRINTED[norm]
    threat = THREATS[norm]
    got = orb.attack_ensemble(models, x, y, threat, preset="paper", steps=4, seed=3)
    by_hand = orb.solve(
        orb.DomainGrid(models, x, y, loss=hinge), threat.around(x), orb.ProjectedAscent(beta, gamma),
        init=normal_start(x, 3, 0, 0, std=0.1), steps=4, step_size=alpha, direction=orb.RawGradient(), keep="last",
    )  # fmt: skip
    assert torch.allclose(got.delta, by_hand.delta, atol=1e-12)
    assert torch.allclose(got.weights, by_hand.weights, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_the_default_is_a_min_max_attack_without_a_step_size(norm: str) -> None:
    s = DEFAULT[norm]
    assert isinstance(s.direction, orb.Adaptive)
    assert s.step_size is None
    assert (s.start, s.keep) == ("zero", "best")
    w = s.rule.step(s.rule.init(1, 3), torch.tensor([[1.0, 2.0, 0.0]]))[0].tolist()
    assert w[1] > w[0] > w[2], "weights must follow the losses"
    assert w[1] > 0.4 and sum(w) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_default_loss_does_not_see_the_scale_of_logits(norm: str) -> None:
    g = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(8, 10, generator=g, dtype=torch.float64), torch.arange(8)
    loss = DEFAULT[norm].loss
    assert torch.allclose(loss(logits, labels), loss(100 * logits + 7, labels), atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_the_weights_of_a_default_attack_leave_the_uniform(models, x, y, norm: str) -> None:
    result = orb.attack_ensemble(models, x, y, THREATS[norm], steps=8)
    away = (result.weights - 1 / 3).abs().amax(1)
    assert bool((away > 0.05).all())


def test_there_is_one_row_a_norm() -> None:
    assert set(PAPER) == set(DEFAULT) == set(NORMS)
    assert all(isinstance(s, AttackSettings) for s in (*PAPER.values(), *DEFAULT.values()))
