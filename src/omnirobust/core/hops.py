"""Hops along the border of what fools all domains, for models that say no more than a class and any norm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnirobust.core.arguments import check_count, check_flag
from omnirobust.core.decisions import LESS, Deciding, far_of, widen
from omnirobust.core.directions import Stepper, unit_l2
from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.core.threat_models import FeasibleSet

_FIND, _BISECT, _PROBE, _HOP = 0, 1, 2, 3

_ASIDE = 0.1
"""How far from the border its normal is probed, in l2 lengths of the perturbation there."""

_SPARSE = 3
"""Power of the entries of the normal along which l1 and l0 hop: steepest for them is a single coordinate."""

_TRIES = 4
"""Hops of halved length that are tried along one normal, before it is probed further."""


@dataclass(frozen=True)
class Hops:
    """Walk along the border of what fools all domains towards the input, by estimates of the border's normal.

    A round: points around the one on the border are asked, which say where its normal points; a hop along that normal,
    projected onto a smaller ball, is asked, and halved while it does not fool; the smallest ball onto which it can be
    projected is bisected. Distances are those of the norm, the projection that of the set: for linf it cuts, for l2 it
    shortens, for l1 it shrinks to zero what is small, for l0 it keeps what is large.

    Args:
        informed: whether the gradients of an evaluation tell something: they count as part of the normal.
        probes: points of the first round, >= 2; of round r sqrt(r) times as many.

    Raises:
        ValueError: if an argument is out of range, or the domains do not ask a ``BlackBox``.

    Reference: Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", 2020,
    Algorithm 2 and equations (11) and (16), of l2 and linf. The other norms, that hops are asked where they lead
    rather than where they begin, the sizes and the use of gradients are ours.
    """

    informed: bool = False
    probes: int = 16

    def __post_init__(self) -> None:
        check_flag("informed", self.informed)
        check_count("probes", self.probes, 2)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` counts for nothing."""
        return _Hops(self, steps)


