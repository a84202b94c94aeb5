"""Tables of finished attacks on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from omnirobust.jobs.records import AttackRecord
    from omnirobust.jobs.report.breakdown import Breakdown
    from omnirobust.jobs.report.compare import Compared


def show_attack(record: AttackRecord) -> None:
    """Print accuracies, success, weights, lift, the paired difference, what was saved, and transfer."""
    from rich.console import Console

    from omnirobust.jobs.report.breakdown import breakdowns
    from omnirobust.jobs.report.happened import happened
    from omnirobust.jobs.report.text import notes

    console = Console(markup=False)
    wide = _attack_table(record) if record.task == "ensemble" else None
    if wide is not None and _fits(wide, console):
        console.print(wide)
    else:  # a row a model: cut to the terminal, many columns would show no number whole
        console.print(_success_table(record))
        for breakdown in breakdowns(record):
            console.print(_members_table(record, breakdown))
    for line in (happened(record), *notes(record)):
        console.print(line, soft_wrap=True, highlight=False)


def show_norms(records: Sequence[AttackRecord]) -> None:
    """Print the form of the paper's Table 1: a row for each norm and rule."""
    from rich.console import Console
    from rich.table import Table

    from omnirobust.jobs.report.numbers import percent, radius

    models = records[0].models
    table = Table(
        title=f"{records[0].config['data']['name']}, {records[0].metrics['images']} images: accuracy and success, %"
    )
    for column in ("norm", "eps", "attack"):
        table.add_column(column)
    for column in (*(f"Acc_{name.upper()}" for name in models), "ASR_all", "Lift"):
        table.add_column(column, justify="right")
    for record in records:
        attack, comparison = record.config["attack"], record.metrics["comparison"]
        for name, result in record.metrics["attacks"].items():
            first = name == record.attacks[0]
            lifted = "-" if first or comparison is None else percent(comparison["lift"], sign=True)
            accuracies = [percent(result["accuracy"][m]) for m in models]
            heading = (attack["norm"], radius(attack["eps"])) if first else ("", "")
            table.add_row(*heading, name, *accuracies, percent(result["asr_all"]), lifted, end_section=not first)
    Console(markup=False).print(table)


def show_comparison(compared: Compared) -> None:
    """Print the measures of two runs, how they differ, and in which settings the runs do."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from omnirobust.jobs.report.text import percent

    table = Table(title=f"{compared.names[1]} against {compared.names[0]}", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("measure", *compared.names, "difference", "interval", "verdict"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for line in compared.lines:
        found = None if line.paired is None else line.paired.difference
        interval = "-" if found is None else f"{percent(found.low, sign=True)} to {percent(found.high, sign=True)}"
        rates = (percent(line.first), percent(line.second), percent(line.second - line.first, sign=True))
        table.add_row(line.name, *rates, interval, line.verdict)
    console = Console(markup=False)
    console.print(table)
    differing = [f"{key}: {first}, then {second}" for key, first, second in compared.settings]
    for text in [*compared.notes, *(["Settings that differ:", *differing] if differing else ["Same settings."])]:
        console.print(text, soft_wrap=True, highlight=False)


def _fits(table: Table, console: Console) -> bool:
    """Say whether no cell of the table must be cut or broken."""
    from rich.measure import Measurement

    unbounded = console.options.update(max_width=10_000)
    return Measurement.get(console, unbounded, table).maximum <= console.width


def _attack_table(record: AttackRecord) -> Table:
    from rich import box
    from rich.table import Table

    from omnirobust.jobs.report.text import column, legend, percent, title

    models, metrics, measured = record.models, record.metrics, column(record)
    table = Table(title=title(record), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    said = "Accuracy and success in %; w: mean weight of each model at the returned perturbation."
    table.caption = f"{said} {legend(record)}." if measured else said
    table.add_column("attack", no_wrap=True)
    others = [f"{measured} {name}" for name in models] if measured else []
    for head in (*(f"Acc {name}" for name in models), *others, "ASR_all", "Lift", *(f"w {name}" for name in models)):
        table.add_column(head, justify="right")
    before = ["100.00" if record.measure == "agreement" else ""] * len(others)
    table.add_row("none", *(percent(metrics["clean_accuracy"][name]) for name in models), *before)
    for name, result in metrics["attacks"].items():
        lifted = "-" if name == record.attacks[0] else percent(metrics["comparison"]["lift"], sign=True)
        rates = [percent(result[key][m]) for key in ("accuracy", record.measure) if key is not None for m in models]
        weights = [f"{result['mean_weights'][m]:.2f}" for m in models]
        table.add_row(name, *rates, percent(result["asr_all"]), lifted, *weights)
    return table


def _success_table(record: AttackRecord) -> Table:
    from rich import box
    from rich.table import Table

    from omnirobust.jobs.report.text import headline, percent, title

    table = Table(title=f"{headline(record)}\n{title(record)}", box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption = f"Success in %; interval: 95 % confidence, of {record.rate}."
    table.add_column("attack", no_wrap=True)
    for column in ("ASR_avg", record.rate, "interval", "Lift"):
        table.add_column(column, justify="right")
    for name, result in record.metrics["attacks"].items():
        lifted = "-" if name == record.attacks[0] else percent(record.metrics["comparison"]["lift"], sign=True)
        low, high = (percent(end) for end in result["asr_all_interval"])
        table.add_row(name, percent(result["asr_avg"]), percent(result["asr_all"]), f"{low} to {high}", lifted)
    return table


def _members_table(record: AttackRecord, breakdown: Breakdown) -> Table:
    from rich import box
    from rich.table import Table

    from omnirobust.jobs.report.text import column, legend, percent

    table, measured = Table(box=box.SIMPLE_HEAD, pad_edge=False), column(record)
    weighed = breakdown.heaviest is not None
    said = f"Accuracy in %; w: mean weight, {record.attacks[-1]}." if weighed else "Accuracy in %."
    table.caption = f"{said} {legend(record)}." if measured else said
    table.add_column(breakdown.kind, no_wrap=True)
    others = [f"{measured} {name}" for name in record.attacks] if measured else []
    for head in ("Acc clean", *(f"Acc {name}" for name in record.attacks), *others, *(["w"] if weighed else [])):
        table.add_column(head, justify="right")
    for member in breakdown.members:
        weight = [] if member.weight is None else [f"{member.weight:.3f}"]
        rates = [percent(rate) for rate in (member.clean, *member.accuracies, *member.measured)]
        table.add_row(member.name, *rates, *weight)
    return table
