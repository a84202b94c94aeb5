"""When training ends, and with which parameters."""

from pathlib import Path

import pytest
import torch
from torch import nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, accuracy, attack_batch, fit
from omnirobust.training.stopping import best_epoch, reason_to_stop, score


def rows(*scores: float) -> list[dict[str, float]]:
    return [{"epoch": i + 1.0, "validation": 0.9, "robust": value} for i, value in enumerate(scores)]


def test_the_first_of_the_best_epochs_by_robust_accuracy() -> None:
    assert [score(row) for row in ({"robust": 0.2, "validation": 0.9}, {"validation": 0.9}, {"loss": 1.0})] == [
        0.2, 0.9, -1.0
    ]  # fmt: skip
    assert best_epoch(rows(0.1, 0.5, 0.3, 0.5)) == 2
    assert best_epoch([]) == 0


def test_ties_of_robust_accuracy_go_to_clean_accuracy_then_to_the_first() -> None:
    def best(*pairs: tuple[float, float]) -> int:
        return best_epoch([{"robust": robust, "validation": clean} for robust, clean in pairs])

    assert best((0.0, 0.1), (0.0, 0.8), (0.0, 0.8), (0.0, 0.3)) == 2
    assert best((0.2, 0.1), (0.1, 0.9), (0.2, 0.4)) == 3
    assert best((0.0, 0.9), (0.1, 0.1)) == 2
    assert best_epoch([{"validation": 0.5}, {"validation": 0.7}, {"validation": 0.7}]) == 2


def test_a_tie_that_clean_accuracy_decides_counts_as_better_for_patience() -> None:
    rising = [{"robust": 0.0, "validation": clean} for clean in (0.1, 0.2, 0.3, 0.4)]
    assert reason_to_stop(rising, 9, None, 2) is None
    assert reason_to_stop([*rising, rising[0], rising[3]], 9, None, 2) == "patience"


@pytest.mark.parametrize(
    ("scores", "settings", "reason"),
    [
        ((), (3, None, None), None),
        ((0.1, 0.2), (3, None, None), None),
        ((0.1, 0.2, 0.1), (3, None, None), "epochs"),
        ((0.1, 0.6), (3, 0.6, None), "target"),
        ((0.6, 0.1), (3, 0.6, None), None),
        ((0.5, 0.4), (9, None, 2), None),
        ((0.5, 0.4, 0.5), (9, None, 2), "patience"),
        ((0.5, 0.4, 0.6), (9, None, 2), None),
    ],
)
def test_reasons_to_stop(scores, settings, reason) -> None:
    assert reason_to_stop(rows(*scores), *settings) == reason


def problem(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(count)
    x = torch.rand(count, 5, generator=g)
    return x, (x[:, 0] + 0.3 * torch.randn(count, generator=g) > 0.5).long()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 2))


SCHEME = Scheme("minmax", (Linf(0.1), L2(0.1)), 4)
SETTINGS = {"batch_size": 10, "optimizer": lambda p: torch.optim.SGD(p, lr=2.0), "validation": problem(60)}


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_robust_accuracy_is_that_of_the_worst_of_the_schemes_attacks() -> None:
    model = network()
    (row,) = fit(model, problem(40), SCHEME, epochs=1, **SETTINGS).history
    x, y = problem(60)
    assert row["validation"] == accuracy(model, (x, y))
    deltas, _ = attack_batch(model, x, y, Scheme("average", SCHEME.threats, 4))
    right = torch.stack([model(x + delta).argmax(1) == y for delta in deltas]).all(0).float().mean().item()
    assert row["robust"] == pytest.approx(right, abs=0.05)  # other random starts
    assert row["robust"] <= row["validation"]


def test_patience_ends_and_best_parameters_come_back(tmp_path: Path) -> None:
    model = network()
    result = fit(model, problem(40), SCHEME, epochs=60, patience=3, keep="best", out=tmp_path, **SETTINGS)
    assert result.stopped == "patience"
    assert result.epochs == result.best + 3
    values = [row["robust"] for row in result.history]
    assert values.index(max(values)) + 1 == result.best
    until = network()
    fit(until, problem(40), SCHEME, epochs=result.best, **SETTINGS)
    assert torch.equal(parameters(model), parameters(until))
    again = network()
    rerun = fit(again, problem(40), SCHEME, epochs=60, patience=3, keep="best", out=tmp_path, **SETTINGS)
    assert (rerun.stopped, rerun.best, rerun.history) == ("patience", result.best, result.history)
    assert torch.equal(parameters(again), parameters(model))
    last = network()
    assert fit(last, problem(40), SCHEME, epochs=60, patience=3, **SETTINGS).best == result.best
    assert not torch.equal(parameters(last), parameters(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0, "validation": problem(5)}, "patience must be >= 1, got 0"),
        ({"patience": 2}, "validation must be given with patience, got None with patience 2"),
        ({"keep": "best"}, "validation must be given with keep, got None with keep best"),
        ({"keep": "first", "validation": problem(5)}, "keep must be one of last, best, got 'first'"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(network(), problem(5), SCHEME, epochs=1, **settings)
