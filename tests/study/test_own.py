"""Experiments of one's own: declared in a file, measured, resumed, judged; what does not fit is told in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from omnirobust.attacks.presets import PAPER
from omnirobust.core.weights import Uniform
from omnirobust.domains import losses
from omnirobust.experiments import (
    Cell,
    Claim,
    Experiment,
    Printed,
    Row,
    Universal,
    experiments,
    reproduce,
)
from omnirobust.paper import collection
from omnirobust.study import figures, outcome
from omnirobust.study.attack_runner import AttackRunner
from omnirobust.study.cell_cache import CellCache, finished_model
from omnirobust.study.own import check_experiment, with_own
from omnirobust.zoo.data import DataUnavailableError

from .conftest import load_images, make_model

TOLD = SimpleNamespace(fingerprint=lambda name: f"weights of {name}")
"""In place of a cell_cache."""

CELL = Cell(("mnist/a", "mnist/b"), "linf", 0.1, PAPER["linf"], steps=3)
ROWS = tuple(
    Row(("linf", name), "mine", replace(CELL, attack=replace(CELL.attack, rule=rule)))
    for name, rule in (("avg", Uniform()), ("minmax", PAPER["linf"].rule))
)
CLAIM = Claim("all", "Both are measured.", lambda r: r.asr_all("linf", "avg") >= 0, lambda r: "so")
GOOD = Experiment("mine", "Of my own", ROWS, claims=(CLAIM,), printed={("linf", "avg"): Printed(asr_all=12.5)})

OWN = """
from __future__ import annotations
from dataclasses import dataclass, replace
import torch
from beside_for_test import NAME
from omnirobust.experiments import Cell, Experiment, Row
from omnirobust.attacks.presets import PAPER

@dataclass(frozen=True)
class Half:
    share: float = 0.5
    def init(self, B, K):
        return torch.full((B, K), 1 / K)
    def step(self, weights, losses):
        return weights  # edited

class Bare:
    def __init__(self):
        self.share = 0.25
    def init(self, B, K):
        return torch.full((B, K), 1 / K)
    def step(self, weights, losses):
        return weights

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 10))

def experiment():
    models = ("mnist/a", __file__ + ":build")
    cells = [Cell(models, "linf", 0.1, replace(PAPER["linf"], rule=rule), steps=3) for rule in (Half(), Bare())]
    return Experiment(NAME, "From a file", tuple(Row(("linf", str(i)), "new", c) for i, c in enumerate(cells)))

