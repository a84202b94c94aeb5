"""The options of an attack stand in one place, and everything that has options takes them from there."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_type_hints

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.attacks.options import OPTIONS, AttackOptions, Plan
from omnirobust.domains.transforms.seeded import as_views

RECIPES = [orb.attack_ensemble, orb.attack_universal, orb.attack_transforms, orb.attack_product]
DEFAULTS = {
    "rule": None, "steps": 50, "step_size": None, "direction": None, "loss": None, "preset": None, "targeted": False,
    "true_labels": None, "keep": None, "stop_when_fooled": False, "restarts": 1, "seed": 0, "batch_size": None,
    "precision": "fp32", "progress": False, "init": None, "history": "means", "first_row": 0, "store": None,
    "memory": None, "samples": 1, "draws": None,
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_signature_and_help_show_every_option(recipe) -> None:
    shown = inspect.signature(recipe).parameters
    assert not [p for p in shown.values() if p.kind is p.VAR_KEYWORD]
    for name, default in DEFAULTS.items():
        assert shown[name].default == default and shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"\n        {name}: " in recipe.__doc__
        assert recipe.__doc__.index(f"\n        {name}: ") < recipe.__doc__.index("\n    Returns:")
    assert shown["steps"].annotation is int
    assert shown["history"].annotation == Literal["means", "full"]
    assert shown["threat_model"].default is inspect.Parameter.empty
    assert max(map(len, recipe.__doc__.splitlines())) <= 120


def test_every_option_has_a_type_a_default_and_a_text() -> None:
    assert set(OPTIONS) == set(get_type_hints(AttackOptions)) >= set(DEFAULTS)
    assert all(o.text.endswith(".") for o in OPTIONS.values())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_unknown_names_are_refused_as_python_does(recipe) -> None:
    with pytest.raises(TypeError) as ours:
        recipe(None, None, None, None, stepz=3)

    def plain(*, steps: int) -> None: ...

    with pytest.raises(TypeError) as theirs:
        plain(stepz=3)  # pyright: ignore[reportCallIssue]
    assert str(ours.value) == str(theirs.value).rpartition(".")[2].replace("plain", recipe.__name__)


def test_an_option_that_nobody_has_changed_leaves_the_record_as_it_is(models, x, y) -> None:
    """What the record said before options stood in one place: folders of earlier runs are found by it."""
    told = orb.attack_ensemble(models, x, y, orb.L2(0.5), steps=0, batch_size=4, memory=10**9).settings
    assert told == {
        "norm": "l2", "eps": 0.5, "bounds": [0.0, 1.0], "steps": 0, "step_size": None,
        "rule": repr(orb.ExponentiatedGradient(0.5)), "direction": repr(orb.Adaptive()), "loss": "relative_margin",
        "start": "zero", "keep": "best", "targeted": False, "stop_when_fooled": False, "restarts": 1,
        "precision": "fp32", "seed": 0, "mask": None, "shared": False, "clip": None, "transforms": None, "samples": 1,
        "draws": 1,
    }  # fmt: skip


def test_a_plan_of_some_rows_has_their_radii_and_weights() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    plan = Plan.of("ensemble", orb.Linf(torch.tensor([0.1, 0.2, 0.3])), {"rule": orb.Fixed(weights)})
    part = plan.rows(slice(1, 3))
    assert torch.equal(part.threat_model.eps, torch.tensor([0.2, 0.3]))
    assert torch.equal(part.settings.rule.w, weights[1:])
    assert part.options == plan.options


def test_samples_and_draws_change_nothing_where_nothing_is_random(models, x, y) -> None:
    plain = orb.attack_ensemble(models, x, y, orb.Linf(0.2), steps=4)
    drawn = orb.attack_ensemble(models, x, y, orb.Linf(0.2), steps=4, samples=5, draws=7)
    assert torch.equal(plain.delta, drawn.delta) and torch.equal(plain.losses, drawn.losses)
    assert (drawn.draws, drawn.gradient_evaluations) == (1, plain.gradient_evaluations)
    with pytest.raises(ValueError, match="samples must be a whole number >= 1, got 0"):
        orb.attack_ensemble(models, x, y, orb.Linf(0.2), samples=0)


class Counting(nn.Module):
    """A user's transformation that counts its calls."""

    calls = 0

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return v.flip(3)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_transformation_of_ones_own_is_tried_out_once(models, x, y, batch_size: int | None) -> None:
    alone, counting, steps = Counting(), Counting(), 3
    as_views({"mine": alone}, x[:2])
    orb.attack_transforms(models["a"], x, y, {"mine": counting}, orb.Linf(0.3), steps=steps, batch_size=batch_size)
    batches = 1 if batch_size is None else -(-len(x) // batch_size)
    each = 1 + steps + 1 + 1  # for the reach; T + 1, and once to judge
    assert counting.calls == alone.calls + 1 + batches * each  # one to probe


ASKED = """
import inspect, torch
from typer.testing import CliRunner
import omnirobust as orb
from omnirobust.cli.app import app
from omnirobust.jobs import AttackJob
from omnirobust.jobs.attack import _describe_attack
for recipe in (orb.attack_ensemble, orb.attack_universal, orb.attack_transforms, orb.attack_product):
    assert inspect.signature(recipe).parameters["haste"].default == 3
    assert "haste: how hasty the attack is, >= 2. For a test." in recipe.__doc__
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
assert orb.attack_ensemble([model], x, y, orb.Linf(0.1), steps=0, haste=5).settings["haste"] == 5
assert "haste" not in orb.attack_ensemble([model], x, y, orb.Linf(0.1), steps=0).settings
try:
    orb.attack_ensemble([model], x, y, orb.Linf(0.1), haste=1)
except ValueError as error:
    assert str(error) == "haste must be a whole number >= 2, got 1"
job = AttackJob("digits", ("a",), orb.Linf(0.1), options={"haste": 4})
assert _describe_attack(job)["haste"] == 4
shown = CliRunner().invoke(app, ["attack", "ensemble", "--help"], env={"COLUMNS": "200"}).output
assert "--haste" in shown and "How hasty the attack is, >= 2." in shown and "[default: 3]" in shown
print("everywhere")
"""


def test_one_edit_adds_an_option_everywhere(tmp_path: Path) -> None:
    package = Path(orb.__file__).parent
    shutil.copytree(package, tmp_path / "omnirobust", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    file = tmp_path / "omnirobust" / "attacks" / "option_table.py"
    before = file.read_text(encoding="utf-8")
    field = "    steps: Annotated"
    assert before.count(field) == 1
    new = '    haste: Annotated[int, Option(3, "how hasty the attack is, >= 2. For a test.", least=2)]\n'
    file.write_text(before.replace(field, new + field), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "everywhere", ran.stderr[-2000:]
