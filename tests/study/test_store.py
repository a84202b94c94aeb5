"""What is written is read back, and nothing that is half written or damaged counts."""

import json

import torch
from torch import nn

from omnirobust.study.store import CellFolder, Measured, fingerprint, join


def measured(n: int, seed: int = 0) -> Measured:
    g = torch.Generator().manual_seed(seed)
    return Measured(
        fooled=torch.rand(n, 4, generator=g) < 0.5,
        any_iterate=torch.rand(n, generator=g) < 0.5,
        weights=torch.rand(n, 3, generator=g),
        fooled_path=torch.rand(n, 6, 3, generator=g) < 0.5,
        weights_path=torch.rand(n, 6, 3, generator=g).half(),
        labels=torch.randint(10, (n, 4), generator=g),
        distortion=torch.rand(n, 2, generator=g),
    )


def same(a: Measured, b: Measured) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)


def test_a_chunk_comes_back_as_it_was(tmp_path):
    folder = CellFolder(tmp_path, "k", {"eps": 0.2})
    assert folder.get(0, 5) is None
    folder.put(0, 5, measured(5).tensors, {"seconds": 1.5})
    folder.put(5, 8, measured(3, 1).tensors, {"seconds": 0.25})
    found = folder.get(0, 5)
    assert found is not None
    assert same(found, measured(5))
    assert folder.get(0, 4) is None
    assert folder.seconds() == 1.75
    assert json.loads((tmp_path / "k" / "settings.json").read_text()) == {"eps": 0.2}


def test_a_damaged_or_unfinished_file_counts_as_missing(tmp_path):
    folder = CellFolder(tmp_path, "k", {})
    folder.put(0, 5, measured(5).tensors, {"seconds": 1})
    (file,) = (tmp_path / "k").glob("rows-*.safetensors")
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not safetensors at all"):
        file.write_bytes(content)
        assert folder.get(0, 5) is None
        assert folder.seconds() == 0
    file.unlink()
    file.with_name(file.name + ".77.part").write_bytes(whole)
    assert folder.get(0, 5) is None


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
