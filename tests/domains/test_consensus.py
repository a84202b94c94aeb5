"""Models that agree on where to push, against the formula on logits that are taken apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains.consensus import Consensus
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import consensus_margin, margin
from omnirobust.domains.soften import Softened

SEEN = orb.transforms.Identity()


def _unit(logits: Tensor) -> Tensor:
    return logits / (logits - logits.mean(1, keepdim=True)).square().mean(1, keepdim=True).sqrt()


def _by_hand(logits: Tensor, labels: Tensor, said: Tensor) -> list[float]:
    out = []
    for z, y, scores in zip(_unit(logits), labels.tolist(), said, strict=True):
        wrong = [j for j in range(len(z)) if j != y]
        q = (3 * scores[wrong]).softmax(0)
        out.append(float(z[y] - (q * z[wrong]).sum()))
    return out


@pytest.mark.parametrize("targeted", [False, True])
def test_the_loss_by_hand(targeted):
    g = torch.Generator().manual_seed(0)
    logits, said = (torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    labels, sign = torch.tensor([0, 3, 1, 2, 2]), -1 if targeted else 1
    found = consensus_margin(logits, labels, said=said, targeted=targeted)
    assert torch.allclose(sign * found, torch.tensor(_by_hand(logits, labels, said)).double())
    alone = consensus_margin(logits, labels, targeted=targeted)
    assert torch.allclose(alone, consensus_margin(logits, labels, said=_unit(logits), targeted=targeted))
    assert torch.allclose(alone, consensus_margin(7 * logits + 3, labels, targeted=targeted))


def test_a_class_that_is_ruled_out_does_not_count():
    logits = torch.tensor([[1.0, 2.0, 0.5, -torch.inf]], requires_grad=True)
    loss = consensus_margin(logits, torch.tensor([1]))
    assert bool(loss.isfinite().all())
    assert bool(torch.autograd.grad(loss.sum(), logits)[0][:, :3].isfinite().all())


@pytest.mark.parametrize("memory", [None, 1], ids=["whole", "in pieces"])
def test_each_step_takes_what_all_models_said_the_step_before(models, x, y, memory):
    grid: Any = Consensus.of(DomainGrid(models, x, y, loss=consensus_margin, memory=memory), SEEN)
    assert isinstance(grid, Consensus)
    deltas = [torch.zeros_like(x), torch.full_like(x, 0.1), 0.2 * x]
    said = None
    for at in deltas:
        leaf = (x + at).requires_grad_()
        logits = [m(leaf) for m in models.values()]
        found = grid.evaluate(at)
        for k, z in enumerate(logits):
            want = consensus_margin(z, y, said=said)
            assert torch.allclose(found.losses[:, k], want)
            assert torch.allclose(found.grads[k], torch.autograd.grad(want.sum(), leaf, retain_graph=True)[0])
        said = torch.stack([_unit(z.detach()) for z in logits]).mean(0)
    rows = torch.tensor([4, 0])
    kept = grid.select(rows).evaluate(deltas[0][rows], grad=False).losses
    assert torch.allclose(kept, grid.evaluate(deltas[0], grad=False).losses[rows])


def test_draws_examples_and_transformations_are_kept_apart(models, x, y):
    """Under a transformation that draws, groups that share a perturbation: what was said is of the same image."""
    groups, labels = x.unflatten(0, (3, 3)), y.unflatten(0, (3, 3))
    transforms = {"as it is": orb.transforms.Identity(), "darker": orb.transforms.Brightness(-0.3)}
    one = {k: models[k] for k in "ab"}
    grid = DomainGrid(
        one, groups, labels, loss=consensus_margin, transforms=transforms, shared=True, clip="intersection"
    )
    both: Any = Consensus.of(grid, SEEN)
    delta = torch.zeros_like(groups[:, 0])
    both.evaluate(delta)
    found = both.evaluate(delta).losses.view(3, 2, 2, 3)  # groups, models, transformations, images
    for r, shift in enumerate((0.0, -0.3)):
        logits = [m(x + shift) for m in one.values()]
        said = torch.stack([_unit(z) for z in logits]).mean(0)
        for k, z in enumerate(logits):
            assert torch.allclose(found[:, k, r], consensus_margin(z, y, said=said).view(3, 3))


def test_other_losses_keep_their_values_and_kinks_are_rounded(x, y):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)).double()
    found = Consensus.of(DomainGrid(model, x, y, loss=margin), SEEN).evaluate(torch.zeros_like(x))
    leaf = x.clone().requires_grad_()
    with Softened():
        want = margin(model(leaf), y)
        slope = torch.autograd.grad(want.sum(), leaf)[0]
    assert found.grads is not None
    assert torch.equal(found.losses[:, 0], margin(model(x), y)) and torch.allclose(found.grads[0], slope)
    assert not torch.allclose(slope, torch.autograd.grad(margin(model(leaf), y).sum(), leaf)[0])


def test_models_see_images_bent(models, x, y):
    bent: Any = Consensus.of(DomainGrid(models, x, y, loss=margin), orb.transforms.Warp(0.7))
    plain = DomainGrid(models, x, y, loss=margin, transforms={"warp": orb.transforms.Warp(0.7)})
    for _ in range(2):
        found, want = bent.evaluate(torch.zeros_like(x)), plain.evaluate(torch.zeros_like(x))
        assert torch.equal(found.losses, want.losses)
    assert bent.names == tuple(models) and bent.random and bent.images == len(models)
