"""How far an image is from being misclassified: the smallest radius at which one perturbation fools all there is.

    eps_min(x) = min ||delta||_p  such that every model errs on t(x + delta) for every t, x + delta in the data range

No attack proves a minimum: what is returned is an upper bound, and a perturbation that attains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook
from omnirobust.attacks.masking import GradientMaskingError
from omnirobust.attacks.recipes import attack_product
from omnirobust.core.arguments import NORMS, Norm, check_count, check_flag
from omnirobust.core.contracts import check_mask
from omnirobust.core.threat_models import Bound, Bounds, FeasibleSet, ThreatModel, Unit
from omnirobust.core.units import in_units, seen_in_units
from omnirobust.domains.checks import as_groups
from omnirobust.domains.classifier import Models
from omnirobust.domains.grid import DomainGrid, Transforms
from omnirobust.domains.losses import Loss, signed_margin
from omnirobust.domains.outputs import rows_named
from omnirobust.domains.transforms.seeded import as_views
from omnirobust.evaluation.minimal import Distortion as Distortion
from omnirobust.evaluation.minimal import blind_rows, check_search, errs, in_batches, judged, shortened
from omnirobust.evaluation.threats import of_rows
from omnirobust.evaluation.walk import Aimed, nearest

_FURTHEST = 2.0**10
"""Where the data range has no end, the search gives up at so many times the distance of the linearised model, and does
not look closer than that share of it."""

_RESOLUTION = 0.01
"""Where attacks must search and nobody says how closely."""

_SMALLEST = 2.0**-12
"""The search does not look closer than this share of the data range: smaller radii are found, but not refined."""


def minimal_linf(
    model: Models,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 50,
    resolution: float | None = None,
    loss: Loss | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    batch_size: int | None = None,
    progress: bool | ProgressHook = False,
    transforms: Transforms | None = None,
    samples: int = 1,
) -> Distortion:
    """Find eps_min of the linf attack for every input: ``minimal_eps`` with norm "linf"."""
    return minimal_eps(
        model, x, y, "linf", steps=steps, resolution=resolution, loss=loss, targeted=targeted, bounds=bounds,
        mask=mask, scale=scale, batch_size=batch_size, progress=progress, transforms=transforms, samples=samples,
    )  # fmt: skip


def minimal_eps(
    model: Models,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    steps: int = 50,
    resolution: float | None = None,
    loss: Loss | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    unit: Unit = "value",
    batch_size: int | None = None,
    progress: bool | ProgressHook = False,
    transforms: Transforms | None = None,
    samples: int = 1,
) -> Distortion:
    """Find the smallest eps at which one perturbation fools all models under all transformations, for every input.

    Under l1, l2 and linf, for models that are not random, this is a walk along the boundary (``evaluation.walk``): to
    each of four likely wrong classes, then on from the shortest perturbation, which is shortened along the line to its
    input. Where it finds nothing, under l0, for random models, and with a ``resolution``, attacks search. Given a
    perturbation, they try just inside it, in twice the step after each success; else they begin at the distance to the
    boundary of the linearised model and double eps until the attack succeeds. What is left of the gap between the
    largest eps that failed and the shortest perturbation that fools is halved. Later attacks start from the best
    perturbation so far, projected onto the smaller ball; each success is shortened, too. Inputs leave the search as
    soon as their gap is small enough, and do not see each other. What is found is judged anew at the end. Models and
    transformations that are random must fool on each of ten draws that no attack sees.

    Args:
        model: a model, or several (a mapping or a sequence) that one perturbation is to fool all at once.
        x: inputs within ``bounds``, (B, *S), float.
        y: labels, (B,) int64; (B, M) for M models, each its own; (B, K) for K models times transformations.
        norm: "l0", "l1", "l2" or "linf".
        steps: of each attack, >= 1.
        resolution: attacks search until the gap is at most this share of the result, in (0, 1); under l0 until
            neighbouring numbers of coordinates. Not given, they search only where a walk does not do: to 0.01.
        loss: of the attacks, where they search; not given, the tuned default. A walk goes by margins.
        targeted: whether ``y`` are classes to reach rather than to leave.
        bounds: (lo, hi), the range of the data, see ``ThreatModel``. Where a feature has no end the search gives up at
            1,024 times the distance that the linearised model says.
        mask: what may change, see ``ThreatModel``.
        scale: unit of each feature: radii are those of delta / scale.
        unit: what l0 counts, "value" or "pixel".
        batch_size: inputs searched together; None for all.
        progress: True draws a bar on the terminal; a callable is given (inputs done, inputs in all).
        transforms: under all of which the perturbation is to fool, see ``attack_transforms``; with several models under
            all combinations, as in ``attack_product``. None for none. Where they are drawn attacks search, as of random
            models; nothing is promised between batch sizes then.
        samples: draws a step of what is random, see ``attack_transforms``, >= 1: with a few more attacks find smaller
            radii, and some where they found none.

    Returns:
        Radii and perturbations: ``distortion[i]`` is the norm of ``delta[i]``, which fools; infinite where
        none was found.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit, or no gradient reaches any input.

    Cost: for each model and transformation 1.6 times ``steps`` gradients an input, and some forwards; with a
    resolution of 0.01 one to two times ``steps`` more; under l0, and where something is random, about six times
    ``steps``, and there times ``samples``.

    Reference: the paper, Appendix F, Tables A9 and A10 (eps_min of linf PGD).
    """
    if norm not in tuple(NORMS):
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    check_count("steps", steps)
    check_count("samples", samples)
    check_flag("targeted", targeted)
    if resolution is not None and (not isinstance(resolution, float) or not 0 < resolution < 1):
        raise ValueError(f"resolution must lie in (0, 1), got {resolution!r}")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels, got {loss!r}")
    check_search(model, x, batch_size)
    threat = ThreatModel(NORMS[norm], 1.0, bounds, mask, scale, unit)
    check_mask(threat)
    views = None if transforms is None else as_views(transforms, as_groups(x, shared=False)[0, :2])
    domains = DomainGrid(model, x, y, loss=signed_margin, transforms=views, targeted=targeted)

    masked = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def attack(known: Models, rows: Tensor, eps: Tensor, init: Tensor) -> Tensor:
        try:
            with rows_named(lambda row: int(rows[row])):
                return attack_product(
                    known, x[rows], y[rows], replace(of_rows(threat, rows, x), eps=eps), transforms=views, steps=steps,
                    loss=loss, init=init, targeted=targeted, stop_when_fooled=True, samples=samples,
                ).delta  # fmt: skip
        except GradientMaskingError:  # where these few begin: nothing that is to be said of all inputs
            masked[rows] = True
            return torch.zeros_like(init)

    def search(grid: DomainGrid, rows: slice, advance: Callable[[int], None]) -> tuple[Distortion, Tensor]:
        around, known, first = threat.select(rows, x.ndim - 1).around(x[rows]), grid.models, rows.start

        def aimed(live: Tensor, goals: Tensor) -> DomainGrid:
            return DomainGrid(known, x[live + first], goals, loss=signed_margin, transforms=views, targeted=True)

        state = _Search(grid, around, norm, resolution)
        state.walk(steps, None if targeted else aimed)
        found = state.run(lambda live, eps, init: attack(known, live + first, eps, init), advance)
        return judged(grid, around, bounds, x[rows], *found, norm), state.blind | (masked[rows] & ~found[1])

    return in_batches(search, domains, x, batch_size, progress, each=1)


class _Search:
    """The gap of every input between a radius that failed and the shortest perturbation that fools."""

    def __init__(self, grid: DomainGrid, feasible: FeasibleSet, norm: Norm, resolution: float | None) -> None:
        self._grid, self._feasible, self._resolution = grid, feasible, resolution or _RESOLUTION
        self._walk_suffices = resolution is None
        self._norm: Norm = norm
        units, zero = in_units(feasible), torch.zeros_like(feasible.lower)
        reach = torch.maximum(-units.lower, units.upper)
        seen = seen_in_units(grid.evaluate(zero), feasible)
        self._largest = units.norm(reach).to(seen.losses)
        self._closest = self._largest * _SMALLEST
        assert seen.fooled is not None and seen.grads is not None
        right = ~(errs(grid, zero) if grid.random else seen.fooled.all(1))
        self.blind = blind_rows(seen)
        self._best = torch.where(right, torch.inf, torch.zeros_like(self._largest))
        gaps = [seen.losses[:, k].clamp_min(0) for k in range(len(seen.grads))]
        guesses = [_linearised(v, g, reach, norm, units.channels) for v, g in zip(gaps, seen.grads, strict=True)]
        guess = torch.stack(guesses).amax(0)
        if not bool(self._largest.isfinite().all()):  # the range has no end: the search needs one
            end = (guess * _FURTHEST).clamp_max(torch.finfo(guess.dtype).max / 4)
            self._closest = torch.where(self._largest.isinf(), guess / _FURTHEST, self._closest)
            self._largest = torch.where(self._largest.isinf(), end, self._largest)
        # Where there is no gradient no attack from here can succeed: nothing is tried.
        self._failed = torch.where(self.blind, self._largest, 0.0)
        self._delta, self._start = zero, zero.clone()
        self._eps = self._whole(guess.clamp(self._closest, self._largest))
        self._closer = torch.full_like(self._eps, 0.99 * self._resolution)  # how far below the best so far to try next

    def walk(self, steps: int, aimed: Aimed | None) -> None:
        """Go along the boundary first, where a norm has directions and one evaluation says enough."""
        rows = self._open()
        if self._norm == "l0" or self._grid.random or not len(rows):
            return
        towards = None if aimed is None else lambda chosen, goals: aimed(rows[chosen], goals)
        within = self._feasible.select(rows)
        delta, size = nearest(self._grid.select(rows), within, self._eps[rows], steps, towards)
        if len(found := rows[size.isfinite()]):
            self._note(found, delta[size.isfinite()])
            self._eps[found] = self._next()[found]
            if self._walk_suffices:
                self._failed[found] = self._best[found]

    def run(
        self, attack: Callable[[Tensor, Tensor, Tensor], Tensor], advance: Callable[[int], None]
    ) -> tuple[Tensor, Tensor]:
        """Attack the inputs whose gap is open, at their radii and from their best perturbation, until all are closed.

        Args:
            attack: maps rows (n,), radii (n,) and starts (n, *S) to perturbations (n, *S).
            advance: counts inputs that are done.

        Returns:
            The shortest perturbations, (B, *S), and where there are any, (B,) bool.
        """
        left = len(self._best)
        while len(rows := self._open()):
            advance(left - len(rows))
            left = len(rows)
            delta = attack(rows, self._eps[rows], self._start[rows])
            hit = errs(self._grid.select(rows), delta)
            self._failed[rows[~hit]] = self._eps[rows[~hit]]
            if bool(hit.any()):
                self._note(rows[hit], delta[hit])
                self._closer[rows[hit]] *= 2
                self._start[rows[hit]] = self._delta[rows[hit]]
            self._eps = self._next()
        advance(left)
        return self._delta, self._best.isfinite()

    def _open(self) -> Tensor:
        gap = self._best - self._failed
        small = 1.0 if self._norm == "l0" else self._resolution * torch.maximum(self._best, self._closest)
        closed = torch.where(self._best.isinf(), self._failed >= self._largest, gap <= small)
        return (~closed).nonzero().flatten()

    def _note(self, rows: Tensor, delta: Tensor) -> None:
        if self._norm != "l0":
            delta = shortened(self._grid.select(rows), delta)
        size = self._feasible.select(rows).norm(delta).to(self._best)
        better = size < self._best[rows]
        self._best[rows[better]], self._delta[rows[better]] = size[better], delta[better]
        # An attack may succeed below a radius at which another failed: the gap closes from above.
        self._failed = torch.minimum(self._failed, self._best)

    def _next(self) -> Tensor:
        wider = torch.minimum(2 * self._failed, self._largest)
        within = torch.maximum((self._failed + self._best) / 2, self._best * (1 - self._closer))
        return self._whole(torch.where(self._best.isinf(), wider, within))

    def _whole(self, eps: Tensor) -> Tensor:
        return eps.floor().clamp_min(1) if self._norm == "l0" else eps


def _linearised(value: Tensor, gradient: Tensor, reach: Tensor, norm: Norm, channels: int) -> Tensor:
    """Return the distance, (B,), at which the linear model value + gradient . delta is 0 (the box counts under l0)."""
    slopes = gradient.flatten(1).abs()
    if norm == "l0":
        gains = slopes * reach.flatten(1)
        gains = gains if channels == 1 else gains.view(len(gains), channels, -1).sum(1)
        gains = gains.sort(1, descending=True).values.cumsum(1)
        return ((gains < value.unsqueeze(1)).sum(1) + 1).to(value)
    dual = {"l1": math.inf, "l2": 2.0, "linf": 1.0}[norm]
    return value / torch.linalg.vector_norm(slopes, dual, dim=1).clamp_min(torch.finfo(value.dtype).tiny)
