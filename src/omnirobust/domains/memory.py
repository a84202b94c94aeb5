"""How many images fit into a budget: what the graph of a forward pass holds, counted while one is recorded.

Importing it lets the C library keep what a step has freed for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn


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


GIB = 2**30

SMALL = 2**22
"""Values of input (4 million: 16 MB) up to which a batch goes through whole where nobody set a budget."""

_PROBE = 8
"""Images of the first pass, while it is not known what one costs."""


# glibc returns to the system what is freed beyond twice the largest block that it has seen freed, and an attack pays
# for the pages anew in its next step: a sixth of the processor time of small networks. One block that nobody writes to,
# the largest that it goes by (32 MiB less what it adds), lets it keep 64 MiB. MALLOC_TRIM_THRESHOLD_ overrules that.
torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def default_budget(device: torch.device) -> int:
    """Return the budget where none is set: 1 GiB, on a GPU a quarter of its memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return GIB


class MemoryBudget:
    """Learns from one pass what the graph of an image holds, and says how many images the budget allows at once.

    Args:
        budget: bytes that the graph of a forward pass may hold; None for the default, which leaves small batches whole.

    Attributes:
        image_bytes: what the graph of one image holds, by model, as far as it is known.
    """

    def __init__(self, budget: int | None) -> None:
        self._bytes = budget
        self.image_bytes: dict[str, float] = {}

    def limit(self, name: str, images: int, like: Tensor) -> int:
        """Return how many of ``images`` inputs such as ``like`` (n, *S) may go through model ``name`` at once."""
        if not self.needed(images, like):
            return max(images, 1)
        if name not in self.image_bytes:
            return min(max(images, 1), _PROBE)
        budget = self._bytes or default_budget(like.device)
        return max(1, min(images, int(budget // max(self.image_bytes[name], 1.0))))

    def needed(self, images: int, like: Tensor) -> bool:
        """Say whether ``images`` inputs such as ``like`` (n, *S) are to be cut: by a budget, or for being many."""
        return self._bytes is not None or images * like[:1].numel() > SMALL

    @contextmanager
    def watching(self, name: str, images: int, model: object) -> Iterator[None]:
        """Count what the graph of model ``name`` saves for ``images`` inputs; the dearest pass so far counts."""
        if images == 0:
            yield
            return
        with counted(model) as seen:
            yield
        self.image_bytes[name] = max(self.image_bytes.get(name, 0.0), sum(seen.values()) / images)


@contextmanager
def counted(model: object) -> Iterator[dict[int, int]]:
    """Count what graphs that are recorded inside save, beside the model's own tensors.

    Yields:
        Bytes by address, as they come.
    """
    known = {p.untyped_storage().data_ptr() for p in _tensors(model)}
    seen: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(_counting(known, seen), lambda t: t):
        yield seen


def _tensors(model: object) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []


def _counting(known: set[int], seen: dict[int, int]) -> Callable[[Tensor], Tensor]:
    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    return pack
