"""What attacks say of a model that says one class of everything, or knows no more than a guess."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.evaluation import evaluate_robustness

Y = torch.arange(40) % 4
X = torch.full((40, 4), 0.2).scatter(1, Y.unsqueeze(1), 0.8)
THREAT = orb.Linf(0.1)


def knows(v: Tensor) -> Tensor:
    return v * 5


def says_two(v: Tensor) -> Tensor:
    return v + torch.tensor([0.0, 0.0, 9.0, 0.0])


def shifted(v: Tensor) -> Tensor:
    """Be right on the first ten inputs only: the classes of the others are in another order."""
    right = (v.argmax(1) == 0).unsqueeze(1)
    return torch.where(right, v, v.roll(1, dims=1)) * 5


def before(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if note.startswith("Before any attack")]


def test_attacks_say_of_each_model_what_an_evaluation_says_of_one() -> None:
    models = {"a": knows, "b": says_two, "c": shifted}
    told = before(orb.attack_ensemble(models, X, Y, THREAT, steps=1).notes)
    alone = [before(evaluate_robustness(models[n], X, Y, [THREAT], steps=1).notes) for n in "abc"]
    assert alone[0] == []
    assert told == [alone[1][0].replace("the model", "model 'b'"), alone[2][0].replace("the model", "model 'c'")]
    assert "says class 2 of every input" in told[0] and "is right on 25.00 % of 40 inputs" in told[1]


def test_groups_transformations_and_batches_speak_of_all_their_inputs() -> None:
    groups, labels = X.view(10, 4, 4), Y.view(10, 4)
    for result in (
        orb.attack_universal(shifted, groups, labels, THREAT, steps=1, batch_size=3),
        orb.attack_transforms(shifted, X, Y, {"as is": lambda v: v}, THREAT, steps=1, batch_size=7),
    ):
        (told,) = before(result.notes)
        assert "is right on 25.00 % of 40 inputs" in told


def test_targeted_attacks_say_it_where_the_true_labels_are_known() -> None:
    goal = torch.full_like(Y, 3)
    assert before(orb.attack_ensemble([says_two], X, goal, THREAT, steps=1, targeted=True).notes) == []
    found = orb.attack_ensemble([says_two], X, goal, THREAT, steps=1, targeted=True, true_labels=Y)
    assert len(before(found.notes)) == 1


def test_a_model_that_knows_is_not_called_once_more_and_one_that_the_first_rows_malign_is() -> None:
    calls = 0

    def counting(v: Tensor) -> Tensor:
        nonlocal calls
        calls += len(v) == len(X)  # the probe sees 32
        return knows(v)

    orb.attack_ensemble([counting], X, Y, THREAT, steps=3, loss=orb.losses.signed_margin)
    assert calls == 4 + 1  # every iterate, the verdict
    y = Y.clone()
    y[:8] = (y[:8] + 1) % 4
    late = torch.cat([(Y[:30] + 1) % 4, Y])
    assert before(orb.attack_ensemble([knows], torch.cat([X[:30], X]), late, THREAT, steps=1).notes) == []
    assert before(orb.attack_ensemble([knows], X, y, THREAT, steps=1).notes) == []


def test_of_a_random_model_the_mean_over_fresh_draws_is_told() -> None:
    def noisy(v: Tensor) -> Tensor:
        return v + 20 * torch.randn_like(v)

    (told,) = before(orb.attack_ensemble([noisy], X, Y, THREAT, steps=1, draws=50).notes)
    rate = float(told.split("right on ")[1].split(" %")[0])
    assert rate == pytest.approx(26, abs=5) and rate * 40 % 100 != 0  # of 2000 answers, not of 40
