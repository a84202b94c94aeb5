"""What models return, in which precision they compute, and how they fail: told by the name of the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.probe import notes_of, probed
from omnirobust.evaluation import STRONG, evaluate_robustness
from omnirobust.training import Scheme, TrainingDivergedError, fit

W = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 2
LINF = orb.Linf(0.1)


def linear(v: Tensor) -> Tensor:
    return v.flatten(1) @ W.to(v)


def binary(v: Tensor) -> Tensor:
    """One logit of two classes."""
    return linear(v)[:, 1] - linear(v)[:, 0]


def notes(model: Any, x: Tensor = X) -> list[str]:
    return list(notes_of(probed({"m": model}, x).values(), ""))


READ: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "object": (lambda v: SimpleNamespace(logits=linear(v)), ""),
    "dict": (lambda v: {"loss": None, "logits": linear(v)}, "'logits' was read"),
    "ordered dict": (lambda v: OrderedDict(logits=linear(v)), "'logits' was read"),
    "tuple": (lambda v: (linear(v), v), "a tuple, of which the first"),
    "list": (lambda v: [linear(v)], "a list, of which the first"),
}


@pytest.mark.parametrize("name", READ)
def test_what_holds_logits_is_read_and_the_notes_say_so_once(name):
    model, said = READ[name]
    assert torch.equal(Classifier("m", model)(X), linear(X))
    told = notes(model)
    assert len(told) == bool(said) and all(said in note and note.startswith("model 'm'") for note in told)
    plain, read = (orb.attack_ensemble({"m": m}, X, Y, LINF, steps=3) for m in (linear, model))
    assert torch.equal(plain.delta, read.delta)


@pytest.mark.parametrize("when", ["always", "later", "hidden"])
@pytest.mark.parametrize("clip", ["image", "intersection"])
def test_models_that_write_into_their_inputs_are_attacked_as_those_that_do_not(when, clip):
    """Whether a model writes at once, only once it was seen to read, or where no count of writes tells."""

    class Writes(nn.Module):
        calls = 0

        def forward(self, v: Tensor) -> Tensor:
            self.calls += 1
            if when == "always" or (when == "later" and self.calls > 2):
                return linear(v.mul_(2))
            out = linear(v * 2)
            if when == "hidden":
                v.data.fill_(7)
            return out

    x, y, settings = X.view(3, 4, 1, 4, 4), Y.view(3, 4), {"loss": losses.smooth_margin, "shared": True, "clip": clip}
    delta = 0.3 * torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    writing, reading = (orb.DomainGrid(m, x, y, **settings) for m in (Writes(), lambda v: linear(v * 2)))
    before = x.clone()
    for step in range(4):
        got, wanted = (grid.evaluate(delta, grad=step < 3) for grid in (writing, reading))
        assert torch.equal(got.losses, wanted.losses)
        assert all(map(torch.equal, got.grads or (), wanted.grads or ()))
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_stands_for_two_classes(shape):
    one, two = (lambda v: binary(v).view(shape)), (lambda v: torch.stack([0 * binary(v), binary(v)], 1))
    torch.testing.assert_close(Classifier("m", one)(X), two(X))
    assert "taken as (0, z), the logits of labels 0 and 1" in notes(one)[0]
    reports = [evaluate_robustness(m, X, Y, LINF, steps=3, attacks=STRONG[:1]) for m in (one, two)]
    torch.testing.assert_close(reports[0].margin, reports[1].margin)
    assert reports[0].clean == float(((binary(X) > 0).long() == Y).double().mean())
    assert "taken as (0, z)" in reports[0].notes[0] and len(reports[0].notes) == 1 + len(reports[1].notes)


def test_one_probability_is_refused_and_a_lucky_logit_is_not():
    with pytest.raises(ValueError, match="model 'm' returns probabilities"):
        Classifier("m", lambda v: binary(v).sigmoid())(X)
    with pytest.raises(ValueError, match="model 'm' returns probabilities"):
        Classifier("m", lambda v: binary(v).sigmoid()[:, None])(X[:1])
    assert not Classifier("m", lambda v: 0 * binary(v))(X).any()  # as before a training that begins at zero
    offset = 0.5 - float(binary(X[:1]))
    assert Classifier("m", lambda v: binary(v) + offset)(X[:1])[0].tolist() == pytest.approx([0, 0.5], abs=1e-6)


REFUSED: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda v: {"scores": linear(v)}, "model 'm' must return logits .* got dict"),
    (lambda v: (v, linear(v)), r"must return logits of shape \(12, C\) with C >= 2, .* got \(12, 1, 4, 4\)"),
    (lambda v: (binary(v), v), r"logits \(B, C\) first in a tuple, got \(12,\): one number for each .* alone"),
    (
        lambda v: [binary(v).unsqueeze(1), v],
        r"logits \(B, C\) first in a list, got \(12, 1\): one number .* alone",
    ),
    (lambda v: (), "must return logits .* got tuple"),
    (lambda v: torch.fft.fft(linear(v)), "model 'm' must return real logits, got torch.complex64"),
    (lambda v: linear(v)[:5], r"must return logits of shape \(12, C\)"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_holds_no_logits_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble({"m": model}, X, Y, LINF, steps=1)


@pytest.mark.parametrize("own", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_inputs_decide_the_precision(own, given):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(own)
    x, told = X.to(given), notes(net, X.to(given))
    result = orb.attack_ensemble({"m": net}, x, Y, LINF, steps=2)
    assert {result.delta.dtype, result.losses.dtype} == {given}
    assert [f"computes in {own}" in note for note in told] == [True] * (own != given)
    assert result.notes[: len(told)] == tuple(told) or not told
    expected = net(x.to(own)).to(torch.promote_types(own, given))  # nothing of what the model says is rounded away
    assert torch.equal(Classifier("m", net)(x), expected.detach())
    report = evaluate_robustness(net, x, Y, LINF, steps=1, attacks=STRONG[:1])
    assert report.clean == float((expected.argmax(1) == Y).double().mean())


def test_what_casts_by_itself_sees_the_inputs_as_they_are():
    seen, net = [], nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()

    def model(v: Tensor) -> Tensor:
        seen.append(v.dtype)
        return net(((v - 0.5) / 0.25).bfloat16())

    assert Classifier("m", model)(X).dtype == torch.float32 and seen == [torch.float32] and notes(model) == []


def late(batches: int, error: Exception) -> Callable[[Tensor], Tensor]:
    calls = []

    def model(v: Tensor) -> Tensor:
        calls.append(v)
        if len(calls) > batches:
            raise error
        return linear(v)

    return model


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("boom"), AssertionError("boom")])
def test_a_model_that_fails_late_is_named(error):
    with pytest.raises(ValueError, match=r"model 'm' has answered before, and failed on inputs of shape .*boom"):
        orb.attack_ensemble({"m": late(5, error)}, X, Y, LINF, steps=10)


class Sour(torch.autograd.Function):
    """A backward pass that fails."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do nothing."""
        return v.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fail."""
        raise KeyError("gone")


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def from_fabric() -> nn.Module:
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    )


FAILS: dict[str, tuple[Callable[[], Any], str]] = {
    "backward": (lambda: lambda v: linear(Sour.apply(v)), "model 'm' gives no input gradient: KeyError: 'gone'"),
    "inference": (made_in_inference_mode, r"model 'm' .*made under torch.inference_mode\(\): build or load it outside"),
    "fabric": (from_fabric, r"model 'm' gives no input gradient: Fabric set it up .* hand over its .module"),
}


@pytest.mark.parametrize("name", FAILS)
def test_models_that_give_no_gradient_say_why(name):
    make, message = FAILS[name]
    with pytest.raises(ValueError, match=message) as told:
        orb.attack_ensemble({"m": make()}, X, Y, LINF, steps=2)
    assert len(str(told.value).splitlines()) == 1


def test_a_module_of_fabric_is_evaluated_by_its_own_module():
    module = from_fabric().get_submodule("module")
    report = evaluate_robustness(module, X, Y, LINF, steps=1, attacks=STRONG[:1])
    assert report.clean == float((module(X).argmax(1) == Y).double().mean())


def bad_at(rows: list[int], part: str) -> Callable[[Tensor], Tensor]:
    """A linear model with logits or gradients of NaN on inputs that begin as some of X do."""

    def model(v: Tensor) -> Tensor:
        hit = torch.stack([(v.flatten(1)[:, 15] - X[r].flatten()[15]).abs() < 1e-6 for r in rows]).any(0)
        if part == "logits":
            return torch.where(hit[:, None], torch.nan, linear(v))
        root = torch.where(hit, (v[:, 0, 0] * 0).abs().sum(1), 1.0).sqrt()  # at 0 of a slope of NaN
        return linear(v) + root[:, None]

    return model


MASKED = orb.Linf(0.1, mask=torch.arange(16).view(1, 4, 4) < 15)
ROWS: dict[str, Callable[[Any, int | None], Any]] = {
    "attack_ensemble": lambda m, n: orb.attack_ensemble({"model": m}, X, Y, MASKED, steps=2, batch_size=n),
    "evaluate_robustness": lambda m, n: evaluate_robustness(m, X, linear(X).argmax(1), MASKED, steps=2, batch_size=n),
    "minimal_eps": lambda m, n: orb.evaluation.minimal_eps({"model": m}, X, linear(X).argmax(1), "linf", batch_size=n),
    "fit": lambda m, n: fit(Own(m), (X, Y), Scheme("single", (MASKED,), steps=1), epochs=1, batch_size=12),
}


class Own(nn.Module):
    """A module around a function."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.scale = model, nn.Parameter(torch.ones(()))

    def forward(self, v: Tensor) -> Tensor:
        """Call it."""
        return self.model(v) * self.scale


