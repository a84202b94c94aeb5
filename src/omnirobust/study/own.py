"""Experiments of the user's own: loaded by name, checked and tried on made-up numbers before anything is measured.

What their code raises later is told in one sentence that names the row.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from math import isfinite
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import get_args

import torch

from omnirobust.study.attack_cells import Cell, Distortion
from omnirobust.study.claims import Claim, Key, Rates, check_answers
from omnirobust.study.spec import REFERENCE, Experiment, Kind, Row
from omnirobust.study.store import Measured
from omnirobust.study.training_cells import Robustness
from omnirobust.zoo.data import DataUnavailableError
from omnirobust.zoo.own_code import broken, load_own

KINDS = get_args(Kind)

_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


def own_experiment(name: str) -> Experiment:
    """Load an experiment of one's own.

    Args:
        name: FILE.py:NAME or package.module:NAME, an ``Experiment`` or a function without arguments that returns one.

    Raises:
        ValueError: if there is no such thing, it is no experiment, or the code fails.
        FileNotFoundError: if there is no such file.
    """
    _, found = load_own(name, "names")
    if callable(found):
        try:
            found = found()
        except Exception as error:  # whatever the user's own code raises
            raise ValueError(broken(name, "names", error)) from error
    if not isinstance(found, Experiment):
        raise ValueError(f"names must name an Experiment or a function that returns one, got {name}, {_kind(found)}")
    return found


def check_experiment(experiment: Experiment, taken: Iterable[str]) -> None:
    """Check an experiment of one's own, before anything is measured.

    Args:
        experiment: as its author declared it.
        taken: names of other experiments.

    Raises:
        ValueError: for the first thing that does not fit.
    """
    name = experiment.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name must be of a-z and 0-9, joined by - . or _, for files are called by it; got {name!r}")
    if name in taken:
        raise ValueError(f"name must be that of no other experiment, got {name!r}")
    if experiment.kind not in KINDS:
        raise ValueError(f"kind of {name} must be one of {', '.join(KINDS)}, got {experiment.kind!r}")
    if (experiment.kind == "sweep") != bool(experiment.sweeps):
        raise ValueError(f"sweeps of {name} must name the swept quantity for a sweep alone, got {experiment.sweeps!r}")
    _check_rows(experiment)
    keys = {row.key for row in experiment.rows}
    for key in experiment.printed:
        if key not in keys:
            raise ValueError(f"printed of {name} must be of its rows, got {key!r}")
    _check_claims(experiment)
    dry_run(experiment)


def _check_claims(experiment: Experiment) -> None:
    name = experiment.name
    if not isinstance(experiment.claims, tuple) or not all(isinstance(claim, Claim) for claim in experiment.claims):
        raise ValueError(f"claims of {name} must be a tuple of Claims, got {_kind(experiment.claims)}")
    texts = {f"text of claim {claim.name!r}": claim.text for claim in experiment.claims}
    for what, text in ({"title": experiment.title, "note": experiment.note} | texts).items():
        if not isinstance(text, str):
            raise ValueError(f"{what} of {name} must be a text, got {_kind(text)}")
    names = [claim.name for claim in experiment.claims]
    if repeated := [claim for claim in dict.fromkeys(names) if names.count(claim) > 1]:
        raise ValueError(f"claims of {name} must have a name each, got {repeated[0]!r} twice")


def _check_rows(experiment: Experiment) -> None:
    rows, name = experiment.rows, experiment.name
    if not isinstance(rows, tuple) or not rows or not all(isinstance(row, Row) for row in rows):
        raise ValueError(f"rows of {name} must be a tuple of at least one Row, got {_kind(rows)}")
    heads = _heads(experiment)
    seen: set[tuple[str, Key]] = set()
    for row in rows:
        if not isinstance(row.key, tuple) or len(row.key) != len(heads) or not all(isinstance(k, str) for k in row.key):
            parts = f"each of its heads, {', '.join(experiment.heads)}"
            if experiment.kind == "sweep":
                parts += f", and at the end {experiment.sweeps}, a number as text like '0.1'"
            raise ValueError(f"keys of {name} must be a text for {parts}; got {row.key!r}")
        if experiment.kind == "sweep" and not _is_point(row.key[-1]):
            raise ValueError(f"keys of {name} must end in a number, or {REFERENCE!r} beside the axis, got {row.key!r}")
        if (row.variant, row.key) in seen:
            raise ValueError(f"rows of {name} must differ in variant or key, got {row.variant!r}, {row.key!r} twice")
        seen.add((row.variant, row.key))
    trained = experiment.kind == "robustness"
    if found := [row.cell for row in rows if not isinstance(row.cell, Robustness if trained else Cell)]:
        if isinstance(found[0], Robustness):
            raise ValueError(f"kind of {name} must be 'robustness' for rows of Robustness, got {experiment.kind!r}")
        told = "Robustness" if trained else "Cell"
        raise ValueError(f"cells of {name} must be of {told} for kind {experiment.kind!r}, got {_kind(found[0])}")
    if experiment.kind == "groups" and any(row.cell.group == 1 for row in rows):
        raise ValueError(f"rows of {name} must attack groups of images, kind {experiment.kind!r}; got single images")


def _heads(experiment: Experiment) -> tuple[str, ...]:
    """Return what the entries of keys are, the swept quantity last."""
    name, heads, sweeps = experiment.name, experiment.heads, experiment.sweeps
    if not isinstance(heads, tuple) or not all(isinstance(head, str) for head in heads):
        raise ValueError(f"heads of {name} must be a tuple of texts, got {_kind(heads)}")
    if sweeps in heads:
        raise ValueError(f"sweeps of {name} must differ from its heads, got {sweeps!r} beside {heads!r}")
    if experiment.kind == "sweep":
        heads = (*heads, sweeps)
    if len(heads) < (1 if experiment.kind == "robustness" else 2):
        raise ValueError(f"heads of {name} must name what is attacked and its weights, got {experiment.heads!r}")
    return heads


def with_own(names: Iterable[str | Experiment], known: Iterable[str]) -> tuple[tuple[str, ...], dict[str, Experiment]]:
    """Return the names of experiments, and by name those that are one's own.

    Args:
        names: of known experiments or of one's own code; or experiments themselves.
        known: names of all experiments that go by a name.

    Raises:
        ValueError: if an experiment of one's own does not fit.
        FileNotFoundError: if there is no such file.
    """
    known = tuple(known)
    asked: list[str] = []
    own: dict[str, Experiment] = {}
    for name in names:
        if isinstance(name, str) and name.endswith(".py"):
            raise ValueError(f"names must say what to take from a file, as in {name}:NAME, got {name!r}")
        experiment = own_experiment(name) if isinstance(name, str) and ":" in name else name
        if isinstance(experiment, Experiment):
            check_experiment(experiment, chain(known, own))
            own[experiment.name] = experiment
        asked.append(experiment.name if isinstance(experiment, Experiment) else experiment)
    return tuple(asked), own


def _is_point(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return text == REFERENCE


def _kind(found: object) -> str:
    return f"{type(found).__name__} {found!r}"[:80]


_PROBLEMS = 8
_SLIPS = (AttributeError, NameError, TypeError)
"""What a slip of the pen raises whatever the rates are. All else may be the fault of the numbers made up, such as a
search for a rate that none of them has: it is judged on what is measured."""


def dry_run(experiment: Experiment) -> None:
    """Try every claim on every variant of an experiment.

    Raises:
        ValueError: that names the claim, if its code does not run or returns something else than it should.
    """
    for variant in experiment.variants:
        rows = [row for row in experiment.rows if row.variant == variant]
        made_up = {row.key: _made_up(row.cell, seed) for seed, row in enumerate(rows)}
        rates = Rates(made_up, {row.key: row.cell.columns for row in rows})
        for claim in experiment.claims:
            _try(experiment, claim, rates)


def _try(experiment: Experiment, claim: Claim, rates: Rates) -> None:
    name = experiment.name
    try:
        held, shown = claim.holds(rates), claim.shows(rates)
    except KeyError as error:  # a row that another variant has is "not measured" in this one; one of none never will be
        key = error.args[0] if error.args else None
        if isinstance(key, tuple) and all(row.key != key for row in experiment.rows):
            raise ValueError(f"claims of {name} must ask for keys of its rows, got {key} in {claim.name!r}") from error
        return
    except _SLIPS as error:
        told = f"{claim.name!r}: {type(error).__name__}: {error}"
        raise ValueError(f"claims of {name} must be functions of rates that run, got {told}") from error
    except Exception:  # which may be the fault of the numbers made up
        return
    check_answers(claim, shown, [held])


def _made_up(cell: Cell | Robustness, seed: int) -> Measured:
    """Return a cell on a few problems, of which some fool all columns, some none, and the others are drawn."""
    generator, J = torch.Generator().manual_seed(seed), len(cell.columns)
    fooled = torch.rand(_PROBLEMS, J, generator=generator) < 0.5
    fooled[:3], fooled[-1] = True, False
    labels = torch.zeros(_PROBLEMS, J, dtype=torch.int64)
    if isinstance(cell, Robustness):
        return Measured.alone(fooled, labels)
    weights = torch.rand(_PROBLEMS, len(cell.models) if cell.task is None else J, generator=generator).softmax(1)
    alone = isinstance(cell.task, Distortion)
    path = (_PROBLEMS, 0 if alone else cell.steps + 1, weights.shape[1])
    fooled_path = torch.zeros((), dtype=torch.bool).expand(path)
    weights_path = weights[:, None].half().expand(path)
    made = Measured.alone(fooled, labels, weights if alone else None)
    return replace(made, weights=weights, fooled_path=fooled_path, weights_path=weights_path)


@contextmanager
def telling(name: str, told: str, hook: Callable[[int], None]) -> Iterator[None]:
    """Turn what measuring a row of an experiment of one's own raises into a sentence that names the row.

    Args:
        name: of the experiment.
        told: the row that is measured, in words.
        hook: is told of progress; what it raises is no matter of the row's, and passes.

    Raises:
        ValueError: for any failure of the author's code, or of the library on what that code gave. Files, data and
            weights that are not there keep their errors.
    """
    try:
        yield
    except (OSError, DataUnavailableError):
        raise
    except Exception as error:  # whatever the author's own code raises
        if any(frame.f_code is getattr(hook, "__code__", None) for frame, _ in walk_tb(error.__traceback__)):
            raise
        raise ValueError(f"rows of {name} must run, got {told}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return the first line of an error; unless the library said it, with its kind and place, in own code if it can."""
    frames = list(walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if _is_own(frame)]
    said = next(iter(str(error).strip().splitlines()), "")
    if not own and isinstance(error, (ValueError, RuntimeError)):
        return said
    frame, line = (own or frames)[-1]
    place = f"({Path(frame.f_code.co_filename).name}, line {line})"
    return f"{type(error).__name__}: {said} {place}" if said else f"{type(error).__name__} {place}"


def _is_own(frame: FrameType) -> bool:
    """Say whether a frame is of the author's code: neither of this library, nor of Python, nor of what is installed."""
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    installed = "site-packages" in Path(frame.f_code.co_filename).parts
    return root not in ("omnirobust", *sys.stdlib_module_names) and not installed
