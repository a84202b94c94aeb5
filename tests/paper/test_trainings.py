"""The experiments on robust training as data, and the whole way from trainings to a page, on embedded digits."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from omnirobust.paper import collection, robustness_cells
from omnirobust.paper.printed_trainings import TABLE_A7, TABLE_A8
from omnirobust.paper.training_budgets import TRAINING_BUDGETS, Effort, TrainingBudget
from omnirobust.paper.trainings import training_experiments, urgency
from omnirobust.study import CellCache, reproduce
from omnirobust.zoo import data

NAMES = (
    "table-4a",
    "table-4b",
    "table-a7a",
    "table-a7b",
    "table-a8",
    "figure-3",
    "figure-a2",
    "figure-a3",
    "figure-a4",
)

MADE = tuple(name for name in NAMES if name not in ("table-4b", "table-a7b"))
"""Those that are made here: LeNet is shown by Figure A2 and Table A8."""

TINY = TrainingBudget(
    {"a": Effort(2, 32, 1, holdout=16), "c": Effort(1, 16, 1)}, {"a": 2, "c": 1}, 1, {"a": 40, "c": 4},
    {"a": 2, "c": 2}, pgd_steps=1, strong_steps=1, grid=(0.5, 2.5),
)  # fmt: skip


def test_all_nine_are_there_with_the_rows_that_the_paper_prints():
    found, budget = training_experiments(), TRAINING_BUDGETS["paper"]
    assert set(found) == set(NAMES)
    assert set(found["table-a8"].rows(budget)) == set(TABLE_A8)
    for part, arch in (("a", "a"), ("b", "c")):
        table_4, table_a7 = found[f"table-4{part}"], found[f"table-a7{part}"]
        printed = [row for row in table_4.rows(budget) if row in TABLE_A8]
        assert len(printed) == 7
        assert {row[:2] for row in table_a7.rows(budget)} == {key for key in TABLE_A7 if key[0] == arch}
    for experiment in found.values():
        assert len({claim.name for claim in experiment.claims}) == len(experiment.claims) > 0


def test_table_4_comes_before_other_seeds_and_other_radii():
    budget = TRAINING_BUDGETS["quick"]
    trainings = {t for e in training_experiments().values() for t, _ in e.work(budget)}
    order = sorted(trainings, key=urgency)
    first = [t for t in order if urgency(t) == (0, 0)]
    assert {(t.arch, t.seed) for t in first} == {("a", 0)}
    assert {t.method for t in first} == {
        "natural", "linf", "l2", "usgd", "avg", "avg_dpar", "minmax", "minmax_dpar"
    }  # fmt: skip
    assert {t.eps_l2 for t in first} == {0.0, 2.0}
    assert order[-1].arch == "c"
    assert order[-1].method.endswith("_dpar")
    # natural, linf, uSGD and, at radius 2, seven with both norms or l2 alone and printed: three seeds of the MLP
    assert sum(t.arch == "a" and t.eps_l2 in (0.0, 2.0) for t in trainings) == 3 * 10


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    seen: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAINING_BUDGETS, "smoke", TINY)
        patch.setattr(robustness_cells, "LEARNED_FROM", 40)
        found = run(folder, MADE, folder / "out", docs=folder / "docs", progress=lambda *told: seen.append(told))
        yield folder, found, seen


def run(folder, names, out, **others):
    cell_cache = CellCache(
        folder / "cells", load_images=lambda name, split, limit: data.load("digits", split, limit=limit)
    )
    return reproduce(names, experiments=collection(), budget="smoke", out=out, cache=cell_cache, **others)


def test_everything_is_measured_and_told(done):
    _, found, seen = done
    assert {o.experiment.name for o in found.outcomes} == set(MADE)
    assert all(o.complete and o.missing == 0 for o in found.outcomes)
    for name in MADE:
        counts = [(at, total) for told, at, total in seen if told == name]
        assert counts[-1][0] == counts[-1][1] > 0
        assert [at for at, _ in counts] == sorted(at for at, _ in counts)


def test_the_page_has_printed_values_beside_ours_and_a_verdict_for_every_claim(done):
    folder, found, _ = done
    page = found.page.read_text()
    assert "to be measured" not in page
    assert "| min-max | *printed* | 98.59 | 75.96 | 79.15 | 73.43 | 77.55 |" in page
    assert "| uSGD | *printed* | 98.73 | 56.21 | 64.51 | 91.27 | 70.66 |" in page
    for name in MADE:
        assert f"## {name}: the paper's claims" in page
        facts = json.loads((folder / "out" / f"{name}.json").read_text())
        assert facts["complete"]
        assert {claim["verdict"] for claim in facts["claims"]} <= {"true", "false", "undecided", "not measured"}
    outcome = next(o for o in found.outcomes if o.experiment.name == "table-4a")
    clean = outcome.findings.accuracy("a", "minmax", 2.0, "clean")
    line = next(x for x in page.splitlines() if x.startswith("| min-max | 1 steps |"))
    assert f"| {100 * clean.mean:.1f} (" in line
    assert line.endswith("| 2 x 40 |")


def test_figures_are_drawn_and_copied(done):
    folder, found, _ = done
    for name in ("figure-3", "figure-a2", "figure-a3", "figure-a4"):
        file = folder / "out" / "figures" / f"{name}.svg"
        assert file in found.files
        assert ET.fromstring(file.read_bytes()).tag.endswith("svg")
        assert (folder / "docs" / "reproduction" / f"{name}.svg").read_bytes() == file.read_bytes()
    assert "](reproduction/figure-3.svg)" in (folder / "docs" / "reproduction.md").read_text()


def test_written_down_again_it_is_the_same_and_trains_nothing(done):
    folder, found, _ = done
    again = run(folder, MADE, folder / "again", measure=False)
    assert again.page.read_text() == found.page.read_text()


def test_what_is_missing_is_said(done, tmp_path):
    page = run(tmp_path, ["table-4a", "table-a8", "figure-a4", "figure-3", "figure-a3"], tmp_path, measure=False).page
    text = page.read_text()
    assert "**Not complete:** 18 are to be measured." in text
    assert "| min-max | 1 steps | to be measured | – |" in text
    assert "**true**" not in text
    assert not list(tmp_path.glob("figures/*.svg"))


def test_another_budget_is_another_training(done, monkeypatch):
    folder, _, _ = done
    monkeypatch.setitem(TRAINING_BUDGETS, "quick", replace(TINY, efforts={**TINY.efforts, "a": Effort(1, 8, 1)}))
    outcome = run(folder, ["table-4a"], folder / "quick", measure=False, training_budget="quick").outcomes[0]
    assert outcome.progress == (0, 18)
    with pytest.raises(ValueError, match="training_budget must be one of smoke, quick, paper, got 'huge'"):
        run(folder, ["table-4a"], folder / "quick", training_budget="huge")
