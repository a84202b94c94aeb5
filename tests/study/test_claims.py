"""Claims: true on the paper's own numbers, false on reversed ones, undecided where images are too few to tell."""

import numpy as np
import pytest
import torch

from omnirobust.paper.ensemble_claims import TABLE_1A, TABLE_A2, TABLE_A4
from omnirobust.paper.figure_claims import FIGURE_1, FIGURE_2, settling_step
from omnirobust.paper.printed import PRINTED, W_STATIC
from omnirobust.paper.registry import CLAIMS
from omnirobust.study.claims import ENOUGH, Claim, Rates, bootstrap, in_order, judge, order
from omnirobust.study.store import Measured


class PrintedRates(Rates):
    """The paper's own numbers in the place of measured ones."""

    def __init__(self, name):
        self._rows = PRINTED[name]
        self._letters = dict.fromkeys(self._rows, ())

    def asr_all(self, *key):
        return self._rows[key].asr_all / 100

    def asr_avg(self, *key):
        return self._rows[key].asr_avg / 100

    def accuracy(self, *key):
        return {m: v / 100 for m, v in self._rows[key].accuracy.items()}

    def weights(self, *key):
        return dict(zip("ABCD", W_STATIC[key[0]], strict=True))


@pytest.mark.parametrize("name", PRINTED)
def test_every_claim_holds_on_the_printed_numbers(name):
    for claim in CLAIMS[name]:
        assert claim.holds(PrintedRates(name)), claim.name
        assert claim.shows(PrintedRates(name))


class Swapped(PrintedRates):
    """The printed numbers with the average and min-max in each other's place."""

    def _other(self, key):
        return (key[0], {"avg": "minmax", "minmax": "avg"}[key[1]], *key[2:])

    def asr_all(self, *key):
        return super().asr_all(*self._other(key))

    def asr_avg(self, *key):
        return super().asr_avg(*self._other(key))

    def accuracy(self, *key):
        return super().accuracy(*self._other(key))


@pytest.mark.parametrize("name", ["table-2", "table-3", "table-a5", "table-a6"])
def test_claims_of_groups_fail_where_the_average_is_better(name):
    # That success falls as groups grow holds either way, and the order of the lifts turns round.
    for claim in CLAIMS[name]:
        either = claim.name.endswith("falls-with-k")
        assert claim.holds(Swapped(name)) is either, claim.name


@pytest.mark.parametrize("name", ["table-1b", "table-a3"])
def test_claims_of_ensembles_on_cifar_fail_where_the_average_is_better(name):
    for claim in CLAIMS[name]:
        assert claim.holds(Swapped(name)) is (claim.name == "a-hardest"), claim.name


@pytest.mark.parametrize("name", ["table-1b", "table-a3"])
def test_claims_on_a_fail_where_another_model_takes_its_place(name):
    class Renamed(PrintedRates):
        def accuracy(self, *key):
            a, other, *rest = super().accuracy(*key).items()
            return dict([(a[0], other[1]), (other[0], a[1]), *rest])

    failed = [claim.name for claim in CLAIMS[name] if not claim.holds(Renamed(name))]
    assert failed == ["a-hardest", *(["a-falls-most"] if name == "table-1b" else []), "exchange"]


def measured(fooled: torch.Tensor, weights: torch.Tensor | None = None, path: torch.Tensor | None = None) -> Measured:
    n, k = fooled.shape
    w = torch.full((n, k), 1 / k) if weights is None else weights
    return Measured.of(
        {
            "fooled": fooled.bool(),
            "any_iterate": fooled.bool().all(1),
            "weights": w,
            "fooled_path": fooled.bool().unsqueeze(1),
            "weights_path": (w.unsqueeze(1) if path is None else path).half(),
            "labels": torch.zeros(n, k, dtype=torch.int64),
            "distortion": torch.zeros(n, 0),
        }
    )


def rates_of(rows: dict[tuple[str, ...], Measured]) -> Rates:
    return Rates(rows, dict.fromkeys(rows, ("A", "B", "C", "D")))


