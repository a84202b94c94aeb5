"""Accuracy is accuracy, whatever an attack leaves or reaches: metrics.json, examples.parquet, tables and notes."""

from dataclasses import replace

import pytest
import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust.cli.tables import show_attack
from omnirobust.jobs import AttackJob, AttackRecord, Grouping, run_attack
from omnirobust.jobs.report import build_report
from omnirobust.jobs.report.compare import compare_runs
from omnirobust.jobs.report.text import headline, notes
from omnirobust.zoo import data

TARGETED = AttackJob(
    "digits", ("a", "c"), orb.Linf(0.3), images=40, target=3, transfer=("c@seed1",), options={"steps": 10}
)
PREDICTED = AttackJob("digits", ("a", "c"), orb.Linf(0.15), images=40, labels="predicted", options={"steps": 10})
GROUPS = replace(TARGETED, groups=Grouping(2), transforms=("ori", "flh"), options={**TARGETED.options, "steps": 4})


def run(job: AttackJob, cache, folders) -> AttackRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIROBUST_CACHE", str(cache))
        return run_attack(job, folders.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def targeted(digits_cache, tmp_path_factory):
    return run(TARGETED, digits_cache, tmp_path_factory)


@pytest.fixture(scope="module")
def predicted(digits_cache, tmp_path_factory):
    return run(PREDICTED, digits_cache, tmp_path_factory)


@pytest.fixture(scope="module")
def groups(digits_cache, tmp_path_factory):
    return run(GROUPS, digits_cache, tmp_path_factory)


def column(record, name):
    return torch.tensor(record.examples[name])


def test_accuracy_of_a_targeted_attack_is_against_the_labels(targeted):
    for attack, metrics in targeted.metrics["attacks"].items():
        for model in ("a", "c"):
            said = column(targeted, f"{attack}.predicted.{model}")
            right = float((said == column(targeted, "label")).double().mean())
            assert metrics["accuracy"][model] == pytest.approx(right)
            assert metrics["by"]["models"][model]["accuracy"] == pytest.approx(right)


def test_target_success_is_over_what_was_not_there_before(targeted, digits):
    images = data.load("digits", limit=40)
    before = {m: zoo.load(f"digits/{m}")(images.x).argmax(1) for m in ("a", "c", "c@seed1")}
    there = {m: (images.y == 3) | (said == 3) for m, said in before.items()}
    counted = ~(there["a"] & there["c"])
    target = targeted.metrics["target"]
    assert (target["class"], target["name"], target["of_class"]) == (3, "3", int((images.y == 3).sum()))
    assert target["said"] == {m: int(((before[m] == 3) & (images.y != 3)).sum()) for m in ("a", "c")}
    assert target["counted"] == int(counted.sum()) < 40
    for attack, metrics in targeted.metrics["attacks"].items():
        after = {m: column(targeted, f"{attack}.predicted.{m}") == 3 for m in before}
        for model in ("a", "c"):
            expected = float(after[model][~there[model]].double().mean())
            assert metrics["target_success"][model] == pytest.approx(expected)
            assert metrics["by"]["models"][model]["target_success"] == pytest.approx(expected)
            assert column(targeted, f"{attack}.already.{model}").tolist() == there[model].tolist()
        won = (after["a"] & after["c"])[counted]
        assert metrics["asr_all"] == pytest.approx(float(won.double().mean()))
        assert metrics["recheck"]["asr_all"] == pytest.approx(float(won.double().mean()))
        pairs = torch.cat([after[m][~there[m]] for m in ("a", "c")])
        assert metrics["asr_avg"] == pytest.approx(float(pairs.double().mean()))
        others = after["c@seed1"][~there["c@seed1"]]
        assert metrics["transfer_target_success"]["c@seed1"] == pytest.approx(float(others.double().mean()))
    assert targeted.metrics["comparison"]["examples"] == int(counted.sum())


def test_headline_notes_table_and_page_say_targeted_and_which_class(targeted, capsys):
    assert headline(targeted) == "One perturbation against 2 models at once, targeted at class 3"
    show_attack(targeted)
    told, page = capsys.readouterr().out, build_report(targeted.folder.path).read_text()
    target = targeted.metrics["target"]
    for text in (" ".join(told.split()), page):
        assert "targeted at class 3" in text
        assert f"{target['of_class']} are of that class" in text
        assert "Target a" in text and "Acc a" in text
    assert "fools every model" not in page and "brings every model to class 3" in page


def test_own_predictions_and_labels_are_two_columns(predicted, capsys):
    for attack, metrics in predicted.metrics["attacks"].items():
        for model in ("a", "c"):
            said = column(predicted, f"{attack}.predicted.{model}")
            kept = said == column(predicted, f"clean.predicted.{model}")
            right = said == column(predicted, "label")
            assert metrics["agreement"][model] == pytest.approx(float(kept.double().mean()))
            assert metrics["accuracy"][model] == pytest.approx(float(right.double().mean()))
            assert column(predicted, f"{attack}.right.{model}").bool().tolist() == right.tolist()
        assert "target_success" not in metrics
    assert predicted.metrics["target"] is None
    show_attack(predicted)
    told, page = capsys.readouterr().out, build_report(predicted.folder.path).read_text()
    for text in (" ".join(told.split()), page):
        assert "Agree a" in text and "Acc a" in text and "leaving own predictions" in text
    assert any(note.startswith("Each model was to leave what it said") for note in notes(predicted))


def test_groups_count_every_domain_by_class_and_by_factor(groups):
    for attack, metrics in groups.metrics["attacks"].items():
        names = [f"{m}/{t}" for m in ("a", "c") for t in ("ori", "flh")]
        right, won, there = (
            torch.stack([column(groups, f"{attack}.{what}.{name}") for name in names], 1)
            for what in ("right", "fooled", "already")
        )
        for k, model in enumerate(("a", "c")):
            mine = slice(2 * k, 2 * k + 2)
            by = metrics["by"]["models"][model]
            assert by["accuracy"] == pytest.approx(float(right[:, mine].double().mean()))
            assert by["target_success"] == pytest.approx(float(won[:, mine][~there[:, mine]].double().mean()))
        for name, of_class in metrics["by_class"].items():
            rows = column(groups, "label") == int(name)
            left = ~there[rows]
            assert of_class["accuracy"] == pytest.approx(float(right[rows].double().mean()))
            expected = None if name == "3" else pytest.approx(float(won[rows][left].double().mean()))
            assert of_class["target_success"] == expected
        whole = there.unflatten(0, (-1, 2)).flatten(1).all(1)
        every = won.unflatten(0, (-1, 2)).flatten(1).all(1)
        assert metrics["asr_all"] == pytest.approx(float(every[~whole].double().mean()))


def test_pages_of_targeted_groups_are_drawn(groups, capsys):
    show_attack(groups)
    assert "Target: taken for class 3" in " ".join(capsys.readouterr().out.split())
    page = build_report(groups.folder.path).read_text()
    shown = page.split("<main>")[1].split("</main>")[0]
    assert "targeted at class 3" in page and "reached" in shown and "fooled" not in shown


def test_a_target_that_every_image_is_in_is_refused_before_anything_is_written(digits, tmp_path):
    images = data.load("digits", limit=1)
    job = replace(TARGETED, images=1, target=int(images.y[0]), transfer=())
    with pytest.raises(ValueError, match="target must leave an image to attack"):
        run_attack(job, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_targeted_runs_are_compared_on_what_counts_in_them(targeted, digits, tmp_path):
    other = run_attack(replace(TARGETED, options={"steps": 3}), tmp_path / "other")
    (compared,) = compare_runs(targeted.folder.path, other.folder.path)
    line = next(line for line in compared.lines if line.name == "ASR_all, min-max")
    assert line.paired is not None and line.paired.examples == targeted.metrics["target"]["counted"]
    assert line.first == pytest.approx(targeted.metrics["attacks"]["min-max"]["asr_all"])
    untargeted = run_attack(replace(TARGETED, options={"steps": 3}, target=None), tmp_path / "untargeted")
    (compared,) = compare_runs(targeted.folder.path, untargeted.folder.path)
    assert not [line for line in compared.lines if line.name.startswith("ASR_all")]
