"""What a checkpoint holds is enough to go on as if nothing had happened."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, TrainingDivergedError, fit
from omnirobust.training.state import CHECKPOINT

from .. import forks
from . import killed


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_killed_in_the_middle_of_an_epoch_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    for scheme in killed.SCHEMES:
        resumed, whole = killed.network(), killed.network()
        never = killed.train(whole, scheme, 6, None)
        assert forks.ended(partial(killed.die, scheme, tmp_path / scheme, 14)) == forks.KILLED
        state = torch.load(tmp_path / scheme / CHECKPOINT, weights_only=True)
        assert state["epoch"] == 3  # four batches an epoch
        after = killed.train(resumed, scheme, 6, tmp_path / scheme)
        assert same(resumed, whole)
        assert after.best == never.best
        for row, other in zip(after.history, never.history, strict=True):
            assert {**row, "seconds": 0} == {**other, "seconds": 0}
        if never.weights is not None:
            assert torch.equal(after.weights, never.weights)
            assert never.weights.std() > 0.01


@pytest.mark.parametrize("scheme", killed.SCHEMES)
def test_an_epoch_is_taken_up_in_its_middle_to_the_same_bits(tmp_path: Path, scheme: str) -> None:
    resumed, whole = killed.network(), killed.network()
    never = killed.train(whole, scheme, 6, None)
    for at in (14, 3):  # killed twice, the second time while it goes on
        die = partial(killed.die, scheme, tmp_path, at, 1e-9)
        assert forks.ended(die) == forks.KILLED
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert (state["epoch"], state["within"]["batches"]) == (4, 1)  # four batches an epoch; none is saved after the last
    seen = list[int]()
    after = killed.train(resumed, scheme, 6, tmp_path, lambda number, total, loss: seen.append(number), 1e-9)
    assert seen == [2, 3, 4, 1, 2, 3, 4]
    assert same(resumed, whole)
    for row, other in zip(after.history, never.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}
    if never.weights is not None:
        assert torch.equal(after.weights, never.weights)
    assert "within" not in torch.load(tmp_path / CHECKPOINT, weights_only=True)


def test_what_goes_wrong_in_a_resumed_epoch_leaves_the_parameters_that_it_began_with(tmp_path: Path) -> None:
    begun = killed.network()
    killed.train(killed.network(), "natural", 3, tmp_path)
    begun.load_state_dict(torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"])
    assert forks.ended(partial(killed.die, "natural", tmp_path, 2, 1e-9)) == forks.KILLED
    model = killed.network()

    def spoil(number: int, total: int, loss: float) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingDivergedError, match="the model holds the parameters of epoch 3"):
        killed.train(model, "natural", 6, tmp_path, spoil)
    assert same(model, begun)


def test_an_epoch_that_was_begun_does_not_count_where_no_more_are_wanted(tmp_path: Path) -> None:
    def train(epochs: int, **given: Any) -> nn.Module:
        model = killed.network()
        fit(model, killed.problem(), Scheme("natural"), epochs=epochs, batch_size=8, **given)
        return model

    def stop(number: int, total: int, loss: float) -> None:
        seen.append(number)
        if len(seen) == 6:
            raise KeyboardInterrupt

    seen = list[int]()
    with pytest.raises(KeyboardInterrupt):
        train(2, out=tmp_path, save_every=1e-9, on_batch=stop)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert (state["epoch"], state["within"]["batches"]) == (1, 2)
    assert same(train(1, out=tmp_path), train(1))
    assert same(train(2, out=tmp_path), train(2))


def test_epochs_that_cannot_be_taken_up_are_not_saved_within() -> None:
    x, y = killed.problem()
    loader = DataLoader(TensorDataset(x, y), 8)
    ramp = Scheme("ramp", (Linf(0.1), L2(0.4)), 1)
    for given, scheme, every, reason in (
        (loader, Scheme("natural"), 5, "None for a DataLoader, whose draws cannot be taken up"),
        ((x, y), ramp, 5.0, "None for kind ramp, whose epochs are two"),
        ((x, y), Scheme("natural"), 0, "> 0 minutes, or None, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^save_every must be {reason}"):
            fit(killed.network(), given, scheme, epochs=1, save_every=every)


def cosine(optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, 5)


def plateau(optimizer) -> LRScheduler:
    return ReduceLROnPlateau(optimizer, "max", patience=0, factor=0.3)


def one_cycle(optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, 0.5, total_steps=6)


SCHEME = Scheme("average", (Linf(0.1), L2(0.3)), 1)
SETTINGS = {"batch_size": 10, "optimizer": lambda p: torch.optim.SGD(p, lr=0.4, momentum=0.8), "validation": None}


@pytest.mark.parametrize("scheduler", [cosine, plateau, one_cycle])
def test_schedulers_go_on_where_they_were(tmp_path: Path, scheduler) -> None:
    settings = SETTINGS | {"scheduler": scheduler, "validation": killed.problem()}
    whole, broken, resumed = (killed.network() for _ in range(3))
    fit(whole, killed.problem(), SCHEME, epochs=5, **settings)
    fit(broken, killed.problem(), SCHEME, epochs=2, out=tmp_path, **settings)
    fit(resumed, killed.problem(), SCHEME, epochs=5, out=tmp_path, **settings)
    assert same(whole, resumed)
    constant = killed.network()
    fit(constant, killed.problem(), SCHEME, epochs=5, **(settings | {"scheduler": None}))
    assert not same(whole, constant)


@pytest.mark.parametrize(
    ("scheduler", "validation", "message"),
    [
        (ReduceLROnPlateau, killed.problem(), "scheduler must have mode 'max', since it watches an accuracy, got mode"),
        (plateau, None, "validation must be given with a ReduceLROnPlateau"),
    ],
)
def test_a_plateau_of_what_is_not_there_is_refused(scheduler, validation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(killed.network(), killed.problem(), SCHEME, epochs=1, validation=validation, scheduler=scheduler)


def own_generator(where: str) -> DataLoader:
    """Return a loader that shuffles by a generator of its own."""
    data, g = TensorDataset(*killed.problem()), torch.Generator().manual_seed(7)
    if where == "loader":
        return DataLoader(data, 10, shuffle=True, generator=g)
    sampler = RandomSampler(data, generator=g)
    if where == "sampler":
        return DataLoader(data, 10, sampler=sampler)
    return DataLoader(data, batch_sampler=BatchSampler(sampler, 10, drop_last=True))


@pytest.mark.parametrize("where", ["loader", "sampler", "batch sampler"])
def test_a_loaders_own_generator_goes_on_where_it_was(tmp_path: Path, where: str) -> None:
    settings = {"optimizer": SETTINGS["optimizer"]}
    whole, broken, resumed = (killed.network() for _ in range(3))
    full = fit(whole, own_generator(where), SCHEME, epochs=5, validation=own_generator(where), **settings)
    for model, epochs in ((broken, 2), (resumed, 5)):
        found = fit(
            model, own_generator(where), SCHEME, epochs=epochs, validation=own_generator(where), out=tmp_path,
            **settings,
        )  # fmt: skip
    assert same(whole, resumed)
    assert [row["robust"] for row in found.history] == [row["robust"] for row in full.history]


def test_a_best_epoch_does_not_go_stale_while_the_last_is_kept(tmp_path: Path) -> None:
    settings = SETTINGS | {"validation": killed.problem(), "out": tmp_path}
    fit(killed.network(), killed.problem(), SCHEME, epochs=2, keep="best", **settings)
    fit(killed.network(), killed.problem(), SCHEME, epochs=4, keep="last", **settings)
    with pytest.raises(ValueError, match="keep must be 'last' as in the checkpoint"):
        fit(killed.network(), killed.problem(), SCHEME, epochs=5, keep="best", **settings)


def test_a_step_scheduler_equals_the_factor_it_stands_for() -> None:
    by_scheduler, by_factor = killed.network(), killed.network()
    fit(by_scheduler, killed.problem(), SCHEME, epochs=4, **SETTINGS, scheduler=lambda o: StepLR(o, 2, 0.25))
    fit(by_factor, killed.problem(), SCHEME, epochs=4, **SETTINGS, lr_factor=lambda epoch: 0.25 ** (epoch // 2))
    assert same(by_scheduler, by_factor)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scheme": Scheme("average", (Linf(0.1), L2(0.31)), 1)}, r"scheme must be .*eps=0.3,.* got .*eps=0.31,"),
        ({"scheme": Scheme("average", SCHEME.threats, 1, start="zero")}, r"scheme must be .* got .*start='zero'"),
        ({"seed": 3}, "seed must be 0 as in the checkpoint"),
        ({"scheduler": cosine}, "scheduler must be None as in the checkpoint"),
        ({"keep": "best", "validation": killed.problem()}, "keep must be 'last' as in the checkpoint"),
        ({"data": (killed.problem()[0].flip(0), killed.problem()[1])}, r"data must be those of the .* got others"),
    ],
)
def test_a_folder_of_another_config_is_refused_and_left_alone(tmp_path: Path, changed: dict, message: str) -> None:
    fit(killed.network(), killed.problem(), SCHEME, epochs=1, out=tmp_path, **SETTINGS)
    before = (tmp_path / CHECKPOINT).read_bytes()
    settings = SETTINGS | {"scheme": SCHEME, "data": killed.problem()} | changed
    data, scheme = settings.pop("data"), settings.pop("scheme")
    with pytest.raises(ValueError, match=message):
        fit(killed.network(), data, scheme, epochs=2, out=tmp_path, **settings)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_masks_are_told_apart(tmp_path: Path) -> None:
    masks = torch.zeros(2, 5, dtype=torch.bool)
    masks[0, 0] = masks[1, 4] = True
    schemes = [Scheme("single", (Linf(0.3, mask=mask),), 1) for mask in masks]
    assert schemes[0].fingerprint() != schemes[1].fingerprint()
    fit(killed.network(), killed.problem(), schemes[0], epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match="scheme must be"):
        fit(killed.network(), killed.problem(), schemes[1], epochs=2, out=tmp_path)


def test_checkpoints_of_natural_training_stay_what_they_were() -> None:
    assert Scheme("natural").fingerprint() == (
        "Scheme(kind='natural', threats=(), steps=20, rule=None, dpar=0.0, persist='none', adversarial_ratio=0.5)"
    )


def test_a_loss_that_is_no_number_under_attack_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    class Breaking(nn.Module):
        """Returns infinity from the 30th training batch on."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.left = killed.network(), 10

        def forward(self, x):
            if self.training:
                self.left -= 1
            return self.inner(x) * (float("inf") if self.left < 0 else 1.0)

    model = Breaking()
    scheme = killed.SCHEMES["dpar"]
    with pytest.raises(
        TrainingDivergedError, match=r"loss became nan in batch 3 of epoch 3: the model holds .*epoch 2"
    ):
        fit(model, killed.problem(), scheme, epochs=5, batch_size=8, out=tmp_path)
    good = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert good["epoch"] == 2
    assert all(torch.equal(value, good["model"][name]) for name, value in model.state_dict().items())
    assert model.training


def test_weights_that_explode_in_the_attack_end_the_same_way(tmp_path: Path) -> None:
    model = killed.network()
    with pytest.raises(TrainingDivergedError, match=r"NaN or infinite .* first on row \d+, in batch"):
        fit(
            model, killed.problem(), SCHEME, epochs=40, out=tmp_path,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e36),
        )  # fmt: skip
    assert all(p.isfinite().all() for p in model.parameters())
