"""Which problems of a run a report shows, and what is said of each where every image has its own perturbation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.domains.transforms import named
from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.figures import TRANSFORM_COLOURS, colour
from omnirobust.jobs.report.images import picture, shown_range, signed_picture
from omnirobust.jobs.report.text import beats, target, whom


@dataclass(frozen=True)
class Verdict:
    """What one model says of one attacked image."""

    model: str
    before: int
    after: int
    fooled: bool
    weight: float
    colour: str


@dataclass(frozen=True)
class Cell:
    """What one model says of one image under one transformation: share of draws that fool, and the weight."""

    share: float
    fooled: bool
    weight: float
    colour: str


@dataclass(frozen=True)
class Seen:
    """One attacked image under one transformation: a picture where it can be drawn again, and a cell a model."""

    transform: str
    picture: str | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Example:
    """One image: clean, perturbation, attacked, with every model's verdict, or a line for each transformation.

    ``kind`` names its class: "7", or "5 (dog)" where classes have names.
    """

    row: int
    label: int
    kind: str
    note: str
    clean: str
    delta: str
    adversarial: str
    largest: float
    changed: int
    verdicts: tuple[Verdict, ...]
    seen: tuple[Seen, ...]


def examples(record: AttackRecord, count: int) -> list[Example]:
    """Choose and describe up to ``count`` examples of the last attack of a run."""
    return [_example(record, row, note) for row, note in choose(record, count)]


def _example(record: AttackRecord, row: int, note: str) -> Example:
    saved, attack = record.perturbations, record.attacks[-1]
    bounds = shown_range(record)
    delta, attacked = saved[f"{attack}.delta"][row], saved[f"{attack}.adversarial"][row]
    number = record.config["data"]["start"] + row
    return Example(
        row=number,
        label=record.examples["label"][row],
        kind=_kind(record, record.examples["label"][row]),
        note=note,
        clean=picture(saved["clean"][row], bounds),
        delta=signed_picture(delta),
        adversarial=picture(attacked, bounds),
        largest=float(delta.abs().max()),
        changed=int((delta != 0).sum()),
        verdicts=() if record.transforms else _verdicts(record, attack, row),
        seen=tuple(_seen(record, attack, row, r, attacked) for r in range(len(record.transforms))),
    )


def _kind(record: AttackRecord, label: int) -> str:
    name = record.metrics["classes"][label]
    return name if name == str(label) else f"{label} ({name})"


def _verdicts(record: AttackRecord, attack: str, row: int) -> tuple[Verdict, ...]:
    table = record.examples
    return tuple(
        Verdict(
            model=model,
            before=table[f"clean.predicted.{model}"][row],
            after=table[f"{attack}.predicted.{model}"][row],
            fooled=table[f"{attack}.fooled.{model}"][row],
            weight=table[f"{attack}.weight.{model}"][row],
            colour=colour(k),
        )
        for k, model in enumerate(record.models)
    )


def _seen(record: AttackRecord, attack: str, row: int, r: int, attacked: Tensor) -> Seen:
    transform = record.transforms[r]
    alone = len(record.models) == 1
    domains = [transform] if alone else [f"{model}/{transform}" for model in record.models]
    cells = [_cell(record, attack, row, domain, colour(r, TRANSFORM_COLOURS) if alone else colour(k))
             for k, domain in enumerate(domains)]  # fmt: skip
    return Seen(transform, _transformed(record, transform, attacked, row), tuple(cells))


def _cell(record: AttackRecord, attack: str, row: int, domain: str, shade: str) -> Cell:
    table = record.examples
    fooled = table[f"{attack}.fooled.{domain}"][row]
    shares = table.get(f"{attack}.success.{domain}")
    return Cell(
        float(fooled) if shares is None else shares[row], fooled, table[f"{attack}.weight.{domain}"][row], shade
    )


def _transformed(record: AttackRecord, name: str, image: Tensor, row: int) -> str | None:
    """Draw an image under a transformation of the library; None for one of the user's own code."""
    try:
        _, transform = named(record.config["transforms"][name])
    except ValueError:
        return None
    u = uniforms(DrawKey(record.config["attack"]["seed"]), image.new_tensor([row]).long(), transform.numbers)
    return picture(transform.apply(image[None], u)[0], shown_range(record))


def choose(record: AttackRecord, count: int) -> list[tuple[int, str]]:
    """Choose problems (images, or groups that share): half those that the last attack alone wins, a few that resist.

    Returns:
        Up to ``count`` pairs of the problem's number and what is to be said of it.
    """
    ours, other = record.attacks[-1], record.attacks[0]
    apart = in_target(record)
    kinds: dict[str, list[int]] = {"alone": [], "resists": [], "both": []}
    for number, (won, other_won) in enumerate(zip(_won(record, ours), _won(record, other), strict=True)):
        kinds["resists" if not won else "both" if other_won else "alone"].append(number)
    kinds = {kind: [n for n in found if n not in apart] for kind, found in kinds.items()} | {"before": sorted(apart)}
    some = whom(record).replace("every", "some")
    notes = {
        "alone": f"{ours} {beats(record)}, {other} does not",
        "both": f"{ours} {beats(record)}" if ours == other else f"{ours} and {other} both {beats(record, 2)}",
        "resists": f"{some} resists {ours}",
        "before": "" if record.target is None else f"in {target(record)} before the attack",
    }
    picked = [(number, "alone") for number in kinds["alone"][: count // 2]]
    picked += [(number, "resists") for number in kinds["resists"][: max(count // 6, 1)]]
    rest = [
        (n, kind) for kind in ("both", "alone", "resists", "before") for n in kinds[kind] if (n, kind) not in picked
    ]
    picked += rest[: count - len(picked)]
    order = list(notes)
    return [(number, notes[kind]) for number, kind in sorted(picked, key=lambda p: (order.index(p[1]), p[0]))]


def in_target(record: AttackRecord) -> set[int]:
    """Return the problems that do not count: those of which every domain is in the target class already."""
    if record.target is None:
        return set()
    columns = [v for name, v in record.examples.items() if name.startswith(f"{record.attacks[-1]}.already.")]
    size = 1 if record.groups is None else record.groups["size"]
    rows = [all(flags) for flags in zip(*columns, strict=True)]
    return {n for n in range(len(rows) // size) if all(rows[n * size : (n + 1) * size])}


def _won(record: AttackRecord, attack: str) -> list[bool]:
    size = 1 if record.groups is None else record.groups["size"]
    return record.examples[f"{attack}.fooled_all"][::size]
