"""What an experiment is, as data: cells (one attack each), rows that name them, and experiments that hold rows.

A cell says everything that decides its numbers. Its ``key`` is a hash of that, and of the weights of its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from omnirobust._own_code import is_own, source_digest
from omnirobust._types import NORMS, Norm, WeightRule, check_count
from omnirobust.settings import AttackSettings
from omnirobust.study.attack_cells import Task
from omnirobust.study.store import key_of

if TYPE_CHECKING:
    from omnirobust.paper.printed import Printed
    from omnirobust.study.claims import Claim

Labels: TypeAlias = Literal["predicted", "true", "released"]
Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class MeanWeightsOf:
    """A rule that another cell decides: the mean over its images of the weights it ends with, held fixed."""

    cell: Cell


@dataclass(frozen=True)
class Cell:
    """One attack on one set of models: everything that decides its numbers but the number of images.

    Attributes:
        models: names in the zoo of the models attacked together, K of them, or of one's own as ``zoo.load_model`` takes
            them: "FILE.py:NAME". These must come with the same weights every time.
        norm: of the perturbation.
        eps: its radius, >= 0.
        attack: the weight rule, direction, step size, loss, start and which iterate is kept.
        rule: in place of ``attack.rule`` where another cell decides the weights.
        labels: "predicted", each domain's own on the clean image; "true"; or "released", as the released code has it:
            the attack is to leave its own prediction, success is counted against the true label.
        judges: names of the models whose success is counted; empty: those attacked.
        data: name of the data, whose test split is attacked in order.
        steps: T, >= 0.
        seed: keys the start.
        precision: of the attack; success is always recomputed in fp32.
        task: what the domains are beside the models; None for an ensemble attack, whose domains are the models.
    """

    models: tuple[str, ...]
    norm: Norm
    eps: float
    attack: AttackSettings
    rule: MeanWeightsOf | None = None
    labels: Labels = "predicted"
    judges: tuple[str, ...] = ()
    data: str = "mnist"
    steps: int = 50
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    task: Task | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model, got none")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if not self.eps >= 0:
            raise ValueError(f"eps must be >= 0, got {self.eps}")
        if self.labels not in ("predicted", "true", "released"):
            raise ValueError(f"labels must be 'predicted', 'true' or 'released', got {self.labels!r}")
        check_count("steps", self.steps, 0, whole=False)
        if self.task is not None and len(self.judged) > 1:
            raise ValueError(f"models must name one model where there is a task, got {len(self.judged)}")

    @property
    def judged(self) -> tuple[str, ...]:
        """The models whose success is counted."""
        return self.judges or self.models

    @property
    def columns(self) -> tuple[str, ...]:
        """What success is counted for: the letters of the models that judge, or the domains of the task."""
        if self.task is not None:
            return self.task.columns
        letters = tuple(map(_letter, self.judged))
        return letters if len(set(letters)) == len(letters) else self.judged

    @property
    def group(self) -> int:
        """How many images each problem takes."""
        return 1 if self.task is None else self.task.size

    def problems(self, images: int) -> int:
        """Return how many problems ``images`` test images come to."""
        return images // self.group

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The cells that must be measured before this one."""
        return () if self.rule is None else (self.rule.cell,)

    def key(self, rule: WeightRule, fingerprints: Mapping[str, str]) -> str:
        """Hash everything that decides the numbers.

        Args:
            rule: the rule that the attack is given, ``attack.rule`` or what ``rule`` came to.
            fingerprints: model name to a hash of its weights.
        """
        settings = self.describe(rule) | {"weights": {n: fingerprints[n] for n in sorted({*self.models, *self.judged})}}
        return key_of(settings)

    def describe(self, rule: WeightRule) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        attack = {f.name: plain(getattr(self.attack, f.name)) for f in fields(self.attack)}
        apart = {"attack", "rule", "judges"} | ({"task"} if self.task is None else set())
        own = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in apart}
        return own | {"judges": list(self.judged), "attack": attack | {"rule": plain(rule)}}


@dataclass(frozen=True)
class Row:
    """A cell under the name by which tables, figures and claims ask for it.

    Attributes:
        key: what the paper's table calls it, such as ("linf", "minmax").
        variant: which version of the attack this is, such as "paper".
        cell: what is measured.
    """

    key: Key
    variant: str
    cell: Cell


