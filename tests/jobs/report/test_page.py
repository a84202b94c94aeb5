import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import omnirobust as orb
from omnirobust.jobs import AttackJob, AttackRecord, DemoJob, run_attack, run_demo
from omnirobust.jobs.report import build_report
from omnirobust.jobs.report.breakdown import breakdowns, pairs
from omnirobust.jobs.report.gallery import examples
from omnirobust.jobs.report.text import notes, percent

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what the checks look at, and that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(digits, tmp_path) -> Path:
    job = AttackJob("digits", ("a", "c"), orb.Linf(0.12), images=40, transfer=("c@seed1",), options={"steps": 5})
    return run_attack(job, tmp_path / "run").folder.path


@pytest.fixture(params=["run", "product", "by_class", "transformed"])
def any_run(request) -> Path:
    """Return the folder of a run of every kind."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, Path) else found.folder.path


@cache  # several tests look at the page of a run that they share
def page_of(path: Path) -> Page:
    page = Page(build_report(path).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_asks_nobody_for_anything(any_run):
    page = page_of(any_run)
    for tag, attributes in page.attributes:
        assert tag not in {"script", "link", "iframe", "object"}
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png"))
    text = (any_run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_holds_the_numbers(run):
    page, record = page_of(run), AttackRecord.open(run)
    for result in record.metrics["attacks"].values():
        assert percent(result["asr_all"]) in page.text
        assert all(percent(rate) in page.text for rate in result["accuracy"].values())
    for note in notes(record):
        assert note in page.text
    assert record.config["models"]["a"]["weights"] in page.text


def test_the_page_of_a_product_holds_its_numbers(product):
    page, metrics = page_of(product.folder.path), product.metrics
    text = " ".join(page.text.split())
    assert "One perturbation for 4 images against 2 models under 3 transformations at once: 24 domains" in text
    assert "in 7 groups of 4 at random, clip image" in text
    for note in notes(product):
        assert note in text
    for result in metrics["attacks"].values():
        assert percent(result["asr_avg"]) in text
        for by in (result["by"]["models"], result["by"]["transforms"], result["by_class"]):
            assert all(percent(member["accuracy"]) in text for member in by.values())
    for table in breakdowns(product):
        assert all(f"{member.weight:.3f}" in text for member in table.members)
    found = pairs(product)
    assert found is not None
    assert all(percent(accuracy) in text for row in found.rates for accuracy in row)
    assert "A domain is one combination of model, transformation, image. ASR_gp: share of groups" in text


def test_every_image_and_plot_has_words_and_ids_are_unique(any_run):
    page = page_of(any_run)
    images = [attributes for tag, attributes in page.attributes if tag == "img"]
    plots = [attributes for tag, attributes in page.attributes if tag == "svg"]
    kinds = {"attack ensemble": (3 * 12, 3), "attack transforms": ((3 + 2) * 12, 6 + 1)}
    groups = {"a": (6 * (1 + 2 * 3), 3 + 1), "a c": (6 * (1 + 2 * 4), 7 + 2)}
    record = AttackRecord.open(any_run)
    found = kinds.get(record.config["job"]) or groups[" ".join(record.models)]
    assert (len(images), len(plots)) == found
    assert all(len(attributes["alt"]) > 15 for attributes in images)
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 40 for attributes in plots)
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_cannot_break_the_page(digits, tmp_path):
    record = run_attack(AttackJob("digits", ("a",), orb.Linf(0.1), images=8, options={"steps": 2}), tmp_path / "run")
    evil = "<script>alert(1)</script>"
    for name in ("metrics.json", "config.json"):
        file = tmp_path / "run" / name
        file.write_text(file.read_text().replace('"digits"', f'"{evil}"'))
    assert AttackRecord.open(tmp_path / "run").config["data"]["name"] == evil
    assert record.config["data"]["name"] == "digits"
    page = page_of(tmp_path / "run")
    assert evil in page.text
    assert "script" not in {tag for tag, _ in page.attributes}


def test_building_again_gives_the_same_page(run):
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_examples_show_what_the_table_says(run):
    record = AttackRecord.open(run)
    shown = examples(record, 12)
    assert len({e.row for e in shown}) == 12
    for example in shown:
        assert example.label == record.examples["label"][example.row]
        for verdict in example.verdicts:
            assert verdict.fooled == (verdict.after != example.label)
            assert verdict.before == record.examples[f"clean.predicted.{verdict.model}"][example.row]
        assert sum(v.weight for v in example.verdicts) == pytest.approx(1, abs=1e-5)
        assert ("resists" in example.note) == (not all(v.fooled for v in example.verdicts))
        assert example.largest <= 0.12 + 1e-6


def test_examples_are_as_many_as_there_are(digits, tmp_path):
    record = run_attack(AttackJob("digits", ("a", "c"), orb.L0(2), images=5, options={"steps": 2}), tmp_path / "run")
    assert len(examples(record, 12)) == 5
    assert all(e.changed <= 2 for e in examples(record, 12))


def test_a_run_of_several_norms_is_one_page(digits, tmp_path):
    records = run_demo(
        DemoJob(models=("a", "c"), images=10, steps=2, threats=(orb.Linf(0.1), orb.L0(2))), tmp_path / "demo"
    )
    page = page_of(tmp_path / "demo")
    assert [attributes["id"] for tag, attributes in page.attributes if tag == "section"] == ["linf", "l0"]
    for record in records:
        assert percent(record.metrics["attacks"]["min-max"]["asr_all"]) in page.text


def test_what_is_no_finished_run_is_told(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        build_report(tmp_path)
    record = run_attack(AttackJob("digits", ("a",), orb.Linf(0.1), images=4, options={"steps": 1}), tmp_path / "run")
    record.folder.file("metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.json yet"):
        build_report(tmp_path / "run")
