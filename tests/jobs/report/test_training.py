"""The page of a training shows the numbers of its run."""

from __future__ import annotations

import re

import pytest

import omnirobust as orb
from omnirobust.jobs import TrainingJob, TrainingRecord, run_training
from omnirobust.jobs.report.figures import COLOURS, RATES, THREATS
from omnirobust.jobs.report.happened import judged
from omnirobust.jobs.report.numbers import threat_names
from omnirobust.jobs.report.robustness import accuracies, notes, render_evaluation
from omnirobust.jobs.report.text import percent
from omnirobust.jobs.report.training import (
    learning_curves,
    loss_curve,
    mean_weights,
    render_training,
    told_end,
    told_epoch,
    weight_boxes,
)
from omnirobust.training import Scheme
from omnirobust.zoo import Recipe


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> TrainingRecord:
    scheme = Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=2, dpar=0.1)
    job = TrainingJob(
        "digits", scheme, Recipe(3, batch_size=32, holdout=16), model="a", images=64, test_images=4, test_steps=2
    )
    return run_training(job, tmp_path_factory.mktemp("training") / "run")


def test_the_page_holds_every_number(record: TrainingRecord) -> None:
    page = render_training(record)
    assert "Min-max adversarial training against linf:0.1, l2:0.5, DPAR 0.1" in page
    for row in record.history:
        assert f"{row['loss']:.4f}" in page and f"<td>{percent(row['robust'])}</td>" in page
    assert record.evaluation is not None
    assert percent(record.evaluation.metrics["models"]["run"]["union"]["estimate"]) in page
    assert page.count("<svg") == 4  # bars, learning curves, loss, weights
    assert '<p class="happened">run withstands both threats on ' in page


def test_a_colour_means_one_thing_on_the_page_of_a_training(record: TrainingRecord) -> None:
    used = [set(re.findall(r"#[0-9a-f]{6}", c.svg)) for c in (learning_curves(record), mean_weights(record)) if c]
    models = set(re.findall(r"#[0-9a-f]{6}", accuracies(record.evaluation).svg))
    loss = set(re.findall(r"#[0-9a-f]{6}", loss_curve(record).svg))
    hues = [*(set(found) & {*COLOURS, *RATES, *THREATS} for found in (*used, models, loss))]
    assert [len(found) for found in hues] == [3, 2, 1, 0] and len(set.union(*hues)) == 6


def test_curves_are_named_for_those_who_do_not_see_them(record: TrainingRecord) -> None:
    curves, boxes, means = learning_curves(record), weight_boxes(record), mean_weights(record)
    assert curves is not None and boxes is not None and means is not None
    last = record.history[-1]
    assert f"clean {100 * last['validation']:.3g}" in curves.svg
    assert f"linf:0.1 {last['weight/linf:0.1']:.3g}" in means.svg
    assert record.weights is not None
    assert f"linf:0.1 {float(record.weights[3][:, 0].median()):.2f}" in boxes.svg


def test_what_is_said(record: TrainingRecord) -> None:
    assert told_epoch(1, 3, {"loss": 0.5, "robust": 0.25, "seconds": 2.0}) == (
        "Epoch 1 of 3: loss 0.5000, union of attacks 25.00 %, 2.0 s"
    )
    assert told_end(record).startswith("Trained on 64 images of digits for 3 epochs: all were done.")
    assert f"that of epoch {record.metrics['kept']}, chosen on 16 others." in told_end(record)


def test_radii_are_shown_as_they_are_typed_and_stored_as_they_were(tmp_path) -> None:
    scheme = Scheme("minmax", (orb.Linf(8 / 255), orb.L2(0.5)), steps=1)
    job = TrainingJob(
        "digits", scheme, Recipe(1, batch_size=32, holdout=16), model="a", images=64, test_images=4, test_steps=1
    )
    record = run_training(job, tmp_path / "run")
    assert record.threats == ["linf:0.0313725", "l2:0.5"] and "weight/linf:0.0313725" in record.history[0]
    shown, stored = render_training(record).split("<footer>")  # below: the settings of config.json
    assert "0.0313725" not in shown and "0.0313725" in stored
    assert shown.count("linf:8/255") >= 5  # headline, table of the judged, its bars, epochs, weights
    assert record.evaluation is not None
    page = render_evaluation(record.evaluation).split("<footer>")[0]
    assert "linf:8/255" in page and "0.0313725" not in page
    assert not any("0.0313725" in line for line in [*notes(record.evaluation), judged(record.evaluation)])


def test_a_name_of_ones_own_stays() -> None:
    threats = {
        "linf:0.0313725": {"norm": "linf", "eps": 8 / 255}, "linf:0.0313725#2": {"norm": "linf", "eps": 8 / 255},
        "linf:0.031": {"norm": "linf", "eps": 8 / 255}, "mine": {"norm": "l2", "eps": 0.5},
        "sticker": {"norm": "given", "eps": None}, "l2:0.5": {"norm": "l2", "eps": 0.5},
    }  # fmt: skip
    assert list(threat_names(threats).values()) == [
        "linf:8/255", "linf:8/255#2", "linf:0.031", "mine", "sticker", "l2:0.5"
    ]  # fmt: skip
