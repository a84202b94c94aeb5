from pathlib import Path

from omnirobust.jobs import AttackRecord
from omnirobust.report.words import notes, percent, title
from omnirobust.runs import RunFolder


def record(**metrics) -> AttackRecord:
    config = {
        "data": {"name": "mnist", "note": "", "split": "test", "start": 5},
        "attack": {"norm": "l2", "eps": 2.0, "steps": 50},
    }
    attack = {
        "recheck": {"asr_all": 0.9, "asr_all_uint8": 0.875, "feasible": 1.0},
        "transfer_accuracy": {"e": 0.25},
        "zero_gradient": {"a": 0.0},
    }
    whole = {
        "images": 40,
        "transfer": [],
        "clean_accuracy": {"e": 0.99},
        "comparison": None,
        "attacks": {"average": attack},
    }
    return AttackRecord(RunFolder(Path("runs/x"), config), whole | metrics)


def test_rates_are_in_per_cent_with_two_decimals():
    assert [percent(0.12345), percent(0.1, sign=True), percent(-0.1, sign=True), percent(None)] == [
        "12.35", "+10.00", "-10.00", "-",
    ]  # fmt: skip


def test_the_title_names_the_run():
    assert title(record()) == "mnist, 40 test images from 5, l2 eps 2, 50 steps"


def test_notes_say_what_was_saved():
    assert notes(record()) == [
        "Saved and read back, average: 90.00 % fool every model in float, 87.50 % rounded to 8 bits a pixel; "
        "100.00 % lie in the ball and the data range."
    ]


def test_notes_say_what_was_not_attacked_and_what_to_beware_of():
    one = record(transfer=["e"])
    assert notes(one)[-1] == "Not attacked, e: accuracy 99.00 % clean, 25.00 % under average."
    one.metrics["attacks"]["average"]["zero_gradient"]["a"] = 0.5
    assert notes(one)[-1].startswith("The input gradient of model a is zero on 50.00 % of the images at the start")


def test_notes_compare_image_by_image():
    comparison = {
        "of": "min-max", "with": "average", "difference": 0.05, "low": 0.01, "high": 0.1, "level": 0.95,
        "only_first": 3, "only_second": 1,
    }  # fmt: skip
    assert notes(record(comparison=comparison))[0] == (
        "min-max minus average, image by image: +5.00 points of ASR_all, 95 % confidence interval +1.00 to +10.00. "
        "3 images fool every model under min-max alone, 1 under average alone."
    )
