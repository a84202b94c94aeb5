"""How the images of a grid are cut into what goes through a model at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """What goes through a model at once: some problems, under some transformations, some of their examples."""

    rows: slice
    transforms: range
    examples: slice
    slots: tuple[range, ...]
    """Numbers of the draws of each of the transformations, and of the model under it."""

    def put(self, part: Tensor, whole: Tensor) -> None:
        """Write the values of this part (r, e, b, ...) into those of all (R, E, B, ...)."""
        whole[self.transforms.start : self.transforms.stop, self.examples, self.rows] = part


def numbered(draws: Sequence[int]) -> tuple[range, ...]:
    """Number the draws of all transformations through, a range for each."""
    ends = accumulate(draws)
    return tuple(range(end - n, end) for n, end in zip(draws, ends, strict=True))


def parts_of(
    problems: int, examples: int, transforms: range, slots: Sequence[range], limit: Callable[[int], int]
) -> Iterator[Part]:
    """Cut all images into parts of at most as many as ``limit`` says; all draws of one image go together.

    Args:
        problems: B; without any there is one part, an empty one.
        examples: E of each problem.
        transforms: those that are wanted.
        slots: of all transformations.
        limit: from how many images there are to how many may go at once, asked anew for every part.
    """
    together = tuple(slots[transforms.start : transforms.stop])
    each, begin = examples * sum(map(len, together)), 0
    while begin < max(problems, 1):
        most = limit(problems * each)
        if most >= each:
            end = min(begin + most // each, max(problems, 1))
            yield Part(slice(begin, end), transforms, slice(0, examples), together)
            begin = end
            continue
        for r in transforms:
            size = max(1, most // len(slots[r]))
            for first in range(0, examples, size):
                some = slice(first, min(first + size, examples))
                yield Part(slice(begin, begin + 1), range(r, r + 1), some, (slots[r],))
        begin += 1
