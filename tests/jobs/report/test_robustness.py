from __future__ import annotations

import re

import pytest

import omnirobust as orb
from omnirobust.jobs import EvaluationJob, run_evaluation
from omnirobust.jobs.report import build_report
from omnirobust.jobs.report.robustness import accuracies, comparisons, heading, notes, stacked

LITTLE = "Under linf:0.06 nothing {}: this radius tells models little. Try {}, --threat linf:{}."


@pytest.fixture
def record(digits, tmp_path):
    threats = {"linf:0.06": orb.Linf(0.06), "l0:2": orb.L0(2)}
    return run_evaluation(EvaluationJob("digits", ("c", "a"), threats, steps=4, images=10), tmp_path / "run")


def test_the_page_shows_every_number_and_needs_nothing_else(record):
    page = build_report(record.folder.path).read_text(encoding="utf-8")
    assert "Robust accuracy of 2 models under 2 threats" in page
    for found in record.metrics["models"].values():
        for rate in (found["clean"], found["union"], *found["accuracy"].values()):
            assert stacked(rate) in page
        for attacks in found["breaks"].values():
            for name, images in attacks.items():
                assert f'<td class="text">{name}</td><td>{images}</td>' in page
    assert page.count("<svg") == 1 and not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert heading(record) in page


def test_the_heading_says_what_was_done(record):
    assert heading(record) == "digits, 10 test images from 0, default attacks, 4 steps, 1 restart"


def test_comparisons_say_whether_models_are_told_apart(record):
    (told,) = comparisons(record)
    (c,) = record.metrics["comparisons"]
    assert told.startswith("Union of a against c, image by image: ")
    verdict = "more robust" if c["low"] > 0 else "less robust" if c["high"] < 0 else "not told apart"
    assert verdict in told
    for low, high, word in ((0.1, 0.2, "more robust"), (-0.2, -0.1, "less robust"), (-0.1, 0.1, "not told apart")):
        c.update(low=low, high=high)
        assert word in comparisons(record)[0]


def test_notes_name_their_model_and_end_with_what_attacks_can_show(record):
    record.metrics["models"]["c"]["notes"] = ["something"]
    assert notes(record) == [
        "c: something",
        "No image judged on is of class 2, 3, 7.",
        "An attack only shows what is not robust: these accuracies are upper bounds."
    ]  # fmt: skip


def test_names_are_escaped(record):
    record.metrics["models"]["<b>"] = record.metrics["models"].pop("c")
    from omnirobust.jobs.report.robustness import render_evaluation

    assert "<b>" not in render_evaluation(record)


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ((0.0, 0.0), LITTLE.format("is left right", "half of it", "0.03")),
        ((0.0, 0.1), None),
        ((0.9, 0.8), LITTLE.format("falls", "twice as much", "0.12")),
        ((0.9, 0.7), None),
    ],
)
def test_a_radius_at_which_everything_or_nothing_falls_is_named_with_the_one_to_try(record, rates, told):
    for found, rate, clean in zip(record.metrics["models"].values(), rates, (0.9, 0.8), strict=True):
        found["clean"] |= {"estimate": clean}
        found["accuracy"]["linf:0.06"] |= {"estimate": rate}
        found["accuracy"]["l0:2"] |= {"estimate": 0.5}
    assert [note for note in notes(record) if note.startswith("Under")] == ([] if told is None else [told])


def test_long_names_of_threats_are_drawn_aslant_and_cut_in_the_middle(record):
    long = "a threat with a name that is far too long for the place below a bar"
    record.config["threats"][long] = record.config["threats"].pop("l0:2")
    for found in record.metrics["models"].values():
        found["accuracy"][long] = found["accuracy"].pop("l0:2")
    svg = accuracies(record).svg
    assert "rotate(-30" in svg and long not in svg and "a threat wi\u2026below a bar" in svg
