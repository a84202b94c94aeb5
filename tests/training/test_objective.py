"""The loss of a mini-batch against the sums that it stands for."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme
from omnirobust.training.objective import Objective

BOTH = (Linf(0.1), L2(0.5))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, points = torch.rand(4, 5, generator=g).double(), torch.rand(2, 4, 5, generator=g).double()
    weights = torch.tensor([[1.0, 0.0], [0.002, 0.998], [0.0, 1.0], [0.5, 0.5]]).double()
    return x, torch.tensor([0, 1, 2, 1]), points, weights


def slow_loss(model: nn.Module, ratio: float) -> tuple[Tensor, float]:
    """Return loss and weighed accuracy, one example at a time."""
    x, y, points, weights = batch()
    loss, right = torch.zeros(()).double(), 0.0
    for n in range(4):
        clean = model(x[n : n + 1])
        loss = loss + (1 - ratio) * cross_entropy(clean, y[n : n + 1]) / 4
        right += (1 - ratio) * float(clean.argmax() == y[n]) / 4
        for k in range(2):
            attacked = model(points[k, n : n + 1])
            loss = loss + ratio * weights[n, k] * cross_entropy(attacked, y[n : n + 1]) / 4
            right += ratio * float(weights[n, k]) * float(attacked.argmax() == y[n]) / 4
    return loss, right


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_loss_accuracy_and_gradients_are_the_weighted_sums(ratio: float) -> None:
    model = network()
    loss, right, _ = Objective(model, Scheme("minmax", BOTH, adversarial_ratio=ratio), "fp32")(*batch())
    expected, expected_right = slow_loss(model, ratio)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert right.item() == pytest.approx(expected_right, abs=1e-12)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_a_weight_that_is_no_number_shows_in_the_loss() -> None:
    x, y, points, weights = batch()
    weights[2, 0] = float("nan")
    assert Objective(network(), Scheme("minmax", BOTH), "fp32")(x, y, points, weights)[0].isnan()


@pytest.mark.parametrize(("ratio", "rows"), [(0.5, 4 + 6), (1.0, 6)])
def test_attacked_inputs_of_weight_zero_cost_nothing(ratio: float, rows: int) -> None:
    model, sizes = network(), []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    Objective(model, Scheme("worst", BOTH, adversarial_ratio=ratio), "fp32")(*batch())
    assert sizes == [rows]
    sizes.clear()
    Objective(model, Scheme("minmax", BOTH, adversarial_ratio=ratio, dpar=0.1), "fp32")(*batch())
    assert sizes == [rows + 2]  # h takes in all


def test_the_natural_loss_is_the_mean_cross_entropy_to_the_bit() -> None:
    model = network()
    x, y, *_ = batch()
    for scheme in (Scheme("natural"), Scheme("average", BOTH, adversarial_ratio=0.0)):
        loss, _, logits = Objective(model, scheme, "fp32")(x, y)
        assert torch.equal(loss, cross_entropy(model(x), y))
        assert torch.equal(logits, model(x))
        assert not logits.requires_grad


@pytest.mark.parametrize("dpar", [0.0, 0.1])
def test_bf16_stays_near_and_keeps_losses_in_fp32(dpar: float) -> None:
    model = network().float()
    given = [t.float() if t.is_floating_point() else t for t in batch()]
    scheme = Scheme("minmax", BOTH, dpar=dpar)
    losses = [Objective(model, scheme, precision)(*given)[0] for precision in ("fp32", "bf16")]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.05)
    grads = torch.autograd.grad(losses[1], list(model.parameters()))
    assert all(g.isfinite().all() for g in grads)
