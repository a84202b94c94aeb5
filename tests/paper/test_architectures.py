"""Table A1 is what the paper prints, and the networks that are built are held against it, not taken for it."""

import json
from dataclasses import replace

import pytest
from torch import nn

from omnirobust.paper import collection
from omnirobust.paper.architectures import CLAIMS, PRINTED, ArchitectureOutcome, layers_of, networks
from omnirobust.study.runner import reproduce

# Multiplied out by hand from the printed layers, for 28 x 28 x 1 and 32 x 32 x 3.
COUNTS = {
    "A": (784 * 128 + 128 + 16_512 + 8_256 + 650, 3072 * 128 + 128 + 16_512 + 8_256 + 650),
    "B": (320 + 18_496 + 73_856 + 4 * 147_584 + 16_512 + 1_290, 896 + 18_496 + 73_856 + 4 * 147_584 + 16_512 + 1_290),
    "C": (156 + 2_416 + 256 * 120 + 120 + 10_164 + 850, 456 + 2_416 + 400 * 120 + 120 + 10_164 + 850),
    "D": (320 + 18_496 + 3136 * 128 + 128 + 1_290, 896 + 18_496 + 4096 * 128 + 128 + 1_290),
}


@pytest.fixture(scope="module")
def built():
    return networks()


@pytest.mark.parametrize("letter", PRINTED)
def test_small_networks_have_the_printed_layers_and_the_parameters_that_follow(built, letter):
    network = built[letter]
    assert network.built == network.printed
    assert tuple(network.parameters.values()) == COUNTS[letter]
    assert (network.convolutions, network.connected) == (
        sum(line.startswith("Conv") for line in network.printed), sum(line.startswith("FC") for line in network.printed)
    )  # fmt: skip


def test_deep_networks_have_the_layers_that_gave_them_their_names(built):
    # 16 layers less two of 4,096 units; 50 and four shortcuts; 34 - 4 and the first; 9 modules of six and the first
    assert [built[m].convolutions for m in "EFGH"] == [13, 49 + 4, 31, 9 * 6 + 1]
    assert {built[m].connected for m in "EFGH"} == {1}
    assert {m: list(built[m].parameters) for m in "EFGH"} == {m: ["32 x 32 x 3"] for m in "EFGH"}


def test_claims_are_judged_on_the_networks(built):
    outcome = ArchitectureOutcome(built)
    verdicts = {claim.name: outcome.verdict(claim) for claim in CLAIMS}
    assert verdicts.pop("lenetv2-more-layers") == "false"
    assert set(verdicts.values()) == {"true"}
    other = ArchitectureOutcome(built | {"B": built["C"], "D": replace(built["C"], connected=4)})
    assert [other.verdict(claim) for claim in CLAIMS] == ["true", "false", "true", "false", "true"]


def test_the_page_shows_what_is_printed_beside_what_is_built(built):
    page = ArchitectureOutcome(built).markdown()
    assert "| C: LeNet | Conv(6, 5, 5) + Relu; Maxpool(2, 2); Conv(16, 5, 5) + Relu; " in page
    assert "| as printed | 2 | 3 | 44,426 | 62,006 |" in page
    assert "| E: VGG16 | name only | – | 13 | 1 | – | 14,728,266 |" in page
    other = ArchitectureOutcome(built | {"C": replace(built["C"], built=("FC(10)",))}).markdown()
    assert "| FC(10) | 2 | 3 | 44,426 |" in other
    assert "C differs" in other


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match="layers must be of the kinds of Table A1, got Sigmoid"):
        layers_of([nn.Linear(2, 3), nn.Sigmoid()])


def test_it_is_reproduced_by_name_without_weights_or_images(tmp_path):
    found = reproduce(["table-a1"], experiments=collection(), out=tmp_path)
    assert [outcome.summary.name for outcome in found.outcomes] == ["table-a1"]
    assert found.page.read_text().count("\n## table-a1: The networks\n") == 1
    facts = json.loads((tmp_path / "table-a1.json").read_text())
    assert facts["complete"]
    assert [row["letter"] for row in facts["rows"]] == list("ABCDEFGH")
    assert not (tmp_path / "cells").exists()
