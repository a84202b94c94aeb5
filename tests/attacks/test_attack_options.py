"""Options of the attacks in combination: targets, low precision, early stops, first perturbations, progress."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.core.directions import Direction
from omnirobust.core.projections import row_norm
from omnirobust.domains import losses
from omnirobust.domains.losses import Loss

THREATS = [orb.Linf(0.15), orb.L2(1.0), orb.L1(4.0), orb.L0(6)]
LOSSES: list[Loss] = [
    losses.margin,
    losses.signed_margin,
    losses.smooth_margin,
    losses.standardised_margin,
    losses.probability_margin,
    losses.neg_cross_entropy,
    losses.dlr,
]
DIRECTIONS: list[tuple[Direction, float | None]] = [
    (orb.RawGradient(), 0.3),
    (orb.Sign(), None),
    (orb.Normalised(), None),
    (orb.Adaptive(), None),
    (orb.Adaptive(balance=True), None),
]


def hits(models: dict[str, nn.Module], at: Tensor, goal: Tensor) -> Tensor:
    """Say which models put ``at`` into the class ``goal``, (B, K)."""
    return torch.stack([model(at).argmax(1) == goal for model in models.values()], 1)


@pytest.mark.parametrize(("direction", "step"), DIRECTIONS, ids=lambda v: type(v).__name__ if v else None)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_loss_reaches_its_target_along_every_direction(models, x, y, loss, direction, step) -> None:
    goal = (y + 1) % 4
    result = orb.attack_ensemble(
        models, x, goal, orb.L2(3.0), steps=15, loss=loss, direction=direction, step_size=step, targeted=True
    )
    reached = hits(models, result.adversarial, goal)
    assert torch.equal(result.fooled, reached)
    assert int(reached.sum()) >= int(hits(models, x, goal).sum()) + 5
    # Targets are not labels to leave: leaving them is what the same loss does untargeted.
    away = orb.attack_ensemble(models, x, goal, orb.L2(3.0), steps=15, loss=loss, direction=direction, step_size=step)
    assert int(hits(models, away.adversarial, goal).sum()) < int(reached.sum())


@pytest.mark.parametrize("preset", [None, "paper"])
@pytest.mark.parametrize("threat", [orb.Linf(0.5), orb.L2(3.0), orb.L1(12.0), orb.L0(18)], ids=lambda t: t.name)
def test_both_presets_reach_targets_in_every_norm(models, x, y, threat: orb.ThreatModel, preset) -> None:
    goal = (y + 2) % 4
    result = orb.attack_ensemble(models, x, goal, threat, steps=30, preset=preset, targeted=True)
    reached = hits(models, result.adversarial, goal)
    assert torch.equal(result.fooled, reached)
    assert int(reached.sum()) >= int(hits(models, x, goal).sum()) + 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_narrow_inputs_stay_narrow_feasible_and_nearly_as_vulnerable(models, x, y, threat, dtype: torch.dtype) -> None:
    narrow = {name: model.to(dtype) for name, model in models.items()}
    given = x.to(dtype)
    result = orb.attack_ensemble(narrow, given, y, threat, steps=15)
    assert result.delta.dtype == result.adversarial.dtype == dtype
    limit = float(threat.eps)
    assert bool((row_norm(result.delta.double(), threat.p) <= limit * (1 + 1e-6)).all())
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    assert torch.equal(result.fooled, ~hits(narrow, result.adversarial, y))
    torch.testing.assert_close(result.weights.double().sum(1), torch.ones(9).double(), rtol=0, atol=1e-2)
    wide = orb.attack_ensemble({n: m.double() for n, m in narrow.items()}, given.double(), y, threat, steps=15)
    assert abs(int(result.fooled.sum()) - int(wide.fooled.sum())) <= 3


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_stopped_rows_keep_the_iterate_that_fooled_them_where_the_last_is_asked_for(models, x, y, threat) -> None:
    def go(stop: bool) -> orb.AttackResult:
        return orb.attack_ensemble(
            models, x, y, threat, steps=12, keep="last", stop_when_fooled=stop, direction=orb.Sign(), history="full"
        )

    whole, stopped = go(False), go(True)
    assert whole.history.rows is not None
    ever = whole.history.rows.fooled.all(2).any(0)  # rows that some iterate fools as a whole
    assert torch.equal(stopped.fooled.all(1), ever)
    assert bool((stopped.fooled.all(1) >= whole.fooled.all(1)).all())
    assert torch.equal(stopped.delta[~ever], whole.delta[~ever])


def test_a_given_start_serves_the_first_restart_only(models, x, y) -> None:
    seen: list[Tensor] = []

    class Recording(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            seen.append(v.detach().clone())
            return models["a"](v)

    given = torch.full_like(x, 0.01)
    orb.attack_ensemble(Recording(), x, y, orb.Linf(0.5), steps=0, restarts=3, init=given, loss=losses.margin)
    starts = seen[-4:-1]  # after the passes that tell whether the model is random, before the one that judges
    torch.testing.assert_close(starts[0], (x + given).clamp(0, 1), rtol=0, atol=1e-12)
    for start in starts[1:]:
        assert float((start - starts[0]).abs().max()) > 0.05
    assert not torch.allclose(starts[1], starts[2])


def test_a_given_start_is_cut_with_the_batches_and_projected(models, x, y) -> None:
    given = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)

    def go(size: int | None) -> Tensor:
        return orb.attack_ensemble(models, x, y, orb.L2(0.5), steps=0, init=given, batch_size=size, keep="last").delta

    expected = orb.project_lp_box(given, 2, 0.5, -x, 1 - x)
    torch.testing.assert_close(go(None), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(go(4), expected, rtol=0, atol=1e-12)


def test_progress_is_drawn_on_the_terminal_only_on_request(models, x, y, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2)
    assert capsys.readouterr().out == ""
    shown = orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2, batch_size=5, progress=True)
    assert "100%" in capsys.readouterr().out
    torch.testing.assert_close(shown.delta, quiet.delta, rtol=0, atol=1e-9)


def test_a_mask_that_allows_nothing_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    nothing = orb.Linf(0.1, mask=torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask of the threat model must allow at least one coordinate"):
        orb.attack_ensemble([model], torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), nothing, steps=1)


def test_a_result_prints_as_one_line():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    result = orb.attack_ensemble([model], torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), orb.Linf(0.1), steps=1)
    assert repr(result).startswith("AttackResult(2 problems, 1 domains: ASR_all ") and "\n" not in repr(result)
