"""The loop equals gradient descent written out, resumes exactly, and stops with a sentence."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import omnirobust as orb
from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, TrainingDivergedError, accuracy, attack_batch, fit
from omnirobust.training.state import CHECKPOINT
from omnirobust.zoo.data import load

NATURAL = Scheme("natural")


def blobs(count: int = 120, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    centres = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 2, 0]], dtype=dtype)
    return centres[y] + torch.randn(count, 3, generator=generator, dtype=dtype), y


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def sgd(lr: float):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def test_full_batches_are_gradient_descent_written_out() -> None:
    x, y = blobs(dtype=torch.float64)
    model = nn.Linear(3, 3).double()
    w, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    target = np.eye(3)[y.numpy()]
    rates = [0.5, 0.5, 0.05, 0.05]
    losses = []
    for rate in rates:
        scores = x.numpy() @ w.T + b
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        losses.append(-np.log((p * target).sum(1)).mean())
        w, b = w - rate * (p - target).T @ x.numpy() / len(y), b - rate * (p - target).mean(0)
    result = fit(
        model, (x, y), NATURAL, epochs=4, batch_size=120, optimizer=sgd(0.5), lr_factor=lambda e: 0.1 if e > 1 else 1.0
    )
    np.testing.assert_allclose(model.weight.detach().numpy(), w, atol=1e-12)
    np.testing.assert_allclose(model.bias.detach().numpy(), b, atol=1e-12)
    np.testing.assert_allclose([row["loss"] for row in result.history], losses, atol=1e-12)


def test_history_and_result() -> None:
    model = network()
    seen, batches = [], []
    result = fit(
        model, blobs(), NATURAL, epochs=3, batch_size=50, validation=blobs(30),
        progress=lambda epoch, epochs, row: seen.append((epoch, epochs, dict(row))),
        on_batch=lambda batch, count, loss: batches.append((batch, count)),
    )  # fmt: skip
    assert result.model is model
    assert (result.epochs, result.stopped) == (3, "epochs")
    assert seen == [(e, 3, dict(result.history[e - 1])) for e in (1, 2, 3)]
    assert batches == [(1, 3), (2, 3), (3, 3)] * 3
    assert [set(row) for row in result.history] == [{"epoch", "loss", "accuracy", "validation", "seconds"}] * 3
    assert result.history[-1]["validation"] == accuracy(model, blobs(30))


def test_validation_does_not_change_what_is_learned() -> None:
    plain, watched = network(), network()
    fit(plain, blobs(), NATURAL, epochs=2, batch_size=16)
    fit(watched, blobs(), NATURAL, epochs=2, batch_size=16, validation=blobs(30))
    assert torch.equal(weights(plain), weights(watched))


def test_seeds_decide_and_the_global_generator_does_not() -> None:
    runs = []
    for global_seed, seed in [(1, 0), (2, 0), (1, 7)]:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        model = network()
        fit(model, blobs(), NATURAL, epochs=2, batch_size=16, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_model_that_comes_in_eval_mode_is_trained_with_other_dropout_and_order_in_each_epoch() -> None:
    masks, orders = [], []
    model = nn.Sequential(nn.Linear(3, 200), nn.Dropout(0.5), nn.Linear(200, 3)).eval()
    model[0].register_forward_hook(lambda module, inputs, output: orders.append(inputs[0].clone()))
    model[1].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    loader = DataLoader(TensorDataset(*blobs(30)), batch_size=30, shuffle=True)
    fit(model, loader, NATURAL, epochs=2)
    assert all(0.4 < mask.float().mean() < 0.6 for mask in masks)
    assert not torch.equal(*masks)
    assert not torch.equal(*orders)
    assert torch.equal(orders[0].sort(0).values, orders[1].sort(0).values)
    assert not any(module.training for module in model.modules())


def test_a_loader_trains_like_any_and_is_as_reproducible() -> None:
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = network()
        loader = DataLoader(TensorDataset(*blobs()), batch_size=16, shuffle=True)
        fit(model, loader, NATURAL, epochs=20, validation=loader)
        runs.append(weights(model))
    assert torch.equal(*runs)
    assert accuracy(model, blobs()) > 0.75


def test_modes_come_back() -> None:
    model = network().eval()
    model[0].train()
    fit(model, blobs(), NATURAL, epochs=1)
    assert [model.training, *(layer.training for layer in model)] == [False, True, False, False, False]


@pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)])
def test_resuming_gives_the_same_bits_as_never_stopping(tmp_path: Path, optimizer) -> None:
    def rate(epoch: int) -> float:
        return 0.5**epoch

    whole, broken, other = network(), network(), network()
    settings = {"batch_size": 16, "optimizer": optimizer, "lr_factor": rate}
    full = fit(whole, blobs(), NATURAL, epochs=5, **settings)
    fit(broken, blobs(), NATURAL, epochs=2, out=tmp_path, **settings)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    result = fit(other, blobs(), NATURAL, epochs=5, out=tmp_path, **settings)
    assert torch.equal(weights(whole), weights(other))
    assert [row["loss"] for row in result.history] == [row["loss"] for row in full.history]
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_resume_false_starts_anew(tmp_path: Path) -> None:
    fit(network(), blobs(), NATURAL, epochs=3, out=tmp_path)
    model, fresh = network(), network()
    assert fit(model, blobs(), NATURAL, epochs=1, out=tmp_path, resume=False).epochs == 1
    fit(fresh, blobs(), NATURAL, epochs=1)
    assert torch.equal(weights(model), weights(fresh))


def test_the_target_ends_the_training_and_a_rerun_does_nothing(tmp_path: Path) -> None:
    model = network()
    result = fit(model, blobs(), NATURAL, epochs=200, validation=blobs(), stop_at=0.7, out=tmp_path)
    values = [row["validation"] for row in result.history]
    assert result.stopped == "target"
    assert result.epochs < 200
    assert values[-1] >= 0.7 > max(values[:-1], default=0)
    again = network()
    rerun = fit(again, blobs(), NATURAL, epochs=200, validation=blobs(), stop_at=0.7, out=tmp_path)
    assert (rerun.epochs, rerun.stopped) == (result.epochs, "target")
    assert torch.equal(weights(again), weights(model))


def test_a_loss_that_is_no_number_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    x, y = blobs()
    model = network()
    fit(model, [(x[:77], y[:77]), (x[77:], y[77:])], NATURAL, epochs=2, out=tmp_path)
    good = weights(model).clone()
    x[77:] = 3e38
    with pytest.raises(
        TrainingDivergedError, match=r"loss became (nan|inf) in batch \d+ of epoch 3: .* epoch 2; try a smaller"
    ):
        fit(model, [(x[:77], y[:77]), (x[77:], y[77:])], NATURAL, epochs=5, out=tmp_path)
    assert torch.equal(weights(model), good)
    assert model.training
    assert fit(model, [blobs(), blobs()], NATURAL, epochs=3, out=tmp_path).epochs == 3


class RuinedByAStep(nn.Module):
    """Its loss is finite throughout; the gradient of training batch ``at`` is not."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.linear, self.left = nn.Linear(3, 3), at
        self.register_buffer("mask", torch.full((2,), -math.inf))  # a buffer may be infinite, as long as it was

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= self.training
        nothing = self.linear.weight.sum() * 0.0
        return self.linear(x) + (nothing.sqrt() if self.training and self.left == 0 else nothing)


