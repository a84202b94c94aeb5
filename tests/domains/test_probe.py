"""What a probe finds out about models: told by models whose behaviour is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.domains.classifier import Probed
from omnirobust.domains.probe import differ, notes_of, probed

W = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
MASKED = torch.tensor([[-3.4e38, -1e4]])


def linear(v: Tensor) -> Tensor:
    return v.flatten(1) @ W.to(v)


def noisy(v: Tensor, sigma: float = 0.1) -> Tensor:
    return linear(v + sigma * torch.randn_like(v))


def with_norm() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(16, 5)
    )
    return net.train()


class Half(nn.Module):
    """BatchNorm over each half of a batch."""

    def forward(self, v: Tensor) -> Tensor:
        return torch.cat([linear(part - part.mean(0)) for part in v.chunk(2)])


_OWN = torch.Generator().manual_seed(1)

QUIET: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": linear,
    "offset": lambda v: linear(v) + 1e6,
    "masked": lambda v: torch.cat([linear(v), MASKED.expand(len(v), 2)], 1),
    "in bf16": lambda v: linear(v.bfloat16()),
    "dropout in eval mode": nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 5)),
    "running statistics": nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5)),
    "constant": lambda v: torch.zeros(len(v), 5),
}
RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": noisy,
    "noise beside masked classes": lambda v: torch.cat([noisy(v), MASKED.expand(len(v), 2)], 1),
    "noise beside an offset": lambda v: noisy(v, 1.0) + 1e4,
    "noise in bf16": lambda v: noisy(v).bfloat16(),
    "dropout by function": lambda v: linear(F.dropout(v, 0.1)),
    "a crop": lambda v: linear(v.roll(int(torch.randint(4, (1,))), -1)),
    "a coin a batch": lambda v: linear(v.flip(-1) if float(torch.rand(())) < 0.3 else v),
    "votes of noise": lambda v: F.one_hot(torch.stack([noisy(v, 1.0).argmax(1) for _ in range(20)]), 5).float().sum(0),
}
FOREIGN: dict[str, Callable[[Tensor], Tensor]] = {
    "numpy": lambda v: linear(v + 0.1 * torch.from_numpy(np.random.randn(*v.shape)).to(v)),  # noqa: NPY002
    "own generator": lambda v: linear(v + 0.1 * torch.randn(v.shape, generator=_OWN)),
}
MOVING: dict[str, Callable[[Tensor], Tensor]] = {
    "a draw that changes nothing": lambda v: linear(v) + 0 * torch.randn(1),
    "a rare coin": lambda v: linear(v + 3 * torch.randn_like(v) * (torch.rand(()) < 0.005)),
    "noise of rows beyond those that are tried": lambda v: (
        linear(torch.cat([v[:32], v[32:] + torch.randn_like(v[32:])])) + 0 * torch.rand(())
    ),
}


def parity_norm(v: Tensor) -> Tensor:
    """Take the mean from the rows of each parity by themselves."""
    z = linear(v).clone()
    z[::2] -= linear(v)[::2].mean(0)
    z[1::2] -= linear(v)[1::2].mean(0) if len(v) > 1 else 0
    return z


def shifted(by: int) -> Callable[[Tensor], Tensor]:
    return lambda v: linear(v) + 0.5 * linear(v).roll(by, 0)


COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "no running statistics": with_norm(),
    "mean of the batch": lambda v: linear(v - v.mean(0)),
    "statistics of halves": Half(),
    "random and coupled": lambda v: noisy(v - v.mean(0)),
    "the first row": lambda v: linear(v - v[:1]),
    "the last row": lambda v: linear(v - v[-1:]),
    "rows of one parity": parity_norm,
    "two rows ahead": shifted(2),
    "random and the first row": lambda v: noisy(v - v[:1]),
}


def found(model: Callable[[Tensor], Tensor], rows: int = 40, batch_size: int | None = None) -> tuple[bool, bool, bool]:
    """Return whether a model is said to be random, to draw elsewhere, to couple rows."""
    x = torch.rand(rows, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    (one,) = probed({"m": model}, x, batch_size).values()
    said = [note.removeprefix("model 'm' ") for note in one.notes]
    named = [any(note.startswith(start) for note in said) for start in ("is random", "draws", "couples")]
    assert named[0] == one.random and len(said) == sum(named)
    return named[0], named[1], named[2]


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("name", QUIET)
def test_what_neither_draws_nor_couples_is_left_in_peace(name, rows):
    assert found(QUIET[name], rows) == (False, False, False)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("name", RANDOM)
def test_random_models_are_told(name, rows):
    assert found(RANDOM[name], rows) == (True, False, False)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_draws_where_no_seed_reaches_is_told(name):
    assert found(FOREIGN[name]) == (True, True, False)


@pytest.mark.parametrize("rows", [4, 17, 40])
@pytest.mark.parametrize("name", COUPLED)
def test_rows_that_see_each_other_are_told(name, rows):
    random, foreign, coupled = found(COUPLED[name], rows)
    assert coupled and not foreign and random == name.startswith("random and")


@pytest.mark.parametrize("rows", range(2, 33))
def test_no_shift_and_no_mirror_image_of_a_batch_is_missed(rows):
    """Whatever row another one sees, at whatever distance, one of the two changes without the other."""
    assert all(found(shifted(by), rows)[2] for by in range(1, rows))
    mirrored = found(lambda v: linear(v) + 0.5 * linear(v).flip(0), rows)[2]
    assert mirrored or rows == 4  # of four rows no one half parts neighbours, those of one parity, and mirror images


def test_draws_that_depend_on_the_values_of_other_rows_are_no_coupling():
    def some(v: Tensor) -> Tensor:
        """Noise for some of the rows, drawn for these alone."""
        chosen = v.flatten(1)[:, 0] > 0.5
        return linear(v).masked_scatter(chosen[:, None], linear(v)[chosen] + torch.randn(int(chosen.sum()), 5))

    assert found(some) == (True, False, False)


@pytest.mark.parametrize("name", MOVING)
def test_a_generator_that_moves_though_nothing_differs_is_told_and_left_as_it_was(name):
    model, state = MOVING[name], torch.get_rng_state()
    result = orb.attack_ensemble(model, X, Y, orb.Linf(0.1), steps=2)
    judged = orb.evaluation.evaluate_robustness(model, X, Y, orb.Linf(0.1), steps=2)
    learned = orb.universal.learn_universal(model, X, Y, orb.Linf(0.1), epochs=1)
    scored = orb.universal.score_universal(model, X, Y, learned)
    near = orb.evaluation.minimal_eps(model, X[:4], Y[:4], orb.Linf(1.0).name, steps=2)
    for notes in (result.notes, judged.notes, learned.notes, scored.notes, near.notes):
        assert [note for note in notes if "moves a random generator, though 16 passes" in note], notes
        assert not any("is random" in note for note in notes)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_only_the_first_call_draws_is_how_it_builds_something():
    made: list[nn.Module] = []

    def model(v: Tensor) -> Tensor:
        if not made:
            made.append(nn.Linear(48, 5))
        return made[0](v.flatten(1))

    assert found(model) == (False, False, False)


def test_what_keeps_something_from_call_to_call_is_not_said_to_draw():
    kept = [0.0]

    def model(v: Tensor) -> Tensor:
        kept[0] = 0.9 * kept[0] + float(v.mean())
        return linear(v - kept[0])

    (one,) = probed({"m": model}, X).values()
    assert "keeps something from call to call" in one.notes[1]


def test_two_rows_are_enough():
    assert found(with_norm(), rows=2) == (False, False, True)
    assert found(COUPLED["random and coupled"], rows=2) == (True, False, True)


def test_a_single_row_has_no_batch_mates():
    assert found(with_norm(), rows=40, batch_size=1) == (False, False, False)


def test_last_bits_do_not_count_and_the_tolerance_is_as_stated():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(3)).mul(3).add(100)
    best = logits.topk(2).values
    margin = float((best[:, 0] - best[:, 1]).mean())
    last_bits = logits * (1 + 2.0**-18 * torch.empty_like(logits).uniform_(-1, 1))
    assert not differ(logits, last_bits)
    allowed = 1e-4 * margin + 2.0**-17 * float(logits[7, 3])
    for factor, told in ((0.9, False), (1.1, True)):
        moved = logits.double()
        moved[7, 3] += factor * allowed
        assert differ(logits.double(), moved) is told
    assert not differ(logits.bfloat16().float(), logits.bfloat16().float() * (1 + 2.0**-8))


def test_few_rows_are_passed_and_nothing_is_left_behind():
    seen, x = [], torch.rand(200, 3, 4, 4)

    def counted(v: Tensor) -> Tensor:
        seen.append(len(v))
        return linear(v)

    models = probed({"m": counted}, x)
    assert seen == [32] * 4
    assert probed(models, x) == models and len(seen) == 4  # what was probed is not again
    probed({"m": counted}, x[:1])
    assert seen[4:] == [1, 1]  # which has no batch-mates
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    probed({"m": FOREIGN["numpy"], "n": noisy}, x[:5])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert notes_of(probed([linear, noisy], x).values(), "So.") == (
        "model 'model_1' is random: two passes over the same inputs differ. So.",
    )
    assert found(noisy, rows=0) == (False, False, False)


def grid(model: Callable[[Tensor], Tensor], x: Tensor, samples: int, **settings) -> orb.DomainGrid:
    y = torch.zeros(len(x), dtype=torch.int64)
    return orb.DomainGrid(
        {"still": linear, "m": Probed(model, random=True)}, x, y, loss=losses.margin, samples=samples, **settings
    )


def test_a_grid_averages_over_a_models_draws_and_so_do_its_gradients():
    x, y = torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.int64)
    assert grid(noisy, x, samples=5).images == 1 + 5
    seen = [grid(noisy, x, samples=5, seed=seed).evaluate(torch.zeros_like(x)) for seed in range(60)]
    means = torch.stack([e.losses[:, 1] for e in seen])
    torch.manual_seed(0)
    true = losses.margin(noisy(x.repeat(4000, 1, 1, 1)), y.repeat(4000)).view(4000, 6)
    error = true.std(0) * (1 / 300 + 1 / 4000) ** 0.5
    assert bool(((means.mean(0) - true.mean(0)).abs() < 4 * error).all())
    assert bool(((means.std(0) / (true.std(0) / 5**0.5) - 1).abs() < 0.4).all())  # five independent draws each
    leaf = x.repeat(4000, 1, 1, 1).requires_grad_()
    losses.margin(noisy(leaf), y.repeat(4000)).sum().backward()
    assert leaf.grad is not None
    slope = leaf.grad.view(4000, 6, 3, 4, 4).mean(0)
    torch.testing.assert_close(torch.stack([e.grads[1] for e in seen if e.grads]).mean(0), slope, atol=0.25, rtol=0)


def test_draws_of_one_coin_a_batch_are_independent():
    coin = RANDOM["a coin a batch"]
    x = torch.rand(1, 3, 4, 4)
    y = torch.zeros(1, dtype=torch.int64)
    two = {float(losses.margin(linear(v), y)) for v in (x, x.flip(-1))}
    seen = {round(float(grid(coin, x, samples=2, seed=s).evaluate(x * 0).losses[0, 1]), 4) for s in range(40)}
    assert seen == {round(v, 4) for v in (*two, sum(two) / 2)}


def test_draws_are_keyed_and_the_callers_generator_does_not_move():
    x = torch.rand(4, 3, 4, 4)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = grid(noisy, x, 2, seed=3, restart=1)
    again = grid(noisy, x, 2, seed=3, restart=1)
    a, b = (g.evaluate(x * 0).losses for g in (first, first))
    torch.randn(7)
    assert torch.equal(again.evaluate(x * 0).losses, a) and torch.equal(again.evaluate(x * 0).losses, b)
    assert not torch.equal(a[:, 1], b[:, 1]) and torch.equal(a[:, 0], b[:, 0])
    others = [grid(noisy, x, 2, seed=3), grid(noisy, x, 2, seed=4, restart=1), grid(noisy, x, 2, seed=3, first_row=9)]
    assert all(not torch.equal(g.evaluate(x * 0).losses[:, 1], a[:, 1]) for g in others)
    torch.manual_seed(11)
    grid(noisy, x, 2).evaluate(x * 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_models_under_random_transformations_share_the_samples():
    x, noise = torch.rand(3, 3, 4, 4), lambda v, generator: v + 0.1 * torch.randn(v.shape, generator=generator)
    some = grid(noisy, x, 3, transforms={"ori": lambda v: v, "noise": noise}, memory=1)
    whole = grid(noisy, x, 3, transforms={"ori": lambda v: v, "noise": noise})
    assert whole.random and whole.images == (1 + 3) + (3 + 3)
    a, b = some.evaluate(x * 0), whole.evaluate(x * 0)
    assert a.losses.shape == b.losses.shape == (3, 4)
    torch.testing.assert_close(a.losses[:, :2], b.losses[:, :2])  # the still model
    assert not torch.equal(a.losses[:, 2:], b.losses[:, 2:])  # in parts each has its seed


X = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(8))
Y = linear(X).argmax(1)


@pytest.mark.parametrize("name", ["noise", "dropout by function", "a crop", "own generator"])
def test_attacks_judge_random_models_on_fresh_draws(name):
    model = (RANDOM | FOREIGN)[name]
    result = orb.attack_ensemble(model, X, Y, orb.Linf(1e-6), steps=3, restarts=4, stop_when_fooled=True, draws=40)
    torch.manual_seed(1)
    errs = torch.stack([model(X).argmax(1) != Y for _ in range(400)]).float().mean(0)
    assert result.draws == 40 and result.settings["draws"] == 40
    assert torch.equal(result.fooled, result.success == 1)
    assert float(result.success.mean()) == pytest.approx(float(errs.mean()), abs=0.12 if name == "a crop" else 0.03)
    assert result.asr_all <= float((errs > 0.85).float().mean()) + 0.05
    assert "is random" in result.notes[0] and "40 fresh draws" in result.notes[0]
    assert any("no seed of torch" in note for note in result.notes) == (name == "own generator")


def test_more_samples_make_a_stronger_attack_on_a_random_model():
    rates = [
        orb.attack_ensemble(
            lambda v: linear(F.dropout(v, 0.8)), X, Y, orb.L2(0.8), steps=5, samples=n, draws=40
        ).asr_avg
        for n in (1, 16)
    ]
    assert rates[1] > rates[0] + 0.02


def test_attacks_on_random_models_are_reproducible_and_leave_the_callers_generator_alone():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(orb.attack_ensemble({"m": noisy, "n": linear}, X, Y, orb.Linf(0.1), steps=4, seed=5))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].delta, found[1].delta) and torch.equal(found[0].success, found[1].success)


def test_a_random_model_beside_others_leaves_them_to_be_judged_as_ever():
    both = orb.attack_ensemble({"m": noisy, "n": linear}, X, Y, orb.Linf(0.1), steps=4, draws=5)
    assert set(both.success[:, 1].tolist()) <= {0.0, 1.0} and len(set(both.success[:, 0].tolist())) > 2
    assert len(both.notes) == 1 and both.notes[0].startswith("model 'm' is random")


def test_groups_and_transformations_of_random_models():
    shared = orb.attack_universal(
        noisy, X.view(8, 5, 3, 4, 4), Y.view(8, 5), orb.Linf(0.1), loss=losses.margin, steps=3, samples=2
    )
    turned = orb.attack_transforms(
        noisy, X, Y, {"ori": lambda v: v, "flip": lambda v: v.flip(-1)}, orb.Linf(0.1), steps=3
    )
    for result in (shared, turned):
        assert result.draws == 10 and "is random" in result.notes[0]
        assert len(set(result.success.flatten().tolist())) > 2
    assert shared.gradient_evaluations == 5 * 2 * 3


def test_attacks_name_models_whose_rows_see_each_other_and_go_on():
    result = orb.attack_ensemble(COUPLED["mean of the batch"], X, Y, orb.Linf(0.3), steps=5)
    assert "couples rows" in result.notes[0] and result.draws == 1 and result.asr_all > 0


def test_a_transformation_that_changes_the_size_comes_before_the_probe():
    result = orb.attack_transforms(
        linear, X[..., :2], Y, {"twice": lambda v: torch.cat([v, v], -1)}, orb.Linf(0.1), steps=2
    )
    assert result.notes == ()