def test_rates_are_plain_means_over_images_or_over_a_resample():
    g = np.random.default_rng(0)
    fooled, weights = g.random((60, 4)) < 0.7, g.random((60, 4))
    path = g.random((60, 5, 4))
    row = measured(torch.tensor(fooled), torch.tensor(weights), torch.tensor(path))
    rates = rates_of({("linf", "minmax"): row, ("linf", "avg"): measured(torch.tensor(g.random((60, 4)) < 0.6))})
    drawn = g.integers(0, 60, 60)
    again = rates.resampled({60: torch.bincount(torch.tensor(drawn), minlength=60)})
    for r, pick in ((rates, np.arange(60)), (again, drawn)):
        assert r.asr_all("linf", "minmax") == pytest.approx(fooled[pick].all(1).mean(), abs=1e-6)
        assert r.asr_avg("linf", "minmax") == pytest.approx(fooled[pick].mean(), abs=1e-6)
        expected = 1 - fooled[pick].mean(0)
        assert list(r.accuracy("linf", "minmax").values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert list(r.weights("linf", "minmax").values()) == pytest.approx(weights[pick].mean(0).tolist(), abs=1e-5)
        assert r.weights_path("linf", "minmax").numpy() == pytest.approx(path[pick].mean(0), abs=1e-3)
        base = r.asr_all("linf", "avg")
        assert r.lift("linf", "minmax") == pytest.approx((r.asr_all("linf", "minmax") - base) / base)
    assert rates.images == 60


BEATS = Claim(
    "beats",
    "Min-max beats the average.",
    lambda r: r.asr_all("linf", "minmax") > r.asr_all("linf", "avg"),
    lambda r: f"{r.asr_all('linf', 'avg'):.2f}",
)


@pytest.mark.parametrize(
    ("images", "minmax", "avg", "verdict"),
    [
        (1000, 0.9, 0.5, "true"),
        (1000, 0.5, 0.9, "false"),
        (1000, 0.503, 0.5, "undecided"),
        (1000, 0.5, 0.5, "undecided"),
        (ENOUGH - 1, 0.9, 0.5, "undecided"),
    ],
)
def test_verdicts(images, minmax, avg, verdict):
    # Who is fooled is drawn anew for each attack, so that equal rates do not mean equal images.
    g = torch.Generator().manual_seed(3)

    def fooled(share: float) -> torch.Tensor:
        flags = torch.arange(images) < share * images
        return flags[torch.randperm(images, generator=g)].unsqueeze(1).expand(-1, 4)

    rates = rates_of({("linf", "minmax"): measured(fooled(minmax)), ("linf", "avg"): measured(fooled(avg))})
    found = judge(BEATS, "paper", rates, list(bootstrap(rates)))
    assert found.verdict == verdict
    assert found.shown == f"{rates.asr_all('linf', 'avg'):.2f}"


def test_pairing_decides_what_independent_samples_could_not():
    # Ten images more of a thousand, on top of all the others: always better when the same images are drawn for both.
    avg = (torch.arange(1000) < 500).unsqueeze(1).expand(-1, 4)
    minmax = (torch.arange(1000) < 510).unsqueeze(1).expand(-1, 4)
    rates = rates_of({("linf", "minmax"): measured(minmax), ("linf", "avg"): measured(avg)})
    found = judge(BEATS, "paper", rates, list(bootstrap(rates)))
    assert (found.verdict, found.support) == ("true", 1.0)


def two_sizes(few: int) -> Rates:
    g = torch.Generator().manual_seed(0)

    def shares(n: int, share: float) -> Measured:
        return measured((torch.rand(n, 4, generator=g) < share**0.25).int())

    rows = {(s, k): shares(n, v) for s, v in (("avg", 0.3), ("minmax", 0.8)) for k, n in (("2", 500), ("10", few))}
    return rates_of({("C", *key): row for key, row in rows.items()})


def gains(size: str) -> Claim:
    return Claim(size, size, lambda r: r.asr_all("C", "minmax", size) > r.asr_all("C", "avg", size), lambda r: size)


def test_a_claim_is_judged_on_the_groups_of_the_rows_that_it_asks_for():
    rates = two_sizes(few=50)
    drawn = list(bootstrap(rates, 40))
    assert judge(gains("2"), "paper", rates, drawn).verdict == "true"
    assert judge(gains("10"), "paper", rates, drawn).verdict == "undecided"
    enough = two_sizes(few=100)
    assert judge(gains("10"), "paper", enough, list(bootstrap(enough, 40))).verdict == "true"


def test_rows_of_other_sizes_are_resampled_on_their_own():
    rates = two_sizes(few=50)
    for drawn in bootstrap(rates, 3):
        for size in ("2", "10"):
            assert drawn.asr_all("C", "minmax", size) != rates.asr_all("C", "minmax", size)
    # Equal rows of one size stay equal in every resample: they are drawn together.
    row = measured((torch.arange(200) % 3 > 0).unsqueeze(1).expand(-1, 4))
    same = rates_of({("C", "avg"): row, ("C", "minmax"): row})
    assert all(r.asr_all("C", "avg") == r.asr_all("C", "minmax") for r in bootstrap(same, 5))


def test_a_claim_on_missing_rows_is_not_measured():
    rates = rates_of({("linf", "avg"): measured(torch.ones(200, 4))})
    assert judge(BEATS, "paper", rates, list(bootstrap(rates))).verdict == "not measured"
    for claim in TABLE_1A + TABLE_A2 + TABLE_A4 + FIGURE_1 + FIGURE_2:
        if claim.name != "average-neglects-c-d":
            assert judge(claim, "paper", rates, []).verdict == "not measured", claim.name


def test_settling():
    path = torch.tensor([[0.25, 0.75], [0.6, 0.4], [0.52, 0.48], [0.5, 0.5], [0.54, 0.46], [0.5, 0.5]])
    assert settling_step(path, 0.05) == 2
    assert settling_step(path, 0.03) == 5
    assert settling_step(path, 1.0) == 0


def test_orders():
    values = {"A": 0.2, "B": 0.1, "C": 0.4, "D": 0.3}
    assert order(values) == "C > D > A > B"
    assert in_order(values, "CDAB")
    assert not in_order(values, "CDBA")
    assert not in_order(values | {"D": 0.4}, "CDAB")


def by_name(name, claims):
    (claim,) = (c for c in claims if c.name == name)
    return claim


def test_claims_of_figure_1_on_a_path_like_the_papers():
    t = torch.arange(51.0)
    d = 0.30 + 0.15 * torch.exp(-((t - 4) ** 2) / 8) - 0.05 * (t == 0)
    c = 0.54 - 0.29 * torch.exp(-t / 2) - (d - 0.30)
    rest = (1 - c - d) / 2
    path = torch.stack([rest + 0.01, rest - 0.01, c, d], 1).expand(300, -1, -1)
    fooled = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)) > torch.tensor([0.05, 0.01, 0.4, 0.3])
    rows = {("linf", "minmax"): measured(torch.ones(300, 4), path[:, -1], path), ("linf", "avg"): measured(fooled)}
    for claim in FIGURE_1:
        assert claim.holds(rates_of(rows)), claim.name
    flat = path[:, -1:].expand(-1, 51, -1)
    settled = {**rows, ("linf", "minmax"): measured(torch.ones(300, 4), flat[:, 0], flat)}
    assert not by_name("weight-of-d", FIGURE_1).holds(rates_of(settled))
    slow = torch.linspace(0, 1, 51).view(1, -1, 1) * (path[:, -1:] - 0.25) + 0.25
    rows["linf", "minmax"] = measured(torch.ones(300, 4), path[:, -1], slow)
    assert not by_name("weights-settle", FIGURE_1).holds(rates_of(rows))


