"""Cards survive a round trip; FGSM agrees with the closed form on a linear model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from omnirobust.zoo.cards import Card, fgsm_accuracy, read_card

CARD = Card(
    name="digits/a@seed3", architecture="a", shape=(1, 8, 8), classes=10, data="digits", data_note="",
    recipe={"epochs": 3}, seed=3, epochs=2, finished=False, validation_accuracy=None, clean_accuracy=0.9,
    fgsm_accuracy=None, torch_version="2",
)  # fmt: skip


def test_a_card_comes_back_as_written(tmp_path: Path) -> None:
    for card in (CARD, replace(CARD, finished=True, fgsm_accuracy=0.25, validation_accuracy=0.5)):
        card.write(tmp_path / "deep" / "card.json")
        assert read_card(tmp_path / "deep" / "card.json") == card
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["card.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "digits/a"}', '{"shape": [1, 8, 8], "colour": 1}'])
def test_a_damaged_card_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card.json is damaged: delete it"):
        read_card(tmp_path / "card.json")


def test_fgsm_on_a_linear_model_has_a_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(20, 2).double()
    # Away from the edges of [0, 1] the step lowers the margin by eps * ||w_1 - w_0||_1, whatever the input.
    x = 0.3 + 0.4 * torch.rand(400, 20, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (400,), generator=generator)
    margin = ((model.weight[1] - model.weight[0]) @ x.T + model.bias[1] - model.bias[0]).detach() * (2 * y - 1)
    lost = 0.03 * (model.weight[1] - model.weight[0]).detach().abs().sum()
    expected = float((margin > lost).double().mean())
    assert 0.05 < expected < 0.95
    assert fgsm_accuracy(model, x, y, 0.03) == expected
    assert fgsm_accuracy(model, x, y, 0.03, batch_size=7) == expected
    assert fgsm_accuracy(model, x, y, 0.0) == float((margin > 0).double().mean())


def test_fgsm_stays_in_the_range_of_images() -> None:
    seen = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach())
            return torch.stack([x.sum(1), -x.sum(1)], dim=1)

    x = torch.rand(50, 4)
    fgsm_accuracy(Watch(), x, torch.zeros(50, dtype=torch.int64), 0.2)
    assert torch.equal(seen[-1], (x - 0.2).clamp(min=0))
