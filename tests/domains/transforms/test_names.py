"""Transformations by name, and the paper's sets."""

from __future__ import annotations

import pytest
import torch

from omnirobust.domains.transforms import (
    NAMES,
    PAPER_DETERMINISTIC,
    PAPER_STOCHASTIC,
    Brightness,
    CentralCrop,
    Chain,
    FlipHorizontal,
    FlipVertical,
    Gamma,
    Identity,
    ImageTransform,
    Jpeg,
    Noise,
    Rotate,
    Scale,
    Translate,
    named,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ori", Identity()),
        ("flh", FlipHorizontal()),
        ("flh:p=0.8", FlipHorizontal(p=0.8)),
        ("bri", Brightness(0.1)),
        ("bri:-0.2", Brightness(-0.2)),
        ("bri:-0.2..0.2:p=0.5", Brightness((-0.2, 0.2), p=0.5)),
        ("bri:0.1:bounds=0..1", Brightness(0.1, bounds=(0.0, 1.0))),
        ("gam", Gamma(1.3)),
        ("crop", CentralCrop(0.8)),
        ("crop:0.6..1.0", CentralCrop((0.6, 1.0))),
        ("rot", Rotate(30.0)),
        ("rot:-30..30", Rotate((-30.0, 30.0))),
        ("rot:degrees=5:fill=0.5", Rotate(5.0, fill=0.5)),
        ("rot:1e1", Rotate(10.0)),
        ("shift:-2..2", Translate((-2.0, 2.0))),
        ("shift:3:down=0", Translate(3.0, 0.0)),
        ("scale:0.8..1.2", Scale((0.8, 1.2))),
        ("noise:0.1", Noise(0.1)),
        ("jpeg:50..90", Jpeg((50.0, 90.0))),
        ("rot:-20..20+bri:0.1:p=0.5", Chain((Rotate((-20.0, 20.0)), Brightness(0.1, p=0.5)))),
    ],
)
def test_texts_that_are_read(text: str, expected: ImageTransform) -> None:
    name, transform = named(text)
    assert name == text and transform == expected
    assert named(str(transform))[1] == expected


def test_every_name_stands_for_its_default_and_writes_itself() -> None:
    assert list(NAMES) == [
        "ori", "flh", "flv", "bri", "gam", "crop", "rot", "shift", "scale", "noise", "blur", "jpeg", "warp",
    ]  # fmt: skip
    for short, kind in NAMES.items():
        assert named(short)[1] == kind() == named(str(kind()))[1]
    assert [str(kind()) for kind in list(NAMES.values())[:7]] == [
        "ori", "flh", "flv", "bri:0.1", "gam:1.3", "crop:0.8", "rot:30",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spin", "transformation 'spin': must be one of ori, flh, flv, bri, gam, crop, rot, shift, .*, got 'spin'"),
        ("", "must be one of ori, .*, got ''"),
        ("rot:thirty", "a value must be a number or a range such as 0.6..1.0, got 'thirty'"),
        ("rot:1..2..3", "a value must be a number or a range"),
        ("rot:", "a value must be a number or a range such as 0.6..1.0, got ''"),
        ("rot:1:2", "rot takes degrees=, fill=, p=, each once, got '2'"),
        ("flh:0.8", "flh takes p=, each once, got '0.8'"),
        ("rot:angle=3", "rot takes degrees=, .*, got 'angle=3'"),
        ("rot:3:degrees=4", "rot takes degrees=, .*, got 'degrees=4'"),
        ("rot:30..-30", "transformation 'rot:30..-30': degrees must be a number or a range"),
        ("crop:1.2", "ratio must be"),
        ("flh:p=0.2..0.8", "p must be a number in"),
        ("rot:30+spin", r"transformation 'rot:30\+spin': must be one of"),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(text)


def test_the_papers_sets() -> None:
    """Appendix C.3, and the columns of Tables 3, A5 and A6."""
    assert dict(PAPER_DETERMINISTIC) == {
        "ori": Identity(), "flh": FlipHorizontal(), "flv": FlipVertical(), "bri": Brightness(0.1), "gam": Gamma(1.3),
        "crop": CentralCrop(0.8), "rot": Rotate(30.0),
    }  # fmt: skip
    assert all(t.numbers == 0 for t in PAPER_DETERMINISTIC.values())
    assert dict(PAPER_STOCHASTIC) == {
        "ori": Identity(), "flh": FlipHorizontal(p=0.8), "flv": FlipVertical(p=0.8), "bri": Brightness(0.1, p=0.8),
        "crop": CentralCrop((0.6, 1.0)),
    }  # fmt: skip
    assert [t.numbers for t in PAPER_STOCHASTIC.values()] == [0, 1, 1, 1, 1]
    with pytest.raises(TypeError):
        PAPER_DETERMINISTIC["ori"] = Rotate()  # type: ignore[index]


def test_a_full_crop_of_the_stochastic_set_keeps_the_image() -> None:
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    almost_one = torch.full((3, 1), 1 - 2.0**-24)
    assert torch.equal(PAPER_STOCHASTIC["crop"].apply(x, almost_one), x)