@pytest.mark.parametrize("validation", [None, "given"])
@pytest.mark.parametrize("scheme", [NATURAL, Scheme("single", (Linf(0.1, (-9.0, 9.0)),), 1)])
def test_an_epoch_whose_last_step_ruins_the_model_is_not_kept(tmp_path: Path, scheme, validation) -> None:
    model = RuinedByAStep(9)  # three batches an epoch: the last one of the third
    held_out = None if validation is None else blobs(30)
    with pytest.raises(TrainingDivergedError, match=r"was no longer finite at the end of epoch 3: .* of epoch 2; try"):
        fit(model, blobs(), scheme, epochs=5, batch_size=40, out=tmp_path, validation=held_out)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved["epoch"] == 2
    assert all(torch.equal(value, saved["model"][name]) for name, value in model.state_dict().items())
    assert weights(model).isfinite().all()


def test_a_wrong_batch_that_comes_late_leaves_the_last_whole_epoch(tmp_path: Path) -> None:
    x, y = blobs()
    good, model = network(), network()
    fit(good, [(x, y)], NATURAL, epochs=1)

    class Loader:
        """Yields a label too many in the second batch of the second pass."""

        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from [(x, y)] if self.passes == 1 else [(x, y), (x, y + 1)]

    with pytest.raises(ValueError, match="data must hold labels from 0 to 2"):
        fit(model, Loader(), NATURAL, epochs=3, out=tmp_path)
    assert torch.equal(weights(model), weights(good))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["epoch"] == 1


