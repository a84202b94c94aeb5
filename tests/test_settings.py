"""The paper's settings against the numbers it prints, and the default against what it promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import losses
from omnirobust.settings import DEFAULT, PAPER

PRINTED = {"l0": (1, 1 / 100, 7), "l1": (1 / 4, 1 / 100, 5), "l2": (1 / 10, 1 / 100, 3), "linf": (1 / 4, 1 / 50, 3)}


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
