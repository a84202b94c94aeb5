from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import omnirobust as orb
from omnirobust.cli import main
from omnirobust.core.weights import WorstCase
from omnirobust.evaluation.metrics import compare_paired
from omnirobust.jobs import AttackJob, AttackRecord, EvaluationJob, Grouping, run_attack, run_evaluation
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report import compare
from omnirobust.jobs.report.compare import Line, compare_runs, write_comparison

JOB = AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=12, options={"steps": 2})
OTHER = replace(JOB, start=4, transfer=("c@seed1",), options={**JOB.options, "steps": 4})


@pytest.fixture(scope="module")
def runs(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIROBUST_CACHE", str(digits_cache))
        run_attack(JOB, folder / "first")
        run_attack(OTHER, folder / "second")
        run_attack(
            replace(JOB, start=100, rule_name="worst", options={**JOB.options, "rule": WorstCase()}), folder / "far"
        )
        groups = replace(JOB, images=40, groups=Grouping(2, seed=1))
        run_attack(groups, folder / "groups")
        run_attack(replace(groups, options={**groups.options, "steps": 3}), folder / "same-groups")
        run_attack(replace(groups, groups=Grouping(2, seed=2)), folder / "other-groups")
        threats = {"linf:0.05": orb.Linf(0.05), "l2:0.3": orb.L2(0.3)}
        job = EvaluationJob("digits", ("a",), threats, steps=2, images=10)
        run_evaluation(job, folder / "a")
        run_evaluation(replace(job, models=("c",), start=2), folder / "c")
        run_evaluation(replace(job, threats={"l2:0.3": orb.L2(0.3)}), folder / "one-threat")
    return folder


def lines(first: Path, second: Path) -> dict[str, Line]:
    (compared,) = compare_runs(first, second)
    return {line.name: line for line in compared.lines}


def test_runs_are_paired_by_the_images_that_both_hold(runs):
    found = lines(runs / "first", runs / "second")
    a, b = (AttackRecord.open(runs / name).examples for name in ("first", "second"))
    for rule in ("average", "min-max"):
        ours, theirs = a[f"{rule}.fooled_all"][4:], b[f"{rule}.fooled_all"][:8]  # images 4 to 11
        expected = compare_paired(torch.tensor(theirs), torch.tensor(ours))
        line = found[f"ASR_all, {rule}"]
        assert line.paired == expected
        assert (line.first, line.second) == (sum(ours) / 8, sum(theirs) / 8)
        right = [p == y for p, y in zip(b[f"{rule}.predicted.a"], b["label"], strict=True)][:8]
        assert found[f"accuracy of a, {rule}"].second == sum(right) / 8
    assert set(found) == {f"{what}, {rule}" for rule in ("average", "min-max")
                          for what in ("ASR_all", "accuracy of a", "accuracy of c")}  # fmt: skip


def test_runs_on_other_images_are_not_paired_and_other_rules_are_held_against_each_other(runs):
    found = lines(runs / "first", runs / "far")
    line = found["ASR_all, worst against min-max"]
    assert line.paired is None and line.verdict == "not paired"
    assert line.second == AttackRecord.open(runs / "far").metrics["attacks"]["worst"]["asr_all"]
    (compared,) = compare_runs(runs / "first", runs / "far")
    (note,) = compared.notes
    assert (
        note == "The runs do not share half of the smaller one's images: rates are those of each, without an interval."
    )


def test_the_same_number_of_another_image_is_not_the_same_image(runs, tmp_path):
    copy = _copy(runs / "first", tmp_path / "copy")
    tensors = copy.read_tensors("perturbations.safetensors")
    tensors["clean"] = tensors["clean"].clone()
    tensors["clean"][:5] += 0.01
    copy.write_tensors("perturbations.safetensors", tensors)
    metrics = copy.read_json("metrics.json")
    copy.conclude(metrics, [name for name in metrics["digests"] if name != "config.json"])
    paired = lines(runs / "first", copy.path)["ASR_all, average"].paired
    assert paired is not None and paired.examples == 7


def test_groups_are_paired_if_they_hold_the_same_images(runs):
    same, other = lines(runs / "groups", runs / "same-groups"), lines(runs / "groups", runs / "other-groups")
    assert same["ASR_gp, average"].paired is not None and same["ASR_gp, average"].paired.examples == 20
    assert other["ASR_gp, average"].paired is None
    assert other["accuracy of a, average"].paired is not None and other["accuracy of a, average"].paired.examples == 40


def test_evaluations_are_compared_under_the_threats_of_both(runs):
    found = lines(runs / "a", runs / "c")
    measures = ("clean accuracy", "accuracy under linf:0.05", "accuracy under l2:0.3", "accuracy under all threats")
    assert list(found) == [f"{what}, c against a" for what in measures]
    assert all(line.paired is not None and line.paired.examples == 8 for line in found.values())
    assert list(lines(runs / "a", runs / "one-threat")) == ["clean accuracy, a", "accuracy under l2:0.3, a"]


def test_settings_that_differ_are_named(runs):
    (compared,) = compare_runs(runs / "first", runs / "second")
    assert ("attack.steps", "2", "4") in compared.settings
    assert ("data.fingerprint", "other", "another") in compared.settings
    assert not compare_runs(runs / "first", runs / "first")[0].settings


def test_models_of_one_run_only_are_named_without_their_fingerprints(runs, digits, tmp_path):
    one, two = runs / "first", tmp_path / "two"
    run_attack(replace(JOB, models=("a",)), two)
    (first,), (second,) = compare_runs(one, two), compare_runs(two, one)
    assert ("models.c", "there", "not there") in first.settings
    assert ("models.c", "not there", "there") in second.settings
    assert not [key for key, *_ in first.settings if key.startswith("models.c.")]


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (("first", "a"), "^runs must be of one kind, got"),
        (("first", "nowhere"), "^run must be the folder of a run"),
        (("first", "training"), "^runs must be attacks or evaluations, got"),
    ],
)
def test_what_cannot_be_compared_is_told(runs, others, sentence):
    if "training" in others and not (runs / "training").exists():
        RunFolder.create(runs / "training", {"job": "knitting"})
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        compare_runs(*(runs / name for name in others))


