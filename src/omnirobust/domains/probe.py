"""What is found out about a model before anything is computed: whether it draws, couples rows, or guesses.

Two passes over the same rows that differ tell that a model is random; a third under the seed of the first, that no
seed of torch reaches what it draws from. Two more, in each of which one half of the rows is another, tell that the rows
of the other half see their batch-mates. All passes are of one size, so that what rounds with the size of a batch does
not count.

Differences count beyond 1e-4 of the mean margin between the two largest logits plus 2^-17 of the logit itself, 64 times
the resolution of fp32; of logits that bf16 holds exactly, as autocast makes them, 2^-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.draws import forked, random_states, same_states, seeded
from omnirobust.domains.classifier import Classifier, Model, Models, Probed, named_models
from omnirobust.domains.outputs import rows_named

ROWS = 32
"""Rows that a model is tried on; in each of the last two passes half of them have other batch-mates."""

_AGAIN = 16
"""Further passes of a model that moves a generator and yet says the same twice: the draw may be one coin a batch."""

_HALF = 83
"""Seed of the half of the rows that changes first: with it no shift or mirror image of a batch keeps to halves."""

_OF_MARGIN, _OF_LOGIT, _OF_BF16_LOGIT = 1e-4, 2.0**-17, 2.0**-6


def probed(models: Models, x: Tensor, batch_size: int | None = None) -> dict[str, Probed]:
    """Name models and find out about each whether it is random and whether it couples rows.

    Args:
        models: a mapping from name to model, a sequence, or one. Those that were probed already are not again.
        x: inputs, (N, *S); the first 32 are used.
        batch_size: how many inputs a model may be given at once; None for any number.

    Raises:
        ValueError: if a model cannot take the inputs, or what it returns are no logits.

    Cost: four passes over at most 32 rows (two of a single row); a fifth for a random model, and 14 more for one that
    moves a generator and yet says the same twice.
    """
    named = named_models(models)
    return {n: m if isinstance(m, Probed) else _probed(n, m, x[:ROWS].detach(), batch_size) for n, m in named.items()}


def _probed(name: str, model: Model, x: Tensor, batch_size: int | None) -> Probed:
    classifier = Classifier(name, model)
    if not len(x):
        return classifier.probed(False, ())
    classifier.check_device(x)
    ask = Probe(f"model {name!r}", x, lambda images: classifier(classifier.arrange(images)), differ, batch_size)
    random, notes, first = ask.found()
    return classifier.probed(random, notes, first.argmax(1))


def notes_of(models: Iterable[Model], judged: str) -> tuple[str, ...]:
    """Return what the probes of models found; ``judged`` is a sentence on what results of random ones are."""
    told = []
    for model in models:
        if isinstance(model, Probed):
            told += [f"{model.notes[0]} {judged}", *model.notes[1:]] if model.random else model.notes
    return tuple(told)


class Probe:
    """Something that answers rows, and the rows that it is tried on.

    Args:
        label: what the notes call it.
        rows: at most so many are used as ``ROWS``.
        ask: maps some of them, or copies, to what it says of each, (n, *S) to (n, ...).
        differ: says whether two answers to as many rows differ by more than rounding.
        batch_size: how many it may be given at once; None for any number.

    Attributes:
        coupled: whether rows were found to change with their batch-mates.
    """

    def __init__(
        self, label: str, rows: Tensor, ask: Callable[[Tensor], Tensor], differ: Callable[[Tensor, Tensor], bool],
        batch_size: int | None,
    ) -> None:  # fmt: skip
        self._label, self._ask, self._differ = label, ask, differ
        self._rows = rows[:ROWS].detach()
        self._size = batch_size or max(len(self._rows), 1)
        self._moved, self.coupled = False, False
        self._after: tuple[Any, ...] = ()

    def found(self) -> tuple[bool, tuple[str, ...], Tensor]:
        """Return whether it is random, what a reader must know of it, and its first answer."""
        differ = self._differ
        with forked(self._rows), torch.no_grad():
            first = self._pass(self._rows, 0)
            self._moved, after = False, self._after  # what only a first call draws is how it builds something
            random = differ(first, self._pass(self._rows, 1))
            tries = range(2, _AGAIN if self._moved and not random else 2)
            random |= any(differ(first, self._pass(self._rows, seed)) for seed in tries)
            foreign = random and differ(first, self._pass(self._rows, 0))
            self.coupled = not foreign and self._couples(first, after if self._moved else None)
        return random, self._notes(random, foreign), first

    def _pass(self, images: Tensor, seed: int) -> Tensor:
        """Return the answer to ``images`` under a seed, and take note if a generator moves."""
        with seeded(seed, images):
            before = random_states(images)
            logits = self._answer(images)
            after = random_states(images)
            self._moved |= not same_states(before, after)
            self._after = (*after[:2], None, ())  # those of torch, which the seed sets
        return logits

    def _answer(self, images: Tensor) -> Tensor:
        found = []
        for number, piece in enumerate(images.split(self._size)):
            with rows_named(lambda row, first=number * self._size: first + row):
                found.append(self._ask(piece))
        return torch.cat(found)

    def _couples(self, first: Tensor, after: tuple[Any, ...] | None) -> bool:
        """Say whether rows change with their batch-mates: ``half`` of them, of which the first is one, then the others.

        Every row is seen once, while rows of both parities around it become copies of one: neither the statistics of
        parts of a batch are missed, nor what is taken from the first row or from one a fixed way ahead. Where other
        rows make a model draw another number of times (``after`` are the states after its first pass), what differs may
        be the draws: there the rows behind change, and the ones before are looked at.
        """
        half = _half(len(first)).to(first.device)
        for other in (half, ~half) if len(first) > 1 else ():
            seen = self._mixed(other)
            if after is not None and not same_states(after, self._after):
                other = torch.arange(len(first), device=first.device) >= -(-len(first) // 2)
                return self._differ(first[~other], self._mixed(other)[~other])
            if self._differ(first[~other], seen[~other]):
                return True
        return False

    def _mixed(self, other: Tensor) -> Tensor:
        """Return what is said once the rows that ``other`` marks are copies of the first that it does not."""
        mixed = self._rows.clone()
        mixed[other] = self._rows[~other][0]
        return self._pass(mixed, 0)

    def _notes(self, random: bool, foreign: bool) -> tuple[str, ...]:
        told = []
        if random:
            told.append(f"{self._label} is random: two passes over the same inputs differ.")
        if foreign:
            told.append(
                f"{self._label} draws from a source that no seed of torch reaches (NumPy, Python's random, a generator "
                "of its own), or keeps something from call to call: another run gives other numbers."
            )
        if self._moved and not random:
            told.append(
                f"{self._label} moves a random generator, though {_AGAIN} passes over the same inputs agree: it draws "
                "what does not count, or what seldom does (a coin a batch, larger batches). It is taken for one that "
                "does not draw: if it can, take the draw out, or repeat with other seeds and compare."
            )
        if self.coupled:
            told.append(
                f"{self._label} couples rows: what it says of an input depends on its batch-mates, as BatchNorm "
                "without running statistics does. All results depend on the batch: give it running statistics "
                "(track_running_stats=True), or let it normalise every input by itself."
            )
        return tuple(told)


def _half(rows: int) -> Tensor:
    """Mark half of the rows, (rows,) bool, the first among them and rows of both parities in it and outside."""
    half = torch.rand(rows, generator=torch.Generator().manual_seed(_HALF)) < 0.5
    half[:4] = torch.tensor([True, False, False, True])[:rows]
    return half


def differ(a: Tensor, b: Tensor) -> bool:
    """Say whether two sets of logits (n, C) differ by more than rounding, as the head of this file has it."""
    if not len(a):
        return False
    best = a.double().topk(2, dim=1).values
    margin = float((best[:, 0] - best[:, 1]).mean())
    of_logit = _OF_BF16_LOGIT if torch.equal(a, a.bfloat16().to(a)) else _OF_LOGIT
    allowed = _OF_MARGIN * margin + of_logit * torch.maximum(a.abs(), b.abs())
    return bool((torch.where(a == b, 0, (a - b).abs()) > allowed).any())


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


def doubted(models: Mapping[str, Model], names: Iterable[str], labels: Tensor) -> dict[str, list[str]]:
    """Say which of ``names`` give one class, or guess, on the rows that they were probed on: name to ``clean_notes``.

    Args:
        models: by name, probed.
        names: of those that were probed on these inputs, and not before.
        labels: of the inputs, (B, models, transforms, examples) int64.
    """
    found, order = {}, list(models)
    for name in names:
        model, y = models[name], labels[:, order.index(name), 0].flatten()
        if isinstance(model, Probed) and model.said is not None and model.classes is not None:
            told = clean_notes(model.said, y[: len(model.said)], model.classes, whose=f"model {name!r}")
            if told and bool((y < model.classes).all()):
                found[name] = told
    return found
