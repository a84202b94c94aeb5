"""The race of wrong classes: who stays in it, what it costs, and that it finds what each class in turn would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust import losses
from omnirobust.core.draws import normal_start
from omnirobust.evaluation import Race, evaluate_robustness
from omnirobust.evaluation.race import _Field


def test_the_nearest_of_every_input_stay_and_the_hopeful_as_sorting_by_hand_says():
    g = torch.Generator().manual_seed(0)
    pairs = [(row, target) for row in (2, 3, 7) for target in range(5)]
    rows, targets = (torch.tensor(values) for values in zip(*pairs, strict=True))
    stands, margin = torch.randint(0, 2, (15,), generator=g).float(), torch.randn(15, generator=g)
    stands[:5] = 1.0  # one input that no class has felled
    shuffled = torch.randperm(15, generator=g)
    field = _Field(rows, targets, torch.zeros(15, 1), stands, margin).of(shuffled)
    ranked = {r: sorted(range(5 * i, 5 * i + 5), key=lambda k: (stands[k], margin[k])) for i, r in enumerate((2, 3, 7))}
    chosen = field.nearest(2)
    expected = [(r, int(targets[ranked[r][place]])) for place in range(2) for r in ranked]
    assert list(zip(chosen.row.tolist(), chosen.target.tolist(), strict=True)) == expected
    left = {(int(r), int(t)) for r, t in zip(field.hopeful().row, field.hopeful().target, strict=True)}
    assert left == {(r, int(targets[k])) for r in ranked for n, k in enumerate(ranked[r]) if n == 0 or stands[k] == 0}
    assert len([pair for pair in left if pair[0] == 2]) == 1 < len(left) - 2


class Far(nn.Module):
    """Ten classes whose first lies ahead by far, and a count of the gradients that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(9, 10, generator=torch.Generator().manual_seed(0)))
        self.asked = 0

    def forward(self, x):
        self.asked += len(x) * (torch.is_grad_enabled() and x.requires_grad)
        return x.flatten(1) @ self.w + 100 * torch.eye(10)[0]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_where_no_larger_ball_leads_anywhere_one_class_stays_and_is_given_up_before_the_last(batch_size):
    model, x = Far(), torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(4, dtype=torch.int64)
    evaluate_robustness(model, x, y, orb.Linf(0.1), attacks=[Race("race")], steps=20, batch_size=batch_size)
    taken = 4 * (3 * 7 + 7)  # images, steps, classes
    assert taken <= model.asked <= taken + 2 * 4 * (7 + 1)  # and the reach of every ball, and what a probe takes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "margin"}, "loss must be a function of logits and labels, got 'margin'"),
        ({"encores": [losses.dlr]}, r"encores must be a tuple of losses, got \[<function dlr"),
        ({"keep": (9, 5)}, r"keep must be three numbers of classes, got \(9, 5\)"),
        ({"keep": (9, 5, 0)}, "keep must be a whole number >= 1, got 0"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Race("race", **{"loss": losses.relative_margin, **options})


def test_which_pairs_share_a_batch_changes_nothing() -> None:
    """In batches of 40 an input's second class runs after its first, in one of 256 beside it."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 6)).double()
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(1)
    apart, beside = (
        evaluate_robustness(model, x, y, [orb.Linf(0.3)], attacks=[Race("race")], steps=10, batch_size=size)
        for size in (40, None)
    )
    assert not bool(beside.correct.all())
    for name, delta in apart.delta.items():
        torch.testing.assert_close(beside.delta[name], delta, rtol=0, atol=1e-9)
    torch.testing.assert_close(beside.margin, apart.margin, rtol=0, atol=1e-9)


def test_a_class_that_was_given_up_does_not_come_back() -> None:
    with pytest.raises(ValueError, match=r"keep must not rise, for .* got \(1, 5, 3\)"):
        Race("race", keep=(1, 5, 3))


class Straight(nn.Module):
    """Class 1 wins beyond a plane, class 2 and those after it never, and a count of the gradients asked for."""

    def __init__(self, w: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.w, self.classes, self.asked = nn.Parameter(w), classes, 0

    def forward(self, x):
        self.asked += len(x) * (torch.is_grad_enabled() and x.requires_grad)
        logits = x.new_full((len(x), self.classes), -100.0)
        return torch.cat([torch.zeros_like(logits[:, :1]), (x.flatten(1) - 0.5) @ self.w[:, None], logits[:, 2:]], 1)


@pytest.mark.parametrize(("norm", "second"), [("Linf", 1.2), ("L2", 1.2), ("L1", 2.0)])
def test_encores_are_for_those_whose_boundary_lies_in_the_first_quarter_of_the_way_outwards(norm, second):
    """Of a linear model how far the boundary is has a closed form: the margin by the dual norm of the slope."""
    w = torch.randn(9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    dual = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}[norm]
    eps, steps = 0.05, 20
    for share, encore in ((-0.5, False), (0.1, True), (0.22, True), (0.28, False), (0.6, False), (2.0, False)):
        far = eps * (1 + share * (second - 1))
        x = (0.5 - far * torch.linalg.vector_norm(w, dual) * w / (w @ w)).view(1, 1, 3, 3)
        asked = []
        for encores in ((), (losses.relative_margin,), (losses.neg_cross_entropy, losses.dlr)):
            model = Straight(w, 3)
            attacks = [Race("race", encores=encores)]
            report = evaluate_robustness(
                model, x, torch.zeros(1, dtype=torch.int64), getattr(orb, norm)(eps), attacks=attacks, steps=steps
            )
            assert bool(report.correct[0, 0]) == (share > 0)
            asked.append(model.asked)
        # the ratio of logits has no fourth class here; losses with a unit ask once more in every ball
        balls = 3 if norm == "L1" else 1
        assert asked[1] - asked[0] == (2 * (steps + balls) if encore else 0), share
        assert asked[2] - asked[0] == (2 * steps if encore else 0), share


class Hump(nn.Module):
    """One feature: from the input itself class 1 rises to the right, not far enough; past a dip to the left it is."""

    def forward(self, x):
        d = (x.flatten(1) - 0.5) / 0.1
        logits = torch.full((len(x), 3), -100.0, dtype=x.dtype)
        rising = torch.where(d > -0.4, 0.97 * d, -0.388 - 4 * (d + 0.4))
        return torch.cat([torch.ones_like(d), rising, logits[:, 2:]], 1)


def test_encores_fell_what_noise_leads_to_and_the_race_does_not():
    x, y = torch.full((40, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(40, dtype=torch.int64)
    race, one, two = (
        evaluate_robustness(Hump(), x, y, {"it": orb.Linf(0.1)}, attacks=[Race("race", encores=encores)], steps=20)
        for encores in ((), (losses.relative_margin,), (losses.relative_margin, losses.neg_cross_entropy))
    )
    assert race.correct.all()
    stays = [normal_start(x, 0, 10_000 + 1000 * (5001 + start), 0, 1.0).flatten() > -0.04 for start in range(4)]
    assert torch.equal(one.correct[:, 0], stays[0] & stays[1])  # an encore starts from noise twice
    assert torch.equal(two.correct[:, 0], stays[0] & stays[1] & stays[2] & stays[3])
    assert 0 < two.correct.sum() < one.correct.sum() < 40
    assert orb.Linf(0.1).around(x).contains(two.delta["it"]).all()
