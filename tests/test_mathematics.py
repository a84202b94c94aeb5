"""The page on the mathematics points at code that exists, and leaves out none of the paper's equations up to (23)."""

from __future__ import annotations

import importlib
import json
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


def test_slopes_of_stationarity_are_those_of_the_measurement() -> None:
    """Fitted again from the curves, apart from the script."""
    file = Path(__file__).parents[1] / "benchmarks" / "stationarity.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    for norm, factor, said in (
        ("linf", "1", "0.00 to -0.04 for linf"), ("l2", "1", "-0.10\nto -0.15 for l2"),
        ("linf", "0.01", "-0.98 to -1.03 for linf"), ("l2", "0.01", "-0.68 to -0.69 for l2"),
    ):  # fmt: skip
        slopes = list[float]()
        for gamma in ("0.5", "3", "10"):
            run = found[f"{norm}/gamma {gamma}/alpha x {factor}"]
            assert (run["images"], run["steps"]) == (10, 500)
            points = torch.tensor([p for p in run["least"] if p[0] >= 10], dtype=torch.float64).log()
            design = torch.stack([torch.ones(len(points), dtype=torch.float64), points[:, 0]], 1)
            slopes.append(float(torch.linalg.lstsq(design, points[:, 1:]).solution[1, 0]))
        shown = [f"{abs(s):.2f}" for s in (max(slopes), min(slopes))]
        assert shown == re.findall(r"\d\.\d\d", said)
        assert said in PAGE
