"""What is written is read back, and nothing that is half written or damaged counts."""

import json

import torch
from torch import nn

from omnirobust.attacks.presets import PAPER
from omnirobust.study.attack_cells import Cell
from omnirobust.study.protocol import Span
from omnirobust.study.store import LATER, CellFolder, Measured, fingerprint, join, key_of
from omnirobust.zoo.chunks import Chunk


def measured(n: int, seed: int = 0) -> Measured:
    g = torch.Generator().manual_seed(seed)
    return Measured.of(
        {
            "fooled": torch.rand(n, 4, generator=g) < 0.5,
            "any_iterate": torch.rand(n, generator=g) < 0.5,
            "weights": torch.rand(n, 3, generator=g),
            "fooled_path": torch.rand(n, 6, 3, generator=g) < 0.5,
            "weights_path": torch.rand(n, 6, 3, generator=g).half(),
            "labels": torch.randint(10, (n, 4), generator=g),
            "distortion": torch.rand(n, 2, generator=g),
        }
    )


def same(a: Measured, b: Measured) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)


def test_a_part_comes_back_as_it_was(tmp_path):
    folder = CellFolder(tmp_path, {"eps": 0.2})
    assert folder.part(Span(0, 5)) is None
    folder.put(Span(0, 5), Chunk(measured(5).tensors, {"seconds": 1.5}))
    folder.put(Span(5, 8), Chunk(measured(3, 1).tensors, {"seconds": 0.25}))
    found = folder.part(Span(0, 5))
    assert found is not None
    assert same(Measured.of(found.tensors), measured(5))
    assert folder.part(Span(0, 4)) is None
    assert folder.complete([Span(0, 5), Span(5, 8)]) and not folder.complete([Span(0, 5), Span(5, 9)])
    assert folder.seconds() == 1.75
    assert folder.path.name == key_of({"eps": 0.2})
    assert json.loads((folder.path / "settings.json").read_text()) == {"eps": 0.2}


def test_a_damaged_or_unfinished_file_counts_as_missing(tmp_path):
    folder = CellFolder(tmp_path, {})
    folder.put(Span(0, 5), Chunk(measured(5).tensors, {"seconds": 1}))
    (file,) = folder.path.glob("rows-*.safetensors")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not safetensors at all"):
        file.write_bytes(content)
        assert folder.part(Span(0, 5)) is None
        assert folder.seconds() == 0
    file.unlink()
    file.with_name(file.name + ".77.part").write_bytes(whole)
    assert folder.part(Span(0, 5)) is None


def test_merging_and_joining_keep_the_order():
    base, other = measured(5), measured(2, 1)
    changed = torch.tensor([False, True, False, False, True])
    merged = base.merged(changed, other)
    assert same(merged.rows(changed), other)
    assert same(merged.rows(~changed), base.rows(~changed))
    assert same(join([base, other]).rows(slice(5, 7)), other)


def test_a_fingerprint_tells_weights_apart():
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    assert fingerprint(one) != fingerprint(two)
    two.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(two)
    with torch.no_grad():
        two.weight[0, 0] += 1e-6
    assert fingerprint(one) != fingerprint(two)


def test_what_was_measured_before_a_field_was_stored_stays(monkeypatch):
    old = {name: value for name, value in measured(5).tensors.items() if name not in ("distortion", "any_iterate")}
    cell = Cell(("mnist/a",), "linf", 0.1, PAPER["linf"])
    assert not cell.fits(Chunk(old, {}), Span(0, 5))
    monkeypatch.setitem(LATER, "any_iterate", lambda n: torch.zeros(n, dtype=torch.bool))
    assert cell.fits(Chunk(old, {}), Span(0, 5)) and not cell.fits(Chunk(old, {}), Span(0, 6))
    found = Measured.of(old)
    assert torch.equal(found.fooled, measured(5).fooled)
    assert found.distortion.shape == (5, 0) and not found.any_iterate.any()
