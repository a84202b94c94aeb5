"""Trainings under a budget of memory: the same results, and graphs that keep to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omnirobust import L2, Linf
from omnirobust.training import FitResult, Scheme, fit

BOTH = (Linf(0.1), L2(0.6))
G = torch.Generator().manual_seed(4)
X, Y = torch.rand(22, 1, 12, 12, generator=G).double(), torch.randint(3, (22,), generator=G)
"""Mini-batches of 9, 9 and 4."""

FEW = 8_000
"""Bytes that hold the graph of some four images in ``mlp``."""


def mlp() -> nn.Module:
    torch.manual_seed(1)
    hidden = (nn.Linear(144, 60), nn.ReLU(), nn.Linear(60, 40), nn.Tanh())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(40, 3)).double()


def conv() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(54, 3)).double()


class Held:
    """Counts passes with gradients, the images of each, and the largest graph that any of them saved."""

    def __init__(self, model: nn.Module) -> None:
        self.sizes, self.peak, self.modes = list[int](), 0, list[bool]()
        self._own = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
        self._seen: dict[int, int] = {}
        model.register_forward_pre_hook(self._begin)

    def _begin(self, model: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._seen = {}
            self.sizes.append(len(given[0]))
            self.modes.append(model.training)

    def pack(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self._own:
            self._seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            self.peak = max(self.peak, sum(self._seen.values()))
        return tensor


def trained(model: nn.Module, scheme: Scheme, memory: int | None, **kw) -> tuple[dict[str, Tensor], FitResult, Held]:
    held = Held(model)
    given = {"epochs": 2, "batch_size": 9, "optimizer": lambda p: torch.optim.SGD(p, lr=0.2)} | kw
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda t: t):
        result = fit(model, (X, Y), scheme, memory=memory, **given)
    return {name: value.clone() for name, value in model.state_dict().items()}, result, held


def told(result: FitResult, about: str = "memory:") -> list[str]:
    return [note for note in result.notes if note.startswith(about)]


SCHEMES = {
    "natural": Scheme("natural"),
    "single": Scheme("single", BOTH[:1], 3),
    "minmax": Scheme("minmax", BOTH, 3),
    "worst": Scheme("worst", BOTH, 3),
    "all": Scheme("minmax", BOTH, 3, persist="all"),
    "paper": Scheme("minmax", BOTH, 3, preset="paper"),
    "dpar": Scheme("minmax", BOTH, 3, dpar=0.1),
    "msd": Scheme("msd", BOTH, 3),
    "alternate": Scheme("alternate", BOTH, 3),
    "universal": Scheme("universal", BOTH[:1], 2),
    "attacked alone": Scheme("minmax", BOTH, 3, adversarial_ratio=1.0),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_training_comes_to_the_same_parameters_and_its_graphs_keep_to_the_budget(name: str) -> None:
    memory = 5 * FEW if name == "dpar" else FEW
    whole, _, free = trained(mlp(), SCHEMES[name], None, validation=(X[:7], Y[:7]))
    parts, result, held = trained(mlp(), SCHEMES[name], memory, validation=(X[:7], Y[:7]))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-11)
    assert free.peak > 2 * memory and 0 < held.peak <= memory and not told(result)
    assert max(held.sizes) < max(free.sizes) and len(held.sizes) > len(free.sizes)


@pytest.mark.parametrize("memory", [1, 4_000, 10_000, 10**9])
def test_convolutions_come_to_the_same_parameters(memory: int) -> None:
    whole, _, free = trained(conv(), SCHEMES["minmax"], None, epochs=1)
    parts, result, held = trained(conv(), SCHEMES["minmax"], memory, epochs=1)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-11)
    assert bool(told(result)) == (held.peak > memory)
    if memory == 1:
        assert told(result)[0].endswith("bytes, more than the 1 given: they went one at a time.")
        # each of 22 examples: one pass an attacked image and step, one for its step; before them, one and two of each
        assert len(held.sizes) == 22 * (2 * 3 + 1) + 4
    if memory == 10**9:
        assert held.sizes[:2] == held.sizes[5:7] == [1, 2] and held.sizes[2:5] + held.sizes[7:] == free.sizes


def test_half_the_budget_takes_twice_the_passes() -> None:
    counts = [len(trained(mlp(), SCHEMES["minmax"], memory, epochs=1)[2].sizes) for memory in (60_000, 20_000, 6_000)]
    assert counts[0] < counts[1] < counts[2]


class Normalised(nn.Module):
    """Rows see each other, by no module that is known to do so."""

    def __init__(self) -> None:
        super().__init__()
        self.last = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x - x.mean(0) if self.training else x)


class Moving(Normalised):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.mean().detach()
        return self.last(x)


def batch_norm() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 3)).double()


@pytest.mark.parametrize(
    ("build", "why"),
    [(batch_norm, "BatchNorm"), (Normalised, "couples its rows"), (Moving, "changes seen")],
    ids=["BatchNorm", "coupled", "buffers"],
)
def test_what_parts_would_change_goes_whole_and_the_notes_say_so(build, why: str) -> None:
    whole, _, free = trained(build(), SCHEMES["minmax"], None)
    parts, result, held = trained(build(), SCHEMES["minmax"], FEW)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-11)
    (note,) = told(result)
    assert note.startswith("memory: the steps of the optimizer saw each mini-batch whole, for ") and why in note
    steps = [[size for size, mode in zip(each.sizes, each.modes, strict=True) if mode] for each in (free, held)]
    assert steps[0] == steps[1] == [27, 27, 12] * 2
    attacks = [size for size, mode in zip(held.sizes, held.modes, strict=True) if not mode]
    assert max(attacks) < 18


def test_batch_norm_that_stays_in_evaluation_mode_is_no_hindrance() -> None:
    model = batch_norm()
    model[2].eval()
    _, result, held = trained(model, SCHEMES["minmax"], FEW)
    assert not told(result) and held.peak <= FEW


def test_logits_that_are_paired_go_whole() -> None:
    whole, _, _ = trained(mlp(), Scheme("ramp", BOTH, 2), None)
    parts, result, _ = trained(mlp(), Scheme("ramp", BOTH, 2), FEW)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-8, atol=1e-10)
    (note,) = told(result)
    assert "kind ramp" in note


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(mlp(), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + 0.01 * torch.randn_like(x))


def test_random_models_draw_anew_for_each_part_and_the_same_from_run_to_run(tmp_path: Path) -> None:
    first, result, held = trained(Noisy(), SCHEMES["minmax"], FEW, epochs=3)
    again, _, _ = trained(Noisy(), SCHEMES["minmax"], FEW, epochs=3)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert held.peak <= 2 * FEW and not told(result)
    trained(Noisy(), SCHEMES["minmax"], FEW, epochs=1, out=tmp_path)
    resumed, _, _ = trained(Noisy(), SCHEMES["minmax"], FEW, epochs=3, out=tmp_path)
    assert all(torch.equal(value, resumed[name]) for name, value in first.items())


def test_a_training_may_go_on_under_another_budget(tmp_path: Path) -> None:
    whole, _, _ = trained(mlp(), SCHEMES["all"], None)
    trained(mlp(), SCHEMES["all"], FEW, epochs=1, out=tmp_path)
    resumed, _, _ = trained(mlp(), SCHEMES["all"], 3 * FEW, out=tmp_path)
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-9, atol=1e-11)


def test_what_is_split_is_not_compiled_and_the_notes_say_so() -> None:
    plain, _, _ = trained(mlp(), SCHEMES["minmax"], FEW // 2)
    fast, result, _ = trained(mlp(), SCHEMES["minmax"], FEW // 2, compile=True)
    assert all(torch.equal(value, fast[name]) for name, value in plain.items())
    (note,) = told(result, "compile:")
    assert note.endswith("memory splits their passes.")


def test_a_row_that_breaks_the_model_keeps_its_number() -> None:
    model = mlp()
    model.register_forward_hook(lambda m, given, out: torch.where(given[0].flatten(1)[:, :1] > 5, torch.nan, out))
    x = X.clone()
    x[17] = 7
    with pytest.raises(ValueError, match="first on row 17"):
        fit(model, (x, Y), Scheme("single", (Linf(0.1, bounds=(0, 9)),), 1), epochs=1, memory=FEW)


@pytest.mark.parametrize("memory", [0, -1, 1.5, True, "1GB"])
def test_what_is_no_number_of_bytes_is_refused(memory: object) -> None:
    with pytest.raises(ValueError, match="memory must be a whole number of bytes >= 1 or None, got "):
        fit(mlp(), (X, Y), Scheme(), epochs=1, memory=memory)  # type: ignore[arg-type]
