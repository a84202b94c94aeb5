"""Draw the README's pictures from a finished attack: ``python docs/img/make.py runs/readme``."""

from __future__ import annotations

import sys
from pathlib import Path

from omnirobust.jobs import AttackRecord
from omnirobust.jobs.report.figures import success_per_iteration, weights_per_iteration

HERE = Path(__file__).parent


def main(run: str) -> None:
    """Write success-average.svg, success-min-max.svg and weights.svg beside this file."""
    record = AttackRecord.open(run)
    history, models, last = record.history, record.models, record.attacks[-1]
    drawn = {
        f"success-{name}.svg": success_per_iteration(
            history[f"{name}.fooled"], history[f"{name}.all_fooled"], models, label=f"Success per iteration, {name}"
        )
        for name in record.attacks
    }
    drawn["weights.svg"] = weights_per_iteration(
        history[f"{last}.rows.weights"], models, label="Weights of the models per iteration"
    )
    for name, svg in drawn.items():
        (HERE / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/img/make.py RUN")
    main(sys.argv[1])
