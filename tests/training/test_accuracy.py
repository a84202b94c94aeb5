"""Accuracy is the share classified right, in eval mode, and leaves modes alone."""

import torch
from torch import nn

from omnirobust.training import accuracy
from omnirobust.training.accuracy import restored_modes


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
