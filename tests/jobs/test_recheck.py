import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.core.ranges import to_levels
from omnirobust.jobs.recheck import recheck, success_of


class Threshold(nn.Module):
    """Says class 1 where the first pixel exceeds a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x):
        z = 100 * (x.flatten(1)[:, 0] - self.limit)
        return torch.stack([-z, z], 1)


def test_levels_are_those_of_an_image_file():
    x = torch.rand(1000, dtype=torch.float64)
    assert torch.equal(to_levels(x), torch.from_numpy((x.numpy() * 255).round().astype("uint8")).double() / 255)
    signed = to_levels(torch.tensor([-1.0, 0.001, 1.0]), -1.0, 1.0)
    assert signed.tolist() == pytest.approx([-1.0, 1 / 255, 1.0], abs=1e-6)


def test_rounding_may_lose_an_attack_and_may_leave_the_ball():
    clean = torch.full((2, 1, 1, 1), 100 / 255)
    delta = torch.tensor([0.0040, 0.0062]).view(2, 1, 1, 1)  # 1.02 and 1.581 levels: rounded to 1 and 2
    models = {"a": Threshold(101.01 / 255)}
    y = torch.zeros(2, dtype=torch.int64)
    checked = recheck(models, orb.Linf(0.0065), clean, delta, (clean + delta).clamp(0, 1), y)
    assert checked.examples == 2
    assert checked.feasible == 1.0
    assert checked.asr_all == 1.0
    assert checked.asr_all_uint8 == 0.5
    assert checked.largest_norm_uint8 == pytest.approx(2 / 255, rel=1e-4)


def test_perturbations_outside_the_ball_or_of_another_image_are_found():
    clean = torch.full((4, 1, 1, 2), 0.5)
    delta = torch.tensor([[0.1, 0.1], [0.2, 0.0], [0.1, -0.1], [0.0, 0.0]]).view(4, 1, 1, 2)
    adversarial = clean + delta
    adversarial[2] += 0.01
    y = torch.zeros(4, dtype=torch.int64)
    checked = recheck({"a": Threshold(0.9)}, orb.Linf(0.1), clean, delta, adversarial, y)
    assert checked.feasible == 0.5


def test_all_models_must_be_fooled():
    x = torch.tensor([0.3, 0.6, 0.9]).view(3, 1, 1, 1)
    models = {"a": Threshold(0.5), "b": Threshold(0.8)}
    y = torch.zeros(3, dtype=torch.int64)
    assert success_of(models, x, y)[0].tolist() == [[False, False], [True, False], [True, True]]
    assert success_of(models, x, torch.ones_like(y), targeted=True)[0].all(1).tolist() == [False, False, True]
