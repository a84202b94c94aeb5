"""What is said of a model that says the same of all inputs, or knows no more of them than a guess does."""

from __future__ import annotations

import math

from torch import Tensor


def is_guessing(rate: float, images: int, classes: int) -> bool:
    """Say whether an accuracy is no higher than that of guessing: at most 1/C + 2 sqrt(1/C (1 - 1/C) / n).

    Args:
        rate: the accuracy, in [0, 1].
        images: n, how many it was measured on; fewer than ten say nothing.
        classes: C.
    """
    if images < 10 or classes < 2:
        return False
    chance = 1 / classes
    return rate <= chance + 2 * math.sqrt(chance * (1 - chance) / images)


BEFORE = "Before any attack"
"""How every note begins that is about a model on inputs as they are."""


def clean_notes(
    predicted: Tensor, y: Tensor, classes: int, rate: float | None = None, whose: str = "the model"
) -> list[str]:
    """Say whether a model gives all inputs one class, or is right no more often than guessing is.

    Args:
        predicted: its classes of the inputs as they are, (N,) int64.
        y: labels, (N,) int64.
        classes: how many classes there are.
        rate: the accuracy, where it is known better than from one class an input: that of a random model.
        whose: what the sentence calls the model.
    """
    said, right = predicted.unique().tolist(), float((predicted == y).double().mean()) if len(y) else 1.0
    rate = right if rate is None else rate
    # of a random model one class an input is what it says most often: it says nothing else if the accuracies agree
    if len(said) == 1 and len(y.unique()) > 1 and abs(rate - right) < 1e-6:
        return [
            f"{BEFORE} {whose} says class {said[0]} of every input: its accuracy is the share of that class, and "
            "nothing that is measured of it speaks of robustness."
        ]
    if not is_guessing(rate, len(y), classes):
        return []
    return [
        f"{BEFORE} {whose} is right on {100 * rate:.2f} % of {len(y)} inputs, no more often than guessing would be. "
        "Are its classes in the order of the labels?"
    ]