@dataclass(frozen=True)
class Experiment:
    """A table or figure, of the paper or of one's own.

    Attributes:
        name: as on the command line, such as "table-1a"; its files are called by it.
        title: one line.
        rows: what is measured, in the order of the table.
        kind: "table" of attacks, "sweep" over a quantity (the last entry of each row's key, a number as text),
            "accuracy" of single models, "groups" of images that share a perturbation, or the "weights" of such groups.
            Budgets give each kind its images.
        sweeps: name of the swept quantity, the last entry of the rows' keys; empty for the other kinds.
        heads: what the entries of the rows' keys are, as heads of columns; of a sweep, all entries but the last.
        note: what a reader of this one must know, beside what is said of all.
        claims: what is said of the rows, to be judged.
        printed: key to the values that rows are held against.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    kind: Literal["table", "sweep", "accuracy", "groups", "weights"] = "table"
    sweeps: str = ""
    heads: tuple[str, ...] = ("norm", "weights")
    note: str = ""
    claims: tuple[Claim, ...] = ()
    printed: Mapping[Key, Printed] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[str, ...]:
        """The versions of the attack that occur, in order of appearance."""
        return tuple(dict.fromkeys(row.variant for row in self.rows))

    def keys(self, variant: str) -> tuple[Key, ...]:
        """The names of the rows of one variant, in order."""
        return tuple(row.key for row in self.rows if row.variant == variant)


@dataclass(frozen=True)
class Budget:
    """How much of an experiment is computed.

    Attributes:
        table: test images for tables of attacks, >= 1.
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
            case "table":
                return self.table

    def limit(self, experiment: Experiment) -> Experiment:
        """Return the experiment with its sweep thinned and its steps limited."""
        rows = experiment.rows
        if experiment.kind == "sweep" and self.thin > 1:
            points = sorted({float(row.key[-1]) for row in rows if row.key[-1] != REFERENCE})[:: self.thin]
            rows = tuple(r for r in rows if r.key[-1] == REFERENCE or float(r.key[-1]) in points)
        return replace(experiment, rows=tuple(replace(r, cell=_capped(r.cell, self.steps)) for r in rows))


REFERENCE = "-"
"""Last entry of the key of a row that a sweep is held against: it has no place on the axis."""

BUDGETS: dict[str, Budget] = {
    "smoke": Budget(table=24, sweep=24, accuracy=500, steps=10, thin=3, groups=40),
    "quick": Budget(table=200, sweep=200, accuracy=10_000, groups=1000),
    "paper": Budget(table=1000, sweep=200, accuracy=10_000),
}


def _capped(cell: Cell, steps: int | None) -> Cell:
    if steps is None or cell.steps <= steps:
        return cell
    rule = None if cell.rule is None else MeanWeightsOf(_capped(cell.rule.cell, steps))
    return replace(cell, steps=steps, rule=rule)


def plain(value: Any) -> Any:
    """Return settings as plain values: dataclasses by name and fields, functions by name, tensors as lists.

    What comes from the user's own code has a digest of its source too.
    """
    if isinstance(value, Tensor):
        return [float(v) for v in value.flatten().double()]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, partial):
        return {"name": plain(value.func), "args": plain(value.args), "keywords": plain(value.keywords)}
    if hasattr(value, "__qualname__"):
        return f"{value.__qualname__}, source {source_digest(value)}" if is_own(value) else value.__qualname__
    own = is_own(type(value))
    source = {"source": source_digest(type(value))} if own else {}
    if is_dataclass(value):
        return {"name": type(value).__name__} | {f.name: plain(getattr(value, f.name)) for f in fields(value)} | source
    if own:
        return {"name": type(value).__name__} | {name: plain(v) for name, v in vars(value).items()} | source
    return repr(value) if callable(value) else value


def _letter(name: str) -> str:
    """Return what columns call a model: the letter of the zoo, or NAME of "FILE.py:NAME"."""
    return name.rpartition(":")[2] if ":" in name else name.split("/")[-1].split("@")[0].upper()
