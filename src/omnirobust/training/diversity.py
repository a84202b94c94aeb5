"""How different the attacks are: the diversity-promoting attack regulariser (DPAR)."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-6
"""What is added to the diagonal of the Gram matrix."""


def diversity(grads: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return the orthogonality of the K attacks' input gradients for every example.

        h = log det(G^T G + ridge I) / (K - 1),    G = (u_1, ..., u_K), u_k = g_k / ||g_k||_2              (16)

    For K = 2, the paper's case, this is (16) but for the ridge. Dividing by K - 1 keeps the range, and with it what
    lambda means, for any number of attacks: undivided, each further one lowers the bottom by log ridge = -13.8.

    The greatest value, K log(1 + ridge) / (K - 1), is reached where the gradients are orthogonal. The paper's h,
    without the ridge, is minus infinity where two gradients agree, and the defender of (17) drives it there. The ridge
    bounds it:

        log ridge + log(K + ridge) / (K - 1) <= h    (K log ridge / (K - 1) if gradients vanish),

    about -13.1 for K = 2 and -13.3 for K = 3, so that lambda h stays within lambda times that of the loss. Its slope
    in the angle between two gradients is bounded too, by (2 ridge)^(-1/2), and goes to zero as they align, so that an
    aligned pair exerts no force. A zero gradient has no direction: its column is zero and nothing flows through it.

    Args:
        grads: g_k, (K, B, *S), of any scale, K >= 2.
        ridge: > 0.

    Returns:
        h, (B,), in float32 or the precision of ``grads`` if that is wider; differentiable in ``grads``.

    Cost: O(K^2) passes over one batch of inputs; negligible beside the second derivatives that lead through it.

    Reference: Section 3.2; Pang et al., "Improving adversarial robustness via promoting ensemble diversity", 2019.
    """
    wide = torch.promote_types(grads.dtype, torch.float32)
    with torch.autocast(grads.device.type, enabled=False):
        unit = _unit_rows(grads.flatten(2).to(wide)).transpose(0, 1)
        gram = unit @ unit.transpose(1, 2)
        eye = torch.eye(len(grads), dtype=wide, device=grads.device)
        # positive definite but for rounding: logabsdet where logdet could answer NaN
        return torch.linalg.slogdet(gram + ridge * eye).logabsdet / max(len(grads) - 1, 1)


def cosines(grads: Tensor) -> Tensor:
    """Return the cosines between the K attacks' input gradients, (B, K, K); 0 for a gradient that is zero.

    Args:
        grads: (K, B, *S).
    """
    unit = _unit_rows(grads.flatten(2).to(torch.promote_types(grads.dtype, torch.float32))).transpose(0, 1)
    return unit @ unit.transpose(1, 2)


def _unit_rows(g: Tensor) -> Tensor:
    """Scale the last axis to l2 norm 1 without overflow; zero rows stay zero and pass no derivative."""
    scale = g.detach().abs().amax(-1, keepdim=True)
    dead = scale == 0
    scaled = torch.where(dead, 0.0, g) / torch.where(dead, 1.0, scale)
    square = (scaled * scaled).sum(-1, keepdim=True)
    return scaled / torch.where(dead, 1.0, square).sqrt()
