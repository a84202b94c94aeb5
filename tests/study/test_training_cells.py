"""Rows that train and judge: equal to ``fit`` and ``evaluate_robustness`` by hand, trained once, shown and judged."""

import json
from dataclasses import replace
from functools import partial

import pytest

from omnirobust import L2, Linf
from omnirobust.evaluation import evaluate_robustness
from omnirobust.study import CellCache, Claim, Experiment, Printed, Robustness, Row, Training, outcome, reproduce
from omnirobust.study import training_cells as cells
from omnirobust.study.own import check_experiment
from omnirobust.study.store import key_of
from omnirobust.training import Scheme, fit
from omnirobust.zoo import data
from omnirobust.zoo.architectures import build, seeded_build

THREATS = {"linf": Linf(0.03), "l2": L2(0.2)}
MINMAX = Training("a", Scheme("minmax", tuple(THREATS.values()), 2), 2, data="digits", images=1000, seed=3)
PLAIN = replace(MINMAX, scheme=Scheme())
JUDGED = Robustness(MINMAX, tuple(THREATS.items()), steps=3)
CLAIM = Claim(
    "order",
    "Whatever withstands both withstands each.",
    lambda r: all(r.robust(*key) <= min(r.accuracy(*key).values()) for key in r.keys()),  # noqa: SIM118
    lambda r: f"{r.robust('A', 'minmax'):.2f}",
)
ROWS = (Row(("A", "plain"), "seed 3", replace(JUDGED, training=PLAIN)), Row(("A", "minmax"), "seed 3", JUDGED))
STUDY = Experiment(
    "mine", "Trained", ROWS, "robustness", heads=("network", "scheme"), claims=(CLAIM,),
    printed={("A", "plain"): Printed({"clean": 98.5, "l2": 12.25}, source="notes", images=50)},
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, reproduce([STUDY], images=120, out=folder, device="cpu")


def test_a_row_is_what_training_and_judging_by_hand_give(done):
    _, found = done
    train, test = data.load("digits", "train"), data.load("digits", "test", limit=120)
    model = seeded_build(3, partial(build, "a", (1, 8, 8), 10))
    model = fit(model, (train.x[:1000], train.y[:1000]), MINMAX.scheme, epochs=2, seed=3).model.eval()
    report = evaluate_robustness(model, test.x, test.y, THREATS, steps=3)
    rates = found.outcomes[0].rates("seed 3")
    assert rates.accuracy("A", "minmax") == pytest.approx({"clean": report.clean} | report.accuracy)
    assert rates.robust("A", "minmax") == pytest.approx(report.union)
    assert 0 < report.union < report.clean


def test_it_is_shown_and_judged(done):
    folder, found = done
    (mine,) = found.outcomes
    assert [j.verdict for j in mine.judgements] == ["true"] and mine.complete
    facts = json.loads((folder / "mine.json").read_text())
    row = facts["rows"][1]
    assert row["accuracy"] == pytest.approx(mine.rates("seed 3").accuracy("A", "minmax"))
    assert row["robust_low"] < row["robust"] < row["robust_high"]
    page = found.page.read_text()
    assert "| network | scheme | training | clean | linf | l2 | all at once | 95 % | images |" in page
    assert "| A | plain | *printed* | 98.50 | – | 12.25 | – | – | 50 |" in page
    ours = [f"{100 * v:.1f}" for v in (*(row["accuracy"][name] for name in JUDGED.columns), row["robust"])]
    assert f"| A | minmax | seed 3 | {' | '.join(ours)} | " in page
    assert mine.summary.seconds > 0


def test_what_is_trained_is_trained_once_and_more_images_add_to_fewer(done, monkeypatch):
    folder, found = done
    monkeypatch.setattr(cells, "fit", lambda *_, **__: pytest.fail("trained again"))
    told: list[tuple[int, int]] = []
    again = reproduce(
        [STUDY], images=120, out=folder, device="cpu", progress=lambda name, at, of: told.append((at, of))
    )
    assert again.page.read_text() == found.page.read_text()
    assert told[-1] == (2 * 2 + 2, 2 * 2 + 2)  # epochs, and a chunk of images a row
    other = replace(STUDY, rows=(Row(("A", "minmax"), "weaker", replace(JUDGED, steps=1)),), printed={}, claims=())
    reproduce([other], images=20, out=folder, device="cpu")


def test_everything_that_decides_a_training_is_in_its_key(tmp_path):
    lab = CellCache(tmp_path)
    others = (
        replace(MINMAX, network="c"), replace(MINMAX, scheme=Scheme()), replace(MINMAX, epochs=3),
        replace(MINMAX, data="mnist"), replace(MINMAX, images=None), replace(MINMAX, seed=4),
        replace(MINMAX, holdout=5), replace(MINMAX, precision="bf16"),
    )  # fmt: skip
    keys = [key_of(training.describe(lab)) for training in (MINMAX, *others)]
    assert len(set(keys)) == len(keys)
    assert key_of(replace(MINMAX).describe(lab)) == keys[0]


def test_an_edited_network_of_ones_own_is_another_training(tmp_path):
    file, lab = tmp_path / "own_network_for_test.py", CellCache(tmp_path)
    keys = set()
    for text in ("# one\n", "# two\n"):
        file.write_text(text)
        keys.add(key_of(replace(MINMAX, network=f"{file}:build").describe(lab)))
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: replace(MINMAX, epochs=0), "epochs must be >= 1, got 0"),
        (lambda: replace(MINMAX, network="z"), "arch must be one of a, b, .*, got 'z'"),
        (lambda: replace(MINMAX, images=0), "images must be >= 1 or None, got 0"),
        (lambda: replace(JUDGED, threats=()), "threats must hold at least one threat model, got none"),
        (lambda: replace(JUDGED, threats=("linf",)), "threats must be threat models such as .*, got 'linf'"),
        (lambda: replace(MINMAX, scheme="minmax"), "scheme must be a Scheme such as .*, got 'minmax'"),
        (lambda: replace(JUDGED, steps=0), "steps must be >= 1, got 0"),
        (
            lambda: check_experiment(replace(STUDY, kind="table"), ()),
            "kind of mine must be 'robustness' for rows of Robustness, got 'table'",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_too_many_images_are_one_sentence_that_names_the_row(tmp_path):
    with pytest.raises(ValueError, match=r"rows of mine must run, got 'seed 3', \('A', 'plain'\): images must be at m"):
        reproduce([replace(STUDY, rows=ROWS[:1], claims=())], images=9000, out=tmp_path, device="cpu")


def test_a_training_that_another_process_is_at_is_left_to_it(tmp_path):
    ours, theirs = CellCache(tmp_path), CellCache(tmp_path)
    with theirs._lock(theirs._folder(PLAIN)):
        assert not ours.attempt(PLAIN, 0)
        assert not ours.attempt(replace(JUDGED, training=PLAIN), 5)  # which needs it
        assert ours.recall(replace(JUDGED, training=PLAIN), 5) is None
    assert ours.attempt(replace(JUDGED, training=PLAIN, steps=1), 5)
    assert theirs.recall(PLAIN, 0) is not None


def test_a_mapping_of_threats_is_as_good():
    assert Robustness(MINMAX, THREATS, 3) == JUDGED
    assert Robustness(MINMAX, Linf(0.03)) == Robustness(MINMAX, {"linf:0.03": Linf(0.03)})
    assert JUDGED.columns == ("clean", "linf", "l2")
    assert JUDGED.needs == (MINMAX,)
