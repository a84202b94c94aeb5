"""What an experiment is, as data: rows that name cells, experiments that hold rows, and how much is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from omnirobust.study.attack_cells import Cell
from omnirobust.study.claims import Claim, Key, Statistic
from omnirobust.study.protocol import Study
from omnirobust.study.training_cells import Robustness

Kind: TypeAlias = Literal["table", "sweep", "accuracy", "groups", "weights", "robustness"]


@dataclass(frozen=True)
class Printed:
    """One printed row, in percent.

    Attributes:
        accuracy: column, such as a model's letter, to its accuracy on the attacked images; a column may be left out.
        asr_all: share of images that fool every model at once; None where the table has no such column.
        asr_avg: share of (image, model) pairs that are fooled; None likewise.
        lift: relative gain of asr_all over the average; None likewise.
        source: where they are printed, such as "Table 1(a)".
        images: on how many images they were measured.
    """

    accuracy: dict[str, float] = field(default_factory=dict)
    asr_all: float | None = None
    asr_avg: float | None = None
    lift: float | None = None
    source: str = ""
    images: int = 10_000


@dataclass(frozen=True)
class Row:
    """A cell under the name by which tables, figures and claims ask for it.

    Attributes:
        key: what the table calls it, such as ("linf", "minmax").
        variant: which version of the attack this is, such as "paper"; of a training, such as "seed 0".
        cell: what is measured.
    """

    key: Key
    variant: str
    cell: Cell | Robustness

    @property
    def attack(self) -> Cell:
        """The cell of a row that attacks."""
        assert isinstance(self.cell, Cell)
        return self.cell


@dataclass(frozen=True)
class Experiment:
    """A table or figure, of the paper or of one's own.

    Attributes:
        name: as on the command line, such as "table-1a"; its files are called by it.
        title: one line.
        rows: what is measured, in the order of the table.
        kind: "table" of attacks, "sweep" over a quantity (the last entry of each row's key, a number as text),
            "accuracy" of single models, "groups" of images that share a perturbation, the "weights" of such groups, or
            "robustness" of models that the rows train. Budgets give each kind its images.
        sweeps: name of the swept quantity, the last entry of the rows' keys; empty for the other kinds.
        heads: what the entries of the rows' keys are, as heads of columns; of a sweep, all entries but the last.
        note: what a reader of this one must know, beside what is said of all.
        claims: what is said of the rows, to be judged.
        printed: key to the values that rows are held against.
        claimed_by: whose the claims are, as the page says it, such as "the paper's"; empty for one's own.
        versions: what each variant means, the first to be measured first.
        drawn: the variants that a sweep's figure shows; empty: all.
        statistics: of kind "weights": numbers that the rows come to.
        printed_statistics: name of a statistic to the value that it is held against.
        table: from the outcome to its first table, in place of the kind's.
        figure: from the outcome and a folder to the files of its figures, in place of the kind's.
        pictures: of how many groups the figure shows the images.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    kind: Kind = "table"
    sweeps: str = ""
    heads: tuple[str, ...] = ("norm", "weights")
    note: str = ""
    claims: tuple[Claim, ...] = ()
    printed: Mapping[Key, Printed] = field(default_factory=dict)
    claimed_by: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    statistics: tuple[Statistic, ...] = ()
    printed_statistics: Mapping[str, float] = field(default_factory=dict)
    table: Callable[[Any], str] | None = None
    figure: Callable[[Any, Path], tuple[Path, ...]] | None = None
    pictures: int = 0

    @property
    def variants(self) -> tuple[str, ...]:
        """The versions of the attack that occur, in order of appearance."""
        return tuple(dict.fromkeys(row.variant for row in self.rows))

    def keys(self, variant: str) -> tuple[Key, ...]:
        """The names of the rows of one variant, in order."""
        return tuple(row.key for row in self.rows if row.variant == variant)


@dataclass(frozen=True)
class Collection:
    """Experiments that are asked for by name, and what a page that has any of them says beside.

    Attributes:
        members: name to experiment, in the order in which they are worth computing.
        title: of the page.
        notes: how to read it, where it has experiments of rows.
        counted: how to read its first table.
        closing: the last section; empty for none.
    """

    members: Mapping[str, Experiment | Study[Any]] = field(default_factory=dict)
    title: str = "# Experiments"
    notes: str = """\
"any iterate" counts images for which some step fooled every model. A claim is "true" or "false" where the images (or
groups of them) at hand and at least 95 % of their resamples (bootstrap, all rows paired) agree, and "undecided"
otherwise, as it always is on fewer than 100.\
"""
    counted: str = """\
Claims are counted once, on the first variant where an experiment has several; "open" is undecided or not yet measured.
Minutes are by the wall clock, of cells that an experiment asks for, also where another one has them measured.\
"""
    closing: str = ""


@dataclass(frozen=True)
class Budget:
    """How much of an experiment is computed.

    Attributes:
        table: test images for tables of attacks and for models that are trained, >= 1.
        sweep: test images for each point of a sweep, >= 1.
        accuracy: test images for the accuracies of single models, >= 1.
        steps: upper limit on the steps of every attack; None for the paper's.
        thin: keep every so many-th point of a sweep, >= 1.
        groups: test images for tables of groups, >= 10, the largest group; None for as many as ``table``.
    """

    table: int
    sweep: int
    accuracy: int
    steps: int | None = None
    thin: int = 1
    groups: int | None = None

    def images(self, experiment: Experiment) -> int:
        """Return how many test images ``experiment`` takes."""
        match experiment.kind:
            case "sweep":
                return self.sweep
            case "accuracy":
                return self.accuracy
            case "groups" | "weights":
                return self.table if self.groups is None else self.groups
            case _:
                return self.table

    def limit(self, experiment: Experiment) -> Experiment:
        """Return the experiment with its sweep thinned and its steps limited."""
        rows = experiment.rows
        if experiment.kind == "sweep" and self.thin > 1:
            points = sorted({float(row.key[-1]) for row in rows if row.key[-1] != REFERENCE})[:: self.thin]
            rows = tuple(r for r in rows if r.key[-1] == REFERENCE or float(r.key[-1]) in points)
        return replace(experiment, rows=tuple(replace(r, cell=r.cell.limited(self.steps)) for r in rows))


REFERENCE = "-"
"""Last entry of the key of a row that a sweep is held against: it has no place on the axis."""

BUDGETS: dict[str, Budget] = {
    "smoke": Budget(table=24, sweep=24, accuracy=500, steps=10, thin=3, groups=40),
    "quick": Budget(table=200, sweep=200, accuracy=10_000, groups=1000),
    "paper": Budget(table=1000, sweep=200, accuracy=10_000),
}
