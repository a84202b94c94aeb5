"""What an attack returns, and how the results of the parts of one batch are joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from omnirobust.attacks import written
from omnirobust.core.history import History, HistoryRows, join_histories
from omnirobust.domains.classifier import Model

if TYPE_CHECKING:
    from omnirobust.zoo.data import ImageData


@dataclass(frozen=True)
class Origin:
    """What an attack was called with: from it a result is written as the command line writes its runs.

    Attributes:
        models: by name, as they were given.
        x: the inputs.
        y: the labels, as they were given.
        transforms: by name, as they were given; None for none.
        plan: the options, resolved: an ``options.Plan``.
        rows: every problem's history, which curves of the page are drawn from.
    """

    models: Mapping[str, Model]
    x: Tensor
    y: Tensor
    transforms: Mapping[str, Any] | None
    plan: Any
    rows: HistoryRows | None


@dataclass(frozen=True)
class AttackResult:
    """The perturbations of an attack, and how every domain fares under them.

    Attributes:
        adversarial: the attacked inputs, x + delta clamped to the data range, (B, *S); (B, E, *S) where E inputs share
            a perturbation.
        delta: the perturbations, feasible, (B, *S).
        weights: domain weights at the kept iterate, (B, K).
        losses: F_k of the attacked inputs, recomputed on ``adversarial`` in full precision, (B, K).
        fooled: whether domain k is fooled, recomputed likewise, (B, K) bool; on every one of ``draws`` fresh draws.
            None where ``attack_losses`` was given no ``success``: all rates are NaN then.
        success: the share of those draws on which domain k is fooled, (B, K), in [0, 1]; None likewise.
        draws: how many times random models and transformations were drawn anew to judge the result; 1 where nothing is
            random.
        names: the domains' names, K of them.
        axes: the factors whose product the domains are, row-major: models, transforms, examples; those in use.
        history: means at every iterate of the restart that each problem kept; its rows too with ``history="full"``.
        steps: T.
        gradient_evaluations: input gradients taken for each problem at most: K T restarts, times the samples of random
            transformations; K more for the reach of the default loss.
        zero_gradient: for each domain, the fraction of problems not yet fooled at the start whose input gradient is
            exactly zero there, (K,): gradients are masked there, and the attack begins without a direction.
        settings: the resolved settings, ready for JSON.
        notes: what a reader of these numbers must know, one sentence each; empty if nothing.
        right: the share of draws on which domain k gives the label that ``accuracy`` counts, (B, K), in [0, 1]; None
            where that label is ``y``, and the share 1 - ``success``.
        already: whether the clean input of domain k is in its target class before the attack, by its true label where
            that is known, or because the model says so, (B, K) bool; None for untargeted attacks.
        queries: how many inputs each domain's model was asked for each row, (B, K) int64, judging included, where some
            model is a ``BlackBox``: 0 of the others; None where all are differentiable.
        origin: what the attack was called with, models and inputs, for ``save`` and ``report``; copies and pickles of a
            result leave it out.
    """

    adversarial: Tensor
    delta: Tensor
    weights: Tensor
    losses: Tensor
    fooled: Tensor | Any  # None where no success is known: as typeshed does, not everybody is made to look
    success: Tensor | Any
    draws: int
    names: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    history: History
    steps: int
    gradient_evaluations: int
    zero_gradient: Tensor
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    right: Tensor | None = None
    already: Tensor | None = None
    queries: Tensor | None = None
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the attack was called with: models that are functions cannot be pickled."""
        return {**self.__dict__, "origin": None}

    def __repr__(self) -> str:
        """Say what the attack came to in a line: the tensors are too large to look at."""
        problems, domains = self.losses.shape
        kind = "" if self.already is None else ", targeted"
        rates = f"ASR_all {self.asr_all:.4f}, ASR_avg {self.asr_avg:.4f}"
        if self.fooled is None:
            rates = f"mean worst loss {_mean(self.losses.amax(1)):.4g}"
        return (
            f"AttackResult({problems} problems, {domains} domains{kind}: {rates}, {self.settings['norm']} "
            f"eps {self.settings['eps']}, {self.steps} steps)"
        )

    @property
    def counted(self) -> Tensor:
        """Which domains of which problems success is counted over, (B, K) bool.

        All of them, but in a targeted attack those that are in the target class already: they would be won for nothing.
        """
        return torch.ones_like(self.losses, dtype=torch.bool) if self.already is None else ~self.already

    @property
    def asr_all(self) -> float:
        """ASR_all: the fraction of problems whose every domain is fooled, on every draw where any are made.

        In a targeted attack: of the problems of which some domain is not in the target class already.
        """
        return nan if self.fooled is None else _mean(self.fooled.all(dim=1)[self.counted.any(dim=1)])

    @property
    def asr_gp(self) -> float:
        """ASR_gp: the same fraction, by the name the paper gives it for groups of images or transformations."""
        return self.asr_all

    @property
    def asr_avg(self) -> float:
        """ASR_avg: the fraction of (problem, domain) pairs ``counted`` that are fooled, a mean over draws likewise."""
        return nan if self.success is None else _mean(self.success[self.counted])

    @property
    def success_rate(self) -> Tensor:
        """Success on each domain, (K,), over the problems ``counted``: in a targeted attack, how many reach the class.

        NaN for a domain of which every problem is in the target class already.
        """
        counted = self.counted.float()
        if self.success is None:
            return torch.full_like(counted[0], nan)
        return (self.success.float() * counted).sum(dim=0) / counted.sum(dim=0)

    @property
    def accuracy(self) -> Tensor:
        """Accuracy of each domain on the attacked inputs, (K,): the fraction that gets its label, a mean over draws.

        The labels are ``true_labels`` if the attack was given them, else ``y``. A targeted attack is given classes to
        reach as ``y``, which are no labels: without ``true_labels`` it counts what each model said of the clean input,
        ``settings["accuracy_of"]`` is "clean predictions", and the number is how much of that is left. NaN of losses
        that know no labels, those of ``attack_losses``.
        """
        if "losses" in self.axes:
            return torch.full((len(self.names),), nan, device=self.losses.device)
        right = 1 - self.success.float() if self.right is None else self.right.float()
        return right.sum(dim=0) / max(len(right), 1)

    def to(self, device: torch.device | str) -> AttackResult:
        """Move all tensors to ``device``; ``zero_gradient`` stays on the processor."""
        moved = {name: value.to(device) for name, value in _of_rows(self).items()}
        return replace(self, history=self.history.to(device), **moved)

    def save(self, out: str | Path, *, average: AttackResult | None = None, data: ImageData | None = None) -> Path:
        """Write the folder of a run with its page, as ``omnirobust attack`` does.

        ``omnirobust report`` reads it, alone or against another run, and ``jobs.AttackRecord.open``. A targeted result
        must have one target for all images and models: a page has one. There is no ``config.yaml`` as of a command:
        models and inputs are objects here, which no file of options names.

        Args:
            out: a folder that is new, empty, or holds a run of the same settings, which is written anew.
            average: the result of the same attack under ``rule=Uniform()``, which the page compares image by image.
            data: the set that the inputs are of: its name, its split and the names of its classes are told.

        Returns:
            The folder.

        Raises:
            ValueError: if the result is a copy, or not of images, or has a radius or a target for each of them; if
                ``average`` is not of the same attack, or the folder is another run's.

        Cost: K forwards for every one of ``draws``, three times, to check what was saved.
        """
        return written.save(self, out, average=average, data=data)

    def report(self, file: str | Path, *, average: AttackResult | None = None, data: ImageData | None = None) -> Path:
        """Write the page of a run, as ``omnirobust attack`` does: one HTML file that needs nothing but itself.

        A targeted result must have one target for all images and models.

        Args:
            file: where to write it.
            average: see ``save``.
            data: see ``save``.

        Returns:
            The file.

        Raises:
            ValueError: as ``save`` does.
        """
        return written.report(self, file, average=average, data=data)

    def marginal(self, axis: str) -> Tensor:
        """Return the weights summed over all factors but ``axis``, (B, n): how much each of its members counts.

        Raises:
            ValueError: if ``axis`` is none of ``axes``.
        """
        if axis not in self.axes:
            raise ValueError(f"axis must be one of {', '.join(self.axes)}, got {axis!r}")
        grid = self.weights.view(len(self.weights), *(len(members) for members in self.axes.values()))
        others = [i + 1 for i, name in enumerate(self.axes) if name != axis]
        return grid.sum(others) if others else grid


