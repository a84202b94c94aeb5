from pathlib import Path

from omnirobust.jobs import AttackRecord
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.text import count, domain, headline, notes, percent, title


def record(**metrics) -> AttackRecord:
    config = {
        "data": {"name": "mnist", "note": "", "split": "test", "start": 5},
        "attack": {"norm": "l2", "eps": 2.0, "steps": 50},
    }
    attack = {
        "recheck": {"asr_all": 0.9, "asr_all_uint8": 0.875, "feasible": 1.0},
        "transfer_accuracy": {"e": 0.25},
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


def test_notes_of_the_results_are_said_once_and_by_attack_where_attacks_differ():
    one = record()
    average = one.metrics["attacks"]["average"]
    one.metrics["attacks"] = {
        "average": average | {"notes": ["A.", "B."]},
        "min-max": average | {"notes": ["B.", "C."]},
    }
    assert notes(one)[-3:] == ["average: A.", "B.", "min-max: C."]


def test_notes_doubt_the_order_of_classes_where_a_model_only_guesses():
    """Of 40 images with two classes, guessing gives 20, and over 26 in one case of 40."""
    rates = {"upside": 0.325, "down": 0.5, "lucky": 0.65, "knows": 0.675}
    one = record(clean_accuracy=rates, classes=["no", "yes"])
    assert notes(one)[-1] == (
        "Before any attack right no more often than guessing would be: upside 32.50 %, down 50.00 %, lucky 65.00 %. "
        "Is this the order of their classes: 0 no, 1 yes?"
    )
    assert notes(record(clean_accuracy={"knows": 0.675}, classes=["no", "yes"])) == notes(record())
    digits = record(clean_accuracy={"e": 0.01}, classes=[str(k) for k in range(10)])
    assert notes(digits)[-1].endswith("guessing would be: e 1.00 %. Are their classes in the order of the labels?")
    many = record(clean_accuracy={"e": 0.01}, classes=[f"c{k}" for k in range(100)])
    assert notes(many)[-1].endswith("10 c10, 11 c11, ...?")


def test_notes_compare_image_by_image():
    comparison = {
        "of": "min-max", "with": "average", "difference": 0.05, "low": 0.01, "high": 0.1, "level": 0.95,
        "only_first": 3, "only_second": 1,
    }  # fmt: skip
    assert notes(record(comparison=comparison))[0] == (
        "min-max minus average, image by image: +5.00 points of ASR_all, 95 % confidence interval +1.00 to +10.00. "
        "3 images fool every model under min-max alone, 1 under average alone."
    )


def test_the_headline_says_what_is_attacked_at_once(product, by_class, transformed):
    assert (
        headline(product)
        == "One perturbation for 4 images against 2 models under 3 transformations at once: 24 domains"
    )
    assert headline(by_class) == "One perturbation for 3 images at once"
    assert headline(transformed) == "One perturbation against 2 models under 3 transformations at once: 6 domains"
    assert headline(record(models=["a"])) == "One perturbation against 1 model at once"


def test_a_domain_is_named_by_what_is_in_use(product, by_class, transformed):
    assert domain(product) == "combination of model, transformation, image"
    assert domain(by_class) == "image"
    assert domain(transformed) == "combination of model, transformation"
    assert domain(record()) == "model"


def test_groups_and_their_clip_are_in_the_title_and_the_notes(product, by_class):
    assert title(product).startswith("digits, 28 test images from 2 in 7 groups of 4 at random, linf eps 0.25, 4 steps")
    assert title(product).endswith("clip image")
    (said,) = [note for note in notes(product) if note.startswith("Groups of")]
    assert said == (
        "Groups of 4 at random, seed 1; each image plus the perturbation is clamped to the data range (clip image). "
        "2 images that filled no group left out."
    )
    assert any(note.startswith("Groups of 3 of one class each, seed 0; ") for note in notes(by_class))
    groups = {"size": 2, "by": "class", "seed": 0, "count": 1, "left_out": 0, "clip": "intersection"}
    by_class.config["groups"], kept = groups, by_class.config["groups"]
    (said,) = [note for note in notes(by_class) if note.startswith("Groups of")]
    by_class.config["groups"] = kept
    assert said.endswith("within the data range (clip intersection). Every image is in a group.")


def test_fresh_draws_are_counted_where_something_is_random(product, by_class):
    said = [note for note in notes(product) if "draws" in note]
    assert said[0] == (
        "Random models or transformations: 2 draws a step; success is judged on 3 fresh draws. What beats all does so "
        "on every one of them; ASR_avg and accuracies are means over them. The classes shown are those of one draw."
    )
    assert not [note for note in notes(by_class) if "draws" in note]


def test_products_say_how_many_domains_are_fooled(product, by_class):
    (said,) = [note for note in notes(product) if note.startswith("Of 24 domains a perturbation fools ")]
    for name in ("average", "min-max"):
        of = [f"{name}.fooled.{m}/{t}" for m in product.models for t in product.transforms]
        by_image = [sum(flags) for flags in zip(*(product.examples[column] for column in of), strict=True)]
        by_group = [sum(by_image[g : g + 4]) for g in range(0, len(by_image), 4)]
        assert f"{sum(by_group) / len(by_group):.1f} in the mean and {max(by_group)} at most under {name}" in said
    assert not [note for note in notes(by_class) if note.startswith("Of ")]


def test_the_hardest_are_named_with_what_makes_them_so(product):
    (said,) = [note for note in notes(product) if note.startswith("Hardest under min-max: ")]
    by = product.metrics["attacks"]["min-max"]["by"]
    for kind, axis in (("model", "models"), ("transformation", "transforms")):
        name = max(by[axis], key=lambda n: by[axis][n]["accuracy"])
        assert (
            f"{kind} {name} (accuracy {percent(by[axis][name]['accuracy'])} %, weight {by[axis][name]['weight']:.2f})"
            in said
        )


def test_numbers_and_nouns_agree():
    assert [count(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
