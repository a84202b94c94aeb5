"""Findings and claims on made-up measurements whose answers are known."""

from dataclasses import dataclass, field

import pytest
import torch

from omnirobust.evaluation import area_under
from omnirobust.paper.robustness_cells import cells_of
from omnirobust.paper.training_budgets import EPS_GRID, TRAINING_BUDGETS, Method, Training, training_of
from omnirobust.paper.training_contrasts import TrainingClaim, judge, over, over_radii
from omnirobust.paper.training_figure_claims import epochs_to, figure_3, figure_a3, figure_a4, inside
from omnirobust.paper.training_findings import Findings
from omnirobust.paper.training_table_claims import table_4, table_a7, table_a8
from omnirobust.study.sample import Sample
from omnirobust.study.training_cells import Trained

BUDGET = TRAINING_BUDGETS["quick"]
IMAGES = 400


def rates(share, seed, phase=0):
    """Flags of which a share is true, spread evenly, the same for every call with these arguments."""
    drawn = (torch.arange(IMAGES) * 7919 + phase * 104_729 + seed * 31) % IMAGES
    return drawn < share * IMAGES


@dataclass
class Made:
    """A cell_cache whose numbers are functions of what is asked."""

    right: object
    weight: object = lambda training: 0.5
    curve: object = lambda training: [0.5]
    missing: set[Method] = field(default_factory=set)

    def recall(self, cell, images):
        return self.trained(cell) if isinstance(cell, Training) else self.judged(cell)

    def judged(self, cell):
        training = cell.training
        if training.method in self.missing:
            return None
        flags = rates(self.right(training.method, cell), training.seed)
        norms = {"l2": torch.full((IMAGES,), cell.eps), "linf": torch.linspace(0.0, cell.eps, IMAGES)}
        return {"clean": torch.ones(IMAGES, dtype=torch.bool), "right": flags, "cosine": flags.float()} | norms

    def trained(self, training):
        if training.method in self.missing:
            return None
        share = torch.full((IMAGES,), float(self.weight(training)))
        history = [{"epoch": i + 1.0, "robust": v} for i, v in enumerate(self.curve(training))]
        return Trained(torch.nn.Identity(), tuple(history), torch.stack([1 - share, share], 1), 1.0)


ORDER = {"natural": 0.1, "usgd": 0.3, "linf": 0.4, "l2": 0.45, "avg": 0.6, "minmax": 0.7}
ORDER |= {"avg_dpar": 0.8, "minmax_dpar": 0.9, "avg_printed": 0.5, "minmax_printed": 0.5}


def by_order(method, cell):
    return ORDER[method]


def test_columns_are_made_of_the_threats():
    f = Findings(Made(lambda method, j: 0.75 if j.norm == "linf" else 0.5), BUDGET)
    linf, l2, most, mean = (f.accuracy("a", "avg", 2.0, m).mean for m in ("linf", "l2", "max", "avg"))
    assert (linf, l2) == (0.75, 0.5)
    # flags are nested: what withstands l2 withstands linf
    assert most == 0.5
    assert mean == 0.625
    assert f.accuracy("a", "avg", 2.0, "clean").mean == 1.0
    assert f.accuracy("a", "avg", 2.0, "avg3").mean == pytest.approx((0.75 + 0.5 + 0.75) / 3)
    assert f.accuracy("a", "avg", 2.0, "linf").seeds == (0, 1, 2)
    assert f.accuracy("a", "avg", 1.0, "linf").seeds == (0,)


def test_what_is_asked_is_what_is_judged():
    training = training_of("a", "avg", 2.0, 0, BUDGET.efforts["a"])
    asked = {
        metric: [(j.norm, j.eps, j.steps) for j in cells_of(training, metric, 2.0, BUDGET)]
        for metric in ("pgd", "strong")
    }
    assert asked == {metric: [("linf", 0.2, 20), ("l2", 2.0, 20)] for metric in ("pgd", "strong")}
    assert [(j.norm, j.eps) for j in cells_of(training, "universal", 2.0, BUDGET)] == [("linf", 0.3)]