def test_runs_that_share_nothing_are_told(runs, digits, tmp_path):
    far = replace(JOB, models=("c@seed1",), groups=Grouping(2))
    run_attack(far, tmp_path / "run")
    with pytest.raises(ValueError, match=r"^runs must share a model or an attack"):
        compare_runs(runs / "first", tmp_path / "run")


def test_from_the_command_line_with_a_page(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(runs / "first"), str(runs / "second"), "--out", str(tmp_path / "page.html")])
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    line = lines(runs / "first", runs / "second")["ASR_all, min-max"]
    page = (tmp_path / "page.html").read_text()
    for text in (f"{100 * line.first:.2f}", f"{100 * (line.second - line.first):+.2f}", "attack.steps"):
        assert text in page and text in out
    HTMLParser().feed(page)
    with pytest.raises(SystemExit):
        main(["report", str(runs / "first"), str(runs / "second")])
    assert (runs / "second" / "compared-with-first.html").read_text() == page
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(runs / "first"), "--out", str(tmp_path / "page.html")])
    assert stopped.value.code == 2


def test_names_cannot_break_the_page(runs, tmp_path):
    hostile = _copy(runs / "first", tmp_path / "<script>alert(1)<" / "&'\"[red]x")
    compared = compare_runs(runs / "first", hostile.path)
    page = write_comparison(compared, tmp_path / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page


def _copy(run: Path, to: Path) -> RunFolder:
    copy = RunFolder.create(to, RunFolder.open(run).config)
    for file in run.iterdir():
        copy.file(file.name).write_bytes(file.read_bytes())
    return copy


def test_a_comparison_says_in_a_sentence_how_it_ends_and_radii_as_typed(runs, tmp_path):
    (compared,) = compare_runs(runs / "first", runs / "second")
    line = {line.name: line for line in compared.lines}["ASR_all, min-max"]
    told = f"{100 * line.second:.2f} % in second and {100 * line.first:.2f} % in first, which "
    assert compared.happened.startswith(f"ASR_all, min-max: {told}")
    assert f"; of {len(compared.lines)} measures " in compared.happened
    assert compared.happened in write_comparison([compared], tmp_path / "page.html").read_text(encoding="utf-8")
    assert compare._difference("attack.eps", "0.01568627450980392", "0.1") == ("attack.eps", "4/255", "0.1")
    assert compare._difference("x.eps", "nothing", "[0.1]") == ("x.eps", "nothing", "[0.1]")