class _Hops(Deciding):
    """``found`` (B, *S) fools, and projected to ``high`` (B,) does so too: ``edge``. ``mode`` says what was asked."""

    def __init__(self, setting: Hops, steps: int) -> None:
        super().__init__(setting.informed, steps)
        self._probes = setting.probes

    def _begin(self, delta: Tensor, feasible: FeasibleSet) -> None:
        none = delta.new_zeros(len(delta))
        number = torch.zeros(len(delta), dtype=torch.int64, device=delta.device)
        self._has |= dict.fromkeys(("high", "low", "asked", "hits", "tried"), none)
        self._has |= dict.fromkeys(("mode", "count", "wanted", "round", "tries"), number)
        self._has |= {name: torch.zeros_like(delta) for name in ("edge", "said", "sum", "moved")}
        self._has["found"] = delta
        self._has["wanted"] = self._has["wanted"] + self._probes

    def _learn(self, hit: Tensor, delta: Tensor, feasible: FeasibleSet) -> None:
        has, mode = self._has, self._has["mode"]
        find, bisect, probe, hop = (mode == m for m in (_FIND, _BISECT, _PROBE, _HOP))
        for rows, start in ((find & hit, has["moved"]), (hop & hit, has["moved"])):
            has["found"] = torch.where(widen(rows, delta), start, has["found"])
        self._bracket(hit, delta, find, bisect, hop, feasible)
        self._count(hit, probe)
        failed = hop & ~hit
        has["tries"] = torch.where(failed, has["tries"] + 1, torch.where(hop, 0, has["tries"]))
        again = failed & (has["tries"] >= _TRIES)  # the normal was no good: more is asked of it
        has["wanted"] = torch.where(again, has["wanted"] * 2, has["wanted"])
        has["tries"] = torch.where(again, 0, has["tries"])
        has["mode"] = torch.where(again, _PROBE, has["mode"])

    def _bracket(
        self, hit: Tensor, delta: Tensor, find: Tensor, bisect: Tensor, hop: Tensor, feasible: FeasibleSet
    ) -> None:
        """Bisect, and begin to where something that fools was found; what is known well enough is probed around."""
        has, low, high = self._has, self._has["low"], self._has["high"]
        begins, onto = (find | hop) & hit, (bisect | find | hop) & hit
        has["edge"] = torch.where(widen(onto, delta), delta, has["edge"])
        norm = feasible.norm(delta).to(low)
        radius = torch.where(find, norm, has["asked"])
        wide = self._bisected(hit, radius)
        low = torch.where(begins, torch.where(find, torch.zeros_like(low), radius / 2), low)
        has["low"] = torch.where(bisect, has["low"], low)
        has["high"] = torch.where(onto, radius, high)
        done = bisect & ~(wide & (has["high"] - has["low"] > (0.999 if feasible.p == 0 else 0)))
        has["round"] = has["round"] + done
        for name in ("hits", "count"):
            has[name] = torch.where(done, torch.zeros_like(has[name]), has[name])
        for name in ("said", "sum"):
            has[name] = torch.where(widen(done, delta), torch.zeros_like(delta), has[name])
        wanted = (self._probes * has["round"].clamp_min(1).to(low).sqrt()).long()
        has["wanted"] = torch.where(done, wanted, has["wanted"])
        has["mode"] = torch.where(begins, _BISECT, torch.where(done, _PROBE, has["mode"]))

    def _count(self, hit: Tensor, probe: Tensor) -> None:
        """Add what a probe said to its direction's share of the normal."""
        has = self._has
        rows, sign = widen(probe, has["sum"]), widen(torch.where(hit, 1.0, -1.0).to(has["sum"]), has["sum"])
        has["sum"] = torch.where(rows, has["sum"] + has["moved"], has["sum"])
        has["said"] = torch.where(rows, has["said"] + sign * has["moved"], has["said"])
        has["hits"] = torch.where(probe, has["hits"] + torch.where(hit, 1.0, -1.0).to(has["hits"]), has["hits"])
        has["count"] = has["count"] + probe
        has["mode"] = torch.where(probe & (has["count"] >= has["wanted"]), _HOP, has["mode"])

    def _normal(self) -> Tensor:
        """Return where the estimates say that the fooled side lies, (B, *S) of length 1; equation (16)."""
        has = self._has
        mean = has["hits"] / has["count"].clamp_min(1)
        one = (mean.abs() == 1) | (has["count"] == 0)  # all said the same: nothing is to be subtracted
        normal = unit_l2(has["said"] - widen(torch.where(one, 0.0, mean), has["sum"]) * has["sum"])
        return unit_l2(normal - unit_l2(has["slope"])) if self._informed else normal

    def _next(self, key: DrawKey, rows: Tensor, feasible: FeasibleSet) -> Tensor:
        has, eps, mode = self._has, feasible.radius(), self._has["mode"]
        find, probe, hop = (widen(mode == m, has["edge"]) for m in (_FIND, _PROBE, _HOP))
        drawn = uniforms(key, rows, has["edge"][:1].numel()).view_as(has["edge"]).to(has["edge"])
        far = self._far_point(drawn, feasible)
        length = torch.linalg.vector_norm(has["edge"].flatten(1), dim=1)
        aside = unit_l2((2 * drawn - 1 + 2.0**-24).erfinv())
        size = length / (has["round"] + 1).to(length).sqrt() * 0.5 ** has["tries"]
        normal = self._normal()
        if feasible.p < 2:  # little is gained by what the projection takes away: towards the few that count most
            normal = unit_l2(normal.sign() * normal.abs() ** _SPARSE)
        hopped = (has["edge"] + widen(size, aside) * normal).clamp(feasible.lower, feasible.upper)
        less = has["high"] * (1 - LESS)
        less = less.minimum(has["high"] - 1) if feasible.p == 0 else less
        asked = torch.where(mode == _HOP, less, (has["low"] + has["high"]) / 2).to(eps)
        has["asked"] = torch.where(asked <= eps * (1 + 1e-3), eps, asked).to(has["high"])
        ball = replace(feasible, eps=has["asked"].clamp_min(0), checked=True)
        projected = ball.project(torch.where(hop, hopped, has["found"]))
        # a hop that did not fool must not be what later ones are projected from: it stands apart until it has
        has["moved"] = torch.where(find, far, torch.where(probe, aside, hopped))
        probed = (has["edge"] + widen(_ASIDE * length, aside) * aside).clamp(feasible.lower, feasible.upper)
        has["tried"] = has["tried"] + (mode == _FIND)
        return torch.where(find, far, torch.where(probe, probed, projected))

    def _far_point(self, drawn: Tensor, feasible: FeasibleSet) -> Tensor:
        """Return something large: along what was given or known, then the two ends of the range, then at random."""
        has, tried = self._has, widen(self._has["tried"], drawn)
        far = widen(far_of(feasible), drawn)
        along = has["found"] / has["found"].flatten(1).abs().amax(1).clamp_min(1e-30).view(far.shape) * far
        known = (has["found"] != 0).flatten(1).any(1)
        first = torch.where(widen(known, drawn), along, far)
        second = torch.where(tried == 1, far.expand_as(drawn), -far)
        noise = feasible.lower + drawn * (feasible.upper - feasible.lower)
        point = torch.where(tried == 0, first, torch.where(tried <= 2, second, noise))
        return point.clamp(feasible.lower, feasible.upper)

    def _best(self, feasible: FeasibleSet) -> Tensor:
        return self._has["found"]
