"""Searches that know decisions alone: on linear models the least perturbation is known, and rays are asked in order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.core.decisions import blocks

W = torch.randn(64, generator=torch.Generator().manual_seed(0))
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3


def says(batch: Tensor) -> Tensor:
    """Return on which side of a plane through the origin the inputs lie."""
    return (batch.flatten(1) @ W > 0).long()


Y, DISTANCE = says(X), (X.flatten(1) @ W).abs()
LEAST = {"linf": DISTANCE / W.abs().sum(), "l2": DISTANCE / W.norm(), "l1": DISTANCE / W.abs().max()}
BALL = {"linf": orb.Linf, "l2": orb.L2, "l1": orb.L1}


def asr(norm: str, factor: float, queries: int) -> float:
    """Return the success in balls ``factor`` times as large as the least perturbation, of Hoelder's inequality."""
    threat = BALL[norm](factor * LEAST[norm])
    found = orb.attack_ensemble([orb.BlackBox(says, output="labels", queries=queries)], X, Y, threat)
    assert bool(threat.around(X).contains(found.delta).all())
    return found.asr_all


@pytest.mark.parametrize(("norm", "factor", "queries"), [("linf", 1.3, 200), ("l2", 2.0, 300), ("l1", 5.0, 300)])
def test_borders_of_a_linear_model_are_found_near_the_least_distance(norm: str, factor: float, queries: int) -> None:
    assert asr(norm, factor, queries) == 1.0
    assert asr(norm, 0.99, 30) == 0.0


def test_the_blocks_of_a_stage_cover_all_coordinates_once() -> None:
    for size in (1, 2, 3, 7, 64, 100):
        stages: dict[int, list[int]] = {}
        for number, length, count, stage in blocks(size):
            stages.setdefault(stage, []).extend(range(number * length, min((number + 1) * length, size)))
            assert number < count
        assert all(covered == list(range(size)) for covered in stages.values())
        assert list(stages) == list(range(len(stages)))


def test_rays_are_for_linf_and_for_models_that_are_asked() -> None:
    with pytest.raises(ValueError, match="Rays is for linf, got a set of norm l2"):
        orb.Rays().start(orb.L2(1.0).around(torch.rand(1, 4)), None, 3)
    with pytest.raises(ValueError, match="direction Hops must have a BlackBox among the models"):
        orb.attack_ensemble(
            [torch.nn.Linear(4, 3)], torch.rand(2, 4), torch.tensor([0, 1]), orb.L2(9.0), direction=orb.Hops()
        )
    with pytest.raises(ValueError, match="probes must be a whole number >= 2, got 1"):
        orb.Hops(probes=1)
