"""The zoo trains by its recipes, and a training that was really killed ends where an unbroken one does."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from omnirobust import zoo
from omnirobust.jobs import train_zoo as trainer
from omnirobust.zoo.architectures import build
from omnirobust.zoo.data import load
from omnirobust.zoo.recipes import PAPER, RECIPES, Recipe

from .. import forks


def killed_in_epoch(epoch: int, cache: Path) -> None:
    """Train in another process, which kills itself with SIGKILL in the middle of ``epoch``."""
    started = 0

    def kill(batch: int, batches: int, loss: float) -> None:
        nonlocal started
        started += batch == 1
        if started == epoch and batch == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    assert forks.ended(lambda: zoo.train("digits/d", epochs=3, cache=cache, on_batch=kill)) == forks.KILLED


def test_a_killed_training_resumes_to_the_same_parameters_bit_for_bit(tmp_path: Path) -> None:
    whole = zoo.train("digits/d", epochs=3, cache=tmp_path / "whole")
    killed_in_epoch(2, tmp_path / "killed")
    interim = zoo.card("digits/d", tmp_path / "killed")
    assert (interim.epochs, interim.finished, interim.fgsm_accuracy) == (1, False, None)
    epochs = []
    resumed = zoo.train("digits/d", epochs=3, cache=tmp_path / "killed", progress=lambda *args: epochs.append(args[0]))
    assert epochs == [2, 3]
    assert resumed == whole
    first, second = (load_file(tmp_path / run / "zoo/digits/d/weights.safetensors") for run in ("whole", "killed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_long_epoch_is_taken_up_in_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_SAVE_EVERY", 1e-9)
    whole = zoo.train("digits/d", epochs=2, cache=tmp_path / "whole")
    killed_in_epoch(1, tmp_path / "killed")  # in its ninth mini-batch, before there is a card
    kept = RECIPES["digits/d"]
    monkeypatch.setitem(RECIPES, "digits/d", replace(kept, milestones=(1,)))
    with pytest.raises(ValueError, match=r"recipe must have milestones \[\] as the training in .* had, got \[1\]"):
        zoo.train("digits/d", epochs=3, cache=tmp_path / "killed")
    monkeypatch.setitem(RECIPES, "digits/d", kept)
    seen = list[int]()
    resumed = zoo.train(
        "digits/d", epochs=3, cache=tmp_path / "killed", on_batch=lambda number, total, loss: seen.append(number)
    )
    assert seen[0] == 10
    assert resumed == zoo.train("digits/d", epochs=3, cache=tmp_path / "whole") != whole
    assert {file.name for file in (tmp_path / "killed/zoo/digits/d").iterdir()} == {
        "card.json", "checkpoint.pt", "weights.safetensors"
    }  # fmt: skip


def test_the_card_says_what_the_stored_model_does(tmp_path: Path) -> None:
    card = zoo.train("digits/a", seed=1, epochs=3, cache=tmp_path)
    assert zoo.card("digits/a@seed1", tmp_path) == card
    model, test = zoo.load("digits/a@seed1", tmp_path), load("digits", "test")
    assert card.clean_accuracy == int((model(test.x).argmax(1) == test.y).sum()) / 500
    x = test.x.clone().requires_grad_()
    cross_entropy(model(x), test.y).backward()
    assert x.grad is not None
    attacked = (test.x + 0.2 * x.grad.sign()).clamp(0, 1)
    assert card.fgsm_accuracy == pytest.approx(float((model(attacked).argmax(1) == test.y).float().mean()), abs=0.005)
    assert (card.seed, card.epochs, card.finished, card.data, card.shape) == (1, 3, True, "digits", (1, 8, 8))
    assert card.recipe["epochs"] == 3
    assert card.torch_version == torch.__version__


@pytest.mark.parametrize("letter", ["a", *(pytest.param(slow, marks=pytest.mark.slow) for slow in "bd"), "c"])
def test_the_digits_recipes_make_usable_models(letter: str, tmp_path: Path) -> None:
    # A nearest-neighbour classifier has 98 % on these digits; a broken network or recipe stays far below 94.
    assert zoo.train(f"digits/{letter}", cache=tmp_path).clean_accuracy > 0.94


def test_the_model_can_be_used_while_it_trains(tmp_path: Path) -> None:
    seen = []

    def look(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        model = zoo.load("digits/a", tmp_path)
        seen.append((epoch, zoo.card("digits/a", tmp_path).epochs, float(model(torch.ones(1, 1, 8, 8)).sum())))

    zoo.train("digits/a", epochs=3, cache=tmp_path, progress=look)
    assert [row[:2] for row in seen] == [(1, 1), (2, 2), (3, 3)]
    assert len({row[2] for row in seen}) == 3


def test_seeds_give_different_models_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    cards = [zoo.train("digits/a", seed=seed, epochs=1, cache=tmp_path) for seed in (0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert [card.name for card in cards] == ["digits/a", "digits/a@seed1"]
    first, second = (zoo.load(card.name, tmp_path).state_dict() for card in cards)
    assert not torch.equal(first["1.weight"], second["1.weight"])


def test_an_early_end_is_judged_on_the_held_out_end_of_the_training_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES["digits/a"], holdout=297, stop_at=0.9)
    monkeypatch.setitem(RECIPES, "digits/a", recipe)
    card = zoo.train("digits/a", cache=tmp_path)
    assert card.epochs < recipe.epochs
    assert card.finished
    held_out = load("digits", "train", start=1000)
    right = (zoo.load("digits/a", tmp_path)(held_out.x).argmax(1) == held_out.y).sum()
    assert card.validation_accuracy == int(right) / 297 >= 0.9


def test_images_are_smaller_in_training_alone_and_from_the_epochs_that_the_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(3, batch_size=64, holdout=1300, sides=((0, 4), (2, 6)))
    monkeypatch.setitem(RECIPES, "digits/b", recipe)
    seen: list[tuple[bool, int]] = []

    def watched(*arguments: object) -> torch.nn.Module:
        network = build(*arguments)  # type: ignore[arg-type]
        network[0].register_forward_hook(lambda layer, inputs, out: seen.append((layer.training, inputs[0].shape[-1])))
        return network

    monkeypatch.setattr("omnirobust.jobs.train_zoo.build", watched)
    trainer.train("digits/b", epochs=2, cache=tmp_path)
    assert {side for training, side in seen if training} == {4}
    del seen[:]
    trainer.train("digits/b", epochs=3, cache=tmp_path)  # resumed: the epoch is still known
    assert {side for training, side in seen if training} == {6}
    assert {side for training, side in seen if not training} == {8}


def test_half_of_the_images_are_mirrored_in_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "digits/a", Recipe(2, batch_size=64, flip=True))
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def watched(*arguments: object) -> torch.nn.Module:
        network = build(*arguments)  # type: ignore[arg-type]
        network[0].register_forward_hook(lambda layer, inputs, out: seen[layer.training].append(inputs[0].clone()))
        return network

    monkeypatch.setattr("omnirobust.jobs.train_zoo.build", watched)
    trainer.train("digits/a", cache=tmp_path)
    images = load("digits", "train").x.flatten(1)
    straight = {row.numpy().tobytes() for row in images}
    mirrored = {row.numpy().tobytes() for row in load("digits", "train").x.flip(-1).flatten(1)}
    shown = [row.numpy().tobytes() for row in torch.cat(seen[True]).flatten(1)]
    assert len(shown) == 2 * len(images)
    turned = [row not in straight for row in shown]
    assert all(row in mirrored for row, turn in zip(shown, turned, strict=True) if turn)
    assert abs(sum(turned) / len(shown) - 0.5) < 4 * 0.5 / len(shown) ** 0.5
    assert turned[: len(images)] != turned[len(images) :]
    test = load("digits", "test").x
    judged = {row.numpy().tobytes() for row in torch.cat(seen[False]).detach().flatten(1)}
    assert all(row.numpy().tobytes() in judged for row in test.flatten(1))
    assert not any(row.numpy().tobytes() in judged for row in test.flip(-1).flatten(1))
    finished = zoo.card("digits/a", tmp_path)
    assert finished.recipe["flip"] is True and finished.clean_accuracy > 0.3


def test_a_training_that_goes_on_is_judged_on_the_first_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_JUDGED_MEANWHILE", 70)
    seen = []

    def look(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        model, test = zoo.load("digits/a", tmp_path), load("digits", "test")
        right = (model(test.x).argmax(1) == test.y).tolist()
        seen.append((zoo.card("digits/a", tmp_path).clean_accuracy, sum(right[:70]) / 70))

    card = zoo.train("digits/a", epochs=2, cache=tmp_path, progress=look)
    assert len(seen) == 2 and all(said == true for said, true in seen)
    model, test = zoo.load("digits/a", tmp_path), load("digits", "test")
    assert card.clean_accuracy == int((model(test.x).argmax(1) == test.y).sum()) / 500


def test_a_device_without_bf16_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPES["mnist/b"])
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert trainer._for_this_machine(recipe, torch.device("cpu")).precision == "bf16"
    assert trainer._for_this_machine(recipe, torch.device("mps")).precision == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert trainer._for_this_machine(recipe, torch.device("cpu")).precision == "fp32"
    for able, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert trainer._for_this_machine(recipe, torch.device("cuda")).precision == precision


def test_going_on_with_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = RECIPES["digits/a"]
    zoo.train("digits/a", epochs=2, cache=tmp_path)
    with pytest.raises(ValueError, match=r"epochs must be >= 2, which the checkpoint .* has done, got 1"):
        zoo.train("digits/a", epochs=1, cache=tmp_path)
    monkeypatch.setitem(RECIPES, "digits/a", replace(RECIPES["digits/a"], batch_size=32))
    with pytest.raises(ValueError, match=r"batch_size must be 64 as in the checkpoint .*resume=False"):
        zoo.train("digits/a", epochs=3, cache=tmp_path)
    for changed in ({"milestones": (2,)}, {"sides": ((0, 4),)}, {"fall": 1}, {"flip": True}):
        monkeypatch.setitem(RECIPES, "digits/a", replace(ours, **changed))
        with pytest.raises(ValueError, match=rf"recipe must have {next(iter(changed))} .* had, got .*resume=False"):
            zoo.train("digits/a", epochs=3, cache=tmp_path)
    monkeypatch.setitem(RECIPES, "digits/a", ours)
    assert zoo.train("digits/a", epochs=1, cache=tmp_path, resume=False).epochs == 1


def test_the_card_says_which_recipe_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAPER, "digits/a", replace(RECIPES["digits/a"], epochs=1, optimizer="sgd", lr=0.01))
    ours = zoo.train("digits/a", epochs=1, cache=tmp_path)
    assert (ours.recipe["name"], ours.recipe["optimizer"]) == ("fast", "adam")
    with pytest.raises(ValueError, match=r"resume=False"):
        zoo.train("digits/a", recipe="paper", cache=tmp_path)
    assert zoo.card("digits/a", tmp_path) == ours
    theirs = zoo.train("digits/a", recipe="paper", cache=tmp_path, resume=False)
    assert (theirs.recipe["name"], theirs.recipe["optimizer"]) == ("paper", "sgd")
    assert zoo.card("digits/a", tmp_path) == theirs


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        zoo.train("digits/a", seed=-1, cache=tmp_path)
    with pytest.raises(ValueError, match=r"name must be one of .* got 'digits/z'"):
        zoo.train("digits/z", cache=tmp_path)
    with pytest.raises(ValueError, match="epochs must be >= 1, got 0"):
        zoo.train("digits/a", epochs=0, cache=tmp_path)
    with pytest.raises(ValueError, match="recipe must be fast for digits/a, got 'paper'"):
        zoo.train("digits/a", recipe="paper", cache=tmp_path)
    assert not list(tmp_path.iterdir())
