"""What the adversary keeps: weights by example, and one universal perturbation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from omnirobust.core.threat_models import L1, L2, Linf
from omnirobust.core.weights import Fixed, ProjectedAscent
from omnirobust.training import Scheme, attack_batch, fit

BOTH = (Linf(0.1), L2(0.8))
RULE = ProjectedAscent(0.3, 0.5)


def problem(count: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(count, 6, generator=g)
    return x, (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.8)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def frozen_sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


class Numbered(Dataset):
    """Examples with their numbers."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        x, y = problem()
        return x[row], y[row], row


def test_weights_persist_by_example_over_epochs_and_shuffles() -> None:
    """A model that does not learn: e epochs of R steps give each example e R weight steps."""
    x, y = problem()
    scheme = Scheme("minmax", BOTH, 1, RULE, persist="example", start="zero")
    result = fit(network(), (x, y), scheme, epochs=3, batch_size=6, optimizer=frozen_sgd)
    weights = None
    for _ in range(3):
        _, weights = attack_batch(network(), x, y, scheme, weights=weights)
    torch.testing.assert_close(result.weights, weights, rtol=0, atol=1e-6)
    fresh = fit(network(), (x, y), Scheme("minmax", BOTH, 1, RULE, start="zero"), epochs=3, optimizer=frozen_sgd)
    _, once = attack_batch(network(), x, y, Scheme("minmax", BOTH, 1, RULE, start="zero"))
    torch.testing.assert_close(fresh.weights, once, rtol=0, atol=1e-6)
    # zero starts make all losses equal at the first step, so that the pull towards 1/2 alone moves persisting weights
    assert torch.equal(once, torch.full((20, 2), 0.5))


def test_a_loader_that_numbers_its_examples_is_as_good_as_tensors() -> None:
    scheme = Scheme("minmax", BOTH, 3, RULE, persist="example")
    by_loader = fit(network(), DataLoader(Numbered(), 5), scheme, epochs=2, optimizer=frozen_sgd)
    by_tensor = fit(network(), problem(), scheme, epochs=2, batch_size=7, optimizer=frozen_sgd)
    assert by_loader.weights is not None
    torch.testing.assert_close(by_loader.weights, by_tensor.weights, rtol=0, atol=1e-6)
    assert (by_loader.weights[:, 0] - by_loader.weights[:, 1]).abs().max() > 0.05


def test_a_loader_without_numbers_cannot_persist_but_trains_otherwise() -> None:
    loader = DataLoader(TensorDataset(*problem()), 5)
    model = network()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"data must yield \(x, y, rows\) with the number of each example in its set"):
        fit(model, loader, Scheme("minmax", BOTH, 3, persist="example"), epochs=1)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert fit(network(), loader, Scheme("minmax", BOTH, 3), epochs=1).weights is None


def test_fixed_weights_stay_and_mean_weights_are_recorded() -> None:
    scheme = Scheme("minmax", (*BOTH, BOTH[1]), 2, Fixed(torch.tensor([0.2, 0.3, 0.5])))
    (row,) = fit(network(), problem(), scheme, epochs=1).history
    shown = {name: value for name, value in row.items() if name.startswith("weight/")}
    assert shown == pytest.approx({"weight/linf:0.1": 0.2, "weight/l2:0.8#1": 0.3, "weight/l2:0.8#2": 0.5})


def test_starts_differ_between_epochs() -> None:
    scheme = Scheme("single", (L1(0.5),), 1, step_sizes=(1e-9,), adversarial_ratio=1.0)
    rows = fit(network(), problem(), scheme, epochs=3, batch_size=20, optimizer=frozen_sgd).history
    assert len({row["loss"] for row in rows}) == 3


@pytest.mark.parametrize("steps", [1, 2])
def test_universal_training_is_usgd_word_for_word(steps: int) -> None:
    """Shafahi et al.: per mini-batch, ascend one delta by the sign of the mean gradient, then descend theta."""
    x, y = problem()
    scheme = Scheme("universal", (Linf(0.2),), steps, adversarial_ratio=1.0, step_sizes=(0.03,))
    model, mine = network(), network()
    fit(model, DataLoader(TensorDataset(x, y), 5), scheme, epochs=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    delta = torch.zeros(1, 6)
    for _ in range(2):
        for start in range(0, 20, 5):
            images, labels = x[start : start + 5], y[start : start + 5]
            for _ in range(steps):
                leaf = delta.clone().requires_grad_(True)
                loss = cross_entropy(mine((images + leaf).clamp(0, 1)), labels)
                delta = (delta + 0.03 * torch.autograd.grad(loss, leaf)[0].sign()).clamp(-0.2, 0.2)
            loss = cross_entropy(mine((images + delta).clamp(0, 1)), labels)
            grads = torch.autograd.grad(loss, list(mine.parameters()))
            with torch.no_grad():
                for parameter, grad in zip(mine.parameters(), grads, strict=True):
                    parameter -= 0.5 * grad
    for a, b in zip(model.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert delta.abs().max() > 0.1
