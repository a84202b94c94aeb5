"""Group-robust learning with a weight rule in a loop of one's own: problem (1) with the network's parameters for v.

    python examples/group_robust.py [--data mnist] [--images 12000] [--epochs 6] [--seeds 10]

The training digits come in four groups, as data from four sources do: upright ones, which are most, and few that are
turned by 45 degrees, noisy, or seen in negative. Empirical risk minimisation weighs all examples alike, so the large
group decides. The average over groups weighs them alike, and min-max by how high their losses are. Networks,
mini-batches and learning rates are the same for all; the groups of the test images are of one size.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust import data, zoo
from omnirobust.transforms import Rotate

GROUPS = {"upright": 0.88, "turned": 0.04, "noisy": 0.04, "negative": 0.04}
"""Names of the groups and their shares of the training images."""


def changed(x: Tensor, group: int, generator: torch.Generator) -> Tensor:
    """Make images of group number ``group`` of upright ones (N, C, H, W)."""
    if group == 1:
        return Rotate(45.0)(x)
    if group == 2:
        return (x + 0.5 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return 1 - x if group == 3 else x


def grouped(x: Tensor, shares: Sequence[float], seed: int) -> tuple[Tensor, Tensor]:
    """Put every image into a group, at random, and change it: images and group numbers (N,)."""
    generator = torch.Generator().manual_seed(seed)
    order, groups = torch.randperm(len(x), generator=generator), torch.zeros(len(x), dtype=torch.int64)
    ends = torch.tensor(shares).cumsum(0).mul(len(x)).round().long().tolist()
    for group, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        groups[order[begin:end]] = group
    made = x.clone()
    for group in range(len(shares)):
        made[groups == group] = changed(x[groups == group], group, generator)
    return made, groups


def group_means(losses: Tensor, groups: Tensor) -> Tensor:
    """Return the mean loss of every group, (1, K); 0 where a mini-batch has none of it."""
    sums = torch.zeros(len(GROUPS)).index_add(0, groups, losses)
    return (sums / groups.bincount(minlength=len(GROUPS)).clamp_min(1)).unsqueeze(0)


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    groups: Tensor,
    rule: orb.Uniform | orb.ProjectedAscent | None,
    epochs: int,
    seed: int,
) -> Tensor:
    """Train ``model`` on mini-batches of 128, by the weights of ``rule`` or, for None, all examples alike.

    Returns:
        The weights of the groups at the end, (K,).
    """
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    w = orb.Uniform().init(1, len(GROUPS))
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            losses = cross_entropy(model(x[rows]), y[rows], reduction="none")
            if rule is None:
                loss = losses.mean()
            else:
                of_groups = group_means(losses, groups[rows])
                w = rule.step(w, of_groups.detach())
                loss = (w * of_groups).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
    return w[0]


def accuracies(model: nn.Module, x: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """Return the accuracy on every group, (K,)."""
    with torch.no_grad():
        right = (model.eval()(x).argmax(1) == y).float()
    return group_means(right, groups)[0]


def run(name: str, images: int, epochs: int, rule: orb.ProjectedAscent, seed: int) -> tuple[Tensor, Tensor]:
    """Train all three ways from one seed: their accuracies (3, K), and the weights of min-max at the end (K,)."""
    known, held_out = data.load(name, "train", limit=images), data.load(name, "test", limit=2000)
    x, groups = grouped(known.x, list(GROUPS.values()), seed)
    tested, test_groups = grouped(held_out.x, [1 / len(GROUPS)] * len(GROUPS), 10_000 + seed)
    found, w = [], torch.empty(0)
    for chosen in (None, orb.Uniform(), rule):
        torch.manual_seed(seed)
        model = zoo.build("mlp", known.shape, len(known.classes))
        w = train(model, x, known.y, groups, chosen, epochs, seed)
        found.append(accuracies(model, tested, held_out.y, test_groups))
    return torch.stack(found), w


def interval(values: Tensor) -> str:
    """Write the mean over seeds with its 95 % interval by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(values.std()) / math.sqrt(len(values))
    return f"{float(values.mean()):.1f} ({float(values.mean()) - half:.1f} to {float(values.mean()) + half:.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both ways from several seeds and print a table."""
    given = _parser().parse_args(arguments)
    if given.seeds < 2:
        raise SystemExit("seeds must be >= 2, or there is no interval")
    rule = orb.ProjectedAscent(given.beta, given.gamma)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    found = [run(given.data, given.images, given.epochs, rule, seed) for seed in seeds]
    rates, weights = 100 * torch.stack([one[0] for one in found]), torch.stack([one[1] for one in found]).mean(0)
    print(f"{given.data}, {given.images} training images, {given.epochs} epochs, {given.seeds} seeds, {rule}")
    print("| test accuracy, % | all examples alike (ERM) | all groups alike | min-max | min-max less ERM | weight |")
    print("|---|---|---|---|---|---|")
    rows = {name: (rates[..., k], f"{float(weights[k]):.2f}") for k, name in enumerate(GROUPS)}
    rows |= {"mean of the groups": (rates.mean(2), ""), "worst group": (rates.amin(2), "")}
    for name, (of, weight) in rows.items():
        cells = [interval(of[:, way]) for way in range(3)] + [interval(of[:, 2] - of[:, 0]), weight]
        print(f"| {name} | {' | '.join(cells)} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="mnist", help="digits or mnist")
    parser.add_argument("--images", type=int, default=12000, help="training images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each kind, >= 2")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=0.02, help="step size of the weights")
    parser.add_argument("--gamma", type=float, default=1.0, help="pull towards equal weights")
    return parser


if __name__ == "__main__":
    main()
