"""What is said about a finished attack, on the terminal and on the page alike."""

from __future__ import annotations

from math import sqrt

from omnirobust.jobs.record import AttackRecord
from omnirobust.report.breakdown import Breakdown, Member, breakdowns

_BLIND = 0.005
"""Share of images without any gradient from which on it is worth a sentence."""

_GUESSING = "Before any attack right no more often than guessing would be"

_SHOWN = 12
"""Classes whose numbers a sentence lists."""

_CLIPS = {
    "image": "each image plus the perturbation is clamped to the data range (clip image)",
    "intersection": "the perturbation keeps every image of its group within the data range (clip intersection)",
}


def percent(rate: float | None, *, sign: bool = False) -> str:
    """Format a rate in per cent, to two decimals as the paper's tables do; "-" for None."""
    if rate is None:
        return "-"
    return f"{100 * rate:+.2f}" if sign else f"{100 * rate:.2f}"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def title(record: AttackRecord) -> str:
    """Name the run: data, images, groups, norm, radius, steps."""
    data, attack, groups = record.config["data"], record.config["attack"], record.groups
    note = f" ({data['note']})" if data["note"] else ""
    images = f"{record.metrics['images']} {data['split']} images from {data['start']}"
    shared = "" if groups is None else f" in {count(groups['count'], 'group')} of {groups['size']} {_chosen(groups)}"
    ball = f"{attack['norm']} eps {attack['eps']:g}, {attack['steps']} steps"
    clip = "" if groups is None else f", clip {groups['clip']}"
    return f"{data['name']}{note}, {images}{shared}, {ball}{clip}"


def headline(record: AttackRecord) -> str:
    """Say in one line what is attacked at once."""
    models, transforms, groups = record.models, record.transforms, record.groups
    parts = [] if groups is None else [f"for {count(groups['size'], 'image')}"]
    if len(models) > 1 or (groups is None and not transforms):
        parts.append(f"against {count(len(models), 'model')}")
    if transforms:
        parts.append(f"under {count(len(transforms), 'transformation')}")
    domains = "at once" if len(parts) == 1 else f"at once: {len(record.metrics['domains'])} domains"
    return f"One perturbation {' '.join(parts)} {domains}"


def unit(record: AttackRecord) -> str:
    """Name what has a perturbation of its own: "image" or "group"."""
    return "image" if record.groups is None else "group"


def whom(record: AttackRecord) -> str:
    """Name what a perturbation is to fool: "every model", or "every domain"."""
    return "every model" if record.task == "ensemble" else "every domain"


def domain(record: AttackRecord) -> str:
    """Say what a domain is: "model", or "combination of model, transformation, image"."""
    factors = [{"models": "model", "transforms": "transformation", "examples": "image"}[a] for a in _factors(record)]
    return factors[0] if len(factors) == 1 else f"combination of {', '.join(factors)}"


def notes(record: AttackRecord) -> list[str]:
    """Return the sentences below the table: the comparison, what was saved, transfer, and what to beware of."""
    return [
        *_comparison(record),
        *_of_all_domains(record),
        *_hardest(record),
        *_groups(record),
        *_draws(record),
        *_saved(record),
        *_transfer(record),
        *_told(record),
        *_blind(record),
        *_guessing(record),
    ]


def _factors(record: AttackRecord) -> list[str]:
    return ["models"] if record.task == "ensemble" else list(record.axes)


def _chosen(groups: dict[str, object]) -> str:
    return "of one class" if groups["by"] == "class" else "at random"


def _comparison(record: AttackRecord) -> list[str]:
    c = record.metrics["comparison"]
    if c is None:
        return []
    low, high = percent(c["low"], sign=True), percent(c["high"], sign=True)
    one, everything = unit(record), whom(record)
    said = [
        f"{c['of']} minus {c['with']}, {one} by {one}: {percent(c['difference'], sign=True)} points of {record.rate}, "
        f"{100 * c['level']:g} % confidence interval {low} to {high}. "
        f"{count(c['only_first'], one)} fool{'s' if c['only_first'] == 1 else ''} {everything} under {c['of']} alone, "
        f"{c['only_second']} under {c['with']} alone."
    ]
    if record.task != "ensemble":
        avg = c["asr_avg"]
        low, high = percent(avg["low"], sign=True), percent(avg["high"], sign=True)
        said.append(f"The same of ASR_avg: {percent(avg['difference'], sign=True)} points, {low} to {high}.")
    return said


