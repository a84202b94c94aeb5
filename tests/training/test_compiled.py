"""Compiled inner steps against those that are not, and what is said where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from omnirobust import L1, L2, Linf, ProjectedAscent, project_lp_box, project_simplex
from omnirobust.core.projections import simplex_by_sorting
from omnirobust.core.weights import ascend
from omnirobust.domains.unrolled import unrolled_l2
from omnirobust.training import FitResult, Scheme, fit
from omnirobust.training.attackers import attacker_of
from omnirobust.training.fit import _of_compiling
from omnirobust.training.workers import Alone

BOTH = (Linf(0.1), L2(0.6))
G = torch.Generator().manual_seed(4)
X, Y = torch.rand(20, 2, 5, generator=G), torch.randint(3, (20,), generator=G)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what is compiled be traced as ever, but run operation by operation: that takes a second, no compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def trained(
    scheme: Scheme, compiled: bool, model: nn.Module | None = None, **kw
) -> tuple[dict[str, Tensor], FitResult]:
    """Return the parameters that a short training leads to: mini-batches of 8, 8 and 4, twice."""
    model = network() if model is None else model
    given = {"epochs": 2, "batch_size": 8, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)} | kw
    result = fit(model, (X, Y), scheme, compile=compiled, **given)
    return model.state_dict(), result


def told(result: FitResult) -> list[str]:
    return [note for note in result.notes if note.startswith("compile:")]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "scheme",
    [
        Scheme("single", (Linf(0.1),), 4),
        Scheme("average", BOTH, 4),
        Scheme("worst", BOTH, 4),
        Scheme("minmax", BOTH, 4),
        Scheme("minmax", BOTH, 4, preset="paper"),
        Scheme("minmax", (Linf(torch.linspace(0, 0.2, 20)), L2(torch.linspace(0, 1, 20))), 4),
        Scheme("alternate", BOTH, 4),
    ],
    ids=lambda s: f"{s.kind} {s.preset} {s.examples}",
)
def test_a_training_comes_to_the_same_parameters(scheme: Scheme) -> None:
    plain, _ = trained(scheme, compiled=False, batch_size=10)  # of one shape
    counters.clear()
    fast, result = trained(scheme, compiled=True, batch_size=10)
    assert counters["stats"]["unique_graphs"] >= 1 and not told(result)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_a_shape_is_compiled_once() -> None:
    """Two shapes of mini-batches in three epochs, of 4 steps each: two functions, whatever was trained before."""
    for _ in range(2):
        counters.clear()
        trained(Scheme("minmax", BOTH, 4), compiled=True, epochs=3)
        assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.usefixtures("traced")
def test_the_passes_of_convolutions_run_as_they_are_and_moves_are_compiled() -> None:
    """3 mini-batches of 2 epochs, 4 steps each and the step on the parameters: a call of the model for each."""
    images, ends, calls = torch.rand(20, 1, 6, 6, generator=G), list[dict[str, Tensor]](), list[bool]()
    for compiled in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        model.register_forward_hook(lambda *_: calls.append(torch.compiler.is_compiling()))
        calls.clear()
        counters.clear()
        steps = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
        result = fit(
            model, (images, Y), Scheme("minmax", BOTH, 4), epochs=2, batch_size=8, optimizer=steps, compile=compiled
        )
        assert not told(result) and counters["stats"]["unique_graphs"] == 2 * compiled
        assert not any(calls) and len(calls) >= 2 * 3 * (4 + 1)
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("K", [1, 2, 3, 20])
def test_compiled_weights_are_projected_onto_the_simplex(K: int) -> None:
    losses = torch.randn(500, K, generator=G).mul_(10)
    losses[:9] = losses[:9, :1]  # ties
    w = project_simplex(torch.randn(500, K, generator=G))
    by_sorting = partial(ascend, project=simplex_by_sorting)
    torch._dynamo.reset()  # of one code it compiles no more than eight functions
    compiled = torch.compile(lambda *given: by_sorting(*given), backend="aot_eager", fullgraph=True, dynamic=False)
    for beta, gamma in ((0.02, 4.0), (1 / 6, 4.0), (3.0, 0.0)):
        expected = project_simplex((w + beta * (losses - gamma * (w - 1 / K))).double())
        torch.testing.assert_close(compiled(w, losses, beta, gamma).double(), expected, rtol=0, atol=3e-6)


@pytest.mark.usefixtures("traced")
def test_a_rule_of_ones_own_is_asked_beside_compiled_steps() -> None:
    """6 mini-batches of 4 steps: 24 times; ours, which the steps take in, never."""

    class Counting(ProjectedAscent):
        asked = 0

        def step(self, weights: Tensor, losses: Tensor) -> Tensor:
            Counting.asked += 1
            return super().step(weights, losses)

    ours, other = (Scheme("minmax", BOTH, 4, rule=rule(0.1, 1.0)) for rule in (ProjectedAscent, Counting))
    (fast, told_by), (own, result) = (trained(scheme, compiled=True) for scheme in (ours, other))
    assert Counting.asked == 24 and not told(result) and not told(told_by)
    for name, value in own.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


class Asking(nn.Module):
    """A network that looks at its values and goes one way or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z * 2 if float(z.detach().sum()) > 0 else z


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_that_cannot_be_compiled_trains_without_and_the_notes_say_so() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, _ = trained(Scheme("minmax", BOTH, 3), compiled=False, model=Asking())
        fast, result = trained(Scheme("minmax", BOTH, 3), compiled=True, model=Asking())
    assert same(plain, fast)
    (note,) = told(result)
    assert note.startswith("compile: the attacks ran uncompiled, wholly or in part: the compiler gave up (")


