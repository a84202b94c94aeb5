"""Mini-batches of one example under BatchNorm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.training import Scheme, fit
from omnirobust.training.normalised import lone_row

SINGLE = Scheme("single", (orb.Linf(0.1),), steps=1, adversarial_ratio=1.0)


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 4, 4, generator=g), torch.arange(count) % 3


def network(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, **options), nn.ReLU(), nn.Linear(8, 3))


def test_a_lone_row_is_normalised_as_in_evaluation_mode_and_changes_no_statistics():
    model, x = network(), data(5)[0]
    model(x)  # so that there are statistics
    before = {name: value.clone() for name, value in model[2].named_buffers()}
    with lone_row(model) as found:
        seen = model(x[:1])
    assert found == ["2"]
    assert model.training
    assert model[2].training
    assert torch.equal(seen, model.eval()(x[:1]))
    assert all(torch.equal(value, before[name]) for name, value in model[2].named_buffers())
    assert not model[2]._forward_hooks


def test_one_picture_of_several_pixels_is_normalised_by_itself():
    model = nn.BatchNorm2d(2)
    x = torch.rand(1, 2, 3, 3)
    with lone_row(model) as found:
        seen = model(x)
    assert not found
    assert float(seen.detach().mean().abs()) < 1e-6


@pytest.mark.parametrize("scheme", [Scheme("natural"), SINGLE], ids=lambda s: s.kind)
@pytest.mark.parametrize("loader", [False, True])
def test_a_last_batch_of_one_trains(scheme, loader):
    x, y = data(9)
    batches = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    model = network()
    result = fit(model, batches if loader else (x, y), scheme, epochs=2, batch_size=4)
    assert result.epochs == 2
    assert int(model[2].num_batches_tracked) == 4


@pytest.mark.parametrize("training", [True, False])
def test_batches_of_one_only_are_refused(training):
    model = network().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for scheme in (Scheme("natural"), SINGLE):
        with pytest.raises(ValueError, match=r"^batch_size must leave every process 2 .* \(2\), got 1 for 1$"):
            fit(model, data(6), scheme, epochs=1, batch_size=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training
    fit(network(), data(6), Scheme("single", (orb.Linf(0.1),), steps=1), epochs=1, batch_size=1)  # with the clean one


def test_a_layer_without_running_statistics_is_named():
    with pytest.raises(ValueError, match=r"batch_size must leave no mini-batch.*statistics, 2$"):
        fit(network(track_running_stats=False), data(5), Scheme("natural"), epochs=1, batch_size=4)
