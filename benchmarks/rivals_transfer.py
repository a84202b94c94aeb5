"""Ensemble attacks that are made for models that are not attacked, written from their formulas, for linf.

Every rival is a function (models, x, y, eps, steps, generator) -> adversarial images: ``models`` K callables to logits,
``x`` (B, C, H, W) in [0, 1], ``y`` (B,) classes to leave, ``eps`` (B,) radii. ``steps`` is how often it may ask each
model for gradients in all, copies of an image, random views and inner steps included: a rival that asks five times a
step makes a fifth of the steps, each as long as they have to be to reach ``eps`` in all.

x_t is the image so far, J the cross-entropy, mu = 1 the momentum, Pi the projection on the ball and [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, cross_entropy, interpolate, pad

Models: TypeAlias = Sequence[Callable[[Tensor], Tensor]]
Rival: TypeAlias = Callable[[Models, Tensor, Tensor, Tensor, int, Generator], Tensor]
See: TypeAlias = Callable[[Tensor, Generator], Tensor]

MU = 1.0


@dataclass(frozen=True)
class Ball:
    """The images within ``eps`` of ``x`` and in [0, 1]; ``unit`` is the radius, so that it broadcasts over images.

    The norm is linf, or l2 where ``p`` is 2: then images are brought into the ball first, and clipped.
    """

    x: Tensor
    eps: Tensor
    p: float = inf

    @property
    def unit(self) -> Tensor:  # noqa: D102
        return self.eps.view(-1, 1, 1, 1)

    def onto(self, moved: Tensor) -> Tensor:
        """Return Pi of images."""
        if self.p == 2:
            far = _norm(moved - self.x)
            return (self.x + (moved - self.x) * (self.unit / far.clamp_min(1e-20)).clamp_max(1)).clamp(0, 1)
        return moved.clamp(self.x - self.unit, self.x + self.unit).clamp(0, 1)

    def along(self, G: Tensor) -> Tensor:
        """Return the direction of a step of length one: sign G, or G / ||G||_2 under l2."""
        return G / _norm(G).clamp_min(1e-20) if self.p == 2 else G.sign()


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(1), dim=1).view(-1, 1, 1, 1)


def averaged(models: Models, x: Tensor, y: Tensor) -> Tensor:
    """Return J of the mean of the models' logits, (B,)."""
    return cross_entropy(torch.stack([model(x) for model in models]).mean(0), y, reduction="none")


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the gradient of a loss (B,) in each of the images ``at``."""
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def _each(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1).view(-1, 1, 1, 1)


def _momentum(ball: Ball, rounds: int, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """G <- mu G + g / mean abs(g); x <- Pi(x + eps/rounds sign G): MI-FGSM with any gradient; under l2, G / ||G||_2."""
    moved, G = ball.x, torch.zeros_like(ball.x)
    for _ in range(rounds):
        g = gradient(moved)
        G = MU * G + g / _each(g.abs()).clamp_min(1e-20)
        moved = ball.onto(moved + ball.unit / rounds * ball.along(G))
    return moved


def _same(x: Tensor, generator: Generator) -> Tensor:
    return x


@dataclass(frozen=True)
class Copies:
    """MI-FGSM on averaged logits, and what DI, TI, SI and Admix put on it.

    The gradient is the mean over all copies of an image: x_t + ``mix`` x', x' ``others`` images of other classes, each
    divided by 2^0, 2^1, ..., ``scales`` of them; ``see`` is what the models see of a copy, ``kernel`` what the gradient
    is convolved with. ``p`` is the norm, inf or 2; ``targeted`` takes ``y`` for classes to reach, and lowers the loss.

    Reference: Dong et al. 2018 (MI) and 2019 (TI), Xie et al. 2019 (DI), Lin et al. 2020 (SI), Wang et al. 2021
    (Admix).
    """

    see: See = _same
    kernel: Tensor | None = None
    scales: int = 1
    others: int = 0
    mix: float = 0.2
    p: float = inf
    targeted: bool = False

    def __call__(self, models: Models, x: Tensor, y: Tensor, eps: Tensor, steps: int, generator: Generator) -> Tensor:
        """Attack, see above."""
        mixed = max(self.others, 1)
        rounds = steps // (mixed * self.scales)
        if not rounds:
            raise ValueError(f"steps must be at least {mixed * self.scales}, as many copies there are; got {steps}")

        def gradient(at: Tensor) -> Tensor:
            g = torch.zeros_like(at)
            for _ in range(mixed):
                near = at + self.mix * x[strangers(y, generator)] if self.others else at
                for i in range(self.scales):
                    g += slope(lambda z: averaged(models, self.see(z, generator), y), near / 2**i) / 2**i
            g = -g if self.targeted else g
            return g if self.kernel is None else smoothed(g, self.kernel)

        return _momentum(Ball(x, eps, self.p), rounds, gradient)


def strangers(y: Tensor, generator: Generator) -> Tensor:
    """Draw for each row another one of another class, uniformly; itself, if there is none. Indices (B,)."""
    other = (y[:, None] != y).double()
    other = torch.where(other.any(1, keepdim=True), other, torch.eye(len(y), dtype=torch.double))
    return torch.multinomial(other, 1, generator=generator)[:, 0]


def resized(least: float = 0.9, p: float = 0.5) -> See:
    """DI's view: with probability ``p`` resized to a random side in [``least``, 1] and padded back at a random place.

    One draw for the batch, as published.
    """

    def see(x: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(4, generator=generator).tolist()
        size = x.shape[-1]
        side = min(round(size * least) + int(draws[1] * (size - round(size * least) + 1)), size)
        left, top = (int(d * (size - side + 1)) for d in draws[2:])
        if draws[0] >= p:
            return x
        small = interpolate(x, (side, side), mode="bilinear", align_corners=False)
        return pad(small, (left, size - side - left, top, size - side - top))

    return see


def gaussian(size: int = 7, sigma: float = 3.0) -> Tensor:
    """TI's kernel, (size, size), of sum 1."""
    line = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return torch.outer(line, line) / line.sum() ** 2


