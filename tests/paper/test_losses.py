"""The losses of the comparisons, against their formulas written out in loops."""

import pytest
import torch

from omnirobust.paper.losses import ClippedMargin, LabelLogit, Margin


def hinge(row: list[float], label: int, kappa: float) -> float:
    return max(row[label] - max(v for j, v in enumerate(row) if j != label) + kappa, 0.0)


@pytest.fixture
def logits():
    return 30 * torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(50) % 5


def test_margin_has_the_confidence_it_is_given(logits, labels):
    expected = [hinge(r, y, 40.0) for r, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert Margin(40.0)(logits, labels).tolist() == pytest.approx(expected)


def test_clipped_margin_goes_flat_once_fooled_by_ten_logits(logits, labels):
    values = ClippedMargin(40.0)(logits, labels)
    expected = [max(hinge(r, y, 50.0), 40.0) for r, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert values.tolist() == pytest.approx(expected)
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ClippedMargin(40.0)(leaf, labels).sum(), leaf)
    flat = torch.tensor([hinge(r, y, 0.0) == 0 for r, y in zip(logits.tolist(), labels.tolist(), strict=True)])
    deep = torch.tensor([hinge(r, y, 50.0) < 40 for r, y in zip(logits.tolist(), labels.tolist(), strict=True)])
    assert 0 < int(deep.sum()) < int(flat.sum())
    assert torch.equal((slope == 0).all(1), deep)


def test_label_logit_never_looks_at_other_logits(logits, labels):
    leaf = logits.clone().requires_grad_()
    values = LabelLogit()(leaf, labels)
    picked = [r[y] for r, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert values.tolist() == pytest.approx([max(z + 50, 0.0) for z in picked])
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    assert bool((slope.scatter(1, labels.unsqueeze(1), 0.0) == 0).all())


def test_bad_settings_are_refused(logits, labels):
    with pytest.raises(ValueError, match=r"threshold must be >= 0, got -1"):
        ClippedMargin(-1.0)
    with pytest.raises(ValueError, match=r"kappa must be >= 0, got -2"):
        Margin(-2.0)
    with pytest.raises(ValueError, match=r"kappa must be >= 0, got -3"):
        LabelLogit(-3.0)
    with pytest.raises(ValueError, match="targeted must be False"):
        LabelLogit()(logits, labels, targeted=True)
