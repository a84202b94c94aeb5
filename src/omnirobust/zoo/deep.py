"""The paper's large classifiers E to H (Table A1), built for images of 32 x 32 pixels.

Table A1 names them only. The layers are those of the original papers. What those made for 224 x 224 pixels is changed
as is usual for 32 x 32, and as the training code does that the paper says it follows: batch normalisation after every
convolution, a 3x3 first convolution of stride 1 without pooling, and one linear layer after the last feature maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pad, relu

Shape = tuple[int, int, int]

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Filters of the 3x3 convolutions of configuration D, a 2x2 max-pooling after each stage."""

RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of the bottleneck blocks of each stage."""

WIDE_STAGES = ((160, 5), (320, 5), (640, 5))
"""Filters and number of the blocks of each stage: widening factor 10, five blocks a stage."""

INCEPTIONS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Filters of each module, in the columns of GoogLeNet's Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj."""


def vgg16(shape: Shape, classes: int) -> nn.Sequential:
    """Build model E: thirteen 3x3 convolutions in five stages, and one linear layer.

    The two hidden layers of 4,096 units, made for 7 x 7 maps, are left out: the maps of a 32 x 32 image are 1 x 1.

    Reference: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition".
    """
    layers: list[nn.Module] = []
    width = shape[0]
    for stage in VGG16_STAGES:
        for filters in stage:
            layers += [nn.Conv2d(width, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
            width = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Bottleneck(nn.Module):
    """Add to the input three convolutions of it, 1x1, 3x3, 1x1, that narrow to ``width`` and widen to 4 ``width``."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _plain(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            _plain(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(),
            _plain(width, 4 * width, 1), nn.BatchNorm2d(4 * width),
        )  # fmt: skip
        same = inputs == 4 * width and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_plain(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + residual(x)), (B, 4 width, H / stride, W / stride)."""
        return relu(self.shortcut(x) + self.residual(x))


def resnet50(shape: Shape, classes: int) -> nn.Sequential:
    """Build model F: sixteen bottleneck blocks in four stages, global average and one linear layer.

    Reference: He et al. 2016, "Deep residual learning for image recognition", Table 1.
    """
    layers: list[nn.Module] = [_plain(shape[0], 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for stage, (width, blocks) in enumerate(RESNET50_STAGES):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class WideBlock(nn.Module):
    """Add to the input two 3x3 convolutions of it, each after normalisation and a leaky ReLU.

    The shortcut has no weights: it averages where the block strides, and pads new channels with zeros.

    Args:
        inputs: channels of the input.
        filters: channels of the output, ``inputs`` or an even number more.
        stride: of the first convolution.
        activate_first: whether the shortcut begins after the first activation too, as in the network's first block.
    """

    def __init__(self, inputs: int, filters: int, stride: int, *, activate_first: bool = False) -> None:
        super().__init__()
        self.stride, self.missing, self.activate_first = stride, filters - inputs, activate_first
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _plain(inputs, filters, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(filters), _plain(filters, filters, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + residual(x), (B, filters, H / stride, W / stride)."""
        active = leaky_relu(self.norm1(x), 0.1)
        residual = self.conv2(leaky_relu(self.norm2(self.conv1(active)), 0.1))
        shortcut = active if self.activate_first else x
        if self.stride > 1:
            shortcut = avg_pool2d(shortcut, self.stride, ceil_mode=True)
        half = self.missing // 2
        return residual + (pad(shortcut, (0, 0, 0, 0, half, half)) if half else shortcut)


def wide_resnet(shape: Shape, classes: int) -> nn.Sequential:
    """Build model G: fifteen pre-activation blocks of 160, 320 and 640 filters, global average and one linear layer.

    The paper cites Madry et al. for it, whose network this is, without the standardisation of each image that they
    put before it: the other models of the paper's ensembles have none.

    Reference: Madry et al. 2017, "Towards deep learning models resistant to adversarial attacks"; Zagoruyko and
    Komodakis 2016, "Wide residual networks".
    """
    layers: list[nn.Module] = [_plain(shape[0], 16, 3)]
    inputs = 16
    for stage, (filters, blocks) in enumerate(WIDE_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(WideBlock(inputs, filters, stride, activate_first=not stage and not block))
            inputs = filters
    head = (nn.BatchNorm2d(inputs), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *head, nn.Linear(inputs, classes))


class Inception(nn.Module):
    """Stack the channels of 1x1, 3x3 and 5x5 convolutions and of a 3x3 max-pooling, each narrowed by 1x1 ones.

    Args:
        inputs: channels of the input.
        filters: those of a row of ``INCEPTIONS``.
    """

    def __init__(self, inputs: int, filters: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        ones, narrow3, threes, narrow5, fives, pooled = filters
        self.ones = _normalised(inputs, ones, 1)
        self.threes = nn.Sequential(_normalised(inputs, narrow3, 1), _normalised(narrow3, threes, 3))
        self.fives = nn.Sequential(_normalised(inputs, narrow5, 1), _normalised(narrow5, fives, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _normalised(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the four parts side by side, (B, 1x1 + 3x3 + 5x5 + pool proj, H, W)."""
        return torch.cat([self.ones(x), self.threes(x), self.fives(x), self.pooled(x)], 1)


def googlenet(shape: Shape, classes: int) -> nn.Sequential:
    """Build model H: nine Inception modules, global average and one linear layer.

    One 3x3 convolution of 192 filters stands before them in place of the three and the two poolings that bring
    224 x 224 pixels to 28 x 28. Batch normalisation stands in for the two auxiliary classifiers and the dropout.

    Reference: Szegedy et al. 2015, "Going deeper with convolutions", Table 1.
    """
    layers: list[nn.Module] = [_normalised(shape[0], 192, 3)]
    inputs = 192
    for name, filters in INCEPTIONS.items():
        if name in ("4a", "5a"):
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers.append(Inception(inputs, filters))
        inputs = filters[0] + filters[2] + filters[4] + filters[5]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def start_deep(layer: nn.Module) -> None:
    """Draw the weights of a convolution from He's normal distribution, and leave other layers as torch starts them.

    Reference: He et al. 2015, "Delving deep into rectifiers".
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _plain(inputs: int, filters: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, size, stride, padding=size // 2, bias=False)


def _normalised(inputs: int, filters: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, filters, size, padding=size // 2), nn.BatchNorm2d(filters), nn.ReLU())
