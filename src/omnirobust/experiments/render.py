"""Write outcomes as Markdown: the paper's printed value beside ours, and every claim with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omnirobust.evaluation import Interval
from omnirobust.experiments.claims import Judgement
from omnirobust.experiments.ensembles import VARIANTS
from omnirobust.experiments.outcome import Outcome, letters_of
from omnirobust.experiments.spec import Key, Row

NONE = "–"


def markdown(outcome: Outcome, figures: Sequence[str] = ()) -> str:
    """Return one experiment as a Markdown section.

    Args:
        outcome: what came out.
        figures: links to its figures.
    """
    experiment = outcome.experiment
    counts = sorted({len(found) for found in outcome.measured.values()})
    missing = sum(outcome.images(row) < outcome.wanted for row in experiment.rows)
    steps = max((row.cell.steps for row in experiment.rows), default=0)
    parts = [
        f"## {experiment.name}: {experiment.title}",
        f"Test images: {_range(counts)}; steps: up to {steps}."
        + (f" **Not complete:** {missing} rows are to be measured." if missing else ""),
        *(f"![{experiment.title}]({link})" for link in figures),
    ]
    if experiment.kind == "accuracy":
        parts.append(_accuracy_table(outcome))
    elif experiment.kind == "sweep":
        parts.append(_sweep_table(outcome))
    else:
        parts.append(_summary_table(outcome))
    judgements = outcome.judgements()
    if judgements:
        note = "In brackets: the share of resamples of the images on which the claim holds."
        parts += [f"### {experiment.name}: the paper's claims", note, _claims_table(judgements)]
    if experiment.kind == "table":
        parts += [f"### {experiment.name}: every row", _detail_table(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def variants_list(variants: Iterable[str]) -> str:
    """Return what the versions of the attack mean, as a Markdown list."""
    return "\n".join(f"- **{name}**: {VARIANTS[name]}" for name in variants)


def _range(counts: Sequence[int]) -> str:
    if len(counts) < 2:
        return str(*counts) or "none"
    return f"{counts[0]} to {counts[-1]}, as each row says"


def _rows_by_key(outcome: Outcome) -> dict[Key, dict[str, Row]]:
    found: dict[Key, dict[str, Row]] = {}
    for row in outcome.experiment.rows:
        if outcome.images(row):
            found.setdefault(row.key, {})[row.variant] = row
    return found


def _summary_table(outcome: Outcome) -> str:
    """ASR_all of every row: printed, then one column a variant."""
    variants = outcome.variants
    head = ["norm", "weights", "printed", *variants, "paper: ours − printed"]
    lines = []
    for key, rows in _rows_by_key(outcome).items():
        printed = outcome.printed(key)
        cells = [_rate(outcome, rows.get(v)) for v in variants]
        known = printed is not None and printed.asr_all is not None
        shift = NONE
        if printed is not None and printed.asr_all is not None and "paper" in rows:
            shift = f"{100 * outcome.interval('paper', key).estimate - printed.asr_all:+.1f}"
        lines.append([*key[:2], f"{printed.asr_all:.2f}" if printed and known else NONE, *cells, shift])
    return "ASR_all in percent, with 95 % intervals.\n\n" + table(head, lines)


def _detail_table(outcome: Outcome) -> str:
    """Everything of every row: accuracies, ASR_avg, ASR_all, lift, the best iterate."""
    letters = max((letters_of(row) for row in outcome.experiment.rows), key=len)
    head = ["norm", "weights", "attack", *(f"Acc {m}" for m in letters), "ASR_avg", "ASR_all", "any iterate"]
    head += ["lift", "over average, points", "images"]
    lines = []
    for key, rows in _rows_by_key(outcome).items():
        printed = outcome.printed(key)
        if printed is not None:
            own = [_number(printed.accuracy.get(m)) for m in letters]
            rates = [_number(printed.asr_avg), _number(printed.asr_all), NONE, _signed(printed.lift, " %")]
            lines.append([*key[:2], "*printed*", *own, *rates, NONE, "10000"])
        for variant, row in rows.items():
            lines.append([*key[:2], variant, *_details(outcome, row, letters)])
    return table(head, lines)


def _details(outcome: Outcome, row: Row, letters: Sequence[str]) -> list[str]:
    own = outcome.measured[row.variant, row.key]
    kept = dict(zip(letters_of(row), (1 - own.fooled.double().mean(0)).tolist(), strict=True))
    whole = letters_of(row) == tuple(m.split("/")[-1].upper() for m in row.cell.models)
    gain = outcome.gain(row.variant, row.key)
    rates = outcome.rates(row.variant)
    return [
        *(_percent(kept.get(m)) for m in letters),
        _percent(float(own.fooled.double().mean())),
        _percent(outcome.interval(row.variant, row.key).estimate),
        _percent(float(own.any_iterate.double().mean())) if whole else NONE,
        NONE if gain is None else _signed(100 * rates.lift(*row.key), " %"),
        NONE if gain is None else _points(gain),
        str(len(own)),
    ]


def _accuracy_table(outcome: Outcome) -> str:
    head = ["model", "images are", "printed", "ours", "95 %", "ours − printed", "images"]
    lines = []
    for row in outcome.experiment.rows:
        printed = outcome.printed(row.key)
        if not outcome.images(row) or printed is None:
            continue
        miss = outcome.interval(row.variant, row.key)
        value, ours = printed.accuracy[row.key[0]], 100 * (1 - miss.estimate)
        band = f"{100 * (1 - miss.high):.2f} to {100 * (1 - miss.low):.2f}"
        lines.append([*row.key, f"{value:.2f}", f"{ours:.2f}", band, f"{ours - value:+.2f}", str(outcome.images(row))])
    return "Accuracy in percent, true labels.\n\n" + table(head, lines)


def _sweep_table(outcome: Outcome) -> str:
    variants = outcome.variants
    head = [outcome.experiment.sweeps, "of", "weights", *variants]
    rows = sorted(_rows_by_key(outcome).items(), key=lambda item: (item[0][0], item[0][1], _position(item[0][-1])))
    lines = [[key[-1], key[0], key[1], *(_rate(outcome, found.get(v)) for v in variants)] for key, found in rows]
    return "ASR_all in percent, with 95 % intervals.\n\n" + table(head, lines)


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
        return -1.0


def _rate(outcome: Outcome, row: Row | None) -> str:
    if row is None or not outcome.images(row):
        return NONE
    found = outcome.interval(row.variant, row.key)
    text = f"{100 * found.estimate:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return text if outcome.images(row) == outcome.wanted else f"{text}, {outcome.images(row)} images"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _signed(value: float | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:+.1f}{unit}"


def _points(gain: Interval) -> str:
    return f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
