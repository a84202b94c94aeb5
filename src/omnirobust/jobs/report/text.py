"""What is said about a finished attack, on the terminal and on the page alike."""

from __future__ import annotations

from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report import cautions
from omnirobust.jobs.report.breakdown import Breakdown, Member, breakdowns
from omnirobust.jobs.report.numbers import count as count
from omnirobust.jobs.report.numbers import percent as percent
from omnirobust.jobs.report.numbers import radius as radius

_MEASURES = {"target_success": ("Target", "target success"), "agreement": ("Agree", "agreement")}
"""What is counted beside accuracy: the head of its columns, and its name."""

CHOSEN = {"class": "of one class each", "random": "at random", "given": "as they were given"}
"""How images come into a group."""

_CLIPS = {
    "image": "each image plus the perturbation is clamped to the data range (clip image)",
    "intersection": "the perturbation keeps every image of its group within the data range (clip intersection)",
}


def title(record: AttackRecord) -> str:
    """Name the run: data, images, groups, norm, radius, steps."""
    data, attack, groups = record.config["data"], record.config["attack"], record.groups
    note = f" ({data['note']})" if data["note"] else ""
    images = f"{record.metrics['images']} {data['split']} images from {data['start']}"
    shared = (
        "" if groups is None else f" in {count(groups['count'], 'group')} of {groups['size']} {CHOSEN[groups['by']]}"
    )
    within = f" on {attack['mask']} values under the mask" if "mask" in attack else ""
    ball = f"{attack['norm']} eps {radius(attack['eps'])}{within}, {attack['steps']} steps"
    clip = "" if groups is None else f", clip {groups['clip']}"
    aim = "" if record.target is None else f", targeted at {target(record)}"
    aim = ", leaving own predictions" if record.measure == "agreement" else aim
    return f"{data['name']}{note}, {images}{shared}, {ball}{clip}{aim}"


def headline(record: AttackRecord) -> str:
    """Say in one line what is attacked at once."""
    models, transforms, groups = record.models, record.transforms, record.groups
    parts = [] if groups is None else [f"for {count(groups['size'], 'image')}"]
    if len(models) > 1 or (groups is None and not transforms):
        parts.append(f"against {count(len(models), 'model')}")
    if transforms:
        parts.append(f"under {count(len(transforms), 'transformation')}")
    domains = "at once" if len(parts) == 1 else f"at once: {len(record.metrics['domains'])} domains"
    aim = "" if record.target is None else f", targeted at {target(record)}"
    return f"One perturbation {' '.join(parts)} {domains}{aim}"


def target(record: AttackRecord) -> str:
    """Name the class to reach: "class 3", or "class 3 (cat)" where classes have names."""
    assert record.target is not None
    number, name = str(record.target["class"]), record.target["name"]
    return f"class {number}" if name == number else f"class {number} ({name})"


def measure(record: AttackRecord) -> str:
    """Name what the attack drives: "target success", "agreement" with clean predictions, or "accuracy"."""
    return "accuracy" if record.measure is None else _MEASURES[record.measure][1]


def column(record: AttackRecord) -> str | None:
    """Return the head of the columns of what is counted beside accuracy; None if nothing is."""
    return None if record.measure is None else _MEASURES[record.measure][0]


def legend(record: AttackRecord) -> str:
    """Say what the columns beside accuracy count; empty without any."""
    if record.target is not None:
        return f"Target: taken for {target(record)}, of what was not before"
    return "Agree: still what the model said of the clean image" if record.measure == "agreement" else ""


def amount(record: AttackRecord, change: float) -> str:
    """Write the largest change of a perturbation: as the radius was typed where it is that, else to three digits."""
    eps = record.config["attack"]["eps"]
    return radius(eps) if abs(change - eps) <= 1e-5 * eps else f"{change:.3g}"


def beats(record: AttackRecord, number: int = 1) -> str:
    """Say what a perturbation does that succeeds: "fools every model", or "brings every model to class 3"."""
    verb = "fool" if record.target is None else "bring"
    return f"{verb}{'s' if number == 1 else ''} {whom(record)}{goal(record)}"


def goal(record: AttackRecord) -> str:
    """Say where a targeted attack brings models to: " to class 3"; empty if it is untargeted."""
    return "" if record.target is None else f" to {target(record)}"


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


def definition(record: AttackRecord) -> str:
    """Say what ``record.rate`` is, in the words that stand below it."""
    of = "" if record.target is None else ", of those that count,"
    return f"share of {unit(record)}s{of} whose one perturbation {beats(record)}"


def definitions(record: AttackRecord) -> str:
    """Say what the rates mean."""
    rate, ensemble = record.rate, record.task == "ensemble"
    head = "" if ensemble else f"A domain is one {domain(record)}. "
    return (
        f"{head}{rate}: {definition(record)}. ASR_avg: mean share over the {'models' if ensemble else 'domains'}. "
        f"Lift: ({rate} of min-max \u2212 {rate} of the average) / {rate} of the average."
    )


def won(record: AttackRecord) -> str:
    """Name what has happened to a domain on which the attack succeeds."""
    return "fooled" if record.target is None else "reached"


