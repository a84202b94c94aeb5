"""The page on the mathematics points at code that exists, and leaves out none of the paper's equations up to (23)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

import omnirobust as orb

PAGE = (Path(__file__).parents[1] / "docs" / "mathematics.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(omnirobust(?:\.\w+)+)`", PAGE)))


def resolved(name: str) -> object:
    """Return what a dotted name stands for."""
    found: object = orb
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            found = importlib.import_module(f"{found.__name__}.{part}")  # type: ignore[attr-defined]
        else:
            found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_code_that_is_named_exists(name: str) -> None:
    assert callable(resolved(name))


def test_no_equation_is_left_out() -> None:
    spans = re.findall(r"\((\d+)\)(?:-\((\d+)\))?", PAGE)
    seen = {n for first, last in spans for n in range(int(first), int(last or first) + 1)}
    assert set(range(1, 34)) <= seen
    assert len(NAMES) >= 18


def test_schemes_are_named_as_they_are_called() -> None:
    kinds = set(re.findall(r'`"(\w+)"`', PAGE))
    assert kinds == {"single", "average", "worst", "minmax"}
    for kind in kinds:
        threats = (orb.Linf(0.1),) if kind == "single" else (orb.Linf(0.1), orb.L2(1.0))
        assert orb.training.Scheme(kind, threats).kind == kind


def test_weights_at_a_stationary_point_are_as_the_page_says() -> None:
    losses, gamma = torch.tensor([[0.3, 0.5, -2.0, 0.45]], dtype=torch.float64), 0.7
    rule = orb.ProjectedAscent(beta=0.1, gamma=gamma)
    w = rule.init(1, 4, dtype=torch.float64)
    for _ in range(3000):
        w = rule.step(w, losses)
    alive = w > 0
    # on the domains of positive weight, differences of weights are differences of losses over gamma
    assert alive.tolist() == [[True, True, False, True]]
    ours = w[alive] - w[alive][0]
    assert torch.allclose(ours, (losses[alive] - losses[alive][0]) / gamma, atol=1e-9)
