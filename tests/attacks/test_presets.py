"""The paper's settings against the numbers it prints, and the default against what it promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.presets import DEFAULT, PAPER
from omnirobust.core.draws import normal_start
from omnirobust.domains import losses

PRINTED = {"l0": (1, 1 / 100, 7), "l1": (1 / 4, 1 / 100, 5), "l2": (1 / 10, 1 / 100, 3), "linf": (1 / 4, 1 / 50, 3)}
THREATS = {"l0": orb.L0(6), "l1": orb.L1(4.0), "l2": orb.L2(1.0), "linf": orb.Linf(0.15)}


@pytest.mark.parametrize(("norm", "printed"), PRINTED.items())
def test_the_papers_settings_are_those_it_prints(norm: str, printed: tuple[float, float, float]) -> None:
    alpha, beta, gamma = printed
    setting = PAPER[norm]
    assert setting.step_size == alpha
    assert setting.rule == orb.ProjectedAscent(beta, gamma)
    assert setting.loss is losses.margin
    assert (setting.direction, setting.start, setting.keep) == (orb.RawGradient(), "normal", "last")


class Scaled(nn.Module):
    """A model whose logits are multiplied by a number: it decides as before."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, v: Tensor) -> Tensor:
        return self.inner(v) * self.factor


@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.6), orb.L1(3.0), orb.L0(4)], ids=lambda t: t.name)
def test_the_default_does_not_see_the_scale_of_logits(models, x, y, threat: orb.ThreatModel) -> None:
    scaled = {name: Scaled(m, f) for (name, m), f in zip(models.items(), (1.0, 100.0, 0.01), strict=True)}
    plain = orb.attack_ensemble(models, x, y, threat, steps=15)
    other = orb.attack_ensemble(scaled, x, y, threat, steps=15)
    assert torch.allclose(other.delta, plain.delta, atol=1e-6)
    assert torch.allclose(other.weights, plain.weights, atol=1e-6)


def test_the_default_is_min_max_and_keeps_the_best(models, x, y) -> None:
    result = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=10)
    assert float((result.weights - 1 / 3).abs().max()) > 0.05
    assert all(setting.keep == "best" for setting in DEFAULT.values())


@pytest.mark.parametrize("norm", PRINTED)
def test_the_preset_lowers_the_hinge_with_a_confidence_of_fifty(norm: str) -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [-60.0, 1.0, -2.0], [0.0, 4.0, 30.0]])
    assert PAPER[norm].loss(logits, torch.tensor([0, 0, 1])).tolist() == [52.0, 0.0, 24.0]


@pytest.mark.parametrize("norm", PRINTED)
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


@pytest.mark.parametrize("norm", PRINTED)
def test_the_default_is_a_min_max_attack_without_a_step_size(norm: str) -> None:
    s = DEFAULT[norm]
    assert isinstance(s.direction, orb.Adaptive)
    assert s.step_size is None
    assert (s.start, s.keep) == ("zero", "best")
    w = s.rule.step(s.rule.init(1, 3), torch.tensor([[1.0, 2.0, 0.0]]))[0].tolist()
    assert w[1] > w[0] > w[2], "weights must follow the losses"
    assert w[1] > 0.4 and sum(w) == pytest.approx(1, abs=1e-6)


def test_there_is_one_row_a_norm() -> None:
    assert set(PAPER) == set(DEFAULT) == set(PRINTED)
