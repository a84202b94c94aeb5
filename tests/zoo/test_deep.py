"""E to H are the networks of their papers: counted against what those and their well-known implementations publish."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust.zoo import RECIPES, build
from omnirobust.zoo.deep import INCEPTIONS, Inception, WideBlock
from omnirobust.zoo.recipes import FAST, PAPER

CIFAR = (3, 32, 32)
THOUSANDS = {"3a": 159, "3b": 380, "4a": 364, "4b": 437, "4c": 463, "4d": 580, "4e": 840, "5a": 1072, "5b": 1388}
"""Parameters of the modules, in units of 1024, in the column "params" of GoogLeNet's Table 1."""


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _weights(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d))


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {letter: build(letter, CIFAR, 10) for letter in "efgh"}


def test_vgg16_has_the_published_convolutions(networks) -> None:
    # 14,714,688 is what implementations print for the thirteen convolutions alone; then two numbers for each of the
    # 4,224 normalised channels, and ten logits of 512 features.
    assert _count(networks["e"]) == 14_714_688 + 2 * 4_224 + (512 * 10 + 10)


def test_resnet50_has_the_published_parameters(networks) -> None:
    # 25,557,032 are published for 1,000 classes and 224 pixels, where the first convolution is 7x7 rather than 3x3.
    assert _count(networks["f"]) == 25_557_032 - 64 * 3 * (7 * 7 - 3 * 3) - (2048 * 1000 + 1000) + (2048 * 10 + 10)


def test_wide_resnet_has_the_published_parameters(networks) -> None:
    # WRN-34-10, of the same depth and width, is published with 46,160,474: its three widening shortcuts are 1x1
    # convolutions, where those of Madry et al. pad with zeros.
    assert _count(networks["g"]) == 46_160_474 - (16 * 160 + 160 * 320 + 320 * 640)


BEFORE = {"3a": 192, "3b": 256, "4a": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "5a": 832, "5b": 832}
"""Channels that enter each module, from the column "output size" of the same table."""


@pytest.mark.parametrize("name", INCEPTIONS)
def test_inceptions_are_about_as_large_as_printed(name: str) -> None:
    module = Inception(BEFORE[name], INCEPTIONS[name])
    # The printed counts of 4c to 5b are up to 8 % away from what the table's own columns multiply out to.
    close = 0.01 if name in ("3a", "3b", "4a", "4b") else 0.08
    assert _weights(module) / 1024 == pytest.approx(THOUSANDS[name], rel=close)
    leaves = module.eval()(torch.rand(1, BEFORE[name], 4, 4)).shape[1]
    assert leaves == ([*BEFORE.values(), 1024])[list(BEFORE).index(name) + 1]


def test_googlenet_has_the_published_parameters(networks) -> None:
    """Torchvision publishes 6,624,904 without auxiliary classifiers: 3x3 for 5x5, three layers first, no biases."""
    modules = [m for m in networks["h"].children() if isinstance(m, Inception)]
    fives = [m.fives[1][0].weight for m in modules]
    threes = sum(_weights(m) for m in modules) - sum(w.numel() * (25 - 9) // 25 for w in fives)
    norms = sum(2 * m.num_features for module in modules for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    first = 64 * 3 * 49 + 64 * 64 + 192 * 64 * 9 + 2 * (64 + 64 + 192)
    assert threes + norms + first + (1024 * 1000 + 1000) == 6_624_904


def test_googlenet_is_its_modules_and_the_two_ends(networks) -> None:
    modules = [m for m in networks["h"].children() if isinstance(m, Inception)]
    stem = 3 * 9 * 192 + 192 + 2 * 192
    assert len(modules) == 9
    assert _count(networks["h"]) == sum(_count(m) for m in modules) + stem + (1024 * 10 + 10)


@pytest.mark.parametrize(("letter", "depth"), [("e", 14), ("f", 50), ("g", 32), ("h", 22 - 2)])
def test_depth(networks, letter: str, depth: int) -> None:
    """Weight layers on the longest path; GoogLeNet has 22 with the three of its first end, here one."""
    modules = networks[letter].modules()
    if letter == "h":
        assert 1 + 2 * sum(isinstance(m, Inception) for m in modules) + 1 == depth
    elif letter == "f":
        shortcuts = 4
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules) - shortcuts == depth
    else:
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules) == depth


@pytest.mark.parametrize(("letter", "sides"), [("f", [32, 32, 16, 8, 4]), ("g", [32, 32, 16, 8]), ("h", [32, 16, 8])])
def test_images_shrink_where_the_papers_shrink_them(networks, letter: str, sides: list[int]) -> None:
    x, seen = torch.rand(1, *CIFAR), []
    for layer in networks[letter].eval().children():
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            break
        x = layer(x)
        seen.append((x.shape[1], x.shape[-1]))
    stages = [side for at, (_, side) in enumerate(seen) if at in (0, len(seen) - 1) or side != seen[at - 1][1]]
    assert sorted(set(stages), reverse=True) == sorted(set(sides), reverse=True)
    assert seen[-1][0] == {"f": 2048, "g": 640, "h": 1024}[letter]


def test_a_wide_block_whose_convolutions_are_zero_is_its_shortcut() -> None:
    block = WideBlock(2, 6, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    means = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert torch.allclose(out[:, 2:4], means) and not out[:, :2].any() and not out[:, 4:].any()


@pytest.mark.parametrize("letter", ["e", "f", pytest.param("g", marks=pytest.mark.slow), "h"])
def test_one_training_step_and_one_attack_step(networks, letter: str) -> None:
    model = networks[letter]
    torch.manual_seed(1)
    x, y = torch.rand(2, *CIFAR), torch.tensor([0, 3])
    optimizer = PAPER[f"cifar10/{letter}"].make_optimizer(model.parameters())
    model.train()
    before = [p.detach().clone() for p in model.parameters()]
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    assert bool(loss.isfinite())
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    # The biases of convolutions that a normalisation follows have no gradient but that of rounding and decay.
    assert sum(moved) >= 0.6 * len(moved) and all(p.isfinite().all() for p in model.parameters())
    optimizer.zero_grad()
    result = orb.attack_ensemble({letter: model}, x, y, orb.Linf(0.05), steps=1, keep="last")
    assert result.delta.shape == x.shape and 0 < float(result.delta.abs().max()) <= 0.05 + 1e-6
    assert model(x).shape == (2, 10) and not bool(result.zero_gradient.any())


@pytest.mark.parametrize("letter", "efgh")
def test_recipes_are_those_of_appendix_c1_and_a_shorter_one(letter: str) -> None:
    paper, fast = PAPER[f"cifar10/{letter}"], FAST[f"cifar10/{letter}"]
    assert (paper.epochs, paper.lr, paper.weight_decay) == (250, 0.01 if letter == "h" else 0.1, 5e-4)
    assert paper.milestones == (100, 175) and paper.optimizer == "sgd" and paper.precision == "fp32"
    assert fast.epochs * 8 <= 250 and fast.lr_factor(fast.epochs - 1) == pytest.approx(0.01)
    assert RECIPES[f"cifar10/{letter}"] == fast


def test_images_must_be_large_enough() -> None:
    with pytest.raises(ValueError, match=r"sides of at least 32 pixels for vgg16, got \(3, 28, 28\)"):
        build("vgg16", (3, 28, 28), 10)
