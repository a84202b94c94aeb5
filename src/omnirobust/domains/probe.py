"""Whether a model draws, and whether its rows see each other: told once, from a few rows, before anything is computed.

Two passes over the same rows that differ tell that a model is random; a third under the seed of the first, that it
draws from a source that no seed of torch reaches; one in which every other row is another, that rows see their
batch-mates. All passes are of one size, so that what rounds with the size of a batch does not count.

Differences count beyond 1e-4 of the mean margin between the two largest logits plus 2^-17 of the logit itself, 64 times
the resolution of fp32; of logits that bf16 holds exactly, as autocast makes them, 2^-6.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from omnirobust.core.draws import forked, random_states, same_states, seeded
from omnirobust.domains.classifier import Classifier, Model, Models, Probed, named_models
from omnirobust.domains.outputs import rows_named

ROWS = 32
"""Rows that a model is tried on; half of them have other batch-mates in the last pass."""

_AGAIN = 16
"""Further passes of a model that moves a generator and yet says the same twice: the draw may be one coin a batch."""

_OF_MARGIN, _OF_LOGIT, _OF_BF16_LOGIT = 1e-4, 2.0**-17, 2.0**-6


def probed(models: Models, x: Tensor, batch_size: int | None = None) -> dict[str, Probed]:
    """Name models and find out about each whether it is random and whether it couples rows.

    Args:
        models: a mapping from name to model, a sequence, or one. Those that were probed already are not again.
        x: inputs, (N, *S); the first 32 are used.
        batch_size: how many inputs a model may be given at once; None for any number.

    Raises:
        ValueError: if a model cannot take the inputs, or what it returns are no logits.

    Cost: three passes over at most 32 rows; a fourth for a random model.
    """
    named = named_models(models)
    return {n: m if isinstance(m, Probed) else _Probe(n, m, x, batch_size).probed() for n, m in named.items()}


def notes_of(models: Iterable[Model], judged: str) -> tuple[str, ...]:
    """Return what the probes of models found; ``judged`` is a sentence on what results of random ones are."""
    told = []
    for model in models:
        if isinstance(model, Probed):
            told += [f"{model.notes[0]} {judged}", *model.notes[1:]] if model.random else model.notes
    return tuple(told)


class _Probe:
    """One model and the rows that it is tried on."""

    def __init__(self, name: str, model: Model, x: Tensor, batch_size: int | None) -> None:
        self._label, self._classifier = f"model {name!r}", Classifier(name, model)
        self._rows = x[:ROWS].detach()
        self._size = batch_size or max(len(self._rows), 1)
        self._moved = False

    def probed(self) -> Probed:
        """Return the model with what was found."""
        if not len(self._rows):
            return self._classifier.probed(False, ())
        self._classifier.check_device(self._rows)
        with forked(self._rows), torch.no_grad():
            first = self._pass(self._rows, 0)
            tries = range(1, _AGAIN if self._moved else 2)
            random = any(differ(first, self._pass(self._rows, seed)) for seed in tries)
            foreign = random and differ(first, self._pass(self._rows, 0))
            coupled = not foreign and self._couples(first, random)
        return self._classifier.probed(random, self._notes(random, foreign, coupled))

    def _pass(self, images: Tensor, seed: int) -> Tensor:
        """Return the logits of ``images`` under a seed, and take note if a generator moves."""
        with seeded(seed, images):
            before = random_states(images)
            logits = self._logits(images)
            self._moved |= not same_states(before, random_states(images))
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        found = []
        for number, piece in enumerate(images.split(self._size)):
            with rows_named(lambda row, first=number * self._size: first + row):
                found.append(self._classifier(self._classifier.arrange(piece)))
        return torch.cat(found)

    def _couples(self, first: Tensor, random: bool) -> bool:
        """Say whether rows change with their batch-mates, half of which become copies of the first row.

        They are every other row, so that statistics of parts of a batch do not miss them; the last ones where a model
        is random, since what is drawn for a row may depend on the rows before it.
        """
        other = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        other[-(-len(first) // 2) if random else 1 :: 1 if random else 2] = True
        mixed = self._rows.clone()
        mixed[other] = self._rows[0]
        return differ(first[~other], self._pass(mixed, 0)[~other])

    def _notes(self, random: bool, foreign: bool, coupled: bool) -> tuple[str, ...]:
        told = []
        if random:
            told.append(f"{self._label} is random: two passes over the same inputs differ.")
        if foreign:
            told.append(
                f"{self._label} draws from a source that no seed of torch reaches (NumPy, Python's random, a generator "
                "of its own): another run gives other numbers."
            )
        if coupled:
            told.append(
                f"{self._label} couples rows: what it says of an input depends on its batch-mates, as BatchNorm "
                "without running statistics does. All results depend on the batch: give it running statistics "
                "(track_running_stats=True), or let it normalise every input by itself."
            )
        return tuple(told)


def differ(a: Tensor, b: Tensor) -> bool:
    """Say whether two sets of logits (n, C) differ by more than rounding, as the head of this file has it."""
    if not len(a):
        return False
    best = a.double().topk(2, dim=1).values
    margin = float((best[:, 0] - best[:, 1]).mean())
    of_logit = _OF_BF16_LOGIT if torch.equal(a, a.bfloat16().to(a)) else _OF_LOGIT
    allowed = _OF_MARGIN * margin + of_logit * torch.maximum(a.abs(), b.abs())
    return bool((torch.where(a == b, 0, (a - b).abs()) > allowed).any())
