"""The state of networks as files of weights: shared parameters, views, and what is no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from omnirobust.zoo.chunks import model_fingerprint, read_model, write_model
from omnirobust.zoo.states import check_given_back, check_state, copied, state_of


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


class Views(nn.Module):
    """A parameter that is a part of another, and buffers that share one memory, turned or repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.rand(6, 4))
        self.part = nn.Parameter(self.whole.data[:2])
        self.register_buffer("one", torch.rand(1))
        self.register_buffer("same", self.one)
        self.register_buffer("turned", torch.rand(4, 6).t())
        self.register_buffer("repeated", torch.rand(1).expand(5))


class Extra(nn.Module):
    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(2, 2), value

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


def with_other_weights(kind: type[nn.Module]) -> tuple[nn.Module, nn.Module]:
    return kind(), kind()


@pytest.mark.parametrize("kind", [Tied, Views, Extra])
def test_a_file_of_ours_gives_the_same_model(kind, tmp_path):
    first, second = with_other_weights(kind)
    write_model(tmp_path / "m.safetensors", first)
    read_model(tmp_path / "m.safetensors", second)
    for name, value in first.state_dict().items():
        assert value is None or torch.equal(second.state_dict()[name], value), name
    assert model_fingerprint(first) == model_fingerprint(second)
    plain = load_file(tmp_path / "m.safetensors")  # every name is there, for who reads it without us
    assert set(plain) == {name for name, value in first.state_dict().items() if value is not None}


@pytest.mark.parametrize("kind", [Tied, Views])
def test_what_save_model_wrote_is_read(kind, tmp_path):
    first, second = with_other_weights(kind)
    if kind is Views:
        first.repeated = first.repeated.clone()  # which safetensors cannot write as it is
    save_model(first, str(tmp_path / "m.safetensors"))
    assert len(load_file(tmp_path / "m.safetensors")) < len(first.state_dict())
    read_model(tmp_path / "m.safetensors", second)
    assert model_fingerprint(first) == model_fingerprint(second)
    if kind is Tied:
        assert second.b.weight is second.a.weight


def test_names_that_are_missing_or_too_many_are_told(tmp_path):
    weights = {name: value.clone() for name, value in Tied().state_dict().items()}
    for change in ({"c": torch.ones(1)}, {"a.bias": None}, {"a.weight": None, "b.weight": None},
                   {"a.bias": torch.ones(3)}):  # fmt: skip
        given = {name: value for name, value in (weights | change).items() if value is not None}
        save_file(given, tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match="is of another model"):
            read_model(tmp_path / "m.safetensors", Tied())
    views = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in Views().state_dict().items()
        if name != "whole"
    }
    save_file(views, tmp_path / "m.safetensors")  # a part does not fill the whole
    with pytest.raises(ValueError, match="is of another model"):
        read_model(tmp_path / "m.safetensors", Views())


def test_extra_state_goes_through_a_file(tmp_path):
    value = {"version": 3, 5: (1.5, [True, None, "x"]), "t": torch.arange(3), "deep": {"a": {"b": (torch.ones(2),)}}}
    first, second = Extra(value), Extra()
    write_model(tmp_path / "m.safetensors", first)
    read_model(tmp_path / "m.safetensors", second)
    found = second.value
    assert found["version"] == 3
    assert found[5] == (1.5, [True, None, "x"])
    assert torch.equal(found["t"], torch.arange(3))
    assert torch.equal(found["deep"]["a"]["b"][0], torch.ones(2))
    assert model_fingerprint(first) == model_fingerprint(second)
    assert model_fingerprint(Extra({"version": 4})) != model_fingerprint(Extra({"version": 3}))
    save_file({name: value for name, value in second.state_dict().items() if isinstance(value, torch.Tensor)},
              tmp_path / "theirs.safetensors")  # fmt: skip
    third = Extra("its own")
    read_model(tmp_path / "theirs.safetensors", third)
    assert third.value == "its own"


def test_states_that_no_file_holds_are_refused():
    for value, said in (({1, 2}, "got set in _extra_state"), (Path("x"), "got PosixPath in _extra_state")):
        with pytest.raises(ValueError, match=said):
            check_state(Extra(value))
    sparse = nn.Linear(2, 2)
    sparse.register_buffer("s", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match=r"got s of torch.float32 in torch.sparse_coo"):
        check_state(sparse)
    check_state(Views())

    class OneWay(Extra):
        def set_extra_state(self, state: Any) -> None:
            raise RuntimeError("no way back")

    with pytest.raises(ValueError, match="model must take its own state_dict back by load_state_dict, got: no way"):
        check_given_back(OneWay(1))


def test_buffers_that_repeat_a_number_can_be_written():
    model = Views()
    before = model.repeated.clone()
    check_given_back(model)
    assert torch.equal(model.repeated, before)
    assert model.repeated.stride() == (1,)
    assert "repeated" in model.state_dict()


def test_a_copy_does_not_change_with_the_model():
    model = Extra([1])
    kept = copied(model.state_dict())
    with torch.no_grad():
        model.layer.bias += 1
    model.value.append(2)
    assert not torch.equal(kept["layer.bias"], model.layer.bias)
    assert kept["_extra_state"] == [1]
    assert state_of(nn.Linear(2, 2)).text == ""
