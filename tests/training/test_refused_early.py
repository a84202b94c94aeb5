"""What would only fail once an epoch is trained, or train otherwise than was meant, is refused before the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.training import Scheme, fit

THREATS = (orb.Linf(0.1), orb.L2(0.3))


def trained(seen: list[int] | None = None, **settings: Any) -> Any:
    """Train a linear model for an epoch on 8 inputs; ``seen`` gets a number a batch that is trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    model.register_forward_pre_hook(lambda *_: None if seen is None else seen.append(1))
    x = torch.rand(8, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8) % 2
    return fit(model, (x, y), settings.pop("scheme", Scheme("average", THREATS, steps=2)), epochs=1, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"progress": True}, "progress must be a function or None, got True"),
        ({"on_batch": 3}, "on_batch must be a function or None, got 3"),
        ({"lr_factor": 0.1}, "lr_factor must be a function or None, got 0.1"),
        ({"loggers": ["csv"]}, "loggers must have a method log_metrics, got 'csv'"),
        ({"out": 3}, "out must be the path of a folder or None, got 3"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer must step by the gradients it finds, got LBFGS, which asks for"),
        (
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR},
            "scheduler must be a function .*gamma",
        ),
    ],
)
def test_arguments_are_refused_before_a_batch_is_seen(settings: dict[str, Any], message: str) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match=message) as refused:
        trained(seen, **settings)
    assert not seen and "\n" not in str(refused.value)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_cannot_be_made_is_refused_before_an_epoch_is_trained(inside: bool, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    batches: list[int] = []
    with pytest.raises(ValueError, match=r"out must be a folder that can be written, got .*: (File exists|Not a dir)"):
        trained(out=file / "run" if inside else file, on_batch=lambda *told: batches.append(1))
    assert not batches and file.read_text() == "mine"


@pytest.mark.parametrize("factor", [None, float("nan"), "half"])
def test_a_factor_that_is_no_number_is_refused(factor: Any) -> None:
    with pytest.raises(ValueError, match=r"lr_factor must return finite numbers, got .* of epoch 0"):
        trained(lr_factor=lambda epoch: factor)


def test_the_optimizers_of_torch_that_need_no_closure_are_taken() -> None:
    for make in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adadelta):
        assert trained(optimizer=lambda p, make=make: make(p, lr=0.1)).epochs == 1  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "CVaR"}, "rule must be a weight rule such as CVaR.*, got 'CVaR'"),
        ({"rule": orb.CVaR}, "rule must be a weight rule such as CVaR.*, got <class"),
        ({"threats": None}, "threats must be a sequence of threat models, got None"),
        ({"step_sizes": 0.1}, "step_sizes must be 2 numbers > 0, one a threat model, got 0.1"),
    ],
)
def test_schemes_refuse_what_they_cannot_train(settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"kind": "minmax", "threats": THREATS} | settings
    with pytest.raises(ValueError, match=message):
        Scheme(**given)


def test_threats_of_other_bounds_are_told() -> None:
    mixed = trained(scheme=Scheme("average", (orb.Linf(0.1), orb.L2(3.0, bounds=(0.0, 255.0))), steps=1))
    (note,) = [note for note in mixed.notes if "bounds than each other" in note]
    assert "linf:0.1 (0.0, 1.0), l2:3 (0.0, 255.0)" in note
    assert not any("bounds than each other" in note for note in trained().notes)


@pytest.mark.parametrize("persist", ["none", "example"])
def test_identifiers_in_the_place_of_numbers_of_examples_are_refused(persist: Any) -> None:
    x, y = torch.rand(4, 1, 2, 3), torch.arange(4) % 2
    loader = [(x, y, torch.arange(4) * 10**12)]
    scheme = Scheme("minmax", THREATS, steps=1, persist=persist)
    with pytest.raises(ValueError, match=r"data must number its examples from 0 on, .* got the number 3000000000000"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), loader, scheme, epochs=1)
