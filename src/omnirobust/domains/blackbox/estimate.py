"""The gradient of a model that only answers, estimated from antithetic pairs of questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey, uniforms

if TYPE_CHECKING:
    from omnirobust.domains.blackbox.asked import Asked

_STEP = 0.02
"""How far the two questions of a pair lie from the input, root mean square, in shares of the data range."""

_PRIORS = 2
"""Directions of a pair of questions that are those of guides, and of the estimate before."""


def estimated(
    asked: Asked, batch: Tensor, at: tuple[list[int], list[int]] | None, direction: Tensor, priors: Sequence[Tensor]
) -> Tensor:
    """Estimate the gradient of <direction, logits> (n, C) in ``batch`` (n, *S), from ``asked.samples`` questions.

    With orthonormal u_i, of which the first span the priors and the others are drawn, its part in their span:

        g = sum_i u_i (F(x + h u_i) - F(x - h u_i)) / (2 h)

    The draws are keyed by the row, and by how many estimates it has had. Rows whose questions are used up get the sum
    of the priors; so do those on whose pairs nothing differs, as on the plateaus of trees, and where there are no
    priors a drawn direction.

    Reference: antithetic sampling as in Ilyas et al., "Black-box adversarial attacks with limited queries and
    information", 2018, Algorithm 1; priors among the directions as in Cheng et al., "Improving black-box adversarial
    attacks with a transfer-based prior", 2019, equation (5).
    """
    pairs = asked.samples // 2
    if asked.limit is not None and at is not None:
        rows = torch.tensor(at[0]) - asked.first_row
        # an estimate that leaves no question for where it leads is worth nothing
        short = asked.left(rows) - asked.counts.shape[1] < 2 * pairs * torch.bincount(rows)[rows]
        if bool(short.any()):
            return _where_asked(asked, batch, at, direction, priors, ~short)
    n, size = len(batch), batch[0].numel()
    u = _directions(asked, batch, at, [p.flatten(1) for p in priors][:_PRIORS], min(pairs, size))
    low, high = map(float, asked.bounds or (0.0, 1.0))
    h = _STEP * (high - low) * size**0.5
    moves = u.transpose(0, 1).reshape(-1, *batch.shape)  # (pairs, n, *S)
    probes = torch.cat([batch + h * moves, batch - h * moves]).flatten(0, 1)
    whose = None if at is None else (at[0] * (2 * len(moves)), at[1] * (2 * len(moves)))
    said = asked.ask(probes, whose).view(2, len(moves), n, -1)
    rates = ((said[0] - said[1]) * direction.to(said)).sum(2).T / (2 * h)  # (n, pairs)
    slope = torch.einsum("np,npd->nd", rates.to(u), u).view_as(batch)
    flat = (slope.flatten(1) == 0).all(1).view(-1, *[1] * (batch.ndim - 1))
    return torch.where(flat, _fallback(batch, priors, u[:, -1].reshape(batch.shape)), slope)


def _where_asked(
    asked: Asked, batch: Tensor, at: tuple[list[int], list[int]], direction: Tensor, priors: Sequence[Tensor],
    able: Tensor,
) -> Tensor:  # fmt: skip
    """Estimate for those rows, (n,) bool, that have questions left; the others go by the priors."""
    slope = _fallback(batch, priors, torch.ones_like(batch))
    rows = able.nonzero().flatten()
    if len(rows):
        where = ([at[0][i] for i in rows.tolist()], [at[1][i] for i in rows.tolist()])
        chosen = rows.to(batch.device)
        slope = slope.clone()
        slope[chosen] = estimated(asked, batch[chosen], where, direction[chosen], [p[chosen] for p in priors])
    return slope


def _fallback(batch: Tensor, priors: Sequence[Tensor], other: Tensor) -> Tensor:
    return torch.stack(list(priors)).sum(0).to(batch) if priors else other.to(batch)


def _directions(
    asked: Asked, batch: Tensor, at: tuple[list[int], list[int]] | None, priors: Sequence[Tensor], pairs: int
) -> Tensor:
    """Return ``pairs`` orthonormal directions for each input, (n, pairs, D); the first span the priors."""
    n, size = len(batch), batch[0].numel()
    numbers = torch.tensor(asked.numbers(batch, at), dtype=torch.int64)
    drawn = uniforms(DrawKey(asked.seed), numbers, size * pairs).view(n, size, pairs)
    drawn = (2 * drawn - 1 + 2.0**-24).erfinv().to(batch.device, torch.promote_types(batch.dtype, torch.float32))
    for i, prior in enumerate(priors[:pairs]):
        norm = torch.linalg.vector_norm(prior, dim=1, keepdim=True)
        drawn[:, :, i] = torch.where(norm > 0, prior.to(drawn) / norm.clamp_min(1e-30), drawn[:, :, i])
    return torch.linalg.qr(drawn).Q.transpose(1, 2).contiguous()
