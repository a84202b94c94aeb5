"""The ensemble recipe: what it returns is what it says, whatever the batches, restarts and interruptions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.choosing import better_of
from omnirobust.attacks.masking import GradientMaskingWarning
from omnirobust.domains import losses

THREATS = [orb.Linf(0.15), orb.L2(1.0), orb.L1(4.0), orb.L0(6)]


@pytest.mark.parametrize("preset", [None, "paper"])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_success_and_feasibility_are_as_reported(models, x, y, threat: orb.ThreatModel, preset) -> None:
    result = orb.attack_ensemble(models, x, y, threat, steps=12, preset=preset)
    assert threat.around(x).contains(result.delta).all()
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    assert (result.adversarial - x - result.delta).abs().max() < 1e-7
    for k, model in enumerate(models.values()):
        assert torch.equal(result.fooled[:, k], model(result.adversarial).argmax(1) != y)
    assert result.asr_all == pytest.approx(float(result.fooled.all(1).double().mean()))
    assert result.asr_avg == pytest.approx(float(result.fooled.double().mean()))
    assert torch.allclose(result.accuracy, 1 - result.fooled.float().mean(0))
    assert torch.allclose(result.weights.sum(1), torch.ones(9).double())
    assert result.names == ("a", "b", "c")
    assert result.history.losses.shape == (13, 3)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_the_default_beats_the_plain_average_here(models, x, y, threat: orb.ThreatModel) -> None:
    ours = orb.attack_ensemble(models, x, y, threat, steps=25)
    average = orb.attack_ensemble(models, x, y, threat, steps=25, preset="paper", rule=orb.Uniform())
    assert ours.asr_all >= average.asr_all


def test_forwards_are_counted(models, x, y) -> None:
    result = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=7)
    before, run = 4 + 1, 7 + 1  # four to probe, one for the reach; T + 1; one to recompute success
    assert [m.calls for m in models.values()] == [before + run + 1] * 3
    assert result.gradient_evaluations == 3 * (7 + 1)
    again = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=7, restarts=2, loss=losses.margin)
    assert [m.calls for m in models.values()] == [14 + 4 + 2 * run + 1] * 3  # other losses ask for no reach
    assert again.gradient_evaluations == 3 * 7 * 2
    twice = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=7, restarts=2)
    assert [m.calls for m in models.values()] == [35 + before + 2 * run + 1] * 3  # the reach is of all restarts
    assert twice.gradient_evaluations == 3 * (7 * 2 + 1)


@pytest.mark.processors
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_noise_and_results_do_not_depend_on_batches(models, x, y, rounding, threat: orb.ThreatModel) -> None:
    rounded = {name: rounding(model) for name, model in models.items()}

    def go(size: int | None) -> orb.AttackResult:
        return orb.attack_ensemble(
            rounded, x, y, threat, steps=6, restarts=2, init="normal", batch_size=size, history="full"
        )

    whole, cut = go(None), go(2)
    assert torch.allclose(whole.delta, cut.delta, atol=1e-9)
    assert torch.equal(whole.fooled, cut.fooled)
    assert torch.allclose(whole.history.losses, cut.history.losses)
    assert whole.history.rows is not None and cut.history.rows is not None
    assert torch.allclose(whole.history.rows.weights, cut.history.rows.weights)


def test_same_seed_same_result_and_another_seed_another(models, x, y) -> None:
    def go(seed: int) -> Tensor:
        return orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=3, init="normal", seed=seed, keep="last").delta

    assert torch.equal(go(4), go(4))
    assert not torch.equal(go(4), go(5))


def test_first_row_keys_the_noise(models, x, y) -> None:
    def go(rows: slice, first_row: int) -> Tensor:
        return orb.attack_ensemble(
            models, x[rows], y[rows], orb.L2(0.5), steps=2, init="normal", first_row=first_row
        ).delta

    assert torch.allclose(go(slice(None), 0)[6:], go(slice(6, 9), 6), atol=1e-9)


def test_restarts_never_lose(models, x, y) -> None:
    one = orb.attack_ensemble(models, x, y, orb.Linf(0.08), steps=4, keep="last")
    more = orb.attack_ensemble(models, x, y, orb.Linf(0.08), steps=4, keep="last", restarts=4)
    assert bool((more.fooled.sum(1) >= one.fooled.sum(1)).all())
    assert (one.gradient_evaluations, more.gradient_evaluations) == (3 * (4 + 1), 3 * (4 * 4 + 1))


def test_global_random_state_is_left_alone(models, x, y) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2, init="normal", restarts=2)
    assert torch.equal(before, torch.get_rng_state())


class Memory:
    """A store that forgets nothing, and can break off after some batches."""

    def __init__(self, stop_after: int = 99) -> None:
        self.kept: dict[int, orb.AttackResult] = {}
        self.left = stop_after

    def get(self, index: int) -> orb.AttackResult | None:
        return self.kept.get(index)

    def put(self, index: int, result: orb.AttackResult) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.kept[index] = result


def test_an_interrupted_attack_resumes_to_the_same_result(models, x, y) -> None:
    def go(store: Memory) -> orb.AttackResult:
        return orb.attack_ensemble(models, x, y, orb.L2(0.7), steps=4, batch_size=3, init="normal", store=store)

    broken = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        go(broken)
    models["a"].calls = 0
    broken.left = 99
    resumed = go(broken)
    assert (
        models["a"].calls == 7 + 3 * 4
    )  # one batch of three was left: reach, T + 1 and 1; all three are probed by four passes
    assert torch.equal(resumed.delta, go(Memory()).delta)


def test_progress_is_told_to_a_callable(models, x, y) -> None:
    seen: list[tuple[int, int]] = []
    orb.attack_ensemble(
        models, x, y, orb.Linf(0.1), steps=3, batch_size=5, restarts=2, progress=lambda a, b: seen.append((a, b))
    )
    assert seen[-1] == (16, 16)
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)


def test_targeted_attacks_reach_their_class(models, x, y) -> None:
    goal = (y + 1) % 4
    result = orb.attack_ensemble(models, x, goal, orb.Linf(0.5), steps=30, targeted=True)
    for k, model in enumerate(models.values()):
        assert torch.equal(result.fooled[:, k], model(result.adversarial).argmax(1) == goal)
    assert result.asr_avg > 0.5


def test_radii_may_differ_by_row(models, x, y) -> None:
    eps = torch.linspace(0.01, 0.2, 9, dtype=torch.float64)
    result = orb.attack_ensemble(models, x, y, orb.Linf(eps), steps=5, batch_size=4)
    assert bool((result.delta.abs().flatten(1).amax(1) <= eps + 1e-9).all())


def test_masked_pixels_stay(models, x, y) -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[:, :3] = True
    result = orb.attack_ensemble(models, x, y, orb.ThreatModel(2, 1.0, mask=mask), steps=5)
    assert bool((result.delta[:, :, 3:] == 0).all()) and bool((result.delta != 0).any())


class Step(nn.Module):
    """A model whose gradient is zero everywhere: it rounds its input."""

    def forward(self, v: Tensor) -> Tensor:
        return v.flatten(1)[:, :4].round() * 2 + v.flatten(1)[:, :4] * 0


def test_a_model_without_gradient_is_named(models, x, y) -> None:
    pair = {"good": models["a"], "step": Step()}
    with pytest.raises(ValueError, match="model 'step' has zero input gradient on every row"):
        orb.attack_ensemble(pair, x, y, orb.Linf(0.1), steps=3)


def test_rows_that_start_blind_are_counted(x) -> None:
    class HalfBlind(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            seeing = (v[:, 0, 0, 0] > 0.5).to(v.dtype).view(-1, 1)
            z = v.flatten(1)[:, 1:5] * seeing
            return z + torch.tensor([9.0, 0, 0, 0], dtype=v.dtype)

    masked = float((x[:, 0, 0, 0] <= 0.5).double().mean())
    said = (
        f"Gradient masking: the input gradient of model 'half' is zero on {100 * masked:.2f} % of the rows at the start"
    )
    labels = torch.zeros(9, dtype=torch.int64)
    with pytest.warns(GradientMaskingWarning, match=said) as warned:
        result = orb.attack_ensemble({"half": HalfBlind()}, x, labels, orb.L2(0.1), steps=1)
    assert float(result.zero_gradient[0]) == pytest.approx(masked)
    assert warned[0].filename == __file__  # the line that attacks, not one of the library's
    (note,) = result.notes
    assert note.startswith(said) and "losses.smooth_margin" in note
    with pytest.warns(GradientMaskingWarning):
        again = orb.attack_ensemble(HalfBlind(), x, labels, orb.L2(0.1), steps=1, loss=orb.losses.smooth_margin)
    assert "smooth_margin" not in again.notes[0]
    pairs = {"same": lambda v: v, "flipped": lambda v: v.flip(-1)}
    with pytest.warns(GradientMaskingWarning) as warned:
        product = orb.attack_product(
            {"a": HalfBlind(), "b": HalfBlind()}, x, labels, orb.L2(0.1), steps=1, transforms=pairs
        )
    assert len(product.notes) == len(warned) == 4
    assert "model 'b' under transformation 'same' is zero" in product.notes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -2}, "steps must be a whole number >= 0, got -2"),
        ({"restarts": 0}, "restarts must be a whole number >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1 or None, got 0"),
        ({"preset": "papers"}, "preset must be 'paper', 'transfer' or None, got 'papers'"),
        ({"init": "ones"}, "init must be a tensor, 'zero' or 'normal', got 'ones'"),
        ({"keep": "first"}, "keep must be 'last' or 'best', got 'first'"),
        ({"init": torch.zeros(9, 1, 6, 5).double()}, r"init must have shape \(9, 1, 6, 6\)"),
        ({"y": torch.full((9,), 4)}, r"y must lie in \[0, 4\)"),
        ({"y": torch.full((9,), -1)}, r"y must lie in \[0, 4\)"),
        ({"x": torch.full((9, 1, 6, 6), 1.5).double()}, "x must lie in"),
        ({"x": torch.full((9, 1, 6, 6), float("nan")).double()}, "x must be finite"),
        ({"models": []}, "models must hold at least one model"),
    ],
)
def test_what_the_attack_refuses(models, x, y, change: dict, message: str) -> None:
    given = {"models": models, "x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble(given.pop("models"), given.pop("x"), given.pop("y"), orb.Linf(0.1), **given)


def test_no_images_are_no_trouble(models, x, y) -> None:
    result = orb.attack_ensemble(models, x[:0], y[:0], orb.Linf(0.1), steps=2)
    assert result.delta.shape == (0, 1, 6, 6)
    assert result.asr_all == 0.0


@pytest.mark.processors
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_stopping_early_changes_no_success_of_the_default(models, x, y, rounding, threat: orb.ThreatModel) -> None:
    models = {name: rounding(model) for name, model in models.items()}
    many = x.repeat(5, 1, 1, 1) * torch.linspace(0.5, 1, 45).view(-1, 1, 1, 1).double()
    eps = torch.linspace(0.2, 1.0, 45).double() * float(threat.eps)
    small = orb.ThreatModel(threat.p, eps)
    full = orb.attack_ensemble(models, many, y.repeat(5), small, steps=20)
    soon = orb.attack_ensemble(models, many, y.repeat(5), small, steps=20, stop_when_fooled=True)
    assert torch.equal(full.fooled.all(1), soon.fooled.all(1))
    assert 0 < int(full.fooled.all(1).sum()) < 45
    open_rows = ~full.fooled.all(1)
    assert torch.allclose(full.delta[open_rows], soon.delta[open_rows], atol=1e-9)


class Moody(nn.Module):
    """Says one thing under autocast and another without: success must be that of full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def forward(self, v: Tensor) -> Tensor:
        rough = torch.is_autocast_enabled("cpu")
        self.seen.append(rough)
        z = v.flatten(1)[:, :4]
        return z + (torch.tensor([0.0, 9, 0, 0]) if rough else torch.tensor([9.0, 0, 0, 0]))


