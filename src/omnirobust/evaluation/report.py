"""What an evaluation of robustness returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnirobust.attacks import written
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Model
from omnirobust.evaluation.fresh import Drawn
from omnirobust.evaluation.metrics import Interval, drawn_interval

if TYPE_CHECKING:
    from omnirobust.zoo.data import ImageData


@dataclass(frozen=True)
class Origin:
    """What an evaluation was called with.

    Attributes:
        model: as it was given.
        x: the inputs.
        y: their labels.
        threats: by name.
        attacks: "default", "autoattack", or the names of those given.
        classes: how many the model tells apart.
        first_row: global row of the first input.
        draws: as they were given.
    """

    model: Model
    x: Tensor
    y: Tensor
    threats: Mapping[str, ThreatModel]
    attacks: str | list[str]
    classes: int
    first_row: int
    draws: int | None


@dataclass(frozen=True)
class RobustnessReport:
    """How a model fares under several threats.

    Attributes:
        names: of the threats, in the order given, then of the universal perturbations.
        clean_correct: whether the model is right on the inputs as they are, (B,) bool; a random model on most draws.
        correct: whether it is right on them and under everything that was tried, (B, threats) bool; a random model on
            most fresh draws, under the perturbation that fooled it on most draws of selection.
        margin: the least z_y - max_{j != y} z_j that was found, (B, threats): how far the input is from falling; of a
            random model a mean over the draws of selection.
        delta: by name, the perturbation of that margin, (B, *S), feasible; zero where the input is wrong as it is.
        breaks: by name, how many inputs fell to each attack; "from another threat" counts those that fell to
            an example found for a threat inside this one.
        notes: what a reader of these numbers must know; empty if nothing.
        settings: the resolved settings, ready for JSON.
        drawn: of a random model, what it says on each fresh draw; None where nothing is random. ``clean``,
            ``accuracy``, ``union`` and ``average`` are then means over these draws.
        origin: what was judged, for ``save`` and ``report``; copies and pickles of a report leave it out.
    """

    names: tuple[str, ...]
    clean_correct: Tensor
    correct: Tensor
    margin: Tensor
    delta: dict[str, Tensor]
    breaks: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    settings: dict[str, Any]
    drawn: Drawn | None = None
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was judged: models that are functions cannot be pickled."""
        return {**self.__dict__, "origin": None}

    def save(self, out: str | Path, *, name: str = "model", data: ImageData | None = None) -> Path:
        """Write the folder of a run with its page, as ``omnirobust evaluate`` does for one model.

        Args:
            out: a folder that is new, empty, or holds a run of the same settings, which is written anew.
            name: what files and page call the model.
            data: the set that the inputs are of: its name, its split and the names of its classes are told.

        Returns:
            The folder; ``omnirobust report`` reads it, alone or against another.

        Raises:
            ValueError: if the report is a copy, or not of images; if a threat has a mask or a radius for each input,
                or the folder is another run's.
        """
        return written.save(self, out, name=name, data=data)

    def report(self, file: str | Path, *, name: str = "model", data: ImageData | None = None) -> Path:
        """Write the page of a run, see ``save``, as one HTML file that needs nothing but itself; return its path."""
        return written.report(self, file, name=name, data=data)

    def to(self, device: torch.device | str) -> RobustnessReport:
        """Move all tensors to ``device``."""
        return replace(
            self,
            clean_correct=self.clean_correct.to(device),
            correct=self.correct.to(device),
            margin=self.margin.to(device),
            delta={name: delta.to(device) for name, delta in self.delta.items()},
            drawn=None if self.drawn is None else self.drawn.to(device),
        )

    @property
    def clean(self) -> float:
        """Accuracy on the inputs as they are."""
        return share(self._clean_hits())

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracy under each threat."""
        return {name: share(self._hits([name])) for name in self.names}

    @property
    def union(self) -> float:
        """Acc_adv^max: the share of inputs that withstand all threats, each example's worst case."""
        return share(self._hits(self.names))

    @property
    def average(self) -> float:
        """Acc_adv^avg: the mean of the accuracies under each threat."""
        return share(self.correct if self.drawn is None else self.drawn.right)

    def withstood(self, names: Sequence[str] | None = None) -> Tensor:
        """Say on which inputs the model is right under the worst of some threats, of all if not given, (B,) in [0, 1].

        0 or 1 unless the model is random: then the share of fresh draws, the worst threat of each input being chosen on
        other draws.
        """
        return self._hits(self.names if names is None else names).double().mean(0)

    def interval(self, name: str | None = None, level: float = 0.95) -> Interval:
        """Return the interval of the accuracy under a threat; of the union if no name is given.

        Wilson's; of a random model over examples and draws, see ``drawn_interval``.
        """
        if name is not None and name not in self.names:
            raise ValueError(f"name must be one of {', '.join(self.names)}, got {name!r}")
        return drawn_interval(self._hits(self.names if name is None else [name]), level)

    def clean_interval(self, level: float = 0.95) -> Interval:
        """Return the interval of the accuracy on the inputs as they are."""
        return drawn_interval(self._clean_hits(), level)

    def _clean_hits(self) -> Tensor:
        return self.clean_correct.unsqueeze(0) if self.drawn is None else self.drawn.clean

    def _hits(self, names: Sequence[str]) -> Tensor:
        """Say on which draws the model is right under the worst of some threats, (D, B) bool."""
        columns = [self.names.index(name) for name in names]
        if self.drawn is None:
            chosen = torch.tensor(columns, dtype=torch.int64, device=self.correct.device)
            return self.correct[:, chosen].all(1).unsqueeze(0)
        return self.drawn.under(columns, self.margin)

    def describe(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "examples": len(self.clean_correct),
            "draws": 1 if self.drawn is None else len(self.drawn.clean),
            "clean": self.clean,
            "accuracy": self.accuracy,
            "union": self.union,
            "average": self.average,
            "breaks": self.breaks,
            "notes": list(self.notes),
            "settings": self.settings,
        }


def share(flags: Tensor) -> float:
    """Return the share of flags that are set; 0 of none."""
    return float(flags.double().mean()) if flags.numel() else 0.0