def test_a_loader_that_can_be_read_once_is_told() -> None:
    with pytest.raises(ValueError, match="got none in epoch 2: a loader must begin anew each time"):
        fit(network(), iter([blobs()]), NATURAL, epochs=2)


@pytest.mark.parametrize("wrong", [None, 5])
def test_what_is_no_data_is_told(wrong) -> None:
    with pytest.raises(ValueError, match=rf"data must be a pair of tensors \(x, y\), .* got {wrong}"):
        fit(network(), wrong, NATURAL, epochs=1)


def test_training_needs_no_surrounding_gradients() -> None:
    model, same = network(), network()
    fit(model, blobs(), NATURAL, epochs=1)
    with torch.no_grad():
        fit(same, blobs(), NATURAL, epochs=1)
    assert torch.equal(weights(model), weights(same))


def test_mixed_precision_learns_with_fp32_parameters() -> None:
    model, plain = network(), network()
    fit(model, blobs(), NATURAL, epochs=5, precision="bf16")
    fit(plain, blobs(), NATURAL, epochs=5)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    difference = (weights(model) - weights(plain)).abs().max()
    assert 0 < difference < 0.02


def test_a_named_set_trains_on_its_training_split() -> None:
    digits = load("digits", "train")
    by_name, by_tensor = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    by_tensor.load_state_dict(by_name.state_dict())
    result = fit(by_name, "digits", NATURAL, epochs=2, validation="digits")
    fit(by_tensor, (digits.x, digits.y), NATURAL, epochs=2)
    assert torch.equal(weights(by_name), weights(by_tensor))
    assert result.history[-1]["validation"] == accuracy(by_name, load("digits", "test"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"stop_at": 1.2, "validation": blobs()}, r"stop_at must be in \[0, 1\], got 1.2"),
        ({"stop_at": 0.9}, "validation must be given with stop_at, got None with stop_at 0.9"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, got 'fp8'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(network(), blobs(), NATURAL, **({"epochs": 1} | settings))  # type: ignore[arg-type]


def other_sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": other_sgd()}, "optimizer must be a function of the parameters, such as .*, got SGD"),
        ({"optimizer": lambda _: None}, "optimizer must be a function .*, got one that returns NoneType"),
        ({"optimizer": lambda _: other_sgd()}, "optimizer must hold parameters of the model, got one that holds none"),
        ({"scheduler": StepLR(other_sgd(), 1)}, "scheduler must be a function of the optimizer, .*, got StepLR"),
        ({"scheduler": lambda _: None}, "scheduler must be a function .*, got one that returns NoneType"),
        ({"scheduler": lambda _: StepLR(other_sgd(), 1)}, "scheduler must be made of the optimizer that it is given"),
        ({"scheme": "minmax"}, "scheme must be a Scheme such as .*, got 'minmax'"),
        ({"model": abs}, "model must be a torch.nn.Module, got <built-in function abs>"),
        ({"validation": (torch.zeros(4, 5), torch.zeros(4).long())}, r"validation must hold inputs .*, got \(1, 5\)"),
        ({"validation": (blobs()[0], blobs()[1] + 1)}, "validation must hold labels from 0 to 2, .* got 1 to 3"),
        ({"data": (blobs()[0] * math.nan, blobs()[1])}, "data must hold finite inputs, got NaN or infinity"),
        ({"data": [(blobs()[0] * math.nan, blobs()[1])]}, "data must yield finite inputs, got NaN or infinity"),
    ],
)
def test_what_cannot_train_is_told_before_the_first_epoch(tmp_path: Path, given, message: str) -> None:
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(**({"model": model, "data": blobs(), "scheme": NATURAL, "epochs": 1, "out": tmp_path} | given))
    assert torch.equal(weights(model), before)
    assert not list(tmp_path.iterdir())


