"""The paper's classifiers A to H (Table A1): here A to D, built for any image shape; E to H in ``deep``.

They return logits: the softmax that ends each column of Table A1 belongs to the loss. Padding and strides, which
the table leaves out, follow the authors' released code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from omnirobust.core.draws import building
from omnirobust.zoo.deep import Shape, googlenet, resnet50, start_deep, vgg16, wide_resnet

ALIASES: dict[str, str] = {
    "mlp": "a", "all-cnns": "b", "lenet": "c", "lenetv2": "d",
    "vgg16": "e", "resnet50": "f", "wide-resnet": "g", "googlenet": "h",
}  # fmt: skip
"""The paper's names of the networks, and the letters that the paper gives them."""


class GlobalAverage(nn.Module):
    """Average each channel over the image: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means, (B, C)."""
        return x.mean(dim=(2, 3))


def mlp(shape: Shape, classes: int) -> nn.Sequential:
    """Build model A: fully connected layers of 128, 128 and 64 units with ReLU, then the logits."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 128), nn.ReLU(),
        nn.Linear(128, 128), nn.ReLU(),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, classes),
    )  # fmt: skip


def all_cnns(shape: Shape, classes: int) -> nn.Sequential:
    """Build model B: nine convolutions and a global average, no pooling.

    The third and the sixth convolution have stride 2, dropout and no ReLU; the last 1x1 convolution has stride 2.

    Reference: Springenberg et al. 2015, "Striving for simplicity: the all convolutional net".
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.Dropout(0.5),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 3, stride=2, padding=1), nn.Dropout(0.5),
        nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 128, 1), nn.ReLU(),
        nn.Conv2d(128, classes, 1, stride=2), GlobalAverage(),
    )  # fmt: skip


def lenet(shape: Shape, classes: int) -> nn.Sequential:
    """Build model C: two 5x5 convolutions with pooling, then 120 and 84 units.

    The convolutions are unpadded, as in the released code. Images under 16 pixels a side leave nothing after
    two of those, so they get padding that keeps the size.

    Reference: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    channels, height, width = shape
    padding = 2 if min(height, width) < 16 else 0
    rows, columns = (_pooled(_pooled(side + 2 * padding - 4) + 2 * padding - 4) for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * rows * columns, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, classes),
    )  # fmt: skip


def lenet_v2(shape: Shape, classes: int) -> nn.Sequential:
    """Build model D: two padded 3x3 convolutions with pooling, then 128 units with dropout."""
    channels, height, width = shape
    rows, columns = _pooled(_pooled(height)), _pooled(_pooled(width))
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * rows * columns, 128), nn.ReLU(), nn.Dropout(0.25),
        nn.Linear(128, classes),
    )  # fmt: skip


def _pooled(side: int) -> int:
    return side // 2


SMALL: dict[str, Callable[[Shape, int], nn.Module]] = {"a": mlp, "b": all_cnns, "c": lenet, "d": lenet_v2}
"""Letter to builder, for sides of at least 4 pixels."""

DEEP: dict[str, Callable[[Shape, int], nn.Module]] = {
    "e": vgg16,
    "f": resnet50,
    "g": wide_resnet,
    "h": googlenet,
}
"""Letter to builder, for sides of at least 32 pixels."""

ARCHITECTURES = SMALL | DEEP
"""Letter to builder. A new network is one function and one row in ``SMALL`` or ``DEEP``."""


def build(arch: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build an untrained network in training mode, initialised from torch's global generator.

    Args:
        arch: a letter of Table A1 ("a" to "h", in either case) or the paper's name of it ("mlp", "vgg16", ...).
        shape: (channels, height, width) of the images, each side at least 4 pixels for A to D, and 32 for E to H.
        classes: number of logits, at least 2.

    Returns:
        A module that maps (B, *shape) to logits (B, classes).

    Raises:
        ValueError: for an unknown ``arch``, or a shape or class count out of range.
    """
    letter = architecture_letter(arch)
    least = 32 if letter in DEEP else 4
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ValueError(
            f"shape must be (channels, height, width) with sides of at least {least} pixels for {arch}, got {shape}"
        )
    if classes < 2:
        raise ValueError(f"classes must be >= 2, got {classes}")
    channels, height, width = shape
    model = ARCHITECTURES[letter]((channels, height, width), classes)
    model.apply(start_deep if letter in DEEP else _glorot)
    return model


def seeded_build(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network with the initial weights of ``seed``; torch's generators are left as they were."""
    with building():
        torch.manual_seed(seed)
        return make()


def architecture_letter(arch: str) -> str:
    """Return the letter that ``arch``, a letter or one of the paper's names, stands for."""
    letter = ALIASES.get(arch.lower(), arch.lower())
    if letter not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES) + sorted(ALIASES))
        raise ValueError(f"arch must be one of {known}, got {arch!r}")
    return letter


def _glorot(layer: nn.Module) -> None:
    # The released code's framework starts from Glorot weights and zero biases. Torch's own smaller start leaves the
    # nine unnormalised layers of B almost blind to their input, and its first epoch is lost.
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.zero_()