def smoothed(g: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with ``kernel`` (odd, odd), zeros beyond the edges."""
    weight = kernel.to(g).expand(g.shape[1], 1, -1, -1)
    return conv2d(g, weight, padding=kernel.shape[0] // 2, groups=g.shape[1])


def single(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of one model's J in each image."""
    return slope(lambda z: cross_entropy(model(z), y, reduction="none"), x)


@dataclass(frozen=True)
class SVRE:
    """Stochastic variance reduced ensemble: ``inner`` K cheap steps of single models around each step of all.

    The gradients at x_t are kept, so a step costs K + inner K gradients: 1 + ``inner`` of each model in the mean. Each
    block of K inner steps asks the models in a random order, so that no model is asked more often than another.

    Reference: Xiong et al. 2022.
    """

    inner: int = 4

    def __call__(self, models: Models, x: Tensor, y: Tensor, eps: Tensor, steps: int, generator: Generator) -> Tensor:
        """Attack, see above."""
        ball, rounds, K = Ball(x, eps), steps // (1 + self.inner), len(models)
        moved, G = x, torch.zeros_like(x)
        for _ in range(rounds):
            known = [single(model, moved, y) for model in models]
            mean, z, H = torch.stack(known).mean(0), moved, torch.zeros_like(x)
            for _ in range(self.inner):
                for k in torch.randperm(K, generator=generator).tolist():
                    H = MU * H + single(models[k], z, y) - known[k] + mean
                    z = ball.onto(z + ball.unit / rounds * H.sign())
            G = MU * G + H
            moved = ball.onto(moved + ball.unit / rounds * G.sign())
        return moved


@dataclass(frozen=True)
class AdaEA:
    """Adaptive ensemble: weights by what a model's gradient does to the others, and coordinates of discord dropped.

    w = softmax over k of ``beta`` times the sum of the other models' losses at x_t + alpha sign g_k, each in units of
    its loss at x_t + alpha sign of its own gradient; of sum_k w_k g_k, the pixels stay where the mean cosine between
    two models' gradients (over the channels) is at least ``threshold``. Published is the gradient of the loss of
    weighted logits, which would cost as many gradients again. The K^2 forwards of the weights are not counted.

    Reference: Chen et al. 2023.
    """

    beta: float = 10.0
    threshold: float = -0.3

    def __call__(self, models: Models, x: Tensor, y: Tensor, eps: Tensor, steps: int, generator: Generator) -> Tensor:
        """Attack, see above."""
        ball = Ball(x, eps)

        def gradient(at: Tensor) -> Tensor:
            each = torch.stack([single(model, at, y) for model in models])
            w = self._weights(models, y, [ball.onto(at + ball.unit / steps * g.sign()) for g in each])
            return (w.T[..., None, None, None] * each).sum(0) * self._agreed(each)

        return _momentum(ball, steps, gradient)

    def _weights(self, models: Models, y: Tensor, tried: list[Tensor]) -> Tensor:
        """Return w (B, K)."""
        with torch.no_grad():
            J = torch.stack(
                [torch.stack([cross_entropy(m(z), y, reduction="none") for m in models]) for z in tried]
            )  # [k, j]: the loss of model j where model k led, (K, K, B)
            gain = J / torch.diagonal(J).T.clamp_min(1e-12)
            return (self.beta * (gain.sum(1) - torch.diagonal(gain).T)).softmax(0).T

    def _agreed(self, each: Tensor) -> Tensor:
        """Return 1 where a pixel stays and 0 elsewhere, (B, 1, H, W)."""
        unit = each / torch.linalg.vector_norm(each, dim=2, keepdim=True).clamp_min(1e-20)
        K = len(each)
        cosine = (unit[:, None] * unit[None]).sum(3)  # (K, K, B, H, W)
        off = cosine.sum((0, 1)) - torch.diagonal(cosine).sum(-1)
        return (off / max(K * (K - 1), 1) + 1e-6 >= self.threshold).to(each).unsqueeze(1)


@dataclass(frozen=True)
class CWA:
    """Common weakness attack: a step back along the mean gradient, then K steps, one along each model's gradient.

    Each round costs two gradients of each model. r = ``back`` eps, beta = ``pace`` eps sqrt(d) for d pixels, so that
    it is a multiple of eps a pixel.

    Reference: Chen et al. 2024.
    """

    back: float = 1 / 15
    pace: float = 10.0

    def __call__(self, models: Models, x: Tensor, y: Tensor, eps: Tensor, steps: int, generator: Generator) -> Tensor:
        """Attack, see above."""
        ball, rounds, beta = Ball(x, eps), steps // 2, self.pace * sqrt(x[0].numel())
        moved, G, H = x, torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(rounds):
            mean = torch.stack([single(model, moved, y) for model in models]).mean(0)
            z = ball.onto(moved - self.back * ball.unit * mean.sign())
            for model in models:
                g = single(model, z, y)
                H = MU * H + g / torch.linalg.vector_norm(g.flatten(1), dim=1).clamp_min(1e-20).view(-1, 1, 1, 1)
                z = ball.onto(z + beta * ball.unit * H)
            G = MU * G + z - moved
            moved = ball.onto(moved + ball.unit / rounds * G.sign())
        return moved
