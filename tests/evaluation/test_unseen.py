"""What an evaluation or a search cannot see or do: it is refused in a sentence, or told in the notes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.evaluation import AutoAttack, evaluate_robustness, minimal_eps, minimal_l2, minimal_linf


def problem(rows: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a linear model of two classes, logits (v, 0), inputs in [0, 1] (rows, 6), and what it says of them."""
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(6, generator=g, dtype=torch.float64), torch.randn((), generator=g, dtype=torch.float64)
    model = nn.Linear(6, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w)]))
        model.bias.copy_(torch.stack([b, torch.zeros_like(b)]))
        x = torch.rand(rows, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("search", [minimal_l2, minimal_linf])
def test_inputs_whose_gradients_are_masked_are_counted_where_others_have_one(search: Any) -> None:
    model, x, y = problem()
    middle = x[:, 0].median()

    def flat(z: Tensor) -> Tensor:  # on half of the inputs a step function hides the gradient
        value = model(z)
        return torch.where(z[:, :1] > middle, value.sign().detach() * 2, value)

    found = search(flat, x, y, steps=20)
    unseen = x[:, 0] > middle
    assert 0 < int(unseen.sum()) < 6
    assert not bool(found.found[unseen].any()) and bool(found.found[~unseen].all())
    (note,) = [note for note in found.notes if "masking" in note]
    assert f"zero input gradient on {int(unseen.sum())} of 6 inputs" in note
    assert not any("masking" in note for note in search(model, x, y, steps=20).notes)


@pytest.mark.parametrize("threat", [orb.L1(0.3), orb.L2(0.1)])
def test_images_too_low_for_the_bands_of_square_are_refused_unless_it_does_not_run(threat: orb.ThreatModel) -> None:
    x = torch.rand(4, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    y = model(x).argmax(1)
    with pytest.raises(ValueError, match=r"images of 5 rows or more under l[12], got x of shape \(4, 1, 4, 6\)"):
        evaluate_robustness(model, x, y, threat, attacks="autoattack")
    report = evaluate_robustness(model, x, y, threat, attacks=[AutoAttack(("apgd-ce",))])
    assert report.settings["attacks"] == ["autoattack (apgd-ce)"]


@pytest.mark.parametrize("threat", [orb.L1(1e-3), orb.L2(1e-3)])
@pytest.mark.parametrize(
    ("sides", "refused"),
    [((24, 24), True), ((14, 14), True), ((27, 30), True), ((33, 36), True), ((8, 8), False), ((16, 16), False),
     ((28, 28), False), ((20, 23), False)],
)  # fmt: skip
def test_images_are_refused_just_where_squares_first_step_leaves_them(
    threat: orb.ThreatModel, sides: tuple[int, int], refused: bool
) -> None:
    x = torch.rand(2, 1, *sides, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3)).eval()
    y = model(x).argmax(1)
    peer = SquareAttack(
        model, p_init=0.8, n_queries=1, eps=1e-3, norm=threat.name.upper(), seed=0, verbose=False, device="cpu",
        resc_schedule=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"size of tensor|broadcast shape") if refused else nullcontext():
        peer.perturb(x, y)
    message = f"cannot take images of {sides[0]} x {sides[1]} under {threat.name}, where its Square lays"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        AutoAttack().check_sizes(x, threat, random=False)
    if refused:
        with pytest.raises(ValueError, match=message):
            evaluate_robustness(model, x, y, [orb.Linf(1e-3), threat], attacks="autoattack")
    AutoAttack(("apgd-ce",)).check_sizes(x, threat, random=False)
    AutoAttack().check_sizes(x, threat, random=True)  # its version for random models has no Square
    AutoAttack().check_sizes(x, orb.Linf(1e-3), random=False)


@pytest.mark.parametrize(
    ("universal", "message"),
    [
        (torch.zeros(6, 6), r"universal must map names to perturbations, got shape \(6, 6\): write"),
        ({"u": torch.full((6,), torch.nan)}, "universal must hold finite .*, got NaN or infinity for 'u'"),
        ({"u": torch.zeros(6, dtype=torch.int64)}, "universal must hold finite .*, got torch.int64 for 'u'"),
    ],
)
def test_universal_perturbations_that_are_none_are_refused(universal: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(*problem(), orb.L2(0.1), universal=universal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": ["l2"]}, r"norm must be one of l0, l1, l2, linf, got \['l2'\]"),
        ({"loss": "dlr"}, "loss must be a function of logits and labels, got 'dlr'"),
    ],
)
def test_a_search_refuses_what_is_no_norm_and_no_loss(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"norm": "l2"} | change
    with pytest.raises(ValueError, match=message):
        minimal_eps(*problem(), **given)