number = 3
fails = lambda: 1 / 0
"""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(outcome, "RESAMPLES", 10)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "beside_for_test.py").write_text("NAME = 'from-a-file'\n")
    file = tmp_path / "own_experiment_for_test.py"
    file.write_text(OWN)
    return file


def counting(monkeypatch) -> list[int]:
    made: list[int] = []
    plain = AttackRunner.attack
    monkeypatch.setattr(AttackRunner, "attack", lambda *words: made.append(1) or plain(*words))
    return made


def test_an_experiment_is_measured_judged_and_written(tmp_path, cell_cache, monkeypatch):
    made = counting(monkeypatch)
    found = reproduce([GOOD], images=120, out=tmp_path, cache=cell_cache)
    (mine,) = found.outcomes
    assert [j.verdict for j in mine.judgements] == ["true"] and len(made) == 2
    facts = json.loads((tmp_path / "mine.json").read_text())
    assert facts["rows"][0]["printed"]["asr_all"] == 12.5 and facts["claims"][0]["verdict"] == "true"
    rate = 100 * float(mine.measured["mine", ("linf", "avg")].fooled.all(1).double().mean())
    page = found.page.read_text()
    line = next(line for line in page.splitlines() if line.startswith("| linf | avg | 12.50 |"))
    assert line.endswith(f"| {rate - 12.5:+.1f} |")
    assert page.startswith("# Experiments\n") and "paper" not in page.split("## mine")[1]
    reproduce([GOOD], images=120, out=tmp_path, cache=cell_cache)
    assert len(made) == 2  # nothing is measured twice


def test_a_file_declares_one_and_an_edited_rule_is_measured_again(tmp_path, own, monkeypatch):
    def load(name):
        return make_model(name) if ":" not in name else finished_model(name)

    made = counting(monkeypatch)
    for edit in (False, False, True):
        if edit:  # of one rule's code: a comment is enough
            own.write_text(OWN.replace("  # edited", "  # again"))
        cell_cache = CellCache(tmp_path / "cells", load, load_images)
        found = reproduce([f"{own}:experiment"], images=12, out=tmp_path / "out", cache=cell_cache)
    assert found.outcomes[0].experiment.name == "from-a-file" and found.outcomes[0].complete
    assert set(found.outcomes[0].rates("new").accuracy("linf", "0")) == {"A", "build"}
    settings = [json.loads(f.read_text()) for f in (tmp_path / "cells").glob("*/settings.json")]
    rules = [s["attack"]["rule"] for s in settings]
    assert {r["share"] for r in rules if r["name"] == "Half"} == {0.5}
    assert {r["share"] for r in rules if r["name"] == "Bare"} == {0.25}
    # the file of the model was edited too: both rows are measured again, and only then
    assert len(made) == 4 and len({r["source"] for r in rules if r["name"] == "Half"}) == 2


def test_an_experiment_of_ones_own_stands_beside_the_papers(tmp_path, cell_cache):
    found = reproduce([GOOD, "table-a2"], experiments=collection(), images=12, out=tmp_path, cache=cell_cache)
    assert [o.experiment.name for o in found.outcomes] == ["mine", "table-a2"]
    page = found.page.read_text()
    assert "### mine: claims" in page and "### table-a2: the paper's claims" in page
    assert page.startswith("# The paper's experiments, reproduced")


def test_groups_and_sweeps_may_be_declared_too(tmp_path, cell_cache):
    groups = replace(CELL, models=("mnist/a",), task=Universal(3), labels="true")
    shared = Experiment(
        "shared", "In groups", (Row(("a", "avg"), "mine", groups),), "groups", heads=("model", "weights")
    )
    points = tuple(Row(("linf", "own", f"{eps}"), "mine", replace(CELL, eps=eps)) for eps in (0.1, 0.2, 0.3, 0.4))
    swept = Experiment("swept", "Over eps", points, "sweep", "eps")  # smoke keeps every third point
    found = reproduce([shared, swept], images=12, budget="smoke", out=tmp_path, cache=cell_cache)
    assert [len(o.measured) for o in found.outcomes] == [1, 2]
    assert (
        "own, mine" in (tmp_path / "figures" / "swept.svg").read_text()
    )  # the legend of a way and a variant of one's own


@pytest.mark.parametrize("heads", [("norm",), ("norm", "weights"), ("of", "norm", "weights")])
def test_a_sweep_under_any_number_of_heads_is_sorted_by_its_number(tmp_path, cell_cache, heads):
    first = tuple(head[0] for head in heads)
    points = ("20.0", "-", "-0.1", "5.0", "1.0")
    rows = tuple(Row((*first, t), "mine", replace(CELL, eps=i / 50)) for i, t in enumerate(points))
    swept = Experiment("swept", "Over t", rows, "sweep", "t", heads, printed={(*first, "5.0"): Printed(asr_all=40.0)})
    found = reproduce([swept], images=12, out=tmp_path, cache=cell_cache)
    lines = [line.strip("| ").split(" | ") for line in found.page.read_text().splitlines() if line.startswith("| ")]
    begin = lines.index(["t", *heads, "printed", "mine"])
    table = [tuple(line[: 1 + len(heads)]) for line in lines[begin + 2 : begin + 7]]
    assert table == [(t, *first) for t in ("-", "-0.1", "1.0", "5.0", "20.0")]
    assert [line[1 + len(heads)] for line in lines[begin + 2 : begin + 7]] == ["–", "–", "–", "40.00", "–"]
    drawn = (tmp_path / "figures" / "swept.svg").read_text()
    label = ", ".join((*first[1:], "mine"))
    assert drawn.count(f">{label}<") == 2  # the line beside the axis, and one curve through all four points


def test_a_curve_goes_through_all_points_of_its_sweep(cell_cache):
    rows = tuple(Row(("linf", t), "mine", replace(CELL, eps=i / 50)) for i, t in enumerate(("20.0", "5.0", "0.1")))
    measured = {(row.variant, row.key): cell_cache.measure(row.cell, 12) for row in rows}
    found = outcome.Outcome(Experiment("swept", "Over t", rows, "sweep", "t", ("norm",)), measured, 12, 0.0)
    axis = Figure().add_subplot()
    for scheme in figures._schemes(found):
        figures._curve(axis, found, "mine", "linf", scheme)
    (line,) = axis.lines
    assert line.get_xdata().tolist() == [0.1, 5.0, 20.0] and line.get_label() == "mine"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"name": "../mine"},
            "name must be of a-z and 0-9, joined by - . or _, .*; got '../mine'",
        ),
        ({"name": "table-1a"}, "name must be that of no other experiment, got 'table-1a'"),
        ({"kind": "odd"}, "kind of mine must be one of table, sweep, accuracy, groups, weights, robustness, got 'odd'"),
        ({"sweeps": "eps"}, "sweeps of mine must name the swept quantity for a sweep alone, got 'eps'"),
        ({"rows": ()}, r"rows of mine must be a tuple of at least one Row, got tuple \(\)"),
        ({"rows": list(ROWS)}, "rows of mine must be a tuple of at least one Row, got list"),
        ({"rows": (*ROWS, ROWS[0])}, r"must differ in variant or key, got 'mine', \('linf', 'avg'\) twice"),
        ({"heads": ("norm",)}, r"heads of mine must name what is attacked and its weights, got \('norm',\)"),
        (
            {"heads": ("norm", "of", "weights")},
            r"keys of mine must be a text for each of its heads, norm, of, weights; got \('linf', 'avg'\)",
        ),
        (
            {"kind": "sweep", "sweeps": "t", "heads": ("norm",), "rows": (Row(("linf", 0.1), "mine", CELL),)},
            r"heads, norm, and at the end t, a number as text like '0.1'; got \('linf', 0.1\)",
        ),
        ({"kind": "sweep", "sweeps": "weights"}, r"sweeps of mine must differ from its heads, got 'weights' beside \("),
        ({"heads": "norm"}, "heads of mine must be a tuple of texts, got str 'norm'"),
        (
            {"kind": "sweep", "sweeps": "t", "heads": ("norm",), "rows": (Row(("linf", "nan"), "mine", CELL),)},
            "must end in a number, or '-' beside the axis, got",
        ),
        ({"kind": "groups"}, "rows of mine must attack groups of images"),
        ({"printed": {("l2", "avg"): Printed()}}, r"printed of mine must be of its rows, got \('l2', 'avg'\)"),
        ({"claims": (3,)}, r"claims of mine must be a tuple of Claims, got tuple \(3,\)"),
        ({"note": None}, "note of mine must be a text, got NoneType None"),
        ({"claims": (replace(CLAIM, text=3),)}, "text of claim 'all' of mine must be a text, got int 3"),
        ({"claims": (CLAIM, CLAIM)}, "claims of mine must have a name each, got 'all' twice"),
        ({"kind": "sweep", "sweeps": "eps", "heads": ("norm",)}, "must end in a number, or '-' beside the axis, got"),
    ],
)
def test_what_does_not_fit_is_told(changes, sentence):
    check_experiment(GOOD, experiments())
    with pytest.raises(ValueError, match=sentence):
        check_experiment(replace(GOOD, **changes), experiments())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("number", "names must name an Experiment or a function that returns one, got .*:number, int 3"),
        ("fails", "names must name code that runs, got .*:fails: ZeroDivisionError: division by zero"),
        ("nothing", "names must name something that exists"),
    ],
)
def test_a_file_without_an_experiment_is_told(own, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        with_own([f"{own}:{name}"], ())
    with pytest.raises(ValueError, match=r"names must say what to take from a file, as in .*.py:NAME, got"):
        with_own([str(own)], ())


def test_two_of_one_name_and_a_model_that_is_not_there_are_told(tmp_path, own):
    with pytest.raises(ValueError, match="name must be that of no other experiment, got 'mine'"):
        with_own([GOOD, GOOD], ())
    for model, sentence in (
        (f"{own}:nothing", "source must name something that exists"),
        ("mnist/z", "name must be one"),
    ):
        row = replace(ROWS[0], cell=replace(CELL, models=(model,)))
        with pytest.raises(ValueError, match=sentence):
            reproduce([replace(GOOD, rows=(row,), printed={})], images=12, out=tmp_path)


class Leaving(Uniform):
    """A rule whose weights leave the simplex."""

    def step(self, weights, losses):
        return weights + 1


class Stumbling(Uniform):
    """A rule that raises."""

    def step(self, weights, losses):
        return {}["x"]


class Narrow(Uniform):
    """A rule that takes too little."""

    def step(self, weights):
        return weights


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (Stumbling(), r"with rule Stumbling: KeyError: 'x' \(test_own.py, line \d+\)$"),
        (Leaving(), r"with rule Leaving: Leaving.step must return weights >= 0 that sum to 1 in each row, got \[1.5, "),
        (Narrow(), r"with rule Narrow: TypeError: .* takes 2 positional arguments but 3 were given \(\w+.py, line \d+"),
    ],
)
def test_a_row_whose_rule_fails_is_named_and_what_was_measured_is_kept(tmp_path, cell_cache, rule, sentence):
    cell = replace(CELL, attack=replace(CELL.attack, rule=rule))
    rows = (ROWS[0], Row(("l2", "odd"), "mine", cell))
    with pytest.raises(ValueError, match=r"^rows of mine must run, got 'mine', \('l2', 'odd'\) " + sentence):
        reproduce([replace(GOOD, rows=rows)], images=12, out=tmp_path, cache=cell_cache)
    assert cell_cache.recall(ROWS[0].cell, 12) is not None


def test_what_is_no_matter_of_a_rows_keeps_its_error(tmp_path, cell_cache, monkeypatch):
    class Enough(Exception):
        pass

    def stop(name, done, total):
        raise Enough

    with pytest.raises(Enough):
        reproduce([GOOD], images=12, out=tmp_path, cache=cell_cache, progress=stop)
    monkeypatch.setattr(AttackRunner, "attack", lambda *words: (_ for _ in ()).throw(DataUnavailableError("offline")))
    with pytest.raises(DataUnavailableError, match=r"^offline$"):
        reproduce([GOOD], images=12, out=tmp_path, cache=cell_cache)


def test_a_claim_that_fails_is_named(tmp_path, cell_cache):
    broken = Claim("odd", "It divides.", lambda r: 1 / 0 > 0, lambda r: "")
    with pytest.raises(ValueError, match="functions of rates that run, got 'odd': ZeroDivisionError: division by zero"):
        reproduce([replace(GOOD, claims=(broken,))], images=12, out=tmp_path, cache=cell_cache)


def test_settings_of_the_library_have_no_source_and_own_functions_do():
    attack = replace(PAPER["linf"], loss=lambda logits, labels, *, targeted=False: logits.sum(1))
    own = replace(CELL, attack=attack).describe(TOLD)["attack"]["loss"]
    assert CELL.describe(TOLD)["attack"]["loss"] == losses.margin.__qualname__
    assert own.startswith("test_settings_of_the_library") and len(own.partition("source ")[2]) == 8
    assert torch.is_tensor(PAPER["linf"].rule.init(1, 2))
