"""Gradients through kinks as if these were round: what a unit that is off would have passed on counts a little, too.

Which units are on differs from model to model; what they would pass on has more in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

WIDTH = 0.5
"""How wide kinks become, in root mean squares of what enters them."""


class Softened(TorchFunctionMode):
    """Within it, ReLU, ReLU6 and two-dimensional max-pooling have their values, and the gradients of smooth functions.

    With s ``WIDTH`` times the root mean square of a row: ReLU's gradient is sigmoid(z / s) instead of 0 or 1, ReLU6's
    that times sigmoid((6 - z) / s), hardtanh's likewise; of a pooled window each value gets its share of
    softmax(z / s). Calls of modules and functions of torch are seen, but not what is compiled or changes tensors in
    place.

    Cost: a few passes over what enters a kink.

    Reference: Guo et al., "Backpropagating linearly improves transferability of adversarial examples", 2020, who leave
    out the kinks of some layers.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call a function of torch, or what stands for it."""
        return _SOFT.get(func, func)(*args, **(kwargs or {}))


def _width(z: Tensor) -> Tensor:
    """Return s of every row, (B, 1, ...)."""
    rms = z.detach().flatten(1).square().mean(1).sqrt()
    return (WIDTH * rms).clamp_min(torch.finfo(z.dtype).tiny).view(-1, *[1] * (z.ndim - 1))


def _relu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    if input.ndim < 2:
        return torch.relu(input)
    still = input.detach()
    return torch.relu(still) + (still / _width(still)).sigmoid() * (input - still)


def _relu6(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    return _hardtanh(input, 0.0, 6.0)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: A002
    still = input.detach()
    slope = ((still - min_val) / _width(still)).sigmoid() * ((max_val - still) / _width(still)).sigmoid()
    return still.clamp(min_val, max_val) + slope * (input - still)


def _max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,  # noqa: A002
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    if input.ndim != 4 or return_indices or dilation not in (1, (1, 1)):
        return torch.max_pool2d(input, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    still = input.detach()
    shares = ((still - still.flatten(1).amax(1).view(-1, 1, 1, 1)) / _width(still)).exp()
    window = (kernel_size, stride or kernel_size, padding, ceil_mode)
    soft = F.avg_pool2d(shares * (input - still), *window) / F.avg_pool2d(shares, *window).clamp_min(1e-30)
    return torch.max_pool2d(still, kernel_size, stride or kernel_size, padding, dilation, ceil_mode) + soft


_SOFT: dict[Any, Callable[..., Any]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu, F.relu6: _relu6, F.hardtanh: _hardtanh,
    F.max_pool2d: _max_pool2d, torch.max_pool2d: _max_pool2d,
}  # fmt: skip
"""Functions with kinks, and what stands for them."""
