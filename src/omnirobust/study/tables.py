"""Write outcomes as Markdown: the printed value beside ours, and every claim with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from omnirobust.evaluation import Interval
from omnirobust.study.claims import Judgement
from omnirobust.study.outcome import Outcome
from omnirobust.study.spec import Key, Printed, Row
from omnirobust.study.store import Measured

NONE = "–"


def markdown(outcome: Outcome, figures: Sequence[str] = ()) -> str:
    """Return one experiment as a Markdown section.

    Args:
        outcome: what came out.
        figures: links to its figures.
    """
    experiment = outcome.experiment
    counts = sorted({outcome.images(row) for row in experiment.rows} - {0})
    steps = max((row.cell.steps for row in experiment.rows), default=0)
    parts = [
        f"## {experiment.name}: {experiment.title}",
        f"Test images: {_range(counts)}; steps: up to {steps}."
        + _left(outcome)
        + (_to_be_trained(outcome) if outcome.untrained else ""),
        experiment.note,
        *(f"![{experiment.title}]({link})" for link in figures),
        (experiment.table or _TABLES[experiment.kind])(outcome),
    ]
    judgements = outcome.judgements
    if judgements:
        note = "In brackets: the share of resamples on which the claim holds."
        whose = f"{experiment.claimed_by} claims".strip()
        parts += [f"### {experiment.name}: {whose}", note, _claims_table(judgements)]
    if experiment.kind in ("table", "groups") and outcome.measured:
        parts += [f"### {experiment.name}: every row", _detail_table(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _left(outcome: Outcome) -> str:
    begun = outcome.begun
    said = [f"{outcome.missing - begun} rows are to be measured"] if outcome.missing > begun else []
    said += [f"{begun} with fewer images than the budget's {outcome.wanted:,}"] if begun else []
    return f" **Not complete:** {'; '.join(said)}." if said else ""


def _to_be_trained(outcome: Outcome) -> str:
    return f" **To be trained:** {', '.join(outcome.untrained)}. Each by `omnirobust zoo train NAME`."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def versions_list(versions: Mapping[str, str]) -> str:
    """Return what the versions of the attack mean, as a Markdown list."""
    return "\n".join(f"- **{name}**: {meaning}" for name, meaning in versions.items())


def _range(counts: Sequence[int]) -> str:
    if len(counts) < 2:
        return str(*counts) or "none"
    return f"{counts[0]} to {counts[-1]}, as each row says"


def _rows_by_key(outcome: Outcome, *, waiting: bool = False) -> dict[Key, dict[str, Row]]:
    """Return the rows that were measured, and where ``waiting`` those whose models are to be trained."""
    found: dict[Key, dict[str, Row]] = {}
    for row in outcome.experiment.rows:
        if outcome.images(row) or (waiting and outcome.waits(row)):
            found.setdefault(row.key, {})[row.variant] = row
    return found


def _summary_table(outcome: Outcome) -> str:
    """ASR_all (of groups, ASR_gp) of every row: printed, then one column a variant."""
    first = [row.variant for row in outcome.experiment.rows if outcome.waits(row)][:1]  # its cells say so
    shown = {*first, *outcome.variants} or {*outcome.experiment.variants[:1]}
    variants = [v for v in outcome.experiment.variants if v in shown]
    held = outcome.held
    head = [*outcome.experiment.heads, "printed", *variants, f"{held}: ours − printed"]
    lines = []
    for key, rows in _rows_by_key(outcome, waiting=True).items():
        printed = outcome.printed(key)
        cells = [_rate(outcome, rows.get(v)) for v in variants]
        known = printed is not None and printed.asr_all is not None
        shift = NONE
        if printed is not None and printed.asr_all is not None and (held, key) in outcome.measured:
            shift = f"{100 * outcome.interval(held, key).estimate - printed.asr_all:+.1f}"
        lines.append([*key, f"{printed.asr_all:.2f}" if printed and known else NONE, *cells, shift])
    return f"{_joint(outcome)} in percent, with 95 % intervals.\n\n" + table(head, lines)


def _joint(outcome: Outcome) -> str:
    tasks = any(row.attack.task is not None for row in outcome.experiment.rows)
    return "ASR_gp" if tasks else "ASR_all"


class _Column(NamedTuple):
    """A column of the table of every row: its head, and its cell of a printed row and of a measured one."""

    head: str
    printed: Callable[[Printed, Row], str]
    ours: Callable[[Row, Measured], str]


def _detail_columns(outcome: Outcome) -> list[_Column]:
    """Return everything of a row: accuracies, ASR_avg, ASR_all, the best iterate, lift, how many images."""
    groups, joint = outcome.experiment.kind == "groups", _joint(outcome)
    letters = () if groups else max((row.cell.columns for row in outcome.experiment.rows), key=len)

    def accuracy(m: str) -> _Column:
        return _Column(
            f"Acc {m}", lambda p, _: _number(p.accuracy.get(m)), lambda row, _: _percent(_kept(outcome, row).get(m))
        )

    def lifted(row: Row, _: Measured) -> str:
        lift = outcome.lift(row.variant, row.key)
        return NONE if lift is None else _signed(100 * lift, " %")

    def gained(row: Row, _: Measured) -> str:
        gain = outcome.gain(row.variant, row.key)
        return NONE if gain is None else _points(gain)

    def joined(row: Row, _: Measured) -> str:
        return _percent(outcome.interval(row.variant, row.key).estimate)

    any_iterate = _Column("any iterate", lambda *_: NONE, lambda row, _: _any_iterate(outcome, row))
    count = "groups" if groups else "images"
    return [
        *(accuracy(m) for m in letters),
        _Column("ASR_avg", lambda p, _: _number(p.asr_avg), lambda _, own: _percent(float(own.fooled.double().mean()))),
        _Column(joint, lambda p, _: _number(p.asr_all), joined),
        *([any_iterate] if joint == "ASR_all" else []),
        _Column("lift", lambda p, _: _signed(p.lift, " %"), lifted),
        _Column("over average, points", lambda *_: NONE, gained),
        _Column(count, lambda p, row: str(p.images // row.cell.group), lambda _, own: str(len(own))),
    ]


def _detail_table(outcome: Outcome) -> str:
    columns = _detail_columns(outcome)
    lines = []
    for key, rows in _rows_by_key(outcome).items():
        printed = outcome.printed(key)
        if printed is not None:
            lines.append([*key, "*printed*", *(c.printed(printed, next(iter(rows.values()))) for c in columns)])
        for variant, row in rows.items():
            own = outcome.measured[variant, key]
            lines.append([*key, variant, *(c.ours(row, own) for c in columns)])
    return table([*outcome.experiment.heads, "attack", *(c.head for c in columns)], lines)


def _any_iterate(outcome: Outcome, row: Row) -> str:
    own = outcome.measured[row.variant, row.key]
    return _percent(float(own.any_iterate.double().mean())) if row.attack.judged == row.attack.models else NONE


def _accuracy_table(outcome: Outcome) -> str:
    head = [*outcome.experiment.heads, "printed", "ours", "95 %", "ours − printed", "images"]
    lines = []
    for row in outcome.experiment.rows:
        if not outcome.images(row):
            continue
        printed, miss = outcome.printed(row.key), outcome.interval(row.variant, row.key)
        value, ours = None if printed is None else printed.accuracy.get(row.cell.columns[0]), 100 * (1 - miss.estimate)
        band = f"{100 * (1 - miss.high):.2f} to {100 * (1 - miss.low):.2f}"
        shift = NONE if value is None else f"{ours - value:+.2f}"
        lines.append([*row.key, _number(value), f"{ours:.2f}", band, shift, str(outcome.images(row))])
    return "Accuracy in percent, true labels.\n\n" + table(head, lines)


def _sweep_table(outcome: Outcome) -> str:
    """ASR_all at every point: the curves one after the other, each in the order of its numbers."""
    variants = outcome.variants
    printed = outcome.experiment.printed
    head = [outcome.experiment.sweeps, *outcome.experiment.heads, *(["printed"] if printed else []), *variants]
    rows = sorted(_rows_by_key(outcome).items(), key=lambda item: (item[0][:-1], _position(item[0][-1])))
    lines = [
        [
            key[-1],
            *key[:-1],
            *([_said(printed.get(key))] if printed else []),
            *(_rate(outcome, found.get(v)) for v in variants),
        ]
        for key, found in rows
    ]
    return "ASR_all in percent, with 95 % intervals.\n\n" + table(head, lines)


def _said(printed: Printed | None) -> str:
    return _number(None if printed is None else printed.asr_all)


def _weights_table(outcome: Outcome) -> str:
    """What the weights come to: printed, then one column a variant."""
    printed = outcome.experiment.printed_statistics
    ours = {variant: outcome.statistics(variant) for variant in outcome.variants}
    lines = [
        [s.name, s.kind, _number(printed.get(s.name)), *(_band(found.get(s.name)) for found in ours.values())]
        for s in outcome.experiment.statistics
        if any(s.name in found for found in ours.values())
    ]
    said = "Spearman correlations, and shares of the groups whose heaviest image is also the other column's largest."
    return said + "\n\n" + table(["of", "is a", "printed", *ours], lines)


def _robustness_table(outcome: Outcome) -> str:
    """The accuracy of every trained model: clean, under each threat, and under all of them at once."""
    columns = max((row.cell.columns for row in outcome.experiment.rows), key=len)
    head = [*outcome.experiment.heads, "training", *columns, "all at once", "95 %", "images"]
    lines = []
    for key, rows in _rows_by_key(outcome).items():
        printed = outcome.printed(key)
        if printed is not None:
            values = [_number(printed.accuracy.get(name)) for name in columns]
            lines.append([*key, "*printed*", *values, NONE, NONE, str(printed.images)])
        for variant, row in rows.items():
            found = outcome.robust(variant, key)
            band = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
            kept = _kept(outcome, row)
            values = [_percent(kept.get(name)) for name in columns]
            lines.append([*key, variant, *values, _percent(found.estimate), band, str(outcome.images(row))])
    return "Accuracy in percent.\n\n" + table(head, lines)


def _kept(outcome: Outcome, row: Row) -> dict[str, float]:
    own = outcome.measured[row.variant, row.key]
    return dict(zip(row.cell.columns, (1 - own.fooled.double().mean(0)).tolist(), strict=True))


def _band(found: Interval | None) -> str:
    return NONE if found is None else f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def _claims_table(judgements: Sequence[Judgement]) -> str:
    """One line a claim: its verdict on each variant, and the numbers of the first."""
    variants = list(dict.fromkeys(j.variant for j in judgements))
    lines = []
    for claim in dict.fromkeys(j.claim for j in judgements):
        found = {j.variant: j for j in judgements if j.claim is claim}
        lines.append([claim.text, *(_verdict(found.get(v)) for v in variants), found[variants[0]].shown or NONE])
    return table(["claim", *variants, f"our numbers ({variants[0]})"], lines)


def _verdict(found: Judgement | None) -> str:
    if found is None or found.support is None:
        return NONE
    return f"**{found.verdict}** ({100 * found.support:.0f} %)"


def _position(point: str) -> float:
    try:
        return float(point)
    except ValueError:
        return -inf


def _rate(outcome: Outcome, row: Row | None) -> str:
    if row is None or not outcome.images(row):
        return "to be trained" if row is not None and outcome.waits(row) else NONE
    found = outcome.interval(row.variant, row.key)
    text = f"{100 * found.estimate:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return text if outcome.whole(row) else f"{text}, {outcome.images(row)} images"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _signed(value: float | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:+.1f}{unit}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


_TABLES: dict[str, Callable[[Outcome], str]] = {
    "table": _summary_table,
    "groups": _summary_table,
    "accuracy": _accuracy_table,
    "sweep": _sweep_table,
    "weights": _weights_table,
    "robustness": _robustness_table,
}
"""Kind of experiment to its first table."""