class Doubled(torch.autograd.Function):
    """Twice its input, with a derivative but no second one."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


class Through(nn.Module):
    """A linear network whose input or output goes through a function."""

    def __init__(self, before, after) -> None:
        super().__init__()
        self.linear, self.before, self.after = nn.Linear(3, 3), before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.linear(self.before(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Through(torch.detach, torch.tanh), "model must let gradients through to its inputs"),
        (Through(torch.tanh, Doubled.apply), "dpar must be 0 for this model, which has no second derivatives"),
        (Through(Doubled.apply, torch.tanh), "dpar must be 0 for this model, which has no second derivatives"),
    ],
)
def test_a_model_without_the_derivatives_is_told_and_left_alone(model: nn.Module, message: str) -> None:
    x, y = blobs()
    before = weights(model)
    scheme = Scheme("average", (Linf(0.1, (-9.0, 9.0)), L2(0.2, (-9.0, 9.0))), 2, dpar=0.1)
    with pytest.raises(ValueError, match=message):
        fit(model, (x, y), scheme, epochs=1)
    assert torch.equal(weights(model), before)


def test_labels_beyond_the_models_classes_are_refused() -> None:
    x, y = blobs()
    for wrong in (y + 1, y - 1):
        with pytest.raises(ValueError, match="data must hold labels from 0 to 2, the model's classes, got"):
            fit(network(), (x, wrong), NATURAL, epochs=1)


def test_frozen_models_and_empty_loaders_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"model must have parameters that require gradients, got none: model.requires"
    ):
        fit(network().requires_grad_(False), blobs(), NATURAL, epochs=1)
    with pytest.raises(ValueError, match="data must hold at least one batch, got none"):
        fit(network(), [], NATURAL, epochs=1)
    with pytest.raises(ValueError, match="validation must hold at least one batch, got none"):
        fit(network(), blobs(), NATURAL, epochs=1, validation=[])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed must be 0 as in the checkpoint"),
        ({"batch_size": 64}, "batch_size must be 128 as in"),
        ({"optimizer": sgd(0.1)}, r"optimizer must be 'Adam .*, got 'SGD"),
        ({"precision": "bf16"}, "precision must be 'fp32' as in"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    fit(network(), blobs(), NATURAL, epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(network(), blobs(), NATURAL, epochs=2, out=tmp_path, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    fit(network(), blobs(), NATURAL, epochs=1, out=tmp_path)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{CHECKPOINT} is damaged: delete it, or pass resume=False"):
        fit(network(), blobs(), NATURAL, epochs=2, out=tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    fit(network(), blobs(), NATURAL, epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another model"):
        fit(nn.Linear(3, 3), blobs(), NATURAL, epochs=2, out=tmp_path)


@pytest.mark.parametrize(
    ("threats", "shift", "message"),
    [
        ((Linf(0.1),), 1e-3, r"x must lie in bounds \[0.0, 1.0\], got values from"),
        ((Linf(0.1, (-1.0, 1.0)),), 0.7, r"x must lie in bounds \[-1.0, 1.0\]"),
        ((Linf(0.1, mask=torch.ones(4, dtype=torch.bool)),), 0.0, r"mask must broadcast to \(3,\), got \(4,\)"),
        ((Linf(0.1),), math.nan, r"(data|validation) must hold finite inputs, got NaN"),
    ],
)
@pytest.mark.parametrize("where", ["data", "validation"])
def test_data_that_contradicts_a_threat_model_stops_before_the_first_epoch(
    tmp_path: Path, threats, shift: float, message: str, where: str
) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 3, generator=g), torch.arange(50) % 3
    bad = x.clone()
    bad[40, 1] = 1 + shift  # in one example of many
    model, before = network(), weights(network())
    data = {"data": (x, y), "validation": (x, y)} | {where: (bad, y)}
    with pytest.raises(ValueError, match=message):
        fit(model, data["data"], Scheme("average", threats), epochs=1, validation=data["validation"], out=tmp_path)
    assert torch.equal(weights(model), before)
    assert not list(tmp_path.iterdir())


def test_robust_training_withstands_what_natural_training_does_not() -> None:
    """Feature 0 is strong but within eps of the boundary; feature 1 is weaker on average and beyond its reach."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 2
    sign = (2 * y - 1).float()
    flipped = torch.where(torch.rand(600, generator=g) < 0.1, -sign, sign)
    x = torch.stack([0.5 + 0.08 * sign, 0.5 + 0.3 * flipped], 1)
    robust = []
    for scheme in (Scheme("natural"), Scheme("minmax", (Linf(0.1), L2(0.1)), 10, adversarial_ratio=1.0)):
        model = nn.Linear(2, 2)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        fit(model, (x, y), scheme, epochs=80, batch_size=150, optimizer=lambda p: torch.optim.Adam(p, lr=3.0))
        w = (model.weight[1] - model.weight[0]).detach()
        margin = sign * (x @ w + (model.bias[1] - model.bias[0]).detach())
        # a linear model under linf eps loses eps times its l1 norm: exact robust accuracy
        robust.append(float((margin - 0.1 * w.abs().sum() > 0).float().mean()))
        assert float((margin > 0).float().mean()) >= 0.89
    assert robust[0] < 0.2
    assert robust[1] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("scheme", [Scheme("minmax", (Linf(0.1), L2(0.2)), 2), Scheme("universal", (Linf(0.1),), 1)])
