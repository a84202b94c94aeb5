"""What is said about a finished attack, on the terminal and on the page alike."""

from __future__ import annotations

from omnirobust.jobs.record import AttackRecord

_BLIND = 0.005
"""Share of images without any gradient from which on it is worth a sentence."""


def percent(rate: float | None, *, sign: bool = False) -> str:
    """Format a rate in per cent, to two decimals as the paper's tables do; "-" for None."""
    if rate is None:
        return "-"
    return f"{100 * rate:+.2f}" if sign else f"{100 * rate:.2f}"


def title(record: AttackRecord) -> str:
    """Name the run: data, images, norm, radius, steps."""
    data, attack = record.config["data"], record.config["attack"]
    note = f" ({data['note']})" if data["note"] else ""
    images = f"{record.metrics['images']} {data['split']} images from {data['start']}"
    return f"{data['name']}{note}, {images}, {attack['norm']} eps {attack['eps']:g}, {attack['steps']} steps"


def notes(record: AttackRecord) -> list[str]:
    """Return the sentences below the table: the comparison, what was saved, transfer, and what to beware of."""
    return [*_comparison(record), *_saved(record), *_transfer(record), *_blind(record)]


def _comparison(record: AttackRecord) -> list[str]:
    c = record.metrics["comparison"]
    if c is None:
        return []
    low, high = percent(c["low"], sign=True), percent(c["high"], sign=True)
    return [
        f"{c['of']} minus {c['with']}, image by image: {percent(c['difference'], sign=True)} points of ASR_all, "
        f"{100 * c['level']:g} % confidence interval {low} to {high}. "
        f"{c['only_first']} images fool every model under {c['of']} alone, {c['only_second']} under {c['with']} alone."
    ]


def _saved(record: AttackRecord) -> list[str]:
    lines = []
    for name, result in record.metrics["attacks"].items():
        r = result["recheck"]
        lines.append(
            f"Saved and read back, {name}: {percent(r['asr_all'])} % fool every model in float, "
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


def _blind(record: AttackRecord) -> list[str]:
    last = record.metrics["attacks"][record.attacks[-1]]
    return [
        f"The input gradient of model {name} is zero on {percent(share)} % of the images at the start: "
        "the attack begins blind there."
        for name, share in last["zero_gradient"].items()
        if share >= _BLIND
    ]
