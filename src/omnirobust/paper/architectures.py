"""Table A1: the networks as printed, beside those that the zoo builds, with their parameters; needs no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from omnirobust.paper import ensembles, groups, transforms
from omnirobust.study.protocol import Scale, Study, Summary
from omnirobust.study.tables import NONE, table
from omnirobust.zoo.architectures import ALIASES, DEEP, GlobalAverage, Shape, build

NAME = "table-a1"
TITLE = "The networks"

SHAPES: dict[str, Shape] = {"28 x 28 x 1": (1, 28, 28), "32 x 32 x 3": (3, 32, 32)}
"""Images of MNIST and of CIFAR-10, (channels, height, width)."""

_CONV = "Conv(128, 3, 3)"

PRINTED: dict[str, tuple[str, ...]] = {
    "A": ("FC(128) + Relu", "FC(128) + Relu", "FC(64) + Relu", "FC(10)"),
    "B": (
        "Conv(32, 3, 3) + Relu", "Conv(64, 3, 3) + Relu", f"{_CONV} + Dropout(0.5)", f"{_CONV} + Relu",
        f"{_CONV} + Relu", f"{_CONV} + Dropout(0.5)", f"{_CONV} + Relu", "Conv(128, 1, 1) + Relu",
        "Conv(10, 1, 1) + Globalpool",
    ),
    "C": (
        "Conv(6, 5, 5) + Relu", "Maxpool(2, 2)", "Conv(16, 5, 5) + Relu", "Maxpool(2, 2)", "FC(120) + Relu",
        "FC(84) + Relu", "FC(10)",
    ),
    "D": (
        "Conv(32, 3, 3) + Relu", "Maxpool(2, 2)", "Conv(64, 3, 3) + Relu", "Maxpool(2, 2)", "FC(128) + Relu",
        "Dropout(0.25)", "FC(10)",
    ),
}  # fmt: skip
"""Letter to the layers of Table A1, without the softmax that ends each; "[32, 64]" is two layers. Of E to H it prints
names alone."""

NAMES = {
    "A": "MLP", "B": "All-CNNs", "C": "LeNet", "D": "LeNetV2",
    "E": "VGG16", "F": "ResNet50", "G": "Wide-ResNet", "H": "GoogLeNet",
}  # fmt: skip

NOTE = """\
The paper prints layers, of E to H only names, and no counts, strides or padding. Strides and padding of A to D are
those of its released code. The "ResNet50" of that code is a ResNet34; E to H here are the networks of the papers that
are cited, for 32 x 32 pixels (`omnirobust.zoo.deep` says what that changes). The softmax is part of the loss.
Parameters are counted on the networks that the zoo builds, for ten classes.\
"""


@dataclass(frozen=True)
class Network:
    """One column of Table A1.

    Attributes:
        letter: as the paper names it.
        name: likewise.
        printed: its layers; empty where none are printed.
        built: those of the zoo's network in the same words; empty for E to H.
        convolutions: how many layers of the zoo's network are convolutions.
        connected: how many are fully connected.
        filters: of each convolution, in order.
        units: of each fully connected layer, in order.
        parameters: name of the image size to how many parameters there are; a size that is too small is left out.
    """

    letter: str
    name: str
    printed: tuple[str, ...]
    built: tuple[str, ...]
    convolutions: int
    connected: int
    filters: tuple[int, ...]
    units: tuple[int, ...]
    parameters: Mapping[str, int]


def networks() -> dict[str, Network]:
    """Return the networks by letter."""
    assert set(ALIASES.values()) == {letter.lower() for letter in NAMES}
    return {letter: _network(letter) for letter in NAMES}


def _network(letter: str) -> Network:
    deep = letter.lower() in DEEP
    sizes = {name: shape for name, shape in SHAPES.items() if not deep or min(shape[1:]) >= 32}
    with torch.device("meta"):  # shapes without numbers: the deep ones take no time
        models = {name: build(letter, shape, 10) for name, shape in sizes.items()}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    model = models["32 x 32 x 3"]
    filters = tuple(layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))
    units = tuple(layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear))
    built = () if deep else layers_of(model.children())
    return Network(
        letter, NAMES[letter], PRINTED.get(letter, ()), built, len(filters), len(units), filters, units, counts
    )


def layers_of(layers: Any) -> tuple[str, ...]:
    """Return layers in the words of Table A1: what follows a layer with weights stands on its line.

    Args:
        layers: modules in the order in which they run.
    """
    lines: list[str] = []
    for layer in layers:
        match layer:
            case nn.Linear():
                lines.append(f"FC({layer.out_features})")
            case nn.Conv2d():
                lines.append(f"Conv({layer.out_channels}, {', '.join(map(str, layer.kernel_size))})")
            case nn.MaxPool2d():
                lines.append(f"Maxpool({layer.kernel_size}, {layer.kernel_size})")
            case nn.Dropout() if " + " in lines[-1]:
                lines.append(f"Dropout({layer.p:g})")
            case nn.Dropout():
                lines[-1] += f" + Dropout({layer.p:g})"
            case nn.ReLU():
                lines[-1] += " + Relu"
            case GlobalAverage():
                lines[-1] += " + Globalpool"
            case nn.Flatten():
                pass
            case _:
                raise ValueError(f"layers must be of the kinds of Table A1, got {type(layer).__name__}")
    return tuple(lines)


@dataclass(frozen=True)
class ArchitectureClaim:
    """What the paper says of its networks, as a predicate on ours.

    Attributes:
        name: short, unique.
        text: the claim, in one sentence.
        holds: whether the networks, by letter, satisfy it.
        shows: what decides it, in a few words.
    """

    name: str
    text: str
    holds: Callable[[Mapping[str, Network]], bool]
    shows: Callable[[Mapping[str, Network]], str]


def _weighted(n: Network) -> int:
    return n.convolutions + n.connected


def _hidden(n: Network) -> tuple[int, ...]:
    return n.units[:-1]


def _on_mnist() -> list[str]:
    """Return those of E to H that some experiment attacks on MNIST."""
    weights = (groups.weights_table(name) for name in groups.DIGITS)
    every = (*ensembles.experiments().values(), groups.table_2(), *transforms.tables(), *weights)
    attacked = {name for e in every for row in e.rows for name in row.cell.takes}
    return sorted(attacked & {f"mnist/{letter}" for letter in DEEP})


CLAIMS = (
    ArchitectureClaim(
        "as-printed",
        "A to D have the layers of Table A1, in its order.",
        lambda n: all(n[m].built == n[m].printed for m in "ABCD"),
        lambda n: ", ".join(f"{m} {'the same' if n[m].built == n[m].printed else 'differs'}" for m in "ABCD"),
    ),
    ArchitectureClaim(
        "lenetv2-wider",
        "LeNetV2 has wider convolutions and a wider hidden layer than LeNet.",
        lambda n: (
            all(a > b for a, b in zip(n["D"].filters, n["C"].filters, strict=True))
            and max(_hidden(n["D"])) > max(_hidden(n["C"]))
        ),
        lambda n: (
            f"filters {n['D'].filters} against {n['C'].filters}, units {_hidden(n['D'])} against {_hidden(n['C'])}"
        ),
    ),
    ArchitectureClaim(
        "lenetv2-more-layers",
        "LeNetV2 has more layers than LeNet (footnote 3).",
        lambda n: _weighted(n["D"]) > _weighted(n["C"]),
        lambda n: f"{_weighted(n['D'])} layers with weights against {_weighted(n['C'])}, as printed",
    ),
    ArchitectureClaim(
        "all-cnns",
        "All-CNNs has nine convolutions and no fully connected layer.",
        lambda n: (n["B"].convolutions, n["B"].connected) == (9, 0),
        lambda n: f"{n['B'].convolutions} and {n['B'].connected}",
    ),
    ArchitectureClaim(
        "deep-on-cifar",
        "E to H are attacked on CIFAR-10 only.",
        lambda n: not _on_mnist(),
        lambda n: f"rows of tables with one of them on MNIST: {len(_on_mnist())}",
    ),
)


@dataclass(frozen=True)
class ArchitectureOutcome:
    """Table A1 with its claims judged.

    Attributes:
        networks: by letter.
    """

    networks: Mapping[str, Network]

    @property
    def summary(self) -> Summary:
        """What is said of it in one line."""
        count, verdicts = len(self.networks), tuple(self.verdict(claim) for claim in CLAIMS)
        return Summary(NAME, TITLE, NONE, count, count, None, verdicts, len(CLAIMS))

    def verdict(self, claim: ArchitectureClaim) -> Literal["true", "false"]:
        """Say whether a claim holds: there is nothing to be uncertain of."""
        return "true" if claim.holds(self.networks) else "false"

    def markdown(self) -> str:
        """Return the table and its claims as a Markdown section."""
        head = ["network", "printed", "built here", "Conv", "FC", *(f"parameters, {size}" for size in SHAPES)]
        claims = [[c.text, f"**{self.verdict(c)}**", c.shows(self.networks)] for c in CLAIMS]
        parts = [
            f"## {NAME}: {TITLE}",
            NOTE,
            table(head, [_line(network) for network in self.networks.values()]),
            f"### {NAME}: the paper's claims",
            table(["claim", "holds", "our numbers"], claims),
        ]
        return "\n\n".join(parts) + "\n"

    def describe(self) -> dict[str, Any]:
        """Return rows and verdicts as plain values, for JSON."""
        claims = [
            {"claim": c.name, "text": c.text, "verdict": self.verdict(c), "shown": c.shows(self.networks)}
            for c in CLAIMS
        ]
        rows = [asdict(network) for network in self.networks.values()]
        return {"experiment": NAME, "title": TITLE, "complete": True, "rows": rows, "claims": claims}


class ArchitectureStudy(Study[ArchitectureOutcome]):
    """Table A1, as the engine sees it: there is nothing to measure."""

    name = NAME
    title = TITLE

    def recall(self, cache: object, scale: Scale) -> ArchitectureOutcome:
        """Return the networks that the zoo builds."""
        return ArchitectureOutcome(networks())

    def markdown(self, outcome: ArchitectureOutcome, figures: Sequence[str]) -> str:
        """Return its section."""
        return outcome.markdown()


def _line(network: Network) -> Sequence[str]:
    counts = [network.parameters.get(size) for size in SHAPES]
    return [
        f"{network.letter}: {network.name}",
        "; ".join(network.printed) or "name only",
        "as printed" if network.built and network.built == network.printed else "; ".join(network.built) or NONE,
        str(network.convolutions),
        str(network.connected),
        *(NONE if count is None else f"{count:,}" for count in counts),
    ]
