"""Classes that a model rules out by a logit of minus infinity are as if the model had them not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.training import Scheme, attack_batch, fit

INF = float("inf")
LOSSES = [
    losses.relative_margin, losses.signed_margin, losses.margin, losses.smooth_margin, losses.standardised_margin,
    losses.neg_cross_entropy, losses.dlr, losses.probability_margin,
]  # fmt: skip


class Masked(nn.Module):
    """Four classes of 16 numbers, and further ones of a constant logit."""

    def __init__(self, seed: int, *more: float) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first, self.last = nn.Parameter(torch.randn(16, 12, generator=g)), torch.randn(12, 4, generator=g)
        self.more = torch.tensor(more)

    def forward(self, x: Tensor) -> Tensor:
        z = ((x - 0.5).flatten(1) @ self.first).tanh() @ self.last
        return torch.cat([z, self.more.expand(len(x), -1)], 1)


def problem() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return x, Masked(0)(x).argmax(1)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("targeted", [False, True])
def test_losses_and_gradients_are_those_without_the_class(loss: losses.Loss, targeted: bool) -> None:
    z, y = torch.randn(9, 5, generator=torch.Generator().manual_seed(1)) * 3, torch.arange(9) % 5
    plain, more = z.clone().requires_grad_(), torch.cat([z, torch.full((9, 2), -INF)], 1).requires_grad_()
    expected, got = loss(plain, y, targeted=targeted), loss(more, y, targeted=targeted)
    torch.testing.assert_close(got, expected)
    slopes = [torch.autograd.grad(v.sum(), w)[0] for v, w in ((expected, plain), (got, more))]
    torch.testing.assert_close(slopes[1][:, :5], slopes[0])
    assert not bool(slopes[1][:, 5:].any())


def test_dlr_says_how_many_logits_it_needs() -> None:
    z = torch.tensor([[1.0, 2.0, -INF, -INF]])
    with pytest.raises(ValueError, match="dlr needs 3 logits of every row above minus infinity"):
        losses.dlr(z, torch.tensor([0]))


@pytest.mark.parametrize("threat", [orb.Linf(0.15), orb.L2(0.8), orb.L1(3.0), orb.L0(6)], ids=lambda t: t.name)
def test_the_default_attack_is_that_of_the_model_without_the_class(threat: orb.ThreatModel) -> None:
    x, y = problem()
    plain = orb.attack_ensemble([Masked(0), Masked(1)], x, y, threat, steps=8)
    masked = orb.attack_ensemble([Masked(0, -INF, -INF), Masked(1, -INF, -INF)], x, y, threat, steps=8)
    assert torch.equal(plain.fooled, masked.fooled)
    torch.testing.assert_close(plain.weights, masked.weights, rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.delta, masked.delta, rtol=0, atol=1e-5)


def test_so_are_evaluation_and_universal_perturbation_and_training() -> None:
    x, y = problem()
    plain, masked = Masked(0), Masked(0, -INF)
    a, b = (orb.evaluation.evaluate_robustness(m, x, y, [orb.Linf(0.05)], steps=5) for m in (plain, masked))
    assert torch.equal(a.correct, b.correct) and 0 < a.union < 1
    torch.testing.assert_close(a.margin, b.margin)
    u, v = (orb.universal.learn_universal(m, x, y, orb.Linf(0.2), epochs=2) for m in (plain, masked))
    torch.testing.assert_close(u.delta, v.delta)
    scheme = Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=3)
    (d, w), (e, q) = (attack_batch(m, x, y, scheme) for m in (plain, masked))
    torch.testing.assert_close(d, e)
    torch.testing.assert_close(w, q)
    for model in (plain, masked):
        fit(model, (x, y), scheme, epochs=1)
    torch.testing.assert_close(plain.first, masked.first)


@pytest.mark.parametrize(
    ("model", "label", "message"),
    [
        (Masked(0, INF), 0, "'model_0' returned NaN or infinite logits"),
        (Masked(0, float("nan")), 0, "'model_0' returned NaN or infinite logits"),
        (Masked(0, -INF), 4, "y must hold classes that model 'model_0' does not rule out: class 4 .* first on row 0"),
        (lambda v: v.flatten(1)[:, :3] - INF, 0, "'model_0' must leave two classes or more"),
        (lambda v: v.flatten(1)[:, :3] - torch.tensor([0, INF, INF]), 0, "'model_0' must leave two classes or more"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_a_sentence(model: Any, label: int, message: str) -> None:
    x, y = problem()
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble([model], x, torch.full_like(y, label), orb.Linf(0.1), steps=2)


def test_training_and_evaluation_name_a_label_that_is_ruled_out() -> None:
    x, y = problem()
    y = y.clone()
    y[3] = 4
    with pytest.raises(ValueError, match=r"class 4 has the logit minus infinity, first on row 3"):
        attack_batch(Masked(0, -INF), x, y, Scheme("single", (orb.Linf(0.1),), steps=2))
    with pytest.raises(ValueError, match=r"class 4 has the logit minus infinity, first on row 3"):
        orb.evaluation.evaluate_robustness(Masked(0, -INF), x, y, [orb.Linf(0.1)], steps=2)