def test_bf16_runs_the_attack_and_full_precision_judges_it(x) -> None:
    model = Moody()
    labels = torch.zeros(9, dtype=torch.int64)
    result = orb.attack_ensemble({"m": model}, x.float(), labels, orb.Linf(0.1), steps=3, precision="bf16")
    assert model.seen == [False] * 4 + [True] * 5 + [False]  # probed and judged in full precision
    assert float(result.history.fooled[-1]) == 1.0
    assert result.asr_all == 0.0
    assert float(result.losses.min()) > 0


def test_better_of_ranks_by_models_fooled_then_worst_loss_then_age() -> None:
    def solution(fooled: list[list[bool]], losses: list[list[float]], mark: float) -> orb.Solution:
        flags, values = torch.tensor(fooled), torch.tensor(losses)
        rows = orb.history.HistoryRows(values[None], values[None], flags[None], flags.all(1)[None])
        B = len(fooled)
        return orb.Solution(
            torch.full((B, 1), mark),
            values,
            values,
            flags,
            torch.zeros(B, dtype=torch.int64),
            rows.means(keep_rows=True),
        )

    first = solution([[True, False], [True, False], [True, False], [True, True]], [[1.0, 5.0]] * 4, 1.0)
    second = solution(
        [[True, True], [True, False], [True, False], [False, True]],
        [[9.0, 9.0], [4.0, 4.0], [5.0, 2.0], [0.0, 0.0]],
        2.0,
    )
    assert better_of(first, second).delta.flatten().tolist() == [2.0, 2.0, 1.0, 1.0]
    some = solution([[True, True]], [[9.0, 9.0]], 3.0)
    assert better_of(first, some, torch.tensor([2])).delta.flatten().tolist() == [1.0, 1.0, 3.0, 1.0]


