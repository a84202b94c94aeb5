"""What the history of a run says of the iterate that it would have returned at any time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.core.choices import Keep
from omnirobust.core.history import Active, BestIterate, HistoryRows, Trace
from omnirobust.core.types import Evaluation


def test_the_best_iterate_so_far_is_what_a_run_of_so_many_steps_returns(models, x, y) -> None:
    """Runs of 0 to 5 steps take the same steps as far as they go, if the direction keeps no plan of its own."""
    settings = {"direction": orb.Sign(), "step_size": 0.1, "keep": "best"}
    whole = orb.attack_ensemble(models, x, y, orb.Linf(0.15), steps=5, history="full", **settings).history.rows
    assert whole is not None
    found = whole.best_fooled()
    for steps in range(6):
        part = orb.attack_ensemble(models, x, y, orb.Linf(0.15), steps=steps, **settings)
        assert torch.equal(found[steps], part.fooled)
    assert torch.equal(found.all(2), whole.best)


def test_more_fooled_domains_come_before_lower_losses() -> None:
    losses = torch.tensor([[[1.0, 1.0]], [[0.2, 0.2]], [[5.0, 5.0]], [[0.1, 9.0]]])
    fooled = torch.tensor([[[False, True]], [[True, False]], [[True, True]], [[True, False]]])
    rows = HistoryRows(losses, losses, fooled, fooled.all(2))
    assert rows.best_fooled()[:, 0].tolist() == [[False, True], [True, False], [True, True], [True, True]]


def runs(B: int, K: int, T: int, seed: int) -> list[tuple[Tensor, Tensor, Evaluation]]:
    """Return T + 1 made-up iterates: perturbations (B, 2), weights (B, K), evaluations."""
    g = torch.Generator().manual_seed(seed)
    draws = [[torch.rand(B, n, generator=g) for n in (2, K, K, K)] for _ in range(T + 1)]
    return [(delta, w, Evaluation(losses, hits < 0.4)) for delta, w, losses, hits in draws]


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_is_what_a_list_of_all_iterates_says(keep: Keep, stop: bool, seed: int) -> None:
    """Whatever leaves the batch: kept iterates and histories are read off the whole list, row by row."""
    B, K, T = 9, 2, 12
    iterates = runs(B, K, T, seed)
    delta, w, e = iterates[0]
    active, best, trace = Active(e, stop), BestIterate(keep, delta, w, e), Trace(T, w, e)
    for t, (delta, w, e) in enumerate(iterates[1:], start=1):
        left = active.leave()
        if left is not None and len(left) == 0:
            trace.repeat(t, T + 1)
            break
        assert e.fooled is not None
        rows = active.rows
        seen = Evaluation(e.losses[rows], e.fooled[rows])
        best.offer(t, active, delta[rows], w[rows], seen)
        trace.note(t, active, w[rows], seen, best)
        active.finish(seen)
    history = trace.means(full=True).rows
    assert history is not None and history.fooled is not None and best.fooled is not None
    for row in range(B):
        hits = [[bool(v) for v in e.fooled[row]] for _, _, e in iterates if e.fooled is not None]
        end = next((t for t in range(T + 1) if all(hits[t])), T) if stop else T
        worst = [float(e.losses[row].max()) for _, _, e in iterates]
        order = sorted(range(end + 1), key=lambda t: (-sum(hits[t]), worst[t], t))
        kept = order[0] if keep == "best" else end
        assert int(best.step[row]) == kept
        assert torch.equal(best.delta[row], iterates[kept][0][row])
        assert torch.equal(best.losses[row], iterates[kept][2].losses[row])
        for t in range(T + 1):
            shown = min(t, end)
            assert torch.equal(history.losses[t, row], iterates[shown][2].losses[row])
            assert torch.equal(history.weights[t, row], iterates[shown][1][row])
            assert history.fooled[t, row].tolist() == hits[shown]


def test_a_batch_shrinks_to_few_sizes_and_keeps_what_is_left() -> None:
    """Problems that are done leave in bulk; those that are not never do."""
    fooled = torch.zeros(100, 1, dtype=torch.bool)
    active, sizes = Active(Evaluation(torch.zeros(100, 1), fooled), True), set()
    for done in range(100):
        now = torch.zeros(len(active.rows), 1, dtype=torch.bool)
        now[active.rows == done] = True
        active.finish(Evaluation(torch.zeros(len(active.rows), 1), now))
        left = active.leave()
        sizes.add(len(active.rows))
        if done < 99:
            assert set(range(done + 1, 100)) <= set(active.rows.tolist())
        else:
            assert left is not None and len(left) == 0
    assert len(sizes) <= 18
