"""Weight rules of one's own code: loaded, tried, and told as text that does not change."""

import pytest
import torch

from omnirobust.core.weights import ProjectedAscent, Uniform
from omnirobust.jobs.names import load_rule, told_rule

OWN = """
from __future__ import annotations
from dataclasses import dataclass
import torch
import omnirobust as orb

class Bare:
    def init(self, B, K):
        return torch.full((B, K), 1 / K)
    def step(self, weights, losses):
        return losses.softmax(1)

@dataclass(frozen=True)
class Scaled(Bare):
    scale: float
    def step(self, weights, losses):
        return (self.scale * losses).softmax(1)

class Leaves(Bare):
    def step(self, weights, losses):
        return weights - losses

class Wide(Bare):
    def step(self, weights, losses):
        return weights.mean(0)

class Mixed(Bare):
    def step(self, weights, losses):
        return (losses - losses.mean(0)).softmax(1)

class Breaks(Bare):
    def step(self, weights, losses):
        return {}["x"]

class Nothing(Bare):
    def step(self, weights, losses):
        pass

scaled = Scaled(3.0)
library = orb.WorstCase()
average = Bare()
number = 3
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own_rules_for_test.py"
    file.write_text(OWN)
    return file


def test_a_class_an_object_and_a_function_are_rules(own):
    bare, scaled = load_rule(f"{own}:Bare"), load_rule(f"{own}:scaled")
    losses = torch.tensor([[0.0, 1.0]])
    assert torch.equal(bare.step(bare.init(1, 2), losses), losses.softmax(1))
    assert torch.equal(scaled.step(scaled.init(1, 2), losses), (3 * losses).softmax(1))
    assert told_rule(bare) == "Bare()" and told_rule(scaled) == "Scaled(scale=3.0)"
    assert load_rule(f"{own}:library").step(losses, losses).tolist() == [[0.0, 1.0]]
    assert [told_rule(r) for r in (Uniform(), ProjectedAscent(0.1, 2.0))] == [
        "Uniform()",
        "ProjectedAscent(beta=0.1, gamma=2.0)",
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "Leaves",
            r"rule must give weights >= 0 .* of shape \(2, 3\) for step\(weights, losses\), got .*Leaves",
        ),
        ("Wide", r"got .*:Wide: shape \(3,\)"),
        ("Mixed", "rule must give a problem the weights that it gives it alone, got others from .*:Mixed"),
        ("Breaks", r"rule must name code that runs, got .*:Breaks: KeyError: 'x' \(line 33\)"),
        ("Nothing", r"got .*:Nothing: NoneType"),
        ("Scaled", "rule must name code that runs, got .*:Scaled: TypeError: .*scale"),
        ("number", "rule must name code that runs, got .*:number: TypeError"),
        ("average", "rule must not be called average, which it is held against"),
        ("missing", "rule must name something that exists, got .*:missing"),
    ],
)
def test_what_is_no_rule_is_told(own, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_rule(f"{own}:{name}")
