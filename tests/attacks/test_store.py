"""Results on disk."""

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import omnirobust as orb
from omnirobust.attacks.results import join_results
from omnirobust.attacks.store import ResultStore
from omnirobust.jobs.folder import RunFolder
from omnirobust.zoo.chunks import ChunkStore, fingerprint, read_chunk

from .. import forks

CONFIG = {"attack": {"norm": "linf", "eps": 0.2}, "models": ["a", "b"]}


def attack(store=None, history="full"):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 4, 4, generator=generator)
    y = torch.randint(0, 3, (12,), generator=generator)
    models = {}
    for name in ("one", "two"):
        linear = nn.Linear(16, 3)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(3, 16, generator=generator))
            linear.bias.zero_()
        models[name] = nn.Sequential(nn.Flatten(), linear)
    return orb.attack_ensemble(models, x, y, orb.Linf(0.2), steps=6, batch_size=4, store=store, history=history)


def assert_same(a, b):
    for name in ("adversarial", "delta", "weights", "losses", "fooled", "zero_gradient"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("losses", "weights", "fooled", "all_fooled", "best_all_fooled"):
        assert torch.equal(getattr(a.history, name), getattr(b.history, name)), name
    assert (a.names, a.steps, a.gradient_evaluations) == (b.names, b.steps, b.gradient_evaluations)
    assert json.dumps(a.settings) == json.dumps(b.settings)


@pytest.mark.parametrize("history", ["means", "full"])
def test_a_result_comes_back_as_it_was(tmp_path, history):
    result = attack(history=history)
    ResultStore(tmp_path).put(7, result)
    back = ResultStore(tmp_path).get(7)
    assert_same(result, back)
    if history == "means":
        assert back.history.rows is None
    else:
        for name in ("losses", "weights", "fooled", "best"):
            assert torch.equal(getattr(back.history.rows, name), getattr(result.history.rows, name))


def flip_a_bit(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_file(file: Path) -> None:
    save_file({"delta": torch.zeros(2)}, file)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty, another_file])
def test_a_damaged_batch_is_computed_again(tmp_path, damage):
    store = RunFolder.create(tmp_path / "run", CONFIG).store("minmax")
    whole = attack(store)
    damage(store.folder / "00001.safetensors")
    assert store.get(0) is not None
    assert store.get(1) is None
    with pytest.raises(ValueError, match="is damaged"):
        read_chunk(store.folder / "00001.safetensors")
    assert_same(attack(store), whole)
    assert store.get(1) is not None


