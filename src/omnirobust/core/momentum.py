"""A direction for models that are not attacked: gradients that accumulate, and that are blurred first.

What a model left out has in common with those attacked is in the coarse part of their gradients, and in what stays from
step to step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from omnirobust.core.arguments import check_number
from omnirobust.core.directions import Stepper, unit_l2
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.core.weights import weighted_gradient


@dataclass(frozen=True)
class Momentum:
    """Steepest descent along the sum of all gradients so far, each blurred and of unit length: linf and l2.

        G_t = decay G_{t-1} + g / ||g||_2,   delta_t = proj(delta_{t-1} - s u),   u = sign G_t (linf), G_t / ||G_t||_2

    g is the weighted gradient, blurred by a Gaussian (``blurred``).

    Args:
        decay: how much of G each step keeps, in [0, 1].
        blur: standard deviation in pixels, >= 0; 0 for none. Perturbations that are not (channels, height, width) are
            not blurred.
        length: of all steps together, in radii, > 0: s is length eps / T.

    Raises:
        ValueError: if an argument lies outside its range.

    Reference: Dong et al., "Boosting adversarial attacks with momentum", 2018, who divide g by its mean absolute value;
    Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant attacks", 2019.
    """

    decay: float = 1.0
    blur: float = 0.0
    length: float = 2.0

    def __post_init__(self) -> None:
        check_number("decay", self.decay, "in [0, 1]", lambda decay: 0 <= decay <= 1)
        check_number("blur", self.blur, ">= 0, in pixels", lambda blur: 0 <= blur < inf)
        check_number("length", self.length, "> 0, in units of eps", lambda length: 0 < length < inf)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is s, in units of the input.

        Raises:
            ValueError: under l1 and l0.
        """
        if feasible.p not in (2, inf):
            raise ValueError(f"direction must be another than Momentum under l{feasible.p:g}: it is for linf and l2")
        return _Accumulated(self, step_size, steps)


class _Accumulated:
    """G of one run."""

    def __init__(self, setting: Momentum, step_size: float | None, steps: int) -> None:
        self._setting, self._size, self._steps = setting, step_size, steps
        self._sum: Tensor | None = None

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        assert evaluation.grads is not None
        unit = unit_l2(blurred(weighted_gradient(weights, evaluation.grads), self._setting.blur))
        self._sum = unit if self._sum is None else self._setting.decay * self._sum + unit
        shape = torch.sign(self._sum) if feasible.p == inf else unit_l2(self._sum)
        size = self._size or feasible.radius() * (self._setting.length / self._steps)
        if isinstance(size, Tensor):
            size = size.view((-1,) + (1,) * (delta.ndim - 1))
        return feasible.project((delta - shape * size).to(delta.dtype))

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        self._sum = None if self._sum is None else self._sum[rows]


def blurred(images: Tensor, std: float) -> Tensor:
    """Convolve every channel with a Gaussian, cut off ``ceil(std)`` pixels from its middle; 0 lies beyond the edges.

    Args:
        images: (B, C, H, W); what has another number of dimensions is returned as it is.
        std: standard deviation in pixels; 0 for none.

    Returns:
        Of the same shape, bit for bit the same in batches of any size.
    """
    reach = ceil(std)
    if not reach or images.ndim != 4:
        return images
    bell = [exp(-((at / std) ** 2) / 2) for at in range(-reach, reach + 1)]
    for dim, edges in ((2, (0, 0, reach, reach)), (3, (reach, reach))):
        wide, size = pad(images, edges), images.shape[dim]
        # shifted images, not a convolution: sums whose order no library chooses
        images = torch.zeros_like(images)
        for at, weight in enumerate(bell):
            images.add_(wide.narrow(dim, at, size), alpha=weight / sum(bell))
    return images