ALONE = """
import torch
from omnirobust import Linf
from omnirobust.training import Scheme, fit

x, y = torch.rand(8, 5), torch.arange(8) % 3
ends = []
for compiled in (False, True):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    result = fit(model, (x, y), Scheme("single", (Linf(0.1),), 2), epochs=1, compile=compiled)
    ends.append(model.weight)
assert torch.equal(*ends)
print(*(note for note in result.notes if note.startswith("compile:")), sep="\\n")
"""


def test_without_a_compiler_it_trains_without_and_the_notes_say_so() -> None:
    """In a process of its own, which remembers for good that it found none."""
    env = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    run = subprocess.run([sys.executable, "-c", ALONE], env=env, capture_output=True, text=True, check=True)
    (note,) = run.stdout.splitlines()
    assert "the compiler gave up" in note and "InvalidCxxCompiler" in note and note.endswith(".")


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        (Scheme("minmax", (Linf(0.1), L1(1.0)), 2), "only plain steps under linf and l2"),
        (Scheme("minmax", (Linf(0.1, scale=2.0), L2(1.0)), 2), "in units of the data"),
        (Scheme("minmax", BOTH, 2, dpar=0.1), "dpar"),
        (Scheme("msd", BOTH, 2), "kind msd"),
        (Scheme("universal", (Linf(0.1),), 2), "kind universal"),
        (Scheme(), "the scheme attacks nothing"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_not_compiled_runs_as_ever(scheme: Scheme, why: str) -> None:
    plain, _ = trained(scheme, compiled=False)
    fast, result = trained(scheme, compiled=True)
    assert same(plain, fast)
    (note,) = told(result)
    assert why in note


class Straight(torch.autograd.Function):
    """Rounds, and lets gradients through as if it had not: no compiler knows."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:  # pyright: ignore
        return g


class Inside(nn.Module):
    """A network with something before it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = network(), 0
        self.register_buffer("mean", torch.zeros(()))


class Rounding(Inside):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(Straight.apply(x))


class Noisy(Inside):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.05 * torch.randn_like(x))


class Drifting(Inside):
    """It moves a buffer in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean.add_(x.mean().detach())
        return self.inner(x) * (1 + self.mean)


class Counting(Inside):
    """It is compiled anew whenever it has counted on."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) + 0.0 * self.calls


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("build", "why"),
    [(Rounding, "found other losses or gradients than the model does"), (Drifting, "gave up"), (Counting, "gave up")],
)
def test_what_is_given_up_on_the_way_leaves_the_training_that_it_would_have_been(build, why: str) -> None:
    plain, _ = trained(Scheme("minmax", BOTH, 4), compiled=False, model=build())
    with torch._dynamo.config.patch(recompile_limit=3):
        fast, result = trained(Scheme("minmax", BOTH, 4), compiled=True, model=build())
    (note,) = told(result)
    assert why in note and (build is Counting or same(plain, fast))
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_what_finds_out_about_a_model_takes_no_draw_of_the_training(tmp_path: Path) -> None:
    scheme = Scheme("minmax", BOTH, 3)
    plain, _ = trained(scheme, compiled=False, model=Noisy(), epochs=3)
    fast, result = trained(scheme, compiled=True, model=Noisy(), epochs=3)
    assert not told(result)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)
    trained(scheme, compiled=True, model=Noisy(), epochs=1, out=tmp_path)
    assert same(fast, trained(scheme, compiled=True, model=Noisy(), epochs=3, out=tmp_path)[0])


