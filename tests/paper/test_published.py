"""The published results are of the experiments declared here: the same rows, sentences and printed values."""

import json
from pathlib import Path

import pytest

from omnirobust.paper import collection
from omnirobust.paper.registry import VARIANTS, experiments
from omnirobust.paper.training_budgets import TRAINING_BUDGETS
from omnirobust.paper.trainings import training_experiments

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reproduction.md").read_text(encoding="utf-8")


def published(name: str) -> dict:
    return json.loads((DOCS / "reproduction" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", collection().members)
def test_titles_and_claims_are_those_of_the_page(name):
    study, found = collection().members[name], published(name)
    assert (found["experiment"], found["title"]) == (name, study.title)
    assert f"\n## {name}: {study.title}\n" in PAGE
    declared = getattr(training_experiments().get(name, study), "claims", None)
    if declared is not None:
        said = {(claim["claim"], claim["text"]) for claim in found["claims"]}
        assert said <= {(claim.name, claim.text) for claim in declared}
        assert all(f"| {text}" in PAGE for _, text in said)


@pytest.mark.parametrize("name", experiments())
def test_rows_of_attacks_are_those_declared_with_their_printed_values(name):
    experiment = experiments()[name]
    rows = {(row.variant, row.key): row.attack for row in experiment.rows}
    for row in published(name)["rows"]:
        cell, printed = rows[row["variant"], tuple(row["key"])], experiment.printed.get(tuple(row["key"]))
        if "steps" in row:
            assert row["steps"] == cell.steps
            assert set(row["accuracy"]) == set(cell.columns)
        if printed is not None:
            joint = "asr_all" if cell.task is None else "asr_gp"
            expected = {"source": printed.source, joint: printed.asr_all, "asr_avg": printed.asr_avg}
            assert row["printed"] == expected | {"lift": printed.lift, "accuracy": printed.accuracy}


@pytest.mark.parametrize("name", training_experiments())
def test_rows_of_trainings_are_those_declared(name):
    rows = training_experiments()[name].rows(TRAINING_BUDGETS["quick"])
    assert {(r["network"], r["training"], r["eps_l2"]) for r in published(name)["rows"]} <= set(rows)


def test_every_version_is_explained_on_the_page():
    occurring = {row["variant"] for name in experiments() for row in published(name)["rows"]}
    assert occurring <= set(VARIANTS)
    assert all(f"\n- **{version}**: {VARIANTS[version]}" in PAGE for version in occurring)
    assert collection().notes in PAGE and collection().counted in PAGE and collection().closing.strip() in PAGE


@pytest.mark.parametrize("name", experiments())
def test_the_page_counts_rows_by_how_many_images_they_have(name):
    """`python scripts/scales.py` writes that table again."""
    found, declared = published(name), experiments()[name].rows
    have = {(row["variant"], *row["key"]): row["images"] for row in found["rows"]}
    counts = {"none": 0, "few": 0, "some": 0, "all": 0}
    for row in declared:
        images, group = have.get((row.variant, *row.key), 0), row.cell.group
        whole = found["images_wanted"] // group * group
        counts["none" if not images else "all" if images >= whole else "few" if images <= 200 else "some"] += 1
    assert f"\n| {name} | {len(declared)} | " + " | ".join(map(str, counts.values())) + " |\n" in PAGE