def test_batchnorm_learns_from_the_training_pass_alone(scheme: Scheme) -> None:
    """One batch, all attacked: the running mean is a tenth of the mean of the inputs that one forward pass saw."""
    seen = []
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[0].register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, inputs[0].detach().clone()))
    )
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    fit(model, (x, torch.arange(20) % 3), scheme, epochs=1, batch_size=20)
    trained = [inputs for training, inputs in seen if training]
    assert len(trained) == 1
    assert len(seen) == 1 + scheme.steps + 1  # at the end it is looked at whether the model guesses
    torch.testing.assert_close(model[0].running_mean, 0.1 * trained[0].mean(0))
    assert len(trained[0]) == 20 * (1 + len(scheme.threats))


@pytest.mark.parametrize("kind", ["average", "minmax", "worst"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_two_epochs_are_the_outer_loop_of_algorithm_2_written_out(kind, ratio: float) -> None:
    """Attack each mini-batch, then descend along (1 - r) CE(clean) + r sum_k w_k CE(delta_k), example by example."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(10, 3, generator=g, dtype=torch.float64), torch.arange(10) % 3
    scheme = Scheme(kind, (Linf(0.1), L2(0.2)), 3, start="zero", adversarial_ratio=ratio)
    model, mine = network().double().eval(), network().double().eval()
    model[2].p = 0.0  # no dropout
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    history = fit(model, loader, scheme, epochs=2, optimizer=sgd(0.5)).history
    for row in history:
        total = 0.0
        for images, labels in loader:
            deltas, w = attack_batch(mine, images, labels, scheme)
            loss = torch.zeros(()).double()
            for n in range(len(images)):
                clean = -mine(images[n]).log_softmax(0)[labels[n]]
                attacked = [-mine(images[n] + delta[n]).log_softmax(0)[labels[n]] for delta in deltas]
                mixed = sum((w[n, k] * f for k, f in enumerate(attacked)), torch.zeros(()).double())
                loss = loss + ((1 - ratio) * clean + ratio * mixed) / len(images)
            total += loss.item() * len(images)
            grads = torch.autograd.grad(loss, list(mine.parameters()))
            with torch.no_grad():
                for parameter, grad in zip(mine.parameters(), grads, strict=True):
                    parameter -= 0.5 * grad
        assert row["loss"] == pytest.approx(total / 10, abs=1e-10)
    torch.testing.assert_close(weights(model), weights(mine), rtol=0, atol=1e-10)


def test_the_regulariser_warms_up_by_epochs_and_resumes_where_it_was(tmp_path: Path) -> None:
    threats = (Linf(0.1, (-9.0, 9.0)), L2(0.3, (-9.0, 9.0)))
    plain, full, warm = (Scheme("average", threats, 2, **more) for more in ({}, {"dpar": 0.1}, WARM))
    x, y = blobs()

    def trained(scheme: Scheme, epochs: int, out: Path | None = None) -> torch.Tensor:
        model = smooth()
        fit(model, (x, y), scheme, epochs=epochs, batch_size=40, out=out)
        return weights(model)

    assert torch.equal(trained(warm, 1), trained(plain, 1))
    assert not torch.equal(trained(warm, 1), trained(full, 1))
    # the second epoch is one with the regulariser that begins where the first one without it ended
    trained(plain, 1, tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state["settings"]["scheme"] = full.fingerprint()
    torch.save(state, tmp_path / CHECKPOINT)
    assert torch.equal(trained(full, 2, tmp_path), trained(warm, 2))
    trained(warm, 1, tmp_path / "warm")
    assert torch.equal(trained(warm, 2, tmp_path / "warm"), trained(warm, 2))


WARM = {"dpar": 0.1, "dpar_warmup": 1}


def smooth() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))


def test_notes_name_the_classes_that_only_one_part_of_the_data_has() -> None:
    x, y = blobs()
    order = y.argsort(stable=True)
    x, y = x[order], y[order]  # sorted by class: the last 40 are all of class 2
    sliced = fit(network(), (x[:80], y[:80]), NATURAL, epochs=1, validation=(x[80:], y[80:]))
    assert sliced.notes[:2] == (
        "data has no example of class 2, which validation has: accuracies on validation say little",
        "validation has no example of classes 0, 1, which data has: accuracies on validation say little",
    )
    (guesses,) = sliced.notes[2:]
    assert guesses.startswith("Before any attack the model is right on 15.00 % of 40 inputs")
    mixed = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    known, held_out = mixed[:80], mixed[80:]
    both = fit(network(), (x[known], y[known]), NATURAL, epochs=1, validation=(x[held_out], y[held_out]))
    assert not any("has no example" in note for note in both.notes)
    loader = DataLoader(TensorDataset(x[80:], y[80:]), 40)
    assert fit(network(), (x[:80], y[:80]), NATURAL, epochs=1, validation=loader).notes == ()


def test_notes_say_what_attacks_and_evaluations_say_of_radii_inputs_and_models() -> None:
    y = torch.arange(40) % 4
    x = torch.full((40, 4), 0.2).scatter(1, y.unsqueeze(1), 0.8)
    still = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0), "epochs": 1}
    knows, one = nn.Linear(4, 4), nn.Linear(4, 4)
    with torch.no_grad():
        knows.weight.copy_(5 * torch.eye(4))
        knows.bias.zero_()
        one.weight.copy_(torch.eye(4))
        one.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    plain = Scheme("single", (Linf(0.1),), steps=1)
    assert fit(knows, (x, y), plain, **still).notes == ()
    (told,) = fit(one, (x, y), plain, **still).notes
    assert told.startswith("Before any attack the model says class 2 of every input")
    (told,) = fit(one, (x, y), Scheme("natural"), validation=(x, y), **still).notes
    assert told.startswith("Before any attack the model says class 2 of every input")
    (told,) = fit(knows, (x, (y + 1) % 4), plain, **still).notes
    assert told.startswith("Before any attack the model is right on 0.00 % of 40 inputs, no more often than guessing")
    wide = Scheme("average", (Linf(1.0), L2(0.2)), steps=1)
    assert fit(knows, (x, y), wide, **still).notes == (
        "linf:1: The radius of linf reaches across the data range [0, 1]: any input may become any.",
    )
    (told,) = fit(knows, (x / 255, y), plain, **still).notes
    assert told == "linf:0.1: The inputs fill less than 1 % of their bounds [0, 1]: are these the bounds of the data?"


def test_what_inference_mode_made_is_told_so_and_training_inside_of_it():
    x, y = torch.rand(8, 4), torch.arange(8) % 2
    with torch.inference_mode():
        made = nn.Linear(4, 2)
        with pytest.raises(ValueError, match=r"^a training needs gradients: call it outside torch.inference_mode\(\)$"):
            fit(nn.Linear(4, 2), (x, y), Scheme(), epochs=1)
        with pytest.raises(ValueError, match=r"needs gradients: call it outside torch.inference_mode\(\)$"):
            orb.universal.learn_universal(made, x, y, orb.Linf(0.1), epochs=1)
    inside = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.inference_mode():
        inside[1].running_mean = torch.zeros(4)
    for model in (made, inside):
        with pytest.raises(ValueError, match=r"^model cannot be trained: .* were made under torch.inference_mode\(\)"):
            fit(model, (x, y), Scheme(), epochs=1)


def test_a_model_that_writes_into_its_inputs_leaves_the_data_as_they_were() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.sub_(0.5))

    x, y = torch.rand(6, 4), torch.arange(6) % 3
    x_val, before = x.flip(0), x.clone()
    fit(Writing(), (x, y), Scheme("single", (Linf(0.1),), 1), epochs=1, validation=(x_val, y.flip(0)), memory=100)
    assert torch.equal(x, before) and torch.equal(x_val, before.flip(0))