class BatchStore(Protocol):
    """Where the results of finished batches lie, so that a stopped attack goes on where it was."""

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index`` if it is there."""
        ...

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        ...


def join_results(parts: Sequence[AttackResult]) -> AttackResult:
    """Join the results of the parts of one batch, in order."""
    if len(parts) == 1:
        return parts[0]
    total = max(sum(len(p.losses) for p in parts), 1)
    rows = [_of_rows(part) for part in parts]
    # A part kept before a field existed has none: then neither has the whole, rather than fewer rows than problems.
    joined = {n: torch.cat([of[n] for of in rows]) if all(n in of for of in rows) else None for n in rows[0]}
    return replace(
        parts[0],
        **joined,
        history=join_histories([p.history for p in parts]),
        zero_gradient=torch.stack([p.zero_gradient * (len(p.losses) / total) for p in parts]).sum(0),
        notes=joined_notes(p.notes for p in parts),
    )


def joined_notes(notes: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Join what the parts of one result have to say, each sentence once."""
    return tuple(dict.fromkeys(note for of_part in notes for note in of_part))


def _of_rows(result: AttackResult) -> dict[str, Tensor]:
    """Return the fields that have a row for each problem: every tensor but ``zero_gradient``, which is of domains."""
    values = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "zero_gradient"}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean()) if flags.numel() else 0.0