def _of_all_domains(record: AttackRecord) -> list[str]:
    """Say how far perturbations come where none may beat every domain of a product."""
    if len(_factors(record)) < 2:
        return []
    domains, attacks = len(record.metrics["domains"]), record.metrics["attacks"].items()
    said = [f"{r['mean_fooled']:.1f} in the mean and {r['most_fooled']} at most under {n}" for n, r in attacks]
    return [f"Of {domains} domains a perturbation fools {', '.join(said)}."]


def _hardest(record: AttackRecord) -> list[str]:
    if record.task == "ensemble":
        return []
    said = [_hardest_of(table, table.hardest) for table in breakdowns(record) if table.hardest is not None]
    return [f"Hardest under {record.attacks[-1]}: {'; '.join(said)}."] if said else []


def _hardest_of(table: Breakdown, hardest: Member) -> str:
    heaviest = table.heaviest
    weight = "" if hardest.weight is None else f", weight {hardest.weight:.2f}"
    said = f"{table.kind} {hardest.name} (accuracy {percent(hardest.accuracies[-1])} %{weight})"
    if heaviest is None or heaviest.weight is None or hardest.weight is None:
        return said
    if f"{heaviest.weight:.2f}" == f"{hardest.weight:.2f}":
        return said
    return f"{said}, while {heaviest.name} has the largest weight ({heaviest.weight:.2f})"


def _groups(record: AttackRecord) -> list[str]:
    groups = record.groups
    if groups is None:
        return []
    left = groups["left_out"]
    filled = "Every image is in a group" if not left else f"{count(left, 'image')} that filled no group left out"
    by = "by class" if groups["by"] == "class" else "at random"
    return [f"Groups of {groups['size']} {by}, seed {groups['seed']}; {_CLIPS[groups['clip']]}. {filled}."]


def _draws(record: AttackRecord) -> list[str]:
    draws = record.metrics.get("draws", 1)
    if draws == 1:
        return []
    return [
        f"Random transformations: {count(record.config['samples'], 'draw')} a step; success is judged on {draws} fresh "
        "draws. ASR_gp counts what fools on every one of them; ASR_avg and accuracies are means over them.",
    ]


def _saved(record: AttackRecord) -> list[str]:
    lines = []
    anew = ", on other draws" if record.metrics.get("draws", 1) > 1 else ""
    for name, result in record.metrics["attacks"].items():
        r = result["recheck"]
        lines.append(
            f"Saved and read back, {name}: {percent(r['asr_all'])} % fool {whom(record)} in float{anew}, "
            f"{percent(r['asr_all_uint8'])} % rounded to 8 bits a pixel; "
            f"{percent(r['feasible'])} % lie in the ball and the data range."
        )
    return lines


def _transfer(record: AttackRecord) -> list[str]:
    metrics = record.metrics
    return [
        f"Not attacked, {name}: accuracy {percent(metrics['clean_accuracy'][name])} % clean, "
        + ", ".join(f"{percent(r['transfer_accuracy'][name])} % under {a}" for a, r in metrics["attacks"].items())
        + "."
        for name in metrics["transfer"]
    ]


def _guessing(record: AttackRecord) -> list[str]:
    """Name the models that are right no more often than guessing is, and the order of classes that may explain it."""
    classes, images = record.metrics.get("classes", []), record.metrics["images"]
    if len(classes) < 2:
        return []
    chance = 1 / len(classes)
    most = chance + 2 * sqrt(chance * (1 - chance) / images)
    found = [f"{n} {percent(a)} %" for n, a in record.metrics["clean_accuracy"].items() if a <= most]
    if not found:
        return []
    if all(name == str(number) for number, name in enumerate(classes)):
        return [f"{_GUESSING}: {', '.join(found)}. Are their classes in the order of the labels?"]
    order = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:_SHOWN]))
    more = ", ..." if len(classes) > _SHOWN else ""
    return [f"{_GUESSING}: {', '.join(found)}. Is this the order of their classes: {order}{more}?"]


def _told(record: AttackRecord) -> list[str]:
    """Return the notes of the attacks' results; those that only some of them have, with the attack's name."""
    of = {name: result.get("notes", []) for name, result in record.metrics["attacks"].items()}
    every = dict.fromkeys(note for told in of.values() for note in told)
    return [
        note if len(said) == len(of) else f"{', '.join(said)}: {note}"
        for note in every
        if (said := [name for name, told in of.items() if note in told])
    ]


def _blind(record: AttackRecord) -> list[str]:
    last = record.metrics["attacks"][record.attacks[-1]]
    one, kind = unit(record), "model" if record.task == "ensemble" else "domain"
    return [
        f"The input gradient of {kind} {name} is zero on {percent(share)} % of the {one}s at the start: "
        "the attack begins blind there."
        for name, share in last["zero_gradient"].items()
        if share >= _BLIND
    ]