def test_the_area_is_that_under_the_curve():
    f = Findings(Made(lambda method, j: 0.9 if j.norm == "linf" else 0.8 - 0.2 * j.eps), BUDGET)
    means = [f.accuracy("a", "minmax", eps, "max").mean for eps in EPS_GRID]
    assert f.area("a", "minmax").mean == pytest.approx(area_under(EPS_GRID, means) / 2.5)


def verdicts(claims, cell_cache, metric="pgd"):
    f = Findings(cell_cache, BUDGET)
    return {claim.name: judge(claim, f, metric).verdict for claim in claims}


def test_claims_that_hold_by_construction_are_true():
    found = verdicts(table_4("a"), Made(by_order))
    assert {name for name, verdict in found.items() if verdict == "true"} >= {
        "multi-beats-single-max", "multi-beats-single-avg", "minmax-beats-average-max", "minmax-beats-average-avg",
        "minmax-dpar-beats-average-dpar-max", "dpar-gains-max", "dpar-gains-avg", "top-two",
    }  # fmt: skip
    assert found["diagonal-linf"] == found["diagonal-l2"] == found["defender-diversifies"] == "false"
    strong = verdicts(table_4("c"), Made(by_order), "strong")
    assert strong["minmax-beats-average-max"] == "true"
    found = verdicts(table_a7("a"), Made(by_order))
    assert {v for name, v in found.items() if name != "similar-clean"} == {"true"}
    found = verdicts(table_a8(), Made(by_order))
    assert found["minmax-beats-average-max-c"] == found["dpar-gains-avg-a"] == found["always-top-two-a"] == "true"
    assert found["linf-enough-a"] == "false"


def test_claims_that_fail_by_construction_are_false():
    swapped = ORDER | {"minmax": 0.6, "avg": 0.7}
    found = verdicts(table_4("a"), Made(lambda method, j: swapped[method]))
    assert found["minmax-beats-average-max"] == found["minmax-beats-average-avg"] == "false"


def test_equal_trainings_are_undecided_and_missing_ones_not_measured():
    equal = ORDER | {"minmax": 0.6}
    assert verdicts(table_4("a"), Made(lambda method, j: equal[method]))["minmax-beats-average-max"] == "undecided"
    found = verdicts(table_4("a"), Made(by_order, missing={"avg_dpar"}))
    assert found["dpar-gains-max"] == found["top-two"] == "not measured"
    assert found["minmax-beats-average-max"] == "true"


def test_few_images_decide_nothing():
    few = {0: torch.ones(50)}
    claim = TrainingClaim("few", "few", lambda f, metric: {"all": Sample.of(few)})
    assert judge(claim, Findings(Made(by_order), BUDGET), "pgd").verdict == "undecided"


