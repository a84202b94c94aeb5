"""What an attacker may do: an lp ball of radius eps in a data range, perhaps limited to a patch.

``ThreatModel`` states it once; ``ThreatModel.around(x)`` makes the ``FeasibleSet`` of the perturbations of given
inputs, X = {delta : ||delta||_p <= eps, lower <= delta <= upper} with lower = lo - x and upper = hi - x.
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field, replace

import torch
from torch import Tensor

from omnirobust.core.arguments import Norm, is_number, norm_name
from omnirobust.core.choices import Clip as Clip
from omnirobust.core.projections import (
    as_rows,
    check_lp_box,
    check_radius_type,
    lp_box_unchecked,
    row_norm,
    toward_zero,
)

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
        eps: radius >= 0, a number or one a row (B,).
        lower: lower bounds <= 0, (B, *S).
        upper: upper bounds >= 0, (B, *S).

    Args:
        checked: whether all of these are known to be so.
    """

    p: float
    eps: float | Tensor
    lower: Tensor
    upper: Tensor
    checked: InitVar[bool] = False
    _low: Tensor = field(init=False, repr=False)
    _high: Tensor = field(init=False, repr=False)

    def __post_init__(self, checked: bool) -> None:
        if not checked:
            self._check()
        low, high = self.lower, self.upper
        if self.p == math.inf:
            # Folded once: projecting is then a single clamp.
            reach = self.radius()
            reach = (reach if reach.dtype == low.dtype else toward_zero(reach, low.dtype)).reshape(
                -1, *[1] * (low.ndim - 1)
            )
            low, high = torch.maximum(low, -reach), torch.minimum(high, reach)
        object.__setattr__(self, "_low", low)
        object.__setattr__(self, "_high", high)

    def _check(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise ValueError(f"lower and upper must share a shape, got {(*self.lower.shape,)}, {(*self.upper.shape,)}")
        check_lp_box(self.p, self.eps, self.lower, self.upper, self.lower)

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
        return lp_box_unchecked(delta, self.p, self.eps, self.lower, self.upper)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the lp norm of every row of ``delta`` (B, *S), as (B,)."""
        if self.p == math.inf and delta[:1].numel():
            return delta.abs().flatten(1).amax(dim=1)
        return row_norm(delta, self.p)

    def contains(self, delta: Tensor, tol: float = 1e-6) -> Tensor:
        """Say which rows of ``delta`` (B, *S) are feasible, (B,) bool.

        Args:
            tol: relative excess allowed over eps (none for p = 0), and absolute excess allowed over the box.
        """
        in_box = as_rows((delta >= self.lower - tol) & (delta <= self.upper + tol)).all(1)
        radius = torch.as_tensor(self.eps, dtype=torch.float64, device=delta.device)
        slack = radius.floor() if self.p == 0 else radius * (1 + tol)
        return in_box & (row_norm(delta.double(), self.p) <= slack)

    def select(self, rows: Tensor) -> FeasibleSet:
        """Keep the rows that ``rows`` (int64 indices or a bool mask) lists, with their own radii."""
        eps = self.eps[rows] if isinstance(self.eps, Tensor) and self.eps.ndim == 1 else self.eps
        return replace(self, eps=eps, lower=self.lower[rows], upper=self.upper[rows], checked=True)

    def scaled(self, factor: float) -> FeasibleSet:
        """Return the set with every radius ``factor`` times as large, in the same box."""
        return replace(self, eps=self.eps * factor)


@dataclass(frozen=True)
class ThreatModel:
    """An lp ball of radius eps in a data range, perhaps limited to a patch.

    Attributes:
        p: 0, 1, 2 or inf.
        eps: finite radius >= 0, a number or one an input (B,); in units of the data, for p = 0 a number of coordinates.
        bounds: (lo, hi), the range of the data.
        mask: True where the attacker may change the input, bool, broadcastable to *S; None: everywhere.
        name: of the norm, l0, l1, l2 or linf.
    """

    p: float
    eps: float | Tensor
    bounds: tuple[float, float] = (0.0, 1.0)
    mask: Tensor | None = None
    name: Norm = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", norm_name(self.p))
        if type(self.eps) is not float:
            check_radius_type(self.eps)
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
        if not (is_number(low) and is_number(high)):
            raise TypeError(f"bounds must be two numbers (lo, hi), got {self.bounds!r}")
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"bounds must be (lo, hi) with finite lo < hi, got {self.bounds}")
        if self.mask is not None and not isinstance(self.mask, Tensor):
            raise TypeError(f"mask must be a bool tensor or None, got {type(self.mask).__name__}")
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be a bool tensor, got {self.mask.dtype}")

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
        lower, upper = (low - x).clamp_max(0), (high - x).clamp_min(0)
        if shared and clip == "intersection":
            lower, upper = lower.amax(1), upper.amin(1)
        elif shared and clip == "image":
            lower, upper = torch.full_like(x[:, 0], low - high), torch.full_like(x[:, 0], high - low)
        elif shared:
            raise ValueError(f"clip must be 'image' or 'intersection', got {clip!r}")
        if self.mask is not None:
            allowed = self._mask_like(lower)
            lower, upper = torch.where(allowed, lower, 0), torch.where(allowed, upper, 0)
        return FeasibleSet(self.p, self._radius_like(lower), lower, upper, checked=True)

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
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x must be finite, got NaN or infinity")
        (low, high), (least, most) = self.bounds, (float(x.min()), float(x.max()))
        slack = _RANGE_TOLERANCE * (high - low)
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"x must lie in bounds [{low}, {high}], got values from {least:.4g} to {most:.4g}; "
                "normalisation belongs inside the model, so that eps keeps its meaning"
            )

    def _mask_like(self, lower: Tensor) -> Tensor:
        """Move the mask to the device of ``lower`` (B, *S) and check that it broadcasts to *S."""
        assert self.mask is not None
        try:
            fits = torch.broadcast_shapes(self.mask.shape, lower.shape[1:]) == lower.shape[1:]
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"mask must broadcast to {tuple(lower.shape[1:])}, got {tuple(self.mask.shape)}")
        return self.mask.to(lower.device)

    def _radius_like(self, lower: Tensor) -> float | Tensor:
        if not isinstance(self.eps, Tensor):
            return float(self.eps)
        if self.eps.ndim == 1 and len(self.eps) != len(lower):
            raise ValueError(f"eps must be a number or have shape ({len(lower)},), got {tuple(self.eps.shape)}")
        return self.eps.to(lower.device)


def range_notes(threat: ThreatModel, x: Tensor, *, shared: bool = False) -> list[str]:
    """Say so where a radius reaches across the whole data range, or inputs fill next to nothing of it.

    Args:
        threat: what the attacker may do.
        x: inputs in its bounds, (B, *S); (B, E, *S) where ``shared``.
        shared: whether E inputs share a perturbation.
    """
    (low, high), notes = threat.bounds, []
    if not len(x):
        return []
    features = x[0, 0] if shared else x[0]
    count = features.numel() if threat.mask is None else int(threat.mask.expand_as(features).sum())
    # the norm of the largest change that the range allows
    whole = {"l0": float(count), "l1": (high - low) * count, "l2": (high - low) * count**0.5, "linf": high - low}
    of_range = f"[{low:g}, {high:g}]"
    if bool((torch.as_tensor(threat.eps, dtype=torch.float64) >= whole[threat.name]).any()):
        notes.append(f"The radius of {threat.name} reaches across the data range {of_range}: any input may become any.")
    if float(x.max() - x.min()) < _FILLED * (high - low):
        share = f"less than {100 * _FILLED:g} %"
        notes.append(f"The inputs fill {share} of their bounds {of_range}: are these the bounds of the data?")
    return notes


def Linf(eps: float | Tensor, bounds: tuple[float, float] = (0.0, 1.0), mask: Tensor | None = None) -> ThreatModel:
    """Limit the largest change of a coordinate to ``eps``."""
    return ThreatModel(math.inf, eps, bounds, mask)


def L2(eps: float | Tensor, bounds: tuple[float, float] = (0.0, 1.0), mask: Tensor | None = None) -> ThreatModel:
    """Limit the Euclidean length of the change to ``eps``."""
    return ThreatModel(2, eps, bounds, mask)


def L1(eps: float | Tensor, bounds: tuple[float, float] = (0.0, 1.0), mask: Tensor | None = None) -> ThreatModel:
    """Limit the sum of absolute changes to ``eps``."""
    return ThreatModel(1, eps, bounds, mask)


def L0(eps: float | Tensor, bounds: tuple[float, float] = (0.0, 1.0), mask: Tensor | None = None) -> ThreatModel:
    """Limit the number of changed coordinates to floor(``eps``)."""
    return ThreatModel(0, eps, bounds, mask)
