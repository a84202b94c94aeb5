"""What messages and notes say of odd values, sentence by sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import omnirobust as orb
from omnirobust.core.arguments import repeated
from omnirobust.core.threat_models import range_notes
from omnirobust.training import Scheme, fit


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y, m: fit(m, (x, y, y), Scheme(), epochs=1),
        lambda x, y, m: fit(m, (x.tolist(), y), Scheme(), epochs=1),
        lambda x, y, m: orb.attack_ensemble([m], x, y, x),
        lambda x, y, m: orb.evaluation.evaluate_robustness(m, x, y, x),
        lambda x, y, m: orb.evaluation.evaluate_robustness(m, x, y, [x]),
        lambda x, y, m: orb.attack_ensemble([m], x, y, orb.Linf(0.1), steps=x),
        lambda x, y, m: orb.attack_ensemble([m], x, y, orb.Linf(0.1), memory=x),
        lambda x, y, m: orb.attack_ensemble([m], x, y, orb.Linf(0.1), targeted=x),
    ],
)
def test_a_sentence_never_repeats_the_values_of_a_tensor(call: Any) -> None:
    x, y = torch.rand(20, 4, 4), torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be ") as refused:
        call(x, y, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_values_are_repeated_on_one_line() -> None:
    assert repeated(0.5) == "0.5" and repeated("a\nb") == "'a\\nb'" and repeated(torch.tensor(2.0)) == "tensor(2.)"
    assert repeated(torch.zeros(2, 3)) == "Tensor of shape (2, 3)"
    assert len(repeated(list(range(1000)))) < 220


@pytest.mark.parametrize("norm", [orb.Linf, orb.L2, orb.L1, orb.L0])
@pytest.mark.parametrize("scale", [None, 2.0])
def test_a_mask_bounds_what_a_radius_reaches(norm: Any, scale: float | None) -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    x[0], x[1] = 0.0, 1.0
    nothing, half = torch.zeros(4, dtype=torch.bool), torch.tensor([True, True, False, False])

    def notes(eps: float, mask: torch.Tensor | None) -> list[str]:
        return range_notes(norm(eps, mask=mask, scale=scale), x)

    for eps in (0.0, 0.01, 9.0):
        assert notes(eps, nothing) == ["The mask lets nothing change: every input stays as it is."]
    # the largest change of two features by 1 each
    unit = 1.0 if scale is None or norm is orb.L0 else scale
    most = {"linf": 1.0, "l2": math.sqrt(2), "l1": 2.0, "l0": 2.0}[norm(1).name] / unit
    (note,) = notes(most * 1.001, half)
    assert note.endswith("any input may become any where the mask lets it change.")
    assert notes(most * 0.99, half) == []
    (note,) = notes(4.0, None)
    assert note.endswith("any input may become any.")
