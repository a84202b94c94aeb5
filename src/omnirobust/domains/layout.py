"""The memory layout in which a processor runs a model fastest, and models that a layout would stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_CHUNK_PIXELS = 65536
_WHOLE_BATCH = 256

_LANES = 8
"""Numbers that AVX2 takes at once."""


def pieces(images: int, like: Tensor) -> int:
    """Say how many of ``images`` inputs such as ``like`` (n, *S) a convolutional model sees at once, for speed."""
    if images <= _WHOLE_BATCH or not is_of_images(like):
        return max(images, 1)
    return max(8, _CHUNK_PIXELS // (like.shape[2] * like.shape[3]))


def is_of_images(batch: Tensor) -> bool:
    """Say whether a batch is one whose layout counts: images, on a processor."""
    return batch.ndim == 4 and batch.device.type == "cpu"


def prefers_channels_last(modules: Iterable[nn.Module]) -> bool:
    """Say whether a processor runs a model of these modules faster with the channels last: with convolutions it does.

    But not where AVX2 is all that it has, and max-pooling follows a first convolution of fewer channels than that takes
    at once: channels-last pooling goes over channels, and LeNet's six of them take longer than rows of pixels.
    Strided convolutions are none the worse for few channels, and eight with pooling are faster than eight rows apart.
    """
    modules = list(modules)
    first = next((m for m in modules if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return False
    narrow = first.out_channels < _LANES and any(isinstance(m, nn.MaxPool2d) for m in modules)
    return not (narrow and torch.backends.cpu.get_cpu_capability() == "AVX2")


def channels_last(batch: Tensor) -> Tensor:
    """Lay images (n, C, H, W) out with their channels last."""
    if batch.shape[1] == 1:  # both layouts hold the same numbers in the same order: only the strides differ
        height, width = batch.shape[2:]
        return batch.contiguous().as_strided(batch.shape, (height * width, 1, width, 1))
    return batch.contiguous(memory_format=torch.channels_last)


class ViewsReshape(TorchFunctionMode):
    """Let ``.view`` copy where the layout forbids a view, so that models written for contiguous tensors run."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        by_dtype = "dtype" in kwargs or (len(args) > 1 and isinstance(args[1], torch.dtype))
        if func is torch.Tensor.view and not by_dtype:
            return torch.Tensor.reshape(*args, **kwargs)
        if func is torch.Tensor.view_as:
            return torch.Tensor.reshape_as(*args, **kwargs)
        return func(*args, **kwargs)
