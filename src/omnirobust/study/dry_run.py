"""Try the claims of one's own experiment on numbers made up, so that a slip in them is told before hours of attacks."""

from __future__ import annotations

import torch

from omnirobust.study.attack_cells import Distortion
from omnirobust.study.claims import Claim, Rates, check_answers
from omnirobust.study.spec import Cell, Experiment
from omnirobust.study.store import Measured

_PROBLEMS = 8
_SLIPS = (AttributeError, NameError, TypeError)
"""What a slip of the pen raises whatever the rates are. All else may be the fault of the numbers made up, such as a
search for a rate that none of them has: it is judged on what is measured."""


def rehearse(experiment: Experiment) -> None:
    """Try every claim on every variant of an experiment.

    Raises:
        ValueError: that names the claim, if its code does not run or returns something else than it should.
    """
    for variant in experiment.variants:
        rows = [row for row in experiment.rows if row.variant == variant]
        made_up = {row.key: _made_up(row.cell, seed) for seed, row in enumerate(rows)}
        rates = Rates(made_up, {row.key: row.cell.columns for row in rows})
        for claim in experiment.claims:
            _try(experiment.name, claim, rates)


def _try(name: str, claim: Claim, rates: Rates) -> None:
    try:
        held, shown = claim.holds(rates), claim.shows(rates)
    except _SLIPS as error:
        told = f"{claim.name!r}: {type(error).__name__}: {error}"
        raise ValueError(f"claims of {name} must be functions of rates that run, got {told}") from error
    except Exception:  # which may be the fault of the numbers made up
        return
    check_answers(claim, shown, [held])


def _made_up(cell: Cell, seed: int) -> Measured:
    """Return a cell on a few problems, of which some fool all columns, some none, and the others are drawn."""
    generator = torch.Generator().manual_seed(seed)
    J, K = len(cell.columns), len(cell.models) if cell.task is None else len(cell.columns)
    fooled = torch.rand(_PROBLEMS, J, generator=generator) < 0.5
    fooled[:3], fooled[-1] = True, False
    weights = torch.rand(_PROBLEMS, K, generator=generator).softmax(1)
    alone = isinstance(cell.task, Distortion)
    path = (_PROBLEMS, 0 if alone else cell.steps + 1, K)
    return Measured(
        fooled=fooled,
        any_iterate=fooled.all(1),
        weights=weights,
        fooled_path=torch.zeros((), dtype=torch.bool).expand(path),
        weights_path=weights[:, None].half().expand(path),
        labels=torch.zeros(_PROBLEMS, J, dtype=torch.int64),
        distortion=weights if alone else weights[:, :0],
    )