@pytest.mark.usefixtures("traced")
def test_no_more_than_four_shapes_are_compiled_and_the_notes_say_so() -> None:
    loader = [(X[:size], Y[:size]) for size in (2, 3, 4, 5, 6, 7)]
    ends = []
    for compiled in (False, True):
        model = network()
        given = {"epochs": 1, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
        result = fit(model, loader, Scheme("minmax", BOTH, 2), compile=compiled, **given)
        ends.append(model.state_dict())
    assert "mini-batches have more than 4 shapes" in told(result)[0]
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_told_in_a_later_batch_too(label: int) -> None:
    wrong = torch.where(torch.arange(8) == 5, label, Y[8:16])
    with pytest.raises(ValueError, match="data must hold labels from 0 to 2"):
        fit(network(), [(X[:8], Y[:8]), (X[8:16], wrong)], Scheme("minmax", BOTH, 2), epochs=1, compile=True)


@pytest.mark.usefixtures("traced")
def test_a_compiler_that_is_switched_off_is_noticed() -> None:
    plain, _ = trained(Scheme("minmax", BOTH, 2), compiled=False, epochs=1)
    with torch.compiler.set_stance("force_eager"):
        fast, result = trained(Scheme("minmax", BOTH, 2), compiled=True, epochs=1)
    assert same(plain, fast) and told(result)[0].endswith("torch.compile is switched off.")


def test_what_another_process_does_not_compile_is_told_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Alone, "total", lambda _, values: values + 1 if values.ndim == 0 else values)
    monkeypatch.setattr(Alone, "count", 2)
    attacker = attacker_of(network(), Scheme("minmax", BOTH, 2), 0, "fp32", Alone(), compiled=True)
    assert attacker is not None and attacker.compiled is not None
    (note,) = _of_compiling(attacker, True, Alone(), torch.device("cpu"))
    assert note.endswith("in 1 of 2 processes.")
    attacker.compiled.refuse("nothing")
    assert _of_compiling(attacker, True, Alone(), torch.device("cpu")) == attacker.compiled.notes


@pytest.mark.usefixtures("traced")
def test_hooks_of_the_callers_own_stay_allowed() -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        plain, _ = trained(Scheme("minmax", BOTH, 2), compiled=False, epochs=1)
        fast, result = trained(Scheme("minmax", BOTH, 2), compiled=True, epochs=1)
    assert same(plain, fast) and "it does not go with saved_tensors_hooks" in told(result)[0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        network()(X).sum().backward()


@pytest.mark.usefixtures("traced")
def test_a_resumed_training_has_the_same_bytes_and_keeps_to_compiling(tmp_path: Path) -> None:
    scheme = Scheme("minmax", BOTH, 3)
    whole, _ = trained(scheme, compiled=True, epochs=3)
    trained(scheme, compiled=True, epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match="compile must be True as in the checkpoint"):
        trained(scheme, compiled=False, epochs=3, out=tmp_path)
    resumed, _ = trained(scheme, compiled=True, epochs=3, out=tmp_path)
    assert same(whole, resumed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_unrolled_projection_is_the_exact_one(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    for n in (2, 30, 784):
        x = torch.rand(64, n, generator=g, dtype=dtype)
        x[:16] = x[:16].round()
        a = torch.randn(64, n, generator=g, dtype=dtype)
        eps = torch.rand(64, generator=g, dtype=dtype) * n**0.5 / 3
        a[5], eps[7] = 0, 0
        found, solved = unrolled_l2(a, eps.unsqueeze(1), -x, 1 - x)
        assert bool(solved.all())
        torch.testing.assert_close(found, project_lp_box(a, 2, eps, -x, 1 - x), rtol=1e-5, atol=1e-6)


def test_a_row_that_is_not_solved_is_told() -> None:
    """Bounds of ever other sizes: each Newton step brings few coordinates to theirs."""
    a, high = torch.ones(1, 40, dtype=torch.float64), torch.logspace(-9, 0, 40, dtype=torch.float64).unsqueeze(0)
    a = a * torch.logspace(-12, 0, 40, dtype=torch.float64)
    eps = (high.square().sum().sqrt() * 0.999).view(1, 1)
    found, solved = unrolled_l2(a * 1e12, eps, -high, high)
    assert bool(solved) == (abs(float(found.norm()) - float(eps)) < 1e-9) and float(found.norm()) <= float(eps) + 1e-12


def test_one_function_that_is_really_compiled_climbs_as_the_steps_do() -> None:
    scheme = Scheme("single", (Linf(0.1),), 3)
    plain, _ = trained(scheme, compiled=False, epochs=1, batch_size=10)  # of one shape
    fast, result = trained(scheme, compiled=True, epochs=1, batch_size=10)
    assert not told(result)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_trainings_have_the_same_bytes_from_run_to_run(precision: str) -> None:
    scheme = Scheme("minmax", BOTH, 4)
    plain, _ = trained(scheme, compiled=False, precision=precision)
    first, result = trained(scheme, compiled=True, precision=precision)
    second, _ = trained(scheme, compiled=True, precision=precision)
    assert same(first, second) and not told(result)
    for name, value in plain.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4 if precision == "fp32" else 3e-2)
