"""Accuracy is the share classified right, in eval mode, and leaves modes alone."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, accuracy, fit
from omnirobust.training.accuracy import restored_modes, robust_accuracy_of, robust_rates_of
from omnirobust.training.batches import batches


def test_share_of_right_answers_whatever_the_batch_size() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0]])
    model = nn.Linear(2, 2, bias=False)
    model.load_state_dict({"weight": torch.eye(2)})
    for batch_size in (1, 2, 3, 9):
        assert accuracy(model, (logits, torch.tensor([0, 0, 0])), batch_size=batch_size) == 2 / 3


def test_dropout_is_off_and_mixed_modes_come_back() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 2), nn.Dropout(0.9))
    model.train()
    model[2].eval()
    x = torch.randn(200, 4)
    y = model[1](x).argmax(1)
    assert accuracy(model, (x, y)) == 1.0
    assert [model.training, *(layer.training for layer in model)] == [True, True, True, False]


def test_modes_come_back_after_an_error() -> None:
    model = nn.Dropout()
    try:
        with restored_modes(model):
            model.eval()
            raise KeyError
    except KeyError:
        pass
    assert model.training


def test_robust_accuracy_of_a_linear_model_is_exact() -> None:
    """Far from the box, an example stays right while its margin exceeds eps times the dual norm of the weights."""
    g = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(300, 4, generator=g)
    w = torch.tensor([3.0, -1.0, 2.0, 0.5])
    model = nn.Linear(4, 2)
    model.load_state_dict({"weight": torch.stack([-w, w]), "bias": torch.tensor([1.0, -1.0]) * (w.sum() / 2)})
    y = torch.randint(0, 2, (300,), generator=g)
    margin = (2 * y - 1) * ((x - 0.5) @ w)
    left = {"linf": margin > 0.03 * w.abs().sum(), "l2": margin > 0.06 * w.norm()}
    data = batches("data", (x, y), "test", 64, None)
    for names in (("linf",), ("l2",), ("linf", "l2")):
        threats = tuple({"linf": Linf(0.03), "l2": L2(0.06)}[name] for name in names)
        expected = torch.stack([left[name] for name in names]).all(0).float().mean().item()
        average = sum(left[name].float().mean().item() for name in names) / len(names)
        hardly = Scheme("worst", threats, 10, preset="paper", start="zero", step_sizes=(1e-9,) * len(threats))
        for scheme in (Scheme("average", threats, 10), hardly):
            assert abs(robust_accuracy_of(model, data, scheme, 0, "fp32") - expected) < 1 / 299
            assert abs(robust_rates_of(model, data, scheme, 0, "fp32")[1] - average) < 1 / 299
    assert left["linf"].float().mean() < (margin > 0).float().mean() - 0.1


class _Coin(nn.Module):
    """A linear model that flips every row's logits by a coin in eval mode too: right half the time."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x * torch.randint(0, 2, (len(x), 1), device=x.device).mul(2).sub(1)


class _Centred(nn.Module):
    """Takes the mean of the batch away from every row, as BatchNorm without running statistics does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x - x.mean(0))


def test_random_models_and_such_as_couple_rows_are_named() -> None:
    x = torch.rand(64, 3)
    y = x.argmax(1)
    for model, words in ((_Coin(), "is random"), (_Centred(), "couples rows")):
        with pytest.warns(UserWarning, match=words):
            accuracy(model, (x, y))
        loader = DataLoader(TensorDataset(x, y), batch_size=16)
        for held_out in ((x, y), loader):
            result = fit(model, (x, y), Scheme("natural"), epochs=1, validation=held_out, batch_size=32)
            assert [words in note for note in result.notes].count(True) == 1
    steady = nn.Linear(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accuracy(steady, (x, y))
    quiet = fit(steady, (x, y), Scheme("natural"), epochs=1, validation=(x, y)).notes
    assert not any("is random" in note or "couples rows" in note for note in quiet)


def test_looking_at_a_model_moves_no_generator() -> None:
    x = torch.rand(64, 3)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="is random"):
        seen = accuracy(_Coin(), (x, x.argmax(1)))
    torch.manual_seed(3)
    assert seen == float((_Coin()(x).argmax(1) == x.argmax(1)).double().mean())
