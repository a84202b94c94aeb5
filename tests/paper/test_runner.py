"""The whole way, on tiny models: rows to cells to tables, figures and verdicts."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import torch

from omnirobust import zoo
from omnirobust.paper import collection, experiments
from omnirobust.study import outcome, reproduce
from omnirobust.study.attack_runner import AttackRunner
from omnirobust.study.cell_cache import CellCache
from omnirobust.study.runner import MARK
from omnirobust.study.spec import BUDGETS

from .conftest import load_images, make_model

papers = partial(reproduce, experiments=collection())


STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def small_budget():
    """All rows of all tables, but few steps each and few points of each sweep; and few resamples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "RESAMPLES", 10)
        patch.setitem(BUDGETS, "smoke", replace(BUDGETS["smoke"], steps=STEPS, thin=6))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    cell_cache = CellCache(folder / "cells", make_model, load_images)
    seen: list[tuple[str, int, int]] = []
    found = papers(
        list(experiments()), budget="smoke", images=12, out=folder / "out", docs=folder / "docs", cache=cell_cache,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    return folder, found, seen


def test_all_experiments_are_measured_whole(done):
    _, found, seen = done
    assert [o.experiment.name for o in found.outcomes] == list(experiments())
    assert all(o.complete for o in found.outcomes)
    assert not any(name == "table-a3" for name, *_ in seen)  # three of its models are not there
    for name, experiment in experiments().items():
        if name == "table-a3":
            continue
        counts, totals = zip(*((done, total) for told, done, total in seen if told == name), strict=True)
        assert counts[-1] == totals[0] == totals[-1] > 0
        assert list(counts) == sorted(counts)
        rows = BUDGETS["smoke"].limit(experiment).rows
        there = [row for row in rows if not {f"cifar10/{m}" for m in "efgh"} & set(row.cell.models)]
        assert len(there) <= len(counts)
    # The paper's own attack comes first in every experiment, and only then ours in any.
    assert seen[0][0] == "table-1a"
    assert seen[-1][0] == "table-1a"
    last_a2 = max(i for i, told in enumerate(seen) if told[0] == "table-a2")
    assert last_a2 < len(seen) / 2


def test_tables_hold_the_printed_value_beside_ours(done):
    folder, found, _ = done
    facts = json.loads((folder / "out" / "table-1a.json").read_text())
    (row,) = (r for r in facts["rows"] if r["key"] == ["linf", "minmax"] and r["variant"] == "paper")
    assert (row["printed"]["asr_all"], row["images"], row["steps"]) == (90.16, 12, STEPS)
    (outcome,) = (o for o in found.outcomes if o.experiment.name == "table-1a")
    ours = outcome.measured["paper", ("linf", "minmax")].fooled.all(1).double().mean()
    assert row["asr_all"] == pytest.approx(float(ours))
    page = found.page.read_text()
    line = next(x for x in page.splitlines() if x.startswith("| linf | minmax | 90.16 |"))
    assert f"| {100 * ours:.1f} (" in line
    assert f"{100 * ours - 90.16:+.1f} |" in line
    assert "Not complete" not in page
    assert len(facts["claims"]) == 9 * 5


def test_the_page_begins_with_what_was_run(done):
    folder, found, _ = done
    page = found.page.read_text()
    section = page.split("## What was run")[1].split("\n## ")[0]
    overview = section.split("How many rows of attacks")[0].replace("\n| ", "\n | ")
    rows = {cells[1]: cells for cells in (line.split(" | ") for line in overview.splitlines())
            if len(cells) > 4}  # fmt: skip
    assert list(experiments()) == [name for name in rows if name in experiments()]
    for name in experiments():
        facts = json.loads((folder / "out" / f"{name}.json").read_text())
        first = [c["verdict"] for c in facts["claims"] if c["variant"] == facts["claims"][0]["variant"]]
        counts = [first.count("true"), first.count("false")]
        *_, measured, true, false, left, _ = rows[name]
        assert [int(true), int(false), int(left)] == [*counts, len(first) - sum(counts)], name
        assert measured.split(" of ")[0] == str(len(facts["rows"]))
    assert f"torch {torch.__version__}" in section
    assert f"\n    omnirobust reproduce {' '.join(experiments())} --budget smoke --images 12\n" in section
    assert found.site.read_text().count("<section ") == page.count("\n## ") + 1
    assert "Slips of the paper" in page


def test_models_that_are_to_be_trained_are_named(done):
    folder, found, _ = done
    page = found.page.read_text()
    section = page.split("## table-2:")[1].split("\n## ")[0]
    assert "**To be trained:** cifar10/e, cifar10/h. Each by `omnirobust zoo train NAME`." in section
    (line,) = (x for x in section.splitlines() if x.startswith("| CIFAR-10 H | minmax | 10 | 2.40 |"))
    assert line.count("to be trained") == 5
    facts = json.loads((folder / "out" / "table-2.json").read_text())
    assert facts["to_be_trained"] == ["cifar10/e", "cifar10/h"]
    assert facts["complete"]
    assert len(facts["rows"]) == 6 * 4 * 2 * 5


def test_an_experiment_that_waits_for_all_its_models_says_so(tmp_path):
    def load(name):
        if name.startswith("cifar10"):
            raise zoo.MissingWeightsError(f"There are no weights of {name} yet")
        return make_model(name)

    cell_cache = CellCache(tmp_path / "cells", load, load_images)
    found = papers(["table-3", "table-a3"], budget="smoke", out=tmp_path, cache=cell_cache)
    assert [o.measured for o in found.outcomes] == [{}, {}]
    page = found.page.read_text()
    assert "**To be trained:** cifar10/a, cifar10/e, cifar10/f, cifar10/h." in page
    assert "| linf | minmax | 81.17 | to be trained | – |" in page
    assert "**To be trained:** cifar10/a, cifar10/b, cifar10/c, cifar10/d." in page
    assert "| A | avg | 55.88 | to be trained | – |" in page


def test_rows_of_fewer_models_stand_beside_those_that_wait_for_one(tmp_path):
    def load(name):
        if name == "cifar10/b":
            raise zoo.MissingWeightsError(f"There are no weights of {name} yet")
        return make_model(name)

    cell_cache = CellCache(tmp_path / "cells", load, load_images)
    chosen = ["paper", "paper-acd"]
    found = papers(
        ["table-1b"], budget="smoke", images=12, out=tmp_path, cache=cell_cache, variants=chosen
    )  # fmt: skip
    (outcome,) = found.outcomes
    assert (outcome.variants, outcome.untrained, outcome.missing) == (("paper-acd",), ("cifar10/b",), 0)
    page = found.page.read_text()
    ours = 100 * outcome.interval("paper-acd", ("l1", "minmax")).estimate
    assert f"| l1 | minmax | 78.65 | to be trained | {ours:.1f} (" in page
    (line,) = (x for x in page.splitlines() if x.startswith("| l1 | minmax | paper-acd |"))
    assert line.split(" | ")[4] == "–"  # the accuracy of B, which is not among them


def test_tables_of_groups_and_transformations_hold_the_printed_value_beside_ours(done):
    folder, found, _ = done
    outcomes = {o.experiment.name: o for o in found.outcomes}
    facts = json.loads((folder / "out" / "table-3.json").read_text())
    (row,) = (r for r in facts["rows"] if r["key"] == ["C", "minmax"] and r["variant"] == "paper")
    ours = outcomes["table-3"].measured["paper", ("C", "minmax")].fooled.double()
    assert row["printed"]["asr_gp"] == 63.58
    assert row["asr_gp"] == pytest.approx(float(ours.all(1).double().mean()))
    assert set(row["accuracy"]) == {"ori", "flh", "flv", "bri", "gam", "crop"}
    assert row["accuracy"]["flv"] == pytest.approx(1 - float(ours[:, 2].mean()))
    page = found.page.read_text()
    head = next(x for x in page.split("### table-a6: every row")[1].splitlines() if x.startswith("| model"))
    assert "Acc rot | ASR_avg | ASR_gp | lift | over average, points | images |" in head
    line = next(x for x in page.splitlines() if x.startswith("| MNIST C | avg | 4 | *printed* |"))
    assert line == "| MNIST C | avg | 4 | *printed* | 62.12 | 28.72 | – | – | 2500 |"


def test_weights_are_shown_as_statistics_beside_the_printed_ones(done):
    _, found, _ = done
    (outcome,) = (o for o in found.outcomes if o.experiment.name == "table-a10")
    ours = outcome.statistics("paper")["l2 and eps_min"]
    assert ours.low <= ours.estimate <= ours.high
    line = next(x for x in found.page.read_text().split("## table-a10:")[1].splitlines() if "| l2 and eps_min |" in x)
    assert line.startswith(f"| l2 and eps_min | correlation | 0.68 | {ours.estimate:.2f} (")
    assert outcome.pictures.shape[:2] == (10, 5)


def test_tables_are_well_formed(done):
    _, found, _ = done
    lines = found.page.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    assert len(starts) >= 12
    for i in starts:
        j = i
        while j < len(lines) and lines[j].startswith("|"):
            assert lines[j].count("|") == lines[i - 1].count("|"), lines[j]
            j += 1
        assert j > i + 1


def test_figures_are_svg_and_the_same_for_the_same_numbers(done):
    folder, found, _ = done
    names = sorted({file.name for file in found.files if file.suffix == ".svg"})
    figures = ["figure-1-default.svg", "figure-1-paper.svg", "figure-2.svg", "figure-a1.svg"]
    assert names == [*figures, "table-a10-paper.svg", "table-a9-paper.svg"]
    before = {name: (folder / "out" / "figures" / name).read_bytes() for name in names}
    for content in before.values():
        assert ET.fromstring(content).tag.endswith("svg")
    again = papers(
        list(experiments()), budget="smoke", images=12, out=folder / "again", measure=False,
        cache=CellCache(folder / "cells", make_model, load_images),
    )  # fmt: skip
    assert {name: (folder / "again" / "figures" / name).read_bytes() for name in names} == before
    assert again.page.read_text() == found.page.read_text()


def test_docs_keep_what_was_written_by_hand(done):
    folder, _, _ = done
    page = folder / "docs" / "reproduction.md"
    first = page.read_text()
    assert first.startswith(MARK)
    assert "](reproduction/figure-2.svg)" in first
    assert (folder / "docs" / "reproduction" / "figure-2.svg").is_file()
    page.write_text("# By hand\n\n" + first.replace("table-1a", "stale"))
    papers(["table-a2"], budget="smoke", images=12, out=folder / "out2", docs=folder / "docs",
              cache=CellCache(folder / "cells", make_model, load_images))  # fmt: skip
    second = page.read_text()
    assert second.startswith("# By hand\n\n" + MARK)
    assert "stale" not in second
    assert [line for line in second.splitlines() if line.startswith("# ")] == ["# By hand"]
    assert "table-a2" in second


def test_an_unfinished_run_is_written_down_as_such(tmp_path):
    cell_cache = CellCache(tmp_path / "cells", make_model, load_images)
    row = next(r for r in experiments()["figure-1"].rows if r.key == ("linf", "avg"))
    cell_cache.measure(row.cell, 200)
    found = papers(["figure-1", "figure-2"], budget="paper", out=tmp_path, measure=False, cache=cell_cache)
    page = found.page.read_text()
    # Of figure-1 five rows of six are missing; Figure 2 lacks all but the one that both share.
    # That one has 200 images, of 1,000 for a table and of 200 for a point of a sweep.
    assert "**Not complete:** 5 rows are to be measured; 1 with fewer images than the budget's 1,000." in page
    assert "**Not complete:** 107 rows are to be measured." in page
    assert ", 200 images" in page
    assert "default" not in page.split("## figure-1")[1]
    assert not found.outcomes[0].complete


@pytest.mark.parametrize(
    ("names", "changes", "sentence"),
    [
        (["table-9"], {}, "names must be among table-1a, .*, got 'table-9'"),
        (["table-1a"], {"budget": "huge"}, "budget must be one of smoke, quick, paper, got 'huge'"),
        (["table-1a"], {"images": 0}, "images must be >= 1, got 0"),
        (["table-1a"], {"docs": __file__}, "docs must be a folder, got "),
        (["table-1a"], {"images": 10**10}, "images must be <= 100000, got 10000000000"),
        (["table-1a"], {"variants": ["mine"]}, "variants must be among paper, .*, got 'mine'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, cell_cache, names, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        papers(names, out=tmp_path, cache=cell_cache, **changes)
    assert not (tmp_path / "reproduction.md").exists()


def test_processes_that_share_a_folder_share_the_work(tmp_path, monkeypatch):
    made: list[tuple] = []
    plain = AttackRunner.attack

    def counted(self, cell, trial, rows, on_steps):
        made.append((repr(cell), trial.begin, rows.tolist()))
        return plain(self, cell, trial, rows, on_steps)

    monkeypatch.setattr(AttackRunner, "attack", counted)

    def work(name: str) -> None:
        pages[name] = papers(["table-1a", "table-a2"], images=12, budget="smoke", out=tmp_path / name,
                                cache=CellCache(tmp_path / "cells", make_model, load_images)).page  # fmt: skip

    pages: dict[str, Path] = {}
    threads = [Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared = len(made)
    assert len({str(attack) for attack in made}) == shared > 10  # nothing twice
    papers(["table-1a", "table-a2"], images=12, budget="smoke", out=tmp_path / "alone",
              cache=CellCache(tmp_path / "alone" / "cells", make_model, load_images))  # fmt: skip
    assert len(made) - shared <= shared
    without = [re.sub(r"[\d.]+ (s|seconds|min|minutes)\b", "", page.read_text()) for page in pages.values()]
    assert without[0] == without[1]
