"""What the history of a run says of the iterate that it would have returned at any time."""

import torch

import omnirobust as orb
from omnirobust.history import HistoryRows


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
