"""A cell's key changes with whatever decides its numbers, and with nothing else."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from omnirobust.attacks.presets import DEFAULT, PAPER
from omnirobust.core.weights import Fixed, ProjectedAscent, Uniform
from omnirobust.domains.transforms import Brightness, FlipHorizontal, Identity
from omnirobust.paper.ensembles import ensemble
from omnirobust.paper.losses import ClippedMargin, as_measured
from omnirobust.study.attack_cells import Cell, Distortion, MeanWeightsOf, Transformed, Universal
from omnirobust.study.spec import BUDGETS, REFERENCE, Budget, Experiment, Row
from omnirobust.study.store import key_of, plain

CELL = Cell(("mnist/a", "mnist/b"), "linf", 0.2, PAPER["linf"])
PRINTS = {"mnist/a": "1", "mnist/b": "2", "mnist/c": "3"}


def key(cell: Cell, prints: dict[str, str] = PRINTS) -> str:
    return key_of(cell.describe(SimpleNamespace(fingerprint=prints.__getitem__)))


def ruled(rule) -> Cell:
    return replace(CELL, attack=replace(CELL.attack, rule=rule))


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, eps=0.21),
        replace(CELL, norm="l2"),
        replace(CELL, models=("mnist/b", "mnist/a")),
        replace(CELL, judges=("mnist/a", "mnist/b", "mnist/c")),
        replace(CELL, labels="true"),
        replace(CELL, data="digits"),
        replace(CELL, steps=49),
        replace(CELL, seed=1),
        replace(CELL, precision="bf16"),
        replace(CELL, attack=replace(CELL.attack, loss=ClippedMargin())),
        replace(CELL, attack=replace(CELL.attack, step_size=0.3)),
        replace(CELL, attack=replace(CELL.attack, keep="best")),
        replace(CELL, attack=replace(CELL.attack, start="zero")),
        replace(CELL, attack=replace(CELL.attack, rule=ProjectedAscent(0.02, 3.0000001))),
    ],
)
def test_the_key_changes_with_every_setting(other):
    assert key(other) != key(CELL)


def test_the_key_changes_with_weights_of_models_and_of_the_rule():
    assert key(CELL, PRINTS | {"mnist/b": "9"}) != key(CELL)
    assert key(CELL, PRINTS | {"mnist/c": "9"}) == key(CELL)
    one, two = (Fixed(torch.tensor([w, 1 - w], dtype=torch.float64)) for w in (0.3, 0.30000001))
    assert key(ruled(one)) != key(ruled(two))


def test_equal_cells_have_equal_keys_whether_judges_are_named_or_not():
    assert key(replace(CELL, judges=CELL.models)) == key(CELL)
    assert key(Cell(("mnist/a", "mnist/b"), "linf", 0.2, PAPER["linf"])) == key(CELL)


def test_keys_of_ensemble_cells_stay_what_they_were():
    # What was measured under these keys would have to be measured again.
    assert key(CELL) == "31f0f48882fb4a06bf29"
    attack = replace(as_measured(DEFAULT["l2"]), rule=Uniform())
    other = Cell(CELL.models, "l2", 3.0, attack, labels="true", judges=("mnist/a",), seed=1)
    assert key(other) == "063177127cc65cf6b961"


GROUPS = replace(CELL, models=("mnist/a",), task=Universal(5))
VIEWS = replace(GROUPS, task=Transformed((("ori", Identity()), ("flh", FlipHorizontal()))))


@pytest.mark.parametrize(
    "other",
    [
        replace(GROUPS, task=None),
        replace(GROUPS, task=Universal(4)),
        replace(GROUPS, task=Universal(5, "class")),
        replace(GROUPS, task=Universal(5, "random", "intersection")),
        replace(GROUPS, task=Universal(5, "class", "image", (1, 2))),
        replace(GROUPS, task=Distortion(Universal(5))),
        replace(GROUPS, labels="released"),
        VIEWS,
        replace(VIEWS, task=replace(VIEWS.task, samples=2)),
        replace(VIEWS, task=replace(VIEWS.task, draws=2)),
        replace(VIEWS, task=Transformed((("ori", Identity()), ("flh", FlipHorizontal(p=0.8))))),
        replace(VIEWS, task=Transformed((("ori", Identity()), ("flh", Brightness(0.1))))),
    ],
)
def test_the_key_changes_with_the_task(other):
    assert key(other) != key(GROUPS)
    assert other == VIEWS or key(other) != key(VIEWS)


def test_columns_and_problems_of_each_task():
    assert (CELL.columns, CELL.problems(37), CELL.group) == (("A", "B"), 37, 1)
    assert (GROUPS.columns, GROUPS.problems(37), GROUPS.group) == (("1", "2", "3", "4", "5"), 7, 5)
    assert (VIEWS.columns, VIEWS.problems(37), VIEWS.group) == (("ori", "flh"), 37, 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Universal(0), "size must be >= 1, got 0"),
        (lambda: Universal(5, "random", "image", (1,)), r"classes must be empty for groups at random, got \(1,\)"),
        (lambda: Transformed(()), "transforms must name at least one transformation"),
        (lambda: Transformed((("ori", Identity()),), samples=0), "samples must be >= 1, got 0"),
        (lambda: Transformed((("ori", Identity()),), draws=0), "draws must be >= 1, got 0"),
    ],
)
def test_bad_tasks_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_cell_needs_the_cell_that_decides_its_weights():
    assert CELL.needs == ()
    assert replace(CELL, rule=MeanWeightsOf(CELL)).needs == (CELL,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"models": ()}, "models must name at least one model"),
        ({"norm": "l3"}, "norm must be one of l0, l1, l2, linf, got 'l3'"),
        ({"eps": -0.1}, r"eps must be >= 0, got -0\.1"),
        ({"eps": float("nan")}, "eps must be >= 0, got nan"),
        ({"labels": "mine"}, "labels must be 'predicted', 'true' or 'released', got 'mine'"),
        ({"task": Universal(3)}, "models must name one model where there is a task, got 2"),
        ({"steps": -1}, "steps must be >= 0, got -1"),
    ],
)
def test_bad_cells_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CELL, **change)


def test_budgets_cap_steps_through_dependencies_and_thin_sweeps():
    rows = [Row(("p", "minmax", f"{i}"), "paper", replace(CELL, rule=MeanWeightsOf(CELL))) for i in range(7)]
    rows.append(Row(("p", "avg", REFERENCE), "paper", CELL))
    limited = Budget(1, 2, 3, steps=10, thin=3).limit(Experiment("x", "y", tuple(rows), "sweep", "i"))
    assert [row.key[-1] for row in limited.rows] == ["0", "3", "6", REFERENCE]
    assert {row.cell.steps for row in limited.rows} == {10}
    assert {need.steps for row in limited.rows for need in row.cell.needs} == {10}
    assert [Budget(1, 2, 3).images(replace(limited, kind=kind)) for kind in ("table", "sweep", "accuracy")] == [1, 2, 3]
    assert BUDGETS["paper"].limit(Experiment("x", "y", tuple(rows), "sweep", "i")).rows == tuple(rows)


def test_settings_become_plain_values():
    told = plain(ensemble("paper", "l2", "avg").attack)
    assert told["rule"] == {"name": "Uniform"}
    assert told["loss"] == "margin"
    assert plain(replace(PAPER["l2"], rule=Uniform(), loss=ClippedMargin(41.0)))["loss"] == {
        "name": "ClippedMargin",
        "threshold": 41.0,
        "kappa": 50.0,
    }
    assert plain(torch.tensor([0.25, 0.75])) == [0.25, 0.75]
