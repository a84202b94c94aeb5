"""What a batch of problems keeps in order: rows that leave, restarts, fresh draws, and the precision of the verdict."""

import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.domains.losses import smooth_margin
from omnirobust.domains.outputs import _BF16_DOUBT


class Fixed(nn.Module):
    """Logits that hang on the first pixel only: 10 for class 0, and 10 times (1 + pixel) for class 1."""

    def forward(self, x):
        one = 10.0 * (1 + x[:, 0, 0, 0])
        return torch.stack([torch.full_like(one, 10.0) + 0 * one, one], 1)


def small_model(seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, classes))
    for p in layers.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return layers.eval().requires_grad_(False)


def images(count, seed=0):
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return x, small_model(0)(x).argmax(1)


@pytest.mark.parametrize(("share", "in_bf16"), [(0.5, False), (3.0, True)])
@pytest.mark.parametrize("targeted", [False, True])
def test_what_half_precision_leaves_in_doubt_does_not_count(share, in_bf16, targeted):
    """The winner leads by a share of what bf16 may get wrong, in units of the largest logit."""
    x = torch.full((2, 1, 4, 4), share * _BF16_DOUBT)
    y = torch.full((2,), int(targeted))

    def fooled(precision):
        grid = orb.DomainGrid([Fixed().eval()], x, y, loss=smooth_margin, targeted=targeted, precision=precision)
        return grid.evaluate(torch.zeros_like(x), grad=False).fooled

    assert bool(fooled("fp32").all())
    assert bool((fooled("bf16") == in_bf16).all())


def test_a_gradient_anywhere_in_the_batch_counts_however_it_is_cut():
    class Above(nn.Module):
        """Sees only what is brighter than a half."""

        def forward(self, x):
            light = (x - 0.5).clamp_min(0).flatten(1).sum(1)
            return torch.stack([light, -light, 0 * light], 1)

    x = torch.full((6, 1, 4, 4), 0.2)
    labels = torch.zeros(6, dtype=torch.int64)
    for bright, blocked in ((None, True), (5, False), (0, False)):
        seen = x.clone()
        if bright is not None:
            seen[bright] = 0.9
        grid = orb.DomainGrid([Above().eval()], seen, labels, loss=smooth_margin, memory=1)  # an image at a time
        assert grid.blocks_gradient(0, torch.zeros_like(seen)) is blocked


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_those_of_what_is_returned(precision):
    models, (x, y) = {"one": small_model(0), "two": small_model(1)}, images(8)
    found = orb.attack_ensemble(models, x, y, orb.L2(0.5), steps=6, precision=precision, loss=smooth_margin)
    for k, model in enumerate(models.values()):
        with torch.no_grad():
            torch.testing.assert_close(found.losses[:, k], smooth_margin(model(found.adversarial), y))


def test_weights_given_for_each_row_stay_with_it_when_finished_rows_leave():
    models, (x, y) = [small_model(0), small_model(1)], images(12)
    w = torch.linspace(0.05, 0.95, 12).unsqueeze(1)
    w = torch.cat([w, 1 - w], 1)
    found = orb.attack_ensemble(
        models, x, y, orb.Linf(0.1), steps=4, restarts=3, stop_when_fooled=True, rule=orb.Fixed(w), history="full"
    )
    assert 0 < int(found.fooled.all(1).sum()) < 12
    torch.testing.assert_close(found.weights, w)
    alone = orb.attack_ensemble(
        models, x[7:8], y[7:8], orb.Linf(0.1), steps=4, restarts=3, stop_when_fooled=True, rule=orb.Fixed(w[7:8]),
        first_row=7,
    )  # fmt: skip
    torch.testing.assert_close(alone.delta[0], found.delta[7])


def test_fresh_draws_between_restarts_are_those_of_the_right_rows():
    """Every row ends as it does alone, though others leave the batch after the first restart."""

    model, (x, y) = small_model(0), images(10)
    options = {"steps": 4, "restarts": 3, "stop_when_fooled": True, "samples": 1, "draws": 3}
    views = {"shifted": orb.transforms.Brightness((-0.2, 0.2))}
    found = orb.attack_transforms(model, x, y, views, orb.Linf(0.1), **options)
    assert 0 < int(found.fooled.all(1).sum()) < 10
    for row in range(10):
        alone = orb.attack_transforms(
            model, x[row : row + 1], y[row : row + 1], views, orb.Linf(0.1), first_row=row, **options
        )
        torch.testing.assert_close(alone.delta[0], found.delta[row])
        torch.testing.assert_close(alone.success[0], found.success[row])
