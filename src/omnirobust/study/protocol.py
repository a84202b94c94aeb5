"""What the engine asks of a cell, of an experiment and of what came out of one, whatever they are.

A cell is what is measured and kept: an attack, a training, a trained model judged. An experiment says which cells, and
how they are shown. The engine knows nothing else of either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import torch

from omnirobust.zoo.chunks import Chunk
from omnirobust.zoo.data import ImageData

Verdict: TypeAlias = Literal["true", "false", "undecided", "not measured"]
WorkHook: TypeAlias = Callable[[int], None]
"""Is told how much work was just done."""

T = TypeVar("T")


class Span(NamedTuple):
    """A part of a cell, kept in one file.

    Attributes:
        begin: number of its first row: an image, or a group of them.
        end: one more than that of the last.
        name: of the file; empty for what the rows say.
    """

    begin: int
    end: int
    name: str = ""

    @property
    def file(self) -> str:
        """The name of the file, without its ending."""
        return self.name or f"rows-{self.begin:06d}-{self.end:06d}"


class AnyCell(ABC, Generic[T]):
    """What is measured once and kept: everything that decides its numbers but the number of images."""

    lasting = False
    """Whether the cache keeps the result in memory, for others that need it."""

    @property
    def needs(self) -> tuple[AnyCell[Any], ...]:
        """The cells that must be measured before this one."""
        return ()

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the trained models that it takes: it waits for those that are not trained yet."""
        return ()

    @property
    def group(self) -> int:
        """How many images a row takes."""
        return 1

    def problems(self, images: int) -> int:
        """Return how many rows ``images`` test images come to."""
        return images // self.group

    def resolved(self, cache: Workplace, images: int) -> AnyCell[T] | None:
        """Return this cell with what the cells that it needs decide; None while one of them is not measured."""
        return self

    def most(self, cache: Workplace, images: int) -> int:
        """Return on how many of ``images`` test images it is measured: data may not hold as many that fit."""
        return images

    def counts(self, images: int) -> Sequence[int]:
        """Return on how many images it may have been measured where ``images`` are asked for, the most first."""
        return [images]

    def limited(self, steps: int | None) -> AnyCell[T]:
        """Return this cell with at most so many steps of its attacks."""
        return self

    @abstractmethod
    def describe(self, cache: Workplace) -> dict[str, Any]:
        """Return all that decides its numbers as plain values, ready for JSON: what its key is the hash of."""

    @abstractmethod
    def spans(self, images: int) -> list[Span]:
        """Return the parts that it is measured in."""

    @abstractmethod
    def measure(self, span: Span, cache: Workplace, on_work: WorkHook) -> Chunk:
        """Measure one part.

        Args:
            span: which.
            cache: has models and images.
            on_work: may be told how much of ``work`` was done meanwhile.

        Returns:
            Named tensors, and facts about the run.
        """

    @abstractmethod
    def result(self, parts: Sequence[Chunk], cache: Workplace) -> T:
        """Return what parts, in order, come to together."""

    def work(self, span: Span) -> int:
        """Return how much there is to do for a part, as progress counts it."""
        return 1

    def fits(self, chunk: Chunk, span: Span) -> bool:
        """Say whether what was read can be that part."""
        return all(len(value) == span.end - span.begin for value in chunk.tensors.values())


class Workplace(Protocol):
    """What a cell may ask of the cache that measures it."""

    @property
    def device(self) -> torch.device:
        """Where models run."""
        ...

    def images(self, data: str, split: str, count: int | None = None) -> ImageData:
        """Return a split of a data set: its first ``count`` images or more, or all."""
        ...

    def fingerprint(self, model: str) -> str:
        """Return a hash of the weights of a model, by name."""
        ...

    def grouped(self, cell: Any, images: int) -> int | None:
        """Return how many of ``images`` a cell's groups hold; None where there are no data, or fewer of them."""
        ...

    def recall(self, cell: AnyCell[T], images: int) -> T | None:
        """Return as much of a cell as was measured; None of nothing."""
        ...

    def known(self, cell: AnyCell[Any], span: Span) -> Chunk | None:
        """Return a part of a cell if it was measured."""
        ...

    def scratch(self, cell: AnyCell[Any]) -> Path:
        """Return a folder for what a cell has half done; it goes when the cell is kept."""
        ...

    def attack(self, cell: Any, span: Span, known: Chunk | None, on_work: WorkHook) -> Chunk:
        """Run an attack cell, see ``attack_runner.AttackRunner.measure``."""
        ...


class Job(NamedTuple):
    """A cell that an experiment asks for.

    Attributes:
        cell: which.
        images: on how many.
        rank: what is measured first: lower ones, of all experiments together.
        told: what a row is called where its author's code fails; empty for none.
    """

    cell: AnyCell[Any]
    images: int
    rank: tuple[int, ...] = ()
    told: str = ""


class Scale(NamedTuple):
    """How much is computed.

    Attributes:
        budget: name of the budget.
        images: test images for each experiment, in place of the budget's; None for these.
        training_budget: name of the budget of trainings.
    """

    budget: str
    images: int | None
    training_budget: str


@dataclass(frozen=True)
class Summary:
    """What is said of an experiment in one line.

    Attributes:
        name: of the experiment.
        title: likewise.
        scale: how many images rows have, or how many trainings there are.
        done: how many rows, or trainings, have any.
        wanted: of how many.
        seconds: that they took; None where nothing was measured.
        verdicts: on its claims, each counted once.
        claims: how many claims there are, judged or not.
        judged_by: on which version, or by which evaluation, claims are counted, where there are several.
        what: "rows" or "trainings".
        begun: how many of them have fewer images than they should.
        untrained: models that it waits for.
        scales: of each row how many images it has, 0 where it is to be measured, and how many it should have; empty
            where rows are not counted so.
    """

    name: str
    title: str
    scale: str
    done: int
    wanted: int
    seconds: float | None
    verdicts: tuple[str, ...]
    claims: int
    judged_by: str = ""
    what: str = "rows"
    begun: int = 0
    untrained: tuple[str, ...] = ()
    scales: tuple[tuple[int, int], ...] = ()


class AnyOutcome(Protocol):
    """What came out of an experiment."""

    @property
    def summary(self) -> Summary:
        """What is said of it in one line."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return rows and verdicts as plain values, ready for JSON."""
        ...


O = TypeVar("O", bound=AnyOutcome)  # noqa: E741


class Study(ABC, Generic[O]):
    """An experiment as the engine sees it: what it measures, what comes of that, and how it is shown."""

    name: str
    title: str

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of its attacks and what each means, the first to be measured first."""
        return {}

    @property
    def variants(self) -> Sequence[str]:
        """The versions that may be asked for."""
        return ()

    @property
    def occurring(self) -> Sequence[str]:
        """The versions that it has rows of."""
        return ()

    def only(self, variants: Sequence[str]) -> Study[O] | None:
        """Return the experiment with these versions alone; None if nothing is left."""
        return self

    def jobs(self, scale: Scale) -> Sequence[Job]:
        """Return what it measures."""
        return ()

    @abstractmethod
    def recall(self, cache: Any, scale: Scale) -> O:
        """Return what came out so far, without computing."""

    @abstractmethod
    def markdown(self, outcome: O, figures: Sequence[str]) -> str:
        """Return a Markdown section with links to its figures."""

    def draw(self, outcome: O, folder: Path) -> tuple[Path, ...]:
        """Draw its figures, SVG, and return the files."""
        return ()

    def preface(self, outcome: O) -> str:
        """Return a section that stands once before all experiments that have the same; empty for none."""
        return ""
