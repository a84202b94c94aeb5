"""The rivals in transfer against literal transcriptions, image by image, model by model, and what they ask."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FILE = Path(__file__).parents[2] / "benchmarks" / "rivals_transfer.py"
SIDE, EPS = 6, torch.tensor([0.1, 0.2, 0.05])


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rivals_transfer", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rivals_transfer"] = module
    spec.loader.exec_module(module)
    return module


rivals = _module()


class Smooth(nn.Module):
    """A smooth classifier that counts the rows whose gradient was asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = torch.randn(2 * SIDE * SIDE, 9, generator=g, dtype=torch.double)
        self.last = torch.randn(9, 4, generator=g, dtype=torch.double)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(self._count)
        return (x.flatten(1) @ self.first).tanh() @ self.last

    def _count(self, slope: Tensor) -> None:
        self.asked += len(slope)


@pytest.fixture
def setting() -> tuple[list[Smooth], Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.rand(3, 2, SIDE, SIDE, generator=g, dtype=torch.double)
    return [Smooth(k) for k in range(3)], x, torch.tensor([0, 1, 3]), EPS.double()


def _grad(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def _ce(logits: Tensor, label: int) -> Tensor:
    return logits.logsumexp(0) - logits[label]


def _averaged(models: list[Smooth], label: int) -> Callable[[Tensor], Tensor]:
    return lambda z: _ce(sum(m(z[None])[0] for m in models) / len(models), label)  # pyright: ignore


def _onto(z: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.minimum(torch.maximum(z, (x - eps).clamp_min(0)), (x + eps).clamp_max(1))


def _literal_mi(x: Tensor, eps: float, rounds: int, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    z, G = x, torch.zeros_like(x)
    for _ in range(rounds):
        g = gradient(z)
        G = G + g / g.abs().mean()
        z = _onto(z + eps / rounds * torch.sign(G), x, eps)
    return z


def _each(x: Tensor, y: Tensor, eps: Tensor, one: Callable[[Tensor, int, float], Tensor]) -> Tensor:
    return torch.stack([one(x[i], int(y[i]), float(eps[i])) for i in range(len(x))])


def test_mi(setting):
    models, x, y, eps = setting
    found = rivals.Copies()(models, x, y, eps, 4, torch.Generator())
    want = _each(x, y, eps, lambda a, label, e: _literal_mi(a, e, 4, lambda z: _grad(_averaged(models, label), z)))
    assert torch.allclose(found, want, atol=1e-12)
    assert bool((found != x).any())


def test_mi_under_l2_and_with_targets(setting):
    models, x, y, eps = setting
    target = (y + 1) % 4

    def one(a: Tensor, label: int, e: float) -> Tensor:
        z, G = a, torch.zeros_like(a)
        for _ in range(4):
            g = -_grad(_averaged(models, label), z)
            G = G + g / g.abs().mean()
            d = z + e / 4 * G / G.norm() - a
            z = (a + d * min(1.0, e / float(d.norm()))).clamp(0, 1)
        return z

    far = eps * 10
    found = rivals.Copies(p=2, targeted=True)(models, x, target, far, 4, torch.Generator())
    assert torch.allclose(found, _each(x, target, far, one), atol=1e-12)
    reached = [float(_averaged(models, int(c))(a)) for a, c in zip(found, target, strict=True)]
    assert all(now < float(_averaged(models, int(c))(a)) for now, a, c in zip(reached, x, target, strict=True))


def test_di_is_mi_on_what_the_models_see(setting):
    models, x, y, eps = setting

    def see(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return z.flip(-1) * 0.8

    def one(a: Tensor, label: int, e: float) -> Tensor:
        loss = _averaged(models, label)
        return _literal_mi(a, e, 4, lambda z: _grad(lambda v: loss(see(v)), z))

    assert torch.allclose(rivals.Copies(see=see)(models, x, y, eps, 4, torch.Generator()), _each(x, y, eps, one))


def test_the_view_of_di():
    x = torch.rand(2, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    see, seen = rivals.resized(0.8), set()
    for seed in range(60):
        out = see(x, torch.Generator().manual_seed(seed))
        assert out.shape == x.shape
        if torch.equal(out, x):
            seen.add("left alone")
            continue
        rows, cols = (out[0, 0] != 0).any(1).nonzero().flatten(), (out[0, 0] != 0).any(0).nonzero().flatten()
        side = int(rows[-1] - rows[0]) + 1
        assert side == int(cols[-1] - cols[0]) + 1
        small = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)
        window = out[:, :, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        assert torch.equal(window, small)
        seen.add((side, int(rows[0]), int(cols[0])))
    assert {place[0] for place in seen if place != "left alone"} >= {8, 9}
    assert "left alone" in seen and len(seen) > 8


def test_ti_convolves_the_gradient(setting):
    models, x, y, eps = setting
    kernel = rivals.gaussian(5, 2.0).double()
    weights = torch.tensor(
        [[torch.exp(torch.tensor(-(i * i + j * j) / 8.0)) for j in range(-2, 3)] for i in range(-2, 3)]
    )
    assert torch.allclose(kernel.float(), weights / weights.sum(), atol=1e-6)

    def smooth(g: Tensor) -> Tensor:
        out = torch.zeros_like(g)
        for c in range(len(g)):
            for r in range(SIDE):
                for s in range(SIDE):
                    for i in range(-2, 3):
                        for j in range(-2, 3):
                            if 0 <= r + i < SIDE and 0 <= s + j < SIDE:
                                out[c, r, s] += kernel[i + 2, j + 2] * g[c, r + i, s + j]
        return out

    def one(a: Tensor, label: int, e: float) -> Tensor:
        return _literal_mi(a, e, 3, lambda z: smooth(_grad(_averaged(models, label), z)))

    found = rivals.Copies(kernel=kernel)(models, x, y, eps, 3, torch.Generator())
    assert torch.allclose(found, _each(x, y, eps, one), atol=1e-12)


def test_si_and_admix(setting):
    models, x, y, eps = setting
    g = torch.Generator().manual_seed(5)
    drawn = [[rivals.strangers(y, g) for _ in range(2)] for _ in range(2)]  # rounds, copies
    found = rivals.Copies(scales=3, others=2)(models, x, y, eps, 12, torch.Generator().manual_seed(5))
    alone = rivals.Copies(scales=3)(models, x, y, eps, 12, torch.Generator())
    for row in range(len(x)):
        loss, rounds = _averaged(models, int(y[row])), iter(drawn)

        def admix(z: Tensor, row: int = row, loss: Any = loss, rounds: Any = rounds) -> Tensor:
            near = [x[int(other[row])] for other in next(rounds)]
            return _grad(lambda v: sum(loss((v + 0.2 * n) / 2**i) for n in near for i in range(3)), z)  # pyright: ignore

        def si(z: Tensor, loss: Any = loss) -> Tensor:
            return _grad(lambda v: sum(loss(v / 2**i) for i in range(3)), z)  # pyright: ignore

        assert torch.allclose(found[row], _literal_mi(x[row], float(eps[row]), 2, admix), atol=1e-12)
        assert torch.allclose(alone[row], _literal_mi(x[row], float(eps[row]), 4, si), atol=1e-12)


def test_strangers_are_of_other_classes():
    y = torch.tensor([0, 0, 1, 2])
    drawn = torch.stack([rivals.strangers(y, torch.Generator().manual_seed(s)) for s in range(50)])
    assert all(set(drawn[:, i].tolist()) == {j for j in range(4) if y[j] != y[i]} for i in range(4))
    assert rivals.strangers(torch.tensor([2, 2]), torch.Generator()).tolist() == [0, 1]


def test_svre(setting):
    models, x, y, eps = setting
    found = rivals.SVRE(inner=2)(models, x, y, eps, 6, torch.Generator().manual_seed(9))
    for row in range(len(x)):
        a, label, e, draw = x[row], int(y[row]), float(eps[row]), torch.Generator().manual_seed(9)
        of = [lambda z, m=m, label=label: _grad(lambda v: _ce(m(v[None])[0], label), z) for m in models]
        at, G = a, torch.zeros_like(a)
        for _ in range(2):
            mean = sum(f(at) for f in of) / 3
            z, H = at, torch.zeros_like(a)
            for k in [k for _ in range(2) for k in torch.randperm(3, generator=draw).tolist()]:
                H = H + (of[k](z) - of[k](at) + mean)
                z = _onto(z + e / 2 * torch.sign(H), a, e)
            G = G + H
            at = _onto(at + e / 2 * torch.sign(G), a, e)
        assert torch.allclose(found[row], at, atol=1e-12)


def test_adaea(setting):
    models, x, y, eps = setting
    found = rivals.AdaEA(beta=2.0, threshold=0.1)(models, x, y, eps, 3, torch.Generator())

    def one(a: Tensor, label: int, e: float) -> Tensor:
        def J(k: int, z: Tensor) -> Tensor:
            return _ce(models[k](z[None])[0], label)

        def gradient(z: Tensor) -> Tensor:
            g = [_grad(lambda v, k=k: J(k, v), z) for k in range(3)]
            tried = [_onto(z + e / 3 * torch.sign(each), a, e) for each in g]
            own = [float(J(k, tried[k])) for k in range(3)]
            gains = torch.tensor(
                [2.0 * sum(float(J(j, tried[k])) / own[j] for j in range(3) if j != k) for k in range(3)],
                dtype=torch.double,
            )
            w, out = gains.softmax(0), torch.zeros_like(z)
            for r in range(SIDE):
                for s in range(SIDE):
                    pairs = [
                        float(g[k][:, r, s] @ g[j][:, r, s] / (g[k][:, r, s].norm() * g[j][:, r, s].norm()))
                        for k in range(3) for j in range(3) if j != k
                    ]  # fmt: skip
                    if sum(pairs) / 6 >= 0.1:
                        out[:, r, s] = sum(w[k] * g[k][:, r, s] for k in range(3))
            return out

        return _literal_mi(a, e, 3, gradient)

    want = _each(x, y, eps, one)
    assert torch.allclose(found, want, atol=1e-12)
    assert bool((found == x).all(1).any()), "some pixels were dropped in every step"


def test_cwa(setting):
    models, x, y, eps = setting
    found = rivals.CWA(back=0.3, pace=0.1)(models, x, y, eps, 5, torch.Generator())

    def one(a: Tensor, label: int, e: float) -> Tensor:
        of = [lambda z, m=m: _grad(lambda v: _ce(m(v[None])[0], label), z) for m in models]
        at, G, H = a, torch.zeros_like(a), torch.zeros_like(a)
        for _ in range(2):
            z = _onto(at - 0.3 * e * torch.sign(sum(f(at) for f in of)), a, e)  # pyright: ignore
            for f in of:
                g = f(z)
                H = H + g / g.norm()
                z = _onto(z + 0.1 * sqrt(2 * SIDE * SIDE) * e * H, a, e)
            G = G + (z - at)
            at = _onto(at + e / 2 * torch.sign(G), a, e)
        return at

    assert torch.allclose(found, _each(x, y, eps, one), atol=1e-12)


@pytest.mark.parametrize("steps", [10, 30])
@pytest.mark.parametrize(
    "rival",
    [
        rivals.Copies(), rivals.Copies(see=rivals.resized()), rivals.Copies(kernel=rivals.gaussian()),
        rivals.Copies(scales=5), rivals.Copies(scales=5, others=2), rivals.SVRE(), rivals.AdaEA(), rivals.CWA(),
    ],
)  # fmt: skip
def test_as_many_gradients_as_steps(setting, rival, steps):
    models, x, y, eps = setting
    found = rival(models, x, y, eps, steps, torch.Generator().manual_seed(0))
    assert [m.asked for m in models] == [steps * len(x)] * 3
    assert bool(((found - x).abs().flatten(1).amax(1) <= eps + 1e-12).all()) and 0 <= found.min() <= found.max() <= 1


def test_too_few_steps_for_the_copies(setting):
    with pytest.raises(ValueError, match="steps must be at least 15"):
        rivals.Copies(scales=5, others=3)(*setting, 10, torch.Generator())


def test_losses_are_torchs(setting):
    models, x, y, _ = setting
    want = torch.stack([cross_entropy(sum(m(a[None]) for m in models) / 3, b[None]) for a, b in zip(x, y, strict=True)])  # pyright: ignore
    assert torch.allclose(rivals.averaged(models, x, y), want)
