"""The schemes of Tables 4, A7 and A8 against the paper's settings, the printed tables, and what is refused."""

import pytest

from omnirobust import L2, Linf
from omnirobust.paper.printed_trainings import TABLE_A7, TABLE_A8
from omnirobust.paper.robustness_cells import RobustnessCell
from omnirobust.paper.training_budgets import (
    EPS_GRID,
    TRAINING_BUDGETS,
    Effort,
    Training,
    fewer,
    training_of,
)
from omnirobust.training import DEFAULT_RULE, Scheme

EFFORT = Effort(2, 64, 5)


def test_schemes_are_those_of_the_paper():
    both = (Linf(0.2), L2(1.5))
    asked = {
        "natural": Scheme(),
        "linf": Scheme("single", (Linf(0.2),), 5),
        "l2": Scheme("single", (L2(1.5),), 5),
        "avg": Scheme("average", both, 5),
        "avg_dpar": Scheme("average", both, 5, dpar=0.1),
        "minmax": Scheme("minmax", both, 5),
        "minmax_dpar": Scheme("minmax", both, 5, dpar=0.1),
        "avg_printed": Scheme("average", both, 5, preset="paper"),
        "minmax_printed": Scheme("minmax", both, 5, preset="paper"),
        "usgd": Scheme("universal", (Linf(0.3),), 5, step_sizes=(0.06,)),
    }
    for method, scheme in asked.items():
        assert training_of("a", method, 1.5, 0, EFFORT).scheme.fingerprint() == scheme.fingerprint()
    assert (DEFAULT_RULE.beta, DEFAULT_RULE.gamma) == (1 / 50, 4.0)


def test_the_paper_budget_is_the_papers():
    budget = TRAINING_BUDGETS["paper"]
    for arch, effort in budget.efforts.items():
        assert (effort.epochs, effort.images, effort.steps) == (350, None, 20)
        assert budget.seeds[arch] == 10
        assert budget.images(arch, "pgd") == 10_000
    assert budget.grid == EPS_GRID == (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def test_trainings_without_an_l2_attack_serve_all_radii():
    assert training_of("a", "linf", 0.5, 0, EFFORT) == training_of("a", "linf", 3.0, 0, EFFORT)
    assert training_of("a", "l2", 0.5, 0, EFFORT) != training_of("a", "l2", 3.0, 0, EFFORT)


def test_seeds_go_to_tables_4_and_a7_and_to_the_curves():
    budget = TRAINING_BUDGETS["quick"]
    assert budget.seeds_of("a", "minmax_dpar", 2.0) == budget.seeds_of("a", "linf", 0.5) == 3
    assert budget.seeds_of("a", "minmax", 0.5) == 3
    assert budget.seeds_of("a", "l2", 0.5) == budget.seeds_of("a", "minmax", 1.0) == 1
    assert {budget.seeds_of("c", method, 2.0) for method in ("natural", "minmax")} == {1}


def test_fewer_images_are_fewer_everywhere():
    few = fewer(TRAINING_BUDGETS["quick"], 600)
    assert (few.images("a", "pgd"), few.images("a", "strong"), few.images("c", "strong")) == (600, 600, 500)
    assert few.efforts == TRAINING_BUDGETS["quick"].efforts


def test_a_judging_names_its_threat():
    training = training_of("a", "linf", 2.0, 0, EFFORT)
    assert RobustnessCell(training, "pgd", "linf", 0.2, 5).threat == Linf(0.2)
    assert RobustnessCell(training, "strong", "l2", 1.5, 5).threat == L2(1.5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Effort(0, None, 5), "epochs must be >= 1, got 0"),
        (lambda: Effort(1, None, 0), "steps must be >= 1, got 0"),
        (lambda: Effort(1, 0, 5), "images must be >= 1 or None, got 0"),
        (lambda: Effort(1, 5, 5, holdout=-1), "holdout must be >= 0, got -1"),
        (lambda: Training("b", "avg", 2.0, 0, EFFORT), "arch must be one of a, c, got 'b'"),
        (lambda: Training("a", "best", 2.0, 0, EFFORT), "method must be one of natural, .*, got 'best'"),
        (lambda: Training("a", "avg", 2.0, -1, EFFORT), "seed must be >= 0, got -1"),
        (lambda: Training("a", "avg", 0.0, 0, EFFORT), "eps_l2 must be > 0 where"),
        (lambda: Training("a", "linf", 2.0, 0, EFFORT), "eps_l2 must be > 0 where"),
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_printed_tables_are_whole_and_their_means_are_means():
    assert len(TABLE_A8) == 2 * 7 * 6
    assert len(TABLE_A7) == 2 * 8
    # the rows whose printed mean is not that of the two columns beside it, as the paper has them
    slips = {("a", "minmax_dpar", 2.0), ("a", "natural", 1.0), ("c", "linf", 3.0), ("c", "avg_dpar", 3.0)}
    for key, (_, linf, l2, _, mean) in TABLE_A8.items():
        assert (abs(mean - (linf + l2) / 2) <= 0.0101) == (key not in slips), key
    for (arch, method), (clean, linf, l2, uni, mean) in TABLE_A7.items():
        assert mean == pytest.approx((linf + l2 + uni) / 3, abs=0.0101)
        if method != "usgd":
            assert TABLE_A8[arch, method, 2.0][:3] == (clean, linf, l2)
    # read off Table 4 in the text
    assert TABLE_A8["a", "minmax", 2.0] == (98.59, 75.96, 79.15, 73.43, 77.55)
    assert TABLE_A8["c", "avg_dpar", 2.0] == (99.25, 89.96, 86.49, 85.44, 88.23)