def test_finished_batches_are_not_computed_again(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    store = run.store("minmax")
    attack(store)
    stamps = {file: file.stat().st_mtime_ns for file in store.folder.iterdir()}
    assert len(stamps) == 3
    attack(store)
    assert {file: file.stat().st_mtime_ns for file in store.folder.iterdir()} == stamps
    run.clear_parts()
    assert not store.folder.exists()
    assert store.get(0) is None


class Dying(ResultStore):
    """It is killed once it has kept a batch."""

    def put(self, index, result):
        super().put(index, result)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_attack_resumes_to_the_very_same_result(tmp_path):
    out = tmp_path / "run"
    folder = RunFolder.create(out, CONFIG).store("minmax").folder
    assert forks.ended(lambda: attack(Dying(folder))) == forks.KILLED
    store = RunFolder.create(out, CONFIG).store("minmax")
    assert [store.get(i) is not None for i in range(3)] == [True, False, False]
    kept = (store.folder / "00000.safetensors").stat().st_mtime_ns
    assert_same(attack(store), attack())
    assert (store.folder / "00000.safetensors").stat().st_mtime_ns == kept


def stored(folder: Path) -> ChunkStore:
    store = ChunkStore(folder / "parts")
    store.put("p", {"right": torch.tensor([True, False]), "delta": torch.arange(6.0).view(2, 3)}, {"note": "größer"})
    return store


def test_a_part_comes_back_and_is_plain_safetensors(tmp_path):
    store = stored(tmp_path)
    tensors, facts = store.get("p")
    assert facts == {"note": "größer"}
    assert torch.equal(tensors["delta"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert tensors["right"].tolist() == [True, False]
    assert load_file(store.file("p"))["delta"].shape == (2, 3)
    assert store.get("q") is None


def test_equal_parts_are_equal_files(tmp_path):
    assert len({stored(tmp_path / str(n)).file("p").read_bytes() for n in range(12)}) == 1


def test_a_part_of_an_earlier_version_is_read(tmp_path):
    """Its digest stood beside the facts, over both."""
    facts, value = '{"steps": 2}', torch.tensor([[1.0, 2.0]])
    digest = hashlib.blake2b(facts.encode(), digest_size=32)
    digest.update(b"delta torch.float32 (1, 2)" + value.numpy().tobytes())
    metadata = {"facts": facts, "digest": digest.hexdigest()}
    save_file({"delta": value}, tmp_path / "old.safetensors", metadata=metadata)
    assert ChunkStore(tmp_path).get("old").facts == {"steps": 2}
    save_file({"delta": value + 1}, tmp_path / "old.safetensors", metadata=metadata)
    assert ChunkStore(tmp_path, undigested=True).get("old") is None


def test_no_flipped_byte_of_a_part_goes_unnoticed(tmp_path):
    store = stored(tmp_path)
    whole, (tensors, facts) = store.file("p").read_bytes(), store.get("p")
    for place in range(len(whole)):
        for bit in (1, 32):
            flipped = bytearray(whole)
            flipped[place] ^= bit
            store.file("p").write_bytes(flipped)
            found = store.get("p")
            if found is not None:  # white space in the header, say
                assert found.facts == facts, place
                assert all(torch.equal(value, found.tensors[name]) for name, value in tensors.items()), place
                assert found.tensors.keys() == tensors.keys()


def test_another_shape_or_name_of_the_same_bytes_is_damage(tmp_path):
    store = stored(tmp_path)
    whole = store.file("p").read_bytes()
    for old, new in ((b"[2,3]", b"[3,2]"), (b'"delta"', b'"gamma"'), (b'"F32"', b'"I32"')):
        assert whole.count(old) == 1
        store.file("p").write_bytes(whole.replace(old, new))
        assert store.get("p") is None


def test_a_part_without_a_digest_counts_only_where_that_is_said(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"facts": "{}"})
    assert ChunkStore(tmp_path).get("old") is None
    assert ChunkStore(tmp_path, undigested=True).get("old").tensors["a"].tolist() == [1, 1]


def test_fingerprint_tells_weights_apart():
    weights = {"a": torch.arange(4.0), "b": torch.zeros(2)}
    assert fingerprint(weights) == fingerprint(dict(reversed(weights.items())))
    others = [
        weights | {"a": torch.arange(4.0) + torch.tensor([0, 0, 0, 1e-6])},
        weights | {"a": torch.arange(4.0).reshape(2, 2)},
        weights | {"b": torch.zeros(2, dtype=torch.float64)},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({fingerprint(w) for w in [weights, *others]}) == 5


def test_notes_are_kept_and_joined_each_once(tmp_path):
    whole = attack()
    first, second = (replace(whole, notes=notes) for notes in (("A.", "B."), ("B.", "C.")))
    ResultStore(tmp_path).put(0, first)
    assert ResultStore(tmp_path).get(0).notes == ("A.", "B.")
    assert join_results([first, second]).notes == ("A.", "B.", "C.")


def test_a_field_that_one_part_has_not_is_no_field_of_the_whole():
    whole = replace(attack(), right=None)
    other = replace(whole, right=whole.fooled)
    assert join_results([other, other]).right.shape[0] == 2 * len(whole.fooled)
    for parts in ([other, whole], [whole, other]):
        joined = join_results(parts)
        assert joined.right is None and len(joined.fooled) == 2 * len(whole.fooled)