def notes(record: AttackRecord) -> list[str]:
    """Return the sentences below the table: the comparison, what was saved, transfer, and what to beware of."""
    return [
        *cautions.saturated(record),
        *cautions.targets(record),
        *cautions.agreement(record),
        *_comparison(record),
        *_of_all_domains(record),
        *_hardest(record),
        *_groups(record),
        *_draws(record),
        *_random_accuracies(record),
        *_saved(record),
        *_transfer(record),
        *_told(record),
        *cautions.missing(record.metrics),
        *cautions.one_class(record.metrics.get("one_class", {})),
        *cautions.guessing(
            record.metrics["clean_accuracy"], record.metrics["images"], record.metrics.get("classes", [])
        ),
    ]


def _factors(record: AttackRecord) -> list[str]:
    return ["models"] if record.task == "ensemble" else list(record.axes)


def _comparison(record: AttackRecord) -> list[str]:
    c = record.metrics["comparison"]
    if c is None:
        return []
    low, high = percent(c["low"], sign=True), percent(c["high"], sign=True)
    one = unit(record)
    said = [
        f"{c['of']} minus {c['with']}, {one} by {one}: {percent(c['difference'], sign=True)} points of {record.rate}, "
        f"{100 * c['level']:g} % confidence interval {low} to {high}. "
        f"{count(c['only_first'], one)} {beats(record, c['only_first'])} under {c['of']} alone, "
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
    does = "fools" if record.target is None else f"brings to {target(record)}"
    return [f"Of {domains} domains a perturbation {does} {', '.join(said)}."]


def _hardest(record: AttackRecord) -> list[str]:
    if record.task == "ensemble":
        return []
    said = [_hardest_of(record, table, table.hardest) for table in breakdowns(record) if table.hardest is not None]
    return [f"Hardest under {record.attacks[-1]}: {'; '.join(said)}."] if said else []


def _hardest_of(record: AttackRecord, table: Breakdown, hardest: Member) -> str:
    heaviest = table.heaviest
    weight = "" if hardest.weight is None else f", weight {hardest.weight:.2f}"
    rate = (hardest.measured or hardest.accuracies)[-1]
    said = f"{table.kind} {hardest.name} ({measure(record)} {percent(rate)} %{weight})"
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
    seed = "" if groups["by"] == "given" else f", seed {groups['seed']}"
    return [f"Groups of {groups['size']} {CHOSEN[groups['by']]}{seed}; {_CLIPS[groups['clip']]}. {filled}."]


def _draws(record: AttackRecord) -> list[str]:
    draws = record.metrics.get("draws", 1)
    if draws == 1:
        return []
    a_step = count(record.config.get("samples", 1), "draw")
    return [
        f"Random models or transformations: {a_step} a step; success is judged on {draws} fresh draws. What beats all "
        "does so on every one of them; ASR_avg and accuracies are means over them. The classes shown are those of one "
        "draw.",
    ]


def _random_accuracies(record: AttackRecord) -> list[str]:
    """Say within what random models' accuracies lie, over images and draws."""
    metrics = record.metrics
    rates = {"clean": (metrics["clean_accuracy"], metrics.get("clean_accuracy_interval", {}))} | {
        f"under {a}": (r["transfer_accuracy"], r.get("transfer_accuracy_interval", {}))
        for a, r in metrics["attacks"].items()
    }
    return [
        f"Accuracy of {name}, which is random, is a mean over fresh draws: "
        + ", ".join(
            f"{percent(of[name])} % {how} ({percent(between[name][0])} to {percent(between[name][1])})"
            for how, (of, between) in rates.items()
            if name in between
        )
        + ", with 95 % confidence intervals over images and draws."
        for name in rates["clean"][1]
    ]


def _saved(record: AttackRecord) -> list[str]:
    lines = []
    anew = ", on other draws" if record.metrics.get("draws", 1) > 1 else ""
    for name, result in record.metrics["attacks"].items():
        r = result["recheck"]
        levels = r["asr_all_uint8"]
        rounded = "" if levels is None else f", {percent(levels)} % rounded to 8 bits a pixel"
        lines.append(
            f"Saved and read back, {name}: {percent(r['asr_all'])} % {beats(record, 2)} in float{anew}{rounded}; "
            f"{percent(r['feasible'])} % lie in the ball and the data range."
        )
    return lines


def _transfer(record: AttackRecord) -> list[str]:
    metrics = record.metrics
    return [
        f"Not attacked, {name}: accuracy {percent(metrics['clean_accuracy'][name])} % clean, "
        + ", ".join(f"{percent(r['transfer_accuracy'][name])} % under {a}" for a, r in metrics["attacks"].items())
        + f".{_transfer_targets(record, name)}"
        for name in metrics["transfer"]
    ]


def _transfer_targets(record: AttackRecord, name: str) -> str:
    if record.target is None:
        return ""
    rates = {a: r["transfer_target_success"][name] for a, r in record.metrics["attacks"].items()}
    said = ", ".join(f"{percent(rate)} % under {a}" for a, rate in rates.items())
    return f" Taken for {target(record)}, of what was not before: {said}."


def _told(record: AttackRecord) -> list[str]:
    """Return the notes of the attacks' results; those that only some of them have, with the attack's name."""
    of = {name: result.get("notes", []) for name, result in record.metrics["attacks"].items()}
    every = dict.fromkeys(note for told in of.values() for note in told)
    return [
        note if len(said) == len(of) else f"{', '.join(said)}: {note}"
        for note in every
        if (said := [name for name, told in of.items() if note in told])
    ]