@pytest.mark.parametrize("part", ["logits", "input gradients"])
@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("entry", ["attack_ensemble", "evaluate_robustness", "minimal_eps"])
def test_the_first_row_that_is_not_finite_is_named_by_its_global_number(entry, batch_size, part):
    with pytest.raises(ValueError, match=rf"model 'model' .*NaN or infinite {part}.* first on row 7"):
        ROWS[entry](bad_at([11, 7], part), batch_size)


def test_training_names_the_row_too():
    with pytest.raises(ValueError, match=r"model 'model' has NaN or infinite input gradients, first on row 7"):
        ROWS["fit"](bad_at([7], "input gradients"), None)


def test_later_in_a_training_it_is_a_divergence():
    calls = []

    def model(v: Tensor) -> Tensor:
        calls.append(v)
        return linear(v) * (1 if len(calls) < 8 else torch.nan)

    with pytest.raises(TrainingDivergedError, match=r"model 'model' returned NaN .* first on row \d+, in batch"):
        fit(Own(model), (X, Y), Scheme("single", (LINF,), steps=2), epochs=9, batch_size=6)


def test_groups_name_image_and_group():
    with pytest.raises(ValueError, match=r"first on image 1 of group 3"):
        orb.attack_universal(
            bad_at([7], "input gradients"), X.unflatten(0, (6, 2)), Y.unflatten(0, (6, 2)), MASKED, steps=1
        )


def norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).train()


class Stubborn(nn.Module):
    """BatchNorm by function, always as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.ones(1))

    def forward(self, v: Tensor) -> Tensor:
        """Move both."""
        return linear(F.batch_norm(v, self.mean, self.deviation, training=True))  # pyright: ignore[reportArgumentType]


def test_statistics_that_move_all_the_same_are_put_back_and_named():
    model = Stubborn().eval()
    for _ in range(2):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                Classifier("m", model)(X)
    orb.attack_ensemble({"m": model}, X, Y, LINF, steps=3)
    evaluate_robustness(model, X, Y, LINF, steps=2, attacks=STRONG[:1])
    assert float(model.get_buffer("mean")) == 0 and float(model.get_buffer("deviation")) == 1
    told = " ".join(notes(model))
    assert "model 'm' changes mean, deviation when it is called" in told and "couples rows" in told


def test_a_model_that_trains_itself_is_named_and_put_back():
    net = norm().eval()

    def model(v: Tensor) -> Tensor:
        net.train()
        return net(v)

    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert any("puts its modules into training mode" in note for note in notes(model))
    assert not any(m.training for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_exported_programs(training):
    net = norm().train(training)
    program = torch.export.export(net, (X,))
    before = {name: value.clone() for name, value in program.state_dict.items()}
    for model in (program, program.module()):
        told = notes(model)
        assert (
            [note for note in told if "exported or traced in training mode" in note] == told[:0] if not training else 1
        )
        assert any("exported or traced in training mode" in note for note in told) == training
        if not training:
            torch.testing.assert_close(Classifier("m", model)(X), net(X).detach())
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())


def test_functions_hold_modules_that_are_put_back():
    net = norm()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    domains = orb.FunctionDomains({"f": lambda delta, rows: net(X[rows] + delta)[:, 0]})
    found = domains.select(torch.arange(5)).evaluate(torch.zeros_like(X[:5]))
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(found.losses[:, 0], net.eval()(X[:5])[:, 0].detach())


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_put_into_evaluation_mode_stays_in_it_while_training(whole):
    net = norm()
    (net if whole else net[1]).eval()
    before = [m.training for m in net.modules()]
    mean = net.get_buffer("1.running_mean").clone()
    fit(net, (X, Y), Scheme("single", (LINF,), steps=1), epochs=2, validation=(X, Y))
    assert [m.training for m in net.modules()] == before
    assert torch.equal(net.get_buffer("1.running_mean"), mean) == (not whole)


@pytest.mark.parametrize("own", [torch.float64, torch.bfloat16])
def test_training_reads_outputs_and_casts_inputs_as_attacks_do(own):
    class Tuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 1)

        def forward(self, v: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(v.flatten(1))}

    torch.manual_seed(0)
    result = fit(Tuple().to(own), (X, Y), Scheme("single", (LINF,), steps=1), epochs=3, validation=(X, Y))
    assert result.epochs == 3 and 0 <= result.history[-1]["robust"] <= result.history[-1]["validation"] <= 1
