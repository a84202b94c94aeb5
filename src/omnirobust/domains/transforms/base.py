"""What an image transformation is: a frozen setting that maps images and uniform numbers to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.arguments import is_number

Amount: TypeAlias = float | tuple[float, float]
"""A number, or a range (low, high) from which every image draws its own, uniformly."""

_HALF = (torch.float16, torch.bfloat16)


class Columns:
    """The uniform numbers of a batch, handed out column by column.

    Args:
        u: (n, numbers) in [0, 1).
        like: the images, whose dtype and device the amounts take.
    """

    def __init__(self, u: Tensor, like: Tensor) -> None:
        self._u, self._like, self._next = u, like, 0

    def take(self, count: int) -> Tensor:
        """Return the next ``count`` columns, (n, count)."""
        self._next += count
        return self._u[:, self._next - count : self._next]

    def amount(self, amount: Amount) -> Tensor:
        """Return ``amount`` for every image: (n,) from a range, (1,) from a number."""
        if not isinstance(amount, tuple):
            return self._like.new_tensor([amount])
        low, high = amount
        return low + (high - low) * self.take(1)[:, 0].to(self._like)


@dataclass(frozen=True)
class ImageTransform(ABC):
    """A differentiable transformation of images, deterministic or drawn anew for every image.

    Subclasses are frozen dataclasses that name their drawable fields in ``amounts`` and write ``_change``.

    Args:
        p: probability in [0, 1] with which an image is transformed rather than left alone.
    """

    short: ClassVar[str] = ""
    """Name on the command line."""
    amounts: ClassVar[tuple[str, ...]] = ()
    """Fields that are an ``Amount``, in the order in which they draw."""
    seeds: ClassVar[int] = 0
    """Uniform numbers needed beside those of the amounts and of ``p``."""

    p: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_amount("p", self.p, 0.0, 1.0, ranges=False)

    @property
    def numbers(self) -> int:
        """How many uniform numbers an image needs; 0 says that the transformation is deterministic."""
        ranges = sum(isinstance(getattr(self, name), tuple) for name in self.amounts)
        return ranges + self.seeds + (self.p < 1)

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Transform every image by its own numbers.

        Args:
            x: images, (n, C, H, W), float; half precision is computed in float32.
            u: (n, numbers) in [0, 1).

        Returns:
            (n, C, H, W) in the dtype of ``x``, differentiable in ``x``.

        Raises:
            ValueError: if a shape or dtype does not fit.
        """
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(f"x must be float images of shape (n, C, H, W), got {x.dtype} of shape {tuple(x.shape)}")
        if tuple(u.shape) != (len(x), self.numbers):
            raise ValueError(f"u must have shape {(len(x), self.numbers)}, got {tuple(u.shape)}")
        exact = x.float() if x.dtype in _HALF else x
        columns = Columns(u, exact)
        changed = self._change(exact, columns)
        if self.p < 1:
            changed = torch.where(per_image(columns.take(1)[:, 0] < self.p), changed, exact)
        return changed.to(x.dtype)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Transform images (n, C, H, W) by numbers drawn from ``generator``, or from torch's own."""
        home = x.device if generator is None else generator.device
        return self.apply(x, torch.rand(len(x), self.numbers, generator=generator, device=home).to(x.device))

    @abstractmethod
    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        """Transform every image of ``x`` (n, C, H, W)."""

    def __str__(self) -> str:
        """Write the transformation as ``named`` reads it, for instance "rot:-30..30"."""
        text = self.short
        for number, f in enumerate(fields(self)[1:]):  # the first is p
            value = getattr(self, f.name)
            if value != f.default or f.name in self.amounts[:1]:
                text += f":{amount_text(value)}" if number == 0 else f":{f.name}={amount_text(value)}"
        return text if self.p == 1 else f"{text}:p={self.p:g}"


@dataclass(frozen=True)
class Chain(ImageTransform):
    """Several transformations one after the other, each with draws of its own: "rot:-20..20+bri:0.1".

    Args:
        steps: at least one transformation.
        p: probability of the whole chain.
    """

    steps: tuple[ImageTransform, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps or not all(isinstance(step, ImageTransform) for step in self.steps):
            raise ValueError(f"steps must be a tuple of at least one image transformation, got {self.steps!r}")

    @property
    def numbers(self) -> int:
        """How many uniform numbers an image needs."""
        return sum(step.numbers for step in self.steps) + (self.p < 1)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        for step in self.steps:
            x = step.apply(x, columns.take(step.numbers))
        return x

    def __str__(self) -> str:
        """Write the steps as ``named`` reads them."""
        return "+".join(str(step) for step in self.steps)


def per_image(values: Tensor) -> Tensor:
    """Shape (n,) or (1,) so that it broadcasts over images: (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def amount_text(amount: Amount) -> str:
    """Write a number, or a range as "low..high"."""
    return f"{amount[0]:g}..{amount[1]:g}" if isinstance(amount, tuple) else f"{amount:g}"


def check_amount(name: str, amount: object, least: float, most: float, *, ranges: bool = True) -> None:
    """Raise a ValueError that names the argument unless it is a number in [least, most], or a range within."""
    pair = amount if ranges and isinstance(amount, tuple) and len(amount) == 2 else (amount, amount)
    numbers = [float(v) for v in pair if is_number(v) and isfinite(v)]
    if len(numbers) < 2 or not least <= numbers[0] <= numbers[1] <= most:
        kind = "a number or a range (low, high)" if ranges else "a number"
        limits = {(False, False): "", (True, False): f" >= {least:g}"}.get((isfinite(least), isfinite(most)))
        raise ValueError(
            f"{name} must be {kind}{f' in [{least:g}, {most:g}]' if limits is None else limits}, got {amount!r}"
        )


def check_bounds(bounds: object) -> None:
    """Raise a ValueError unless ``bounds`` is a pair (low, high) with low < high."""
    check_amount("bounds", bounds, -torch.inf, torch.inf)
    if not isinstance(bounds, tuple) or not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be a pair (low, high) with low < high, got {bounds!r}")
