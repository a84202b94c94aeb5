"""The race of wrong classes: who stays in it, what it costs, and that it finds what each class in turn would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust import losses
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
def test_where_no_larger_ball_leads_anywhere_one_class_stays(batch_size):
    model, x = Far(), torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(4, dtype=torch.int64)
    evaluate_robustness(model, x, y, orb.Linf(0.1), attacks=[Race("race")], steps=20, batch_size=batch_size)
    taken = 4 * (3 * 7 + 7 + 10)  # images, classes, steps
    assert taken <= model.asked <= taken + 2 * 4 * (7 + 1 + 1)  # and the reach of every ball, and what a probe takes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "margin"}, "loss must be a function of logits and labels, got 'margin'"),
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
