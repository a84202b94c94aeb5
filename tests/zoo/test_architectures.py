"""The networks are those of Table A1: counted by hand, layer by layer."""

import math

import pytest
import torch
from torch import nn

from omnirobust.zoo.architectures import ALIASES, DEEP, SMALL, build

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)

# Weights and biases of each layer of Table A1, multiplied out by hand.
PARAMETERS = {
    ("a", MNIST): (784 * 128 + 128) + (128 * 128 + 128) + (128 * 64 + 64) + (64 * 10 + 10),
    ("b", MNIST): 320 + 18_496 + 73_856 + 4 * 147_584 + 16_512 + 1_290,
    ("c", MNIST): 156 + 2_416 + (256 * 120 + 120) + 10_164 + 850,
    ("d", MNIST): 320 + 18_496 + (7 * 7 * 64 * 128 + 128) + 1_290,
    ("a", CIFAR): (3_072 * 128 + 128) + (128 * 128 + 128) + (128 * 64 + 64) + (64 * 10 + 10),
    ("c", CIFAR): 456 + 2_416 + (400 * 120 + 120) + 10_164 + 850,
    ("d", CIFAR): 896 + 18_496 + (8 * 8 * 64 * 128 + 128) + 1_290,
    ("c", DIGITS): 156 + 2_416 + (64 * 120 + 120) + 10_164 + 850,
}


@pytest.mark.parametrize(("arch", "shape"), PARAMETERS)
def test_parameters_are_as_many_as_table_a1_has(arch: str, shape: tuple[int, int, int]) -> None:
    assert sum(p.numel() for p in build(arch, shape, 10).parameters()) == PARAMETERS[arch, shape]


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("shape", [MNIST, CIFAR, DIGITS, (3, 4, 5), (1, 15, 40), (2, 16, 17)])
def test_images_become_one_logit_a_class(arch: str, shape: tuple[int, int, int]) -> None:
    logits = build(arch, shape, 7).eval()(torch.rand(3, *shape))
    assert logits.shape == (3, 7)
    # A softmax at the end would make every row sum to one.
    assert not torch.allclose(logits.sum(1), torch.ones(3))


def test_all_cnns_halves_the_image_where_the_released_code_does() -> None:
    x = torch.rand(1, *MNIST)
    sides = []
    for layer in build("b", MNIST, 10).eval():  # type: ignore[attr-defined]
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides.append(x.shape[-1])
    assert sides == [28, 28, 14, 14, 14, 7, 7, 7, 4]


def test_all_cnns_averages_the_last_maps() -> None:
    network = build("b", MNIST, 10).eval()
    x = torch.rand(2, *MNIST)
    maps = network[:-1](x)  # type: ignore[index]
    assert torch.allclose(network(x), maps.flatten(2).sum(2) / 16, atol=1e-6)


def test_table_a1_lists_these_layers_in_this_order() -> None:
    letters = {"Linear": "F", "Conv2d": "C", "ReLU": "r", "MaxPool2d": "m", "Dropout": "d"}
    layers = {arch: [type(layer).__name__ for layer in build(arch, MNIST, 10).children()] for arch in SMALL}
    kinds = {arch: "".join(letters.get(name, "") for name in names) for arch, names in layers.items()}
    assert kinds == {"a": "FrFrFrF", "b": "CrCrCdCrCrCdCrCrC", "c": "CrmCrmFrFrF", "d": "CrmCrmFrdF"}


@pytest.mark.parametrize("arch", SMALL)
def test_initial_weights_are_glorot_and_biases_zero(arch: str) -> None:
    for layer in build(arch, MNIST, 10).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            window = layer.weight[0, 0].numel()
            fans = (layer.weight.shape[0] + layer.weight.shape[1]) * window
            limit = math.sqrt(6 / fans)
            assert limit * 0.9 < float(layer.weight.detach().abs().max()) <= limit * (1 + 1e-6)
            assert not layer.bias.detach().any()


def test_the_papers_names_and_letters_are_the_same_networks() -> None:
    for name, letter in ALIASES.items():
        if letter in DEEP:
            assert type(build(name.upper(), CIFAR, 10)) is type(build(letter.upper(), CIFAR, 10))
            continue
        torch.manual_seed(3)
        named = build(name.upper(), MNIST, 10).state_dict()
        torch.manual_seed(3)
        lettered = build(letter.upper(), MNIST, 10).state_dict()
        assert named.keys() == lettered.keys()
        assert all(torch.equal(named[key], lettered[key]) for key in named)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("z", MNIST, 10), "arch must be one of a, b, c, d, e, f, g, h, .*lenetv2.* got 'z'"),
        (("a", (28, 28), 10), r"shape must be \(channels, height, width\) .* got \(28, 28\)"),
        (("a", (1, 3, 28), 10), "sides of at least 4 pixels"),
        (("a", (0, 28, 28), 10), "shape must be"),
        (("a", MNIST, 1), "classes must be >= 2, got 1"),
    ],
)
def test_bad_arguments(arguments: tuple[str, tuple[int, int, int], int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)