def test_one_difference_of_many_must_be_below_zero_beyond_chance():
    noise = torch.randn(1, IMAGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = (noise - noise.mean()) / noise.std() * IMAGES**0.5
    # 2.3 standard errors below zero: beyond 95 % alone, within it among ten
    low = Sample((0,), scaled - 2.3)
    alone = TrainingClaim("alone", "alone", lambda f, metric: {"low": low})
    among = TrainingClaim("among", "among", lambda f, metric: {"low": low} | {str(i): low + 9.0 for i in range(9)})
    f = Findings(Made(by_order), BUDGET)
    assert (judge(alone, f, "pgd").verdict, judge(among, f, "pgd").verdict) == ("false", "undecided")


def test_judgements_say_on_how_many_seeds():
    f = Findings(Made(by_order), BUDGET)
    for arch, seeds in (("a", 3), ("c", 1)):
        claim = TrainingClaim("one", "one", over(arch, ("minmax",), ("avg",), "max"))
        found = judge(claim, f, "pgd")
        assert found.seeds == seeds
        assert found.shown.startswith("min-max − avg +10.0 (")
    swept = TrainingClaim("two", "two", over_radii("a", (("minmax", "avg"),), "max"))
    assert judge(swept, f, "pgd").seeds == 1


def test_weights_that_grow_with_the_radius_are_told_from_weights_that_do_not():
    growing = Made(by_order, weight=lambda t: 0.3 + 0.1 * t.eps_l2)
    found = verdicts(figure_3("a"), growing)
    assert found["weight-grows"] == found["l2-dominates"] == "true"
    falling = Made(by_order, weight=lambda t: 0.6 - 0.1 * t.eps_l2)
    found = verdicts(figure_3("a"), falling)
    assert found["weight-grows"] == found["l2-dominates"] == "false"


def test_areas_are_compared_and_five_points_allowed():
    found = verdicts(figure_3("c"), Made(by_order))
    assert found["area-minmax"] == found["area-average"] == found["robust-at-every-radius"] == "true"
    low = ORDER | {"linf": 0.9}
    found = verdicts(figure_3("c"), Made(lambda method, j: low[method]))
    assert found["area-minmax"] == found["robust-at-every-radius"] == "false"


def test_what_lies_in_the_other_ball_is_counted():
    f = Findings(Made(by_order), BUDGET)
    # the made-up linf norms of the l2 attack are spread evenly over [0, eps], its l2 norms of the linf attack are 0.2
    assert inside(f, 0.5, "l2").mean == pytest.approx(0.4, abs=0.005)
    assert inside(f, 0.5, "linf").mean == 1.0
    found = verdicts(figure_a3(), Made(by_order))
    assert found == {
        "l2-inside-linf": "false", "linf-norm-grows": "true", "l2-norm-about-2": "false", "l2-norm-rises": "undecided",
    }  # fmt: skip


def test_faster_convergence_is_of_epochs_and_needs_seeds():
    def curve(training):
        slow = [0.1, 0.2, 0.3, 0.4, 0.5, 0.52]
        return slow if training.method == "avg" else [0.1, 0.35, 0.45, 0.5, 0.52, 0.53 + 0.001 * training.seed]

    found = verdicts(figure_a4(), Made(by_order, curve=curve))
    assert set(found.values()) == {"true"}
    sample = Sample((0, 1), torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.2, 0.3]]))
    assert epochs_to(sample, 0.5).values.tolist() == [[2.0], [4.0]]
    single = TrainingClaim("x", "x", lambda f, metric: {"d": Sample((0,), torch.ones(1, 1))}, per_training=True)
    assert judge(single, Findings(Made(by_order), BUDGET), "pgd").verdict == "undecided"


def test_of_many_differences_the_lowest_are_written_out():
    values = {str(i): Sample((0,), torch.full((1, IMAGES), i / 10)) for i in range(6)}
    claim = TrainingClaim("many", "many", lambda f, metric: values, digits=2, between=0.0)
    found = judge(claim, Findings(Made(by_order), BUDGET), "pgd")
    assert found.shown.startswith("0 +0.00 (-0.49 to +0.49), 1 +10.00 (")
    assert found.shown.endswith("), and 3 larger ones points")
    assert len(found.found) == 6


def test_a_claim_is_judged_on_the_seeds_that_all_of_it_has():
    wide = Sample((0, 1), torch.cat([torch.full((1, IMAGES), 0.1), torch.full((1, IMAGES), -0.1)]))
    narrow = Sample((0,), torch.full((1, IMAGES), 0.1))
    claim = TrainingClaim("mixed", "mixed", lambda f, metric: {"wide": wide, "narrow": narrow})
    found = judge(claim, Findings(Made(by_order), BUDGET), "pgd")
    assert (found.verdict, found.seeds) == ("true", 1)
    assert found.found["wide"] == found.found["narrow"]
    alone = TrainingClaim("alone", "alone", lambda f, metric: {"wide": wide})
    assert judge(alone, Findings(Made(by_order), BUDGET), "pgd").verdict == "undecided"


def test_similar_means_neither_above_nor_below():
    found = {c.name: c for c in table_a7("a")}["similar-clean"]
    even = Findings(Made(by_order), BUDGET)
    contrasts = found.contrasts(even, "pgd")
    assert len(contrasts) == 8
    assert all(sample.mean == pytest.approx(0.01) for sample in contrasts.values())
