"""The rows say what the paper's appendix says, and every printed value has its row."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from omnirobust.core.weights import Fixed, ProjectedAscent, Uniform
from omnirobust.domains.losses import relative_margin, standardised_margin
from omnirobust.paper.ensembles import (
    CIFAR10_EPS_GRID,
    EPS_GRID,
    GAMMA_GRID,
    MNIST,
    Setup,
    ensemble,
    experiments,
    heuristic,
)
from omnirobust.paper.printed import W_PRIOR
from omnirobust.study.store import key_of

# Appendix C.2: eps, alpha, beta, gamma of Table 1(a).
APPENDIX = {
    "l0": (30, 1, 1 / 100, 7),
    "l1": (20, 1 / 4, 1 / 100, 5),
    "l2": (3.0, 1 / 10, 1 / 100, 3),
    "linf": (0.2, 1 / 4, 1 / 50, 3),
}


@pytest.mark.parametrize("norm", APPENDIX)
def test_table_1a_has_the_settings_of_the_appendix(norm):
    eps, alpha, beta, gamma = APPENDIX[norm]
    (row,) = (r for r in experiments()["table-1a"].rows if r.key == (norm, "minmax") and r.variant == "paper")
    assert (row.cell.eps, row.cell.steps, row.cell.models) == (eps, 50, MNIST.models)
    assert row.cell.attack.step_size == alpha
    assert row.cell.attack.rule == ProjectedAscent(beta, gamma)
    assert (row.cell.attack.keep, row.cell.labels) == ("last", "released")


@pytest.mark.parametrize(
    ("name", "radii", "letters"),
    [
        ("table-1b", {"l0": 50, "l1": 30, "l2": 2.0, "linf": 0.05}, "abcd"),
        ("table-a3", {"l0": 70, "l1": 30, "l2": 1.5, "linf": 0.03}, "aefh"),
    ],
)
def test_cifar_tables_have_the_settings_of_the_appendix(name, radii, letters):
    betas = {"l0": 1 / 150, "l1": 1 / 100, "l2": 1 / 100, "linf": 1 / 50}
    alphas, gammas = {"l0": 1, "l1": 1 / 4, "l2": 1 / 10, "linf": 1 / 5}, {"l0": 1, "l1": 5, "l2": 3, "linf": 6}
    rows = {r.key: r.cell for r in experiments()[name].rows if r.variant == "paper"}
    assert len(rows) == 8
    for norm, beta in betas.items():
        cell = rows[norm, "minmax"]
        assert (cell.eps, cell.steps, cell.data, cell.labels) == (radii[norm], 50, "cifar10", "released")
        assert cell.models == tuple(f"cifar10/{letter}" for letter in letters)
        assert (cell.attack.step_size, cell.attack.rule) == (alphas[norm], ProjectedAscent(beta, gammas[norm]))
        assert rows[norm, "avg"] == replace(cell, attack=replace(cell.attack, rule=Uniform()))


def test_rows_without_all_cnns_are_those_with_it_but_for_the_models():
    rows = {(r.variant, r.key): r.cell for r in experiments()["table-1b"].rows}
    fewer = {name: cell for name, cell in rows.items() if "acd" in name[0]}
    assert len(fewer) == len(rows) / 2
    for (variant, key), cell in fewer.items():
        assert cell.models == ("cifar10/a", "cifar10/c", "cifar10/d")
        assert cell.columns == ("A", "C", "D")
        assert replace(cell, models=rows["paper", key].models) == rows[variant.replace("-acd", ""), key]


def test_sweeps_hold_both_schemes_at_every_point():
    figure_2, figure_a1 = experiments()["figure-2"], experiments()["figure-a1"]
    assert len(figure_2.keys("paper")) == 2 * 2 * (len(EPS_GRID) + len(CIFAR10_EPS_GRID))
    assert len(figure_2.keys("default")) == 2 * 2 * len(EPS_GRID)
    assert {r.cell.columns for r in figure_2.rows if r.key[0].endswith("ABC")} == {("A", "B", "C")}
    assert {(r.key[0], r.cell.data, len(r.cell.models)) for r in figure_2.rows} == {
        ("ABC", "mnist", 3), ("ABCD", "mnist", 4), ("CIFAR-10 ABC", "cifar10", 3), ("CIFAR-10 ABCD", "cifar10", 4)
    }  # fmt: skip
    gammas = [r.cell.attack.rule.gamma for r in figure_a1.rows if r.key[:2] == ("linf", "minmax")]
    assert sorted(set(gammas)) == sorted(float(g) for g in GAMMA_GRID)


def test_variants_spend_as_many_gradients():
    assert {r.cell.steps for r in experiments()["table-1a"].rows} == {50}


def test_experiments_share_the_cells_that_they_share():
    def keys(name: str) -> set[str]:
        told = SimpleNamespace(fingerprint=lambda model: "same")
        return {key_of(r.cell.describe(told)) for r in experiments()[name].rows if r.cell.rule is None}

    assert len(keys("figure-1") & keys("table-1a")) == 2  # true labels: the others are counted by another rule
    assert len(keys("table-a4") & keys("table-1a")) == 8  # average and min-max, two norms, two kinds of labels


def test_defaults_have_their_own_loss_in_table_1a_and_elsewhere_the_one_that_they_were_measured_with():
    for name, experiment in experiments().items():
        losses = {r.cell.attack.loss for r in experiment.rows if r.variant.startswith("default")}
        assert losses <= {relative_margin if name == "table-1a" else standardised_margin}


def test_heuristics_of_table_a4():
    assert heuristic("paper", "linf", "w_c+d").models == ("mnist/c", "mnist/d")
    assert heuristic("paper", "linf", "w_a+c+d").models == ("mnist/a", "mnist/c", "mnist/d")
    assert heuristic("paper", "linf", "w_c+d").judged == MNIST.models
    prior = heuristic("paper", "l2", "w_prior").attack.rule
    assert isinstance(prior, Fixed)
    assert prior.w.tolist() == pytest.approx(list(W_PRIOR))
    static = heuristic("paper-true", "l2", "w_static")
    assert [need.attack.rule for need in static.needs] == [heuristic("paper", "l2", "minmax").attack.rule]
    assert heuristic("paper", "l2", "w_clip").attack.rule == Uniform()
    with pytest.raises(ValueError, match="scheme must be one of the rows of Table A4, got 'w_x'"):
        heuristic("paper", "l2", "w_x")


def test_another_data_set_is_another_setup():
    models = ("cifar10/a", "cifar10/b")
    weaker = {"linf": replace(MNIST.paper["linf"], step_size=1 / 5)}
    setup = Setup("cifar10", models, {"linf": 0.05}, weaker)
    cell = ensemble("paper-true", "linf", "minmax", setup=setup)
    assert (cell.data, cell.models, cell.eps, cell.labels) == ("cifar10", models, 0.05, "true")
    assert cell.attack.step_size == 1 / 5