def shares(values: dict[tuple[str, ...], float]) -> Rates:
    return rates_of({k: measured((torch.arange(200) < 200 * v).unsqueeze(1).expand(-1, 4)) for k, v in values.items()})


def test_claims_of_the_sweeps():
    avg = {"0.05": 0.1, "0.2": 0.5, "0.35": 0.9}
    good = {"0.05": 0.1, "0.2": 0.9, "0.35": 0.95}
    bad = {"0.05": 0.05, "0.2": 0.55, "0.35": 1.0}
    for minmax, expected in ((good, True), (bad, False)):
        rates = shares(
            {("ABCD", "avg", e): v for e, v in avg.items()} | {("ABCD", "minmax", e): v for e, v in minmax.items()}
        )
        assert by_name("never-worse-ABCD", FIGURE_2).holds(rates) is expected
        assert by_name("moderate-radius-ABCD", FIGURE_2).holds(rates) is expected
    # A sweep that lacks a point is not judged at all.
    rows = {(panel, s, e): good["0.2"] for panel in ("ABCD", "ABC") for s in ("avg", "minmax") for e in avg}
    letters = dict.fromkeys(rows, ("A", "B", "C", "D"))
    rows.pop(("ABC", "avg", "0.35"))
    partial = Rates({key: measured(torch.ones(200, 4)) for key in rows}, letters)
    verdicts = {claim.name: judge(claim, "paper", partial, list(bootstrap(partial, 20))).verdict for claim in FIGURE_2}
    assert verdicts["never-worse-ABCD"] == "true"
    assert verdicts["never-worse-ABC"] == verdicts["moderate-radius-ABC"] == "not measured"
    gammas = CLAIMS["figure-a1"]
    for values, expected in (((0.8, 0.9, 0.85), True), ((0.9, 0.89, 0.895), False)):
        rates = shares({("linf", "minmax", g): v for g, v in zip(("0", "4", "10"), values, strict=True)})
        for name in ("small-gamma-linf", "large-gamma-linf", "best-gamma-linf"):
            assert by_name(name, gammas).holds(rates) is expected, name