def test_weights_and_labels_given_for_each_row_are_cut_with_the_batches(models, x) -> None:
    own = torch.stack([m(x).argmax(1) for m in models.values()], 1)
    w = torch.distributions.Dirichlet(torch.ones(3).double()).sample((9,))

    def go(size: int | None) -> orb.AttackResult:
        return orb.attack_ensemble(models, x, own, orb.L2(0.6), steps=5, rule=orb.Fixed(w), batch_size=size)

    whole, cut = go(None), go(4)
    assert torch.allclose(cut.weights, w)
    assert torch.allclose(cut.delta, whole.delta, atol=1e-9)
    assert torch.equal(cut.fooled, whole.fooled)


def test_a_batch_that_is_blind_by_itself_stops_nothing(x) -> None:
    class HalfBlind(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            seeing = (v[:, 0, 0, 0] > 0.5).to(v.dtype).view(-1, 1)
            return v.flatten(1)[:, 1:5] * seeing + torch.tensor([9.0, 0, 0, 0], dtype=v.dtype)

    labels = torch.zeros(9, dtype=torch.int64)
    whole = orb.attack_ensemble(HalfBlind(), x, labels, orb.L2(0.1), steps=1)
    cut = orb.attack_ensemble(HalfBlind(), x, labels, orb.L2(0.1), steps=1, batch_size=1)
    assert torch.allclose(cut.zero_gradient, whole.zero_gradient)


def test_restarts_draw_noise_of_their_own(models, x, y) -> None:
    seen: list[Tensor] = []

    class Recording(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            seen.append(v.detach().clone())
            return models["a"](v)

    orb.attack_ensemble(Recording(), x, y, orb.L2(0.5), steps=0, restarts=3, init="normal", keep="last")
    starts = seen[4:7]  # after four passes that probe
    assert not torch.allclose(starts[0], starts[1]) and not torch.allclose(starts[1], starts[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": orb.Uniform}, "rule must be a weight rule such as .*, got the class Uniform: call it"),
        ({"rule": "uniform"}, "rule must be a weight rule such as Uniform\\(\\), got 'uniform'"),
        ({"direction": orb.Sign}, "direction must be a direction"),
        ({"loss": "margin"}, "loss must be a function"),
        ({"init": [0.0]}, "init must be a tensor, 'zero' or 'normal', got list"),
        ({"step_size": -1.0}, "step_size must be finite and > 0, got -1.0"),
        ({"steps": 2.0}, "steps must be a whole number >= 0, got 2.0"),
    ],
)
def test_kinds_that_the_attack_refuses(models, x, y, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble(models, x, y, orb.Linf(0.1), **change)


def test_nan_gradients_are_named(models, x, y) -> None:
    class Root(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return v.flatten(1)[:, :4] + (v - v.detach()).abs().sqrt().flatten(1)[:, :4]

    with pytest.raises(ValueError, match="model 'root' has NaN or infinite input gradients"):
        orb.attack_ensemble({"good": models["a"], "root": Root()}, x, y, orb.Linf(0.1), steps=3)


def test_vectors_serve_as_well_as_images(x, y) -> None:
    linear = nn.Linear(36, 4).double()
    result = orb.attack_ensemble(linear, x.flatten(1), linear(x.flatten(1)).argmax(1), orb.L1(2.0), steps=10)
    assert result.delta.shape == (9, 36)
    assert result.asr_all > 0


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(9, 6, 6, dtype=torch.int64), torch.zeros(9, 1, 6, 6, dtype=torch.int64), torch.zeros(9, 4),
        torch.zeros(9, 4, dtype=torch.bool), torch.zeros(9, 4, dtype=torch.int64),
    ],
    ids=["of pixels", "of pixels with a channel", "several, floats", "several, bool", "several, whole"],
)  # fmt: skip
def test_labels_of_no_single_class_are_sent_to_their_page(models, x, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"for attack_losses, see docs/losses\.md"):
        orb.attack_ensemble(models, x, labels, orb.Linf(0.1), steps=1)


def test_other_labels_are_not(models, x, y) -> None:
    for labels in (y[:5], y.float(), y[:8].view(2, 4)):
        with pytest.raises(ValueError, match="y must") as refused:
            orb.attack_ensemble(models, x, labels, orb.Linf(0.1), steps=1)
        assert "docs/losses.md" not in str(refused.value)


def test_a_model_of_pixels_is_sent_to_their_page(x, y) -> None:
    dense = nn.Conv2d(1, 4, 1).double()
    with pytest.raises(ValueError, match=r"got \(9, 4, 6, 6\): scores of pixels.*see docs/losses.md"):
        orb.attack_ensemble({"dense": dense}, x, y, orb.Linf(0.1), steps=1)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_inputs_and_radii_that_require_gradients_are_attacked_as_others(models, x, y, threat: orb.ThreatModel) -> None:
    leaf = x.clone().requires_grad_()
    eps = torch.full((len(x),), float(threat.eps))
    wanted = orb.attack_ensemble(models, x, y, orb.ThreatModel(threat.p, eps), steps=4)
    found = orb.attack_ensemble(models, leaf, y, orb.ThreatModel(threat.p, eps.clone().requires_grad_()), steps=4)
    assert torch.equal(found.adversarial, wanted.adversarial) and torch.equal(found.weights, wanted.weights)
    assert not any(t.requires_grad for t in (found.adversarial, found.delta, found.weights, found.losses))
    assert leaf.grad is None
