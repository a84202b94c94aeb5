"""What an attacker may do: an lp ball of radius eps in a data range, perhaps limited to a patch.

``ThreatModel`` states it once; ``ThreatModel.around(x)`` makes the ``FeasibleSet`` of the perturbations of given
inputs, X = {delta : ||delta / scale||_p <= eps, lower <= delta <= upper} with lower = lo - x and upper = hi - x.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from omnirobust.core import ranges
from omnirobust.core.arguments import Norm, is_number, norm_name
from omnirobust.core.choices import Clip as Clip
from omnirobust.core.choices import Unit as Unit
from omnirobust.core.projections import (
    as_rows,
    check_lp_box,
    check_radius_type,
    lp_box_unchecked,
    row_norm,
    toward_zero,
)
from omnirobust.core.ranges import Bound as Bound
from omnirobust.core.ranges import Bounds as Bounds

_RANGE_TOLERANCE = 1e-6
"""How far inputs may stick out of the data range, in units of its width: the rounding of one image pipeline."""

_FILLED = 0.01
"""The share of the data range below which inputs look as if scaled otherwise: to [0, 1] where bounds are 0 and 255."""


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """The perturbations allowed around B inputs: an lp ball intersected with a box, for each row.

    Adding a feasible delta to its input may leave the data range by one rounding; clamp the sum if that matters. A set
    of one's own is a subclass with its own ``project`` and ``contains``.

    Attributes:
        p: 0, 1, 2 or inf.
        eps: radius >= 0, a number or one a row (B,), in units of ``scale``.
        lower: lower bounds <= 0, (B, *S).
        upper: upper bounds >= 0, (B, *S).
        scale: unit of each feature, > 0, a number or what broadcasts to *S: the ball is that of u = delta / scale, and
            directions move in u, see ``core.units``. None: 1.
        unit: what p = 0 counts: "value", coordinates; "pixel", places whose channels, the first axis of *S, are one.

    Args:
        checked: whether all of these are known to be so.
    """

    p: float
    eps: float | Tensor
    lower: Tensor
    upper: Tensor
    checked: InitVar[bool] = False
    scale: Bound | None = None
    unit: Unit = "value"
    _low: Tensor = field(init=False, repr=False)
    _high: Tensor = field(init=False, repr=False)

    def __post_init__(self, checked: bool) -> None:
        if not checked:
            self._check()
        low, high = self.lower, self.upper
        if self.p == math.inf:
            # Folded once: projecting is then a single clamp.
            reach = self.radius().reshape(-1, *[1] * (low.ndim - 1))
            if self.scale is not None:
                reach = reach * self.scale
            reach = reach if reach.dtype == low.dtype else toward_zero(reach, low.dtype)
            low, high = torch.maximum(low, -reach), torch.minimum(high, reach)
        object.__setattr__(self, "_low", low)
        object.__setattr__(self, "_high", high)

    def _check(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise ValueError(f"lower and upper must share a shape, got {(*self.lower.shape,)}, {(*self.upper.shape,)}")
        check_lp_box(self.p, self.eps, self.lower, self.upper, self.lower)
        check_unit(self.unit, self.p)
        if self.scale is not None:
            scale = ranges.one_input("scale", ranges.checked_scale(self.scale), self.lower)
            object.__setattr__(self, "scale", scale)

    @property
    def shape(self) -> torch.Size:
        """Shape of the perturbations, (B, *S)."""
        return self.lower.shape

    def radius(self) -> Tensor:
        """Return the radius of every row, (B,), in the dtype of the bounds but at least float32."""
        wide = torch.float32 if self.lower.dtype.itemsize < 4 else self.lower.dtype
        return torch.as_tensor(self.eps, dtype=wide, device=self.lower.device).expand(len(self.lower))

    def project(self, delta: Tensor) -> Tensor:
        """Return the nearest feasible perturbations (13), (B, *S). Nothing is checked: this is the hot path."""
        if self.p == math.inf:
            return torch.clamp(delta, self._low, self._high)
        if self.scale is not None:
            ends = (self.lower / self.scale, self.upper / self.scale)
            u = lp_box_unchecked(delta / self.scale, self.p, self.eps, *ends, self.channels)
            return toward_zero(torch.clamp(u * self.scale, self.lower, self.upper), delta.dtype)
        return lp_box_unchecked(delta, self.p, self.eps, self.lower, self.upper, self.channels)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """How far each coordinate may go by itself, (B, *S) each: the box, and under linf the ball with it."""
        return self._low, self._high

    @property
    def channels(self) -> int:
        """How many coordinates count as one under p = 0."""
        return self.lower.shape[1] if self.unit == "pixel" else 1

    def norm(self, delta: Tensor) -> Tensor:
        """Return the lp norm of every row of ``delta`` (B, *S) in units of ``scale``, or how many pixels, as (B,)."""
        if self.p == math.inf and self.scale is None and delta[:1].numel():
            return delta.abs().flatten(1).amax(dim=1)
        return row_norm(self._measured(delta), self.p)

    def _measured(self, delta: Tensor) -> Tensor:
        """Return what the norm of ``delta`` is taken of."""
        delta = delta if self.scale is None else delta / self.scale
        return delta.abs().amax(dim=1) if self.unit == "pixel" else delta

    def contains(self, delta: Tensor, tol: float = 1e-6) -> Tensor:
        """Say which rows of ``delta`` (B, *S) are feasible, (B,) bool.

        Args:
            tol: relative excess allowed over eps (none for p = 0), and excess allowed over the box, in ``scale``.
        """
        over = tol if self.scale is None else tol * self.scale
        in_box = as_rows((delta >= self.lower - over) & (delta <= self.upper + over)).all(1)
        radius = torch.as_tensor(self.eps, dtype=torch.float64, device=delta.device)
        slack = radius.floor() if self.p == 0 else radius * (1 + tol)
        return in_box & (row_norm(self._measured(delta.double()), self.p) <= slack)

    def select(self, rows: Tensor) -> FeasibleSet:
        """Keep the rows that ``rows`` (int64 indices or a bool mask) lists, with their own radii."""
        eps = self.eps[rows] if isinstance(self.eps, Tensor) and self.eps.ndim == 1 else self.eps
        return replace(self, eps=eps, lower=self.lower[rows], upper=self.upper[rows], checked=True)

    def scaled(self, factor: float) -> FeasibleSet:
        """Return the set with every radius ``factor`` times as large, in the same box."""
        return replace(self, eps=self.eps * factor)


@dataclass(frozen=True, repr=False)
class ThreatModel:
    """An lp ball of radius eps in a data range, perhaps limited to a patch.

    Attributes:
        p: 0, 1, 2 or inf.
        eps: finite radius >= 0, a number or one an input (B,); in units of ``scale``, for p = 0 a number of coordinates
            or pixels.
        bounds: (lo, hi), the range of the data: numbers, or tensors that broadcast to one input (*S), a range for each
            feature; infinite where a feature has no end, which p = 0 refuses.
        mask: True where the attacker may change the input, bool: one that broadcasts to *S for all, or one of x's
            dimensions, (B, *S), for each example. Where E inputs share a perturbation, (B, E, *S) lets it move where
            all of its inputs may. None: everywhere.
        scale: the unit of each feature, > 0, a number or a tensor that broadcasts to one input: the ball is that of
            u = delta / scale, ||u||_p <= eps, and attacks step in u; counts of p = 0 do not feel it. None: 1.
        unit: what p = 0 counts: "value", coordinates, or "pixel", places all of whose channels (the first axis of *S)
            are one.
        name: of the norm, l0, l1, l2 or linf.
        ordinary: whether all features have one finite range and the unit 1, and values are counted.

    Raises:
        ValueError: if an argument is out of range.
        TypeError: if it is of another kind.
    """

    p: float
    eps: float | Tensor
    bounds: Bounds = (0.0, 1.0)
    mask: Tensor | None = None
    scale: Bound | None = None
    unit: Unit = "value"
    name: Norm = field(init=False, repr=False)
    ordinary: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", norm_name(self.p))
        if type(self.eps) is not float:
            check_radius_type(self.eps)
            if isinstance(self.eps, Tensor):
                object.__setattr__(self, "eps", self.eps.detach())
        radius = torch.as_tensor(self.eps, dtype=torch.float64)
        if radius.ndim > 1:
            raise ValueError(f"eps must be a number or have shape (B,), got {tuple(radius.shape)}")
        if not bool((radius >= 0).all()):
            raise ValueError(f"eps must be >= 0, got {float(radius[~(radius >= 0)].flatten()[0])}")
        if not bool(torch.isfinite(torch.as_tensor(self.eps, dtype=torch.float64)).all()):
            raise ValueError("eps must be finite, got inf; a huge number leaves the data range alone")
        if not isinstance(self.bounds, (tuple, list)) or len(self.bounds) != 2:
            raise TypeError(f"bounds must be (lo, hi), got {self.bounds!r}")
        low, high = self.bounds
        finite = is_number(low) and is_number(high) and -math.inf < low < high < math.inf
        object.__setattr__(self, "ordinary", finite and self.scale is None and self.unit == "value")
        if not self.ordinary:
            self._check_features(finite)
        if self.mask is not None and not isinstance(self.mask, Tensor):
            raise TypeError(f"mask must be a bool tensor or None, got {type(self.mask).__name__}")
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be a bool tensor, got {self.mask.dtype}")

    def _check_features(self, finite: bool) -> None:
        """Check what differs from feature to feature, or is counted otherwise."""
        if not finite:
            object.__setattr__(self, "bounds", ranges.checked_bounds(self.bounds))
            if self.p == 0 and self.mask is None:
                self._check_ends(ranges.is_finite(self.bounds))
        if self.scale is not None:
            object.__setattr__(self, "scale", ranges.checked_scale(self.scale))
        check_unit(self.unit, self.p)

    def __repr__(self) -> str:
        """Write the settings; what came later only where it is not as usual, and its tensors by their digests."""
        bounds = self.bounds if self.ordinary else tuple(map(_short, self.bounds))
        told = [f"p={self.p!r}", f"eps={self.eps!r}", f"bounds={bounds!r}", f"mask={self.mask!r}"]
        told += [] if self.scale is None else [f"scale={_short(self.scale)!r}"]
        told += [] if self.unit == "value" else [f"unit={self.unit!r}"]
        return f"{type(self).__name__}({', '.join(told)})"

    def _check_ends(self, finite: bool) -> None:
        if not finite:
            raise ValueError(
                "bounds must be finite for l0, where a coordinate goes as far as its range lets it, got features "
                "without an end: give bounds, or another norm"
            )

    def select(self, rows: Tensor | slice, axes: int) -> ThreatModel:
        """Keep what belongs to the problems that ``rows`` lists: radii, and masks for each.

        Args:
            rows: a slice, int64 indices or bool.
            axes: dimensions of one input, *S.
        """
        eps, mask = self.eps, self.mask
        if isinstance(eps, Tensor) and eps.ndim == 1:
            eps = eps[rows]
        if mask is not None and mask.ndim > axes and len(mask) > 1:
            mask = mask[rows]
        return self if eps is self.eps and mask is self.mask else replace(self, eps=eps, mask=mask)

    @torch.no_grad()
    def around(self, x: Tensor, *, shared: bool = False, clip: Clip = "image") -> FeasibleSet:
        """Make the set of perturbations allowed around ``x``.

        Args:
            x: inputs in ``bounds``, (B, *S); (B, E, *S) if ``shared``.
            shared: one perturbation serves the E inputs of a group.
            clip: what a shared perturbation must respect. "intersection": every one of the E images stays in the
                data range, lower = max_e (lo - x_e), upper = min_e (hi - x_e). "image": each perturbed image is
                clamped on its own, so that delta is limited only by the width of the range.

        Returns:
            The feasible set, of shape (B, *S).

        Raises:
            ValueError: if ``x`` is not floating and finite, lies outside ``bounds``, or does not fit eps or mask.
        """
        self._check_inputs(x, shared)
        low, high = self.bounds
        if isinstance(low, Tensor):
            like = x[:, 0] if shared else x
            low, high = (torch.as_tensor(ranges.one_input("bounds", bound, like)).to(x) for bound in self.bounds)
        lower, upper = (low - x).clamp_max(0), (high - x).clamp_min(0)
        if shared and clip == "intersection":
            lower, upper = lower.amax(1), upper.amin(1)
        elif shared and clip == "image":
            lower, upper = torch.zeros_like(x[:, 0]) + (low - high), torch.zeros_like(x[:, 0]) + (high - low)
        elif shared:
            raise ValueError(f"clip must be 'image' or 'intersection', got {clip!r}")
        if self.mask is not None:
            allowed = self._mask_like(x, shared)
            lower, upper = torch.where(allowed, lower, 0), torch.where(allowed, upper, 0)
        eps, scale = self._radius_like(lower), self.scale
        if scale is not None:
            scale = ranges.one_input("scale", scale, lower)
        if self.p == 0:
            self._check_counted(lower, upper)
        return FeasibleSet(self.p, eps, lower, upper, checked=True, scale=scale, unit=self.unit)

    def _check_counted(self, lower: Tensor, upper: Tensor) -> None:
        if self.mask is not None:
            self._check_ends(bool((upper - lower).isfinite().all()))
        if self.unit == "pixel" and lower.ndim < 3:
            raise ValueError(
                "unit must be 'value' where inputs have no channels before their pixels, got 'pixel' for inputs of "
                f"shape {tuple(lower.shape[1:])}"
            )

    def _check_inputs(self, x: Tensor, shared: bool) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point, got {x.dtype}")
        if x.ndim < 1 + shared:
            raise ValueError(f"x must have shape {'(B, E, *S)' if shared else '(B, *S)'}, got {tuple(x.shape)}")
        if shared and x.shape[1] == 0:
            raise ValueError(f"x must hold at least one input a group, got {tuple(x.shape)}")
        if x.numel() == 0:
            return
        x = x.detach()
        least, most = (float(end) for end in x.aminmax())  # NaN if one of x is
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError("x must be finite, got NaN or infinity")
        low, high = self.bounds
        if isinstance(low, Tensor) or isinstance(high, Tensor) or not high - low < math.inf:
            low, high = (ranges.one_input("bounds", bound, x[:, 0] if shared else x) for bound in (low, high))
            ranges.check_within(x, (low, high))
            return
        slack = _RANGE_TOLERANCE * (high - low)
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"x must lie in bounds [{low}, {high}], got values from {least:.4g} to {most:.4g}; "
                "normalisation belongs inside the model, so that eps keeps its meaning"
            )

    def _mask_like(self, x: Tensor, shared: bool) -> Tensor:
        """Move the mask to the device of ``x`` and check that it broadcasts to one input, or to x for each example."""
        assert self.mask is not None
        mask, one = self.mask.to(x.device), x.shape[1 + shared :]
        wanted = one if mask.ndim <= len(one) else x.shape[:1] + one if mask.ndim < x.ndim else x.shape
        try:
            fits = torch.broadcast_shapes(mask.shape, wanted) == wanted
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"mask must broadcast to {tuple(wanted)}, got {tuple(self.mask.shape)}")
        return mask.expand(wanted).all(1) if shared and mask.ndim == x.ndim else mask

    def _radius_like(self, lower: Tensor) -> float | Tensor:
        if not isinstance(self.eps, Tensor):
            return float(self.eps)
        if self.eps.ndim == 1 and len(self.eps) != len(lower):
            raise ValueError(f"eps must be a number or have shape ({len(lower)},), got {tuple(self.eps.shape)}")
        return self.eps.to(lower.device)


def clamped(x: Tensor, bounds: Bounds) -> Tensor:
    """Return ``x`` (..., *S) with every feature inside its range."""
    low, high = bounds
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(x, torch.as_tensor(low).to(x), torch.as_tensor(high).to(x))
    return x.clamp(low, high)


def told_range(threat: ThreatModel) -> dict[str, Any]:
    """Return the range, and what is not as usual of units, as plain values for records and comparisons."""
    if threat.ordinary:
        return {"bounds": list(threat.bounds)}
    return {
        "bounds": [ranges.described(bound) for bound in threat.bounds],
        **({} if threat.scale is None else {"scale": ranges.described(threat.scale)}),
        **({} if threat.unit == "value" else {"unit": threat.unit}),
    }


def paper_width(threat: ThreatModel) -> float:
    """Return the width of the data range by which the paper's step sizes grow.

    Raises:
        ValueError: if a feature has no ends, or features differ in it.
    """
    low, high = threat.bounds
    if threat.ordinary and not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return high - low
    return ranges.common_width(threat.bounds, threat.scale, "preset='paper'")


def width_of(threat: ThreatModel, like: Tensor) -> float | Tensor:
    """Return how wide the data range is, for noise shaped as ``like`` (B, *S); without ends, ten radii of its feature.

    Projected, the usual noise then lies anywhere in the ball, there as elsewhere.
    """
    low, high = threat.bounds
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and high - low < math.inf:
        return high - low
    return ranges.widths(threat.bounds, threat.scale, threat.eps, like)


def check_unit(unit: object, p: float) -> None:
    """Raise a ValueError unless ``unit`` is "value", or "pixel" where p = 0."""
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be 'value' or 'pixel', got {unit!r}")
    if unit == "pixel" and p != 0:
        raise ValueError(f"unit must be 'value' unless p is 0, which counts, got 'pixel' with p {p:g}")


def range_notes(threat: ThreatModel, x: Tensor, *, shared: bool = False) -> list[str]:
    """Say so where a radius reaches across the whole data range, a mask allows nothing, or inputs hardly fill it.

    Args:
        threat: what the attacker may do.
        x: inputs in its bounds, (B, *S); (B, E, *S) where ``shared``.
        shared: whether E inputs share a perturbation.
    """
    (low, high), notes, x = threat.bounds, list[str](), x.detach()
    if not len(x):
        return []
    features = x[0, 0] if shared else x[0]
    if not threat.ordinary or isinstance(low, Tensor) or isinstance(high, Tensor):
        return _notes_by_feature(threat, x.flatten(0, 1) if shared else x)
    count = features.numel() if threat.mask is None else _changeable(threat.mask, features)
    # the norm of the largest change that the range allows
    whole = {"l0": float(count), "l1": (high - low) * count, "l2": (high - low) * count**0.5, "linf": high - low}
    of_range = f"[{low:g}, {high:g}]"
    reaches = bool((torch.as_tensor(threat.eps, dtype=torch.float64) >= whole[threat.name]).any())
    notes += _of_reach(threat, reaches, f"the data range {of_range}")
    if float(x.max() - x.min()) < _FILLED * (high - low):
        share = f"less than {100 * _FILLED:g} %"
        notes.append(f"The inputs fill {share} of their bounds {of_range}: are these the bounds of the data?")
    return notes


def _of_reach(threat: ThreatModel, reaches: bool, across: str) -> list[str]:
    if threat.mask is not None and not bool(threat.mask.any()):
        return ["The mask lets nothing change: every input stays as it is."]
    where = "" if threat.mask is None or bool(threat.mask.all()) else " where the mask lets it change"
    told = f"The radius of {threat.name} reaches across {across}: any input may become any{where}."
    return [told] if reaches else []


def _changeable(mask: Tensor, features: Tensor) -> int:
    """Count the features of an input (*S) that may change; of masks for each example, where most may."""
    if mask.ndim <= features.ndim:
        return int(mask.expand_as(features).sum())
    return int(mask.flatten(0, mask.ndim - features.ndim - 1).expand(-1, *features.shape).flatten(1).sum(1).max())


def whole_range(threat: ThreatModel, x: Tensor) -> float:
    """Return the norm of the largest change that the range and masks of a threat model allow to inputs x (N, *S)."""
    low, high = (torch.as_tensor(bound).to(x.device, torch.float64) for bound in threat.bounds)
    width = (high - low).expand(x.shape[1:])
    allowed = torch.ones_like(width, dtype=torch.bool)
    if threat.mask is not None:
        mask = threat.mask.to(x.device)
        extra = mask.ndim - width.ndim
        allowed = (mask.flatten(0, extra - 1).any(0) if extra > 0 else mask).expand_as(width)
    free = torch.where(allowed, width, 0).unsqueeze(0)
    scale = None if threat.scale is None else ranges.one_input("scale", threat.scale, free)
    whole = FeasibleSet(threat.p, 1.0, torch.zeros_like(free), free, checked=True, scale=scale, unit=threat.unit)
    return float(whole.norm(free)[0])


def _notes_by_feature(threat: ThreatModel, x: Tensor) -> list[str]:
    """Return the notes of a threat model whose features differ, or are counted otherwise, x (N, *S)."""
    low, high = (torch.as_tensor(bound).to(x.device, torch.float64) for bound in threat.bounds)
    width, notes = (high - low).expand(x.shape[1:]), list[str]()
    reaches = bool((torch.as_tensor(threat.eps, dtype=torch.float64).cpu() >= whole_range(threat, x)).any())
    notes += _of_reach(threat, reaches, "the whole data range")
    has_ends = width.isfinite() & (width > 0)
    filled = ((x.amax(0) - x.amin(0)).double() / width)[has_ends]
    if len(filled) and float(filled.max()) < _FILLED:
        share = f"less than {100 * _FILLED:g} %"
        notes.append(f"The inputs fill {share} of the bounds of every feature: are these the bounds of the data?")
    return notes


def _short(value: Bound) -> object:
    return f"tensor{tuple(value.shape)} {ranges.digest(value)}" if isinstance(value, Tensor) else value


def Linf(
    eps: float | Tensor,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    unit: Unit = "value",
) -> ThreatModel:
    """Limit the largest change of a coordinate to ``eps``, in units of ``scale``; see ``ThreatModel``."""
    return ThreatModel(math.inf, eps, bounds, mask, scale, unit)


def L2(
    eps: float | Tensor,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    unit: Unit = "value",
) -> ThreatModel:
    """Limit the Euclidean length of the change, in units of ``scale``, to ``eps``; see ``ThreatModel``."""
    return ThreatModel(2, eps, bounds, mask, scale, unit)


def L1(
    eps: float | Tensor,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    unit: Unit = "value",
) -> ThreatModel:
    """Limit the sum of absolute changes, in units of ``scale``, to ``eps``; see ``ThreatModel``."""
    return ThreatModel(1, eps, bounds, mask, scale, unit)


def L0(
    eps: float | Tensor, bounds: Bounds = (0.0, 1.0), mask: Tensor | None = None, scale: Bound | None = None,
    unit: Unit = "value",
) -> ThreatModel:  # fmt: skip
    """Limit the number of changed coordinates, or with unit="pixel" of changed pixels, to floor(``eps``).

    A pixel is all channels of a place, and channels are the first axis of an input; see ``ThreatModel``.
    """
    return ThreatModel(0, eps, bounds, mask, scale, unit)
