"""Two processes of a Fabric train what one does, second derivatives included."""

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, fit
from omnirobust.training.batches import TensorBatches

from . import processes

NAMES = (
    "natural",
    "average",
    "minmax",
    "worst",
    "dpar",
    "universal",
    "carried",
    "carried_worst",
    "msd",
    "alternate",
    "ramp",
    "parts",
    "radii",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folders of what one process, this one, and two others trained."""
    folders = {count: tmp_path_factory.mktemp(f"by{count}") for count in (1, 2)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        processes.in_processes(folders[2], 2)
        processes.train(None, folders[1])
    torch.set_num_threads(threads)
    return folders


def load(folder: Path, kind: str, name: str) -> dict:
    return torch.load(folder / kind / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "tolerance"), [("step", 1e-6), ("epochs", 1e-9)])
def test_two_processes_are_one(trained: dict[int, Path], name: str, kind: str, tolerance: float) -> None:
    one, two = (load(trained[n], kind, name) for n in (1, 2))
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=0, atol=tolerance)
    if one["weights"] is not None:
        torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-6)
    for row, other in zip(one["history"], two["history"], strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    checkpoints = [torch.load(trained[n] / kind / name / "checkpoint.pt", weights_only=True) for n in (1, 2)]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    if name.startswith("carried"):
        kept = [checkpoint["attacker"] for checkpoint in checkpoints]
        assert kept[0]["deltas"].shape == kept[1]["deltas"].shape == (25, 2, 1, 4, 4)
        torch.testing.assert_close(kept[1]["deltas"], kept[0]["deltas"], rtol=0, atol=2**-11)
        assert torch.equal(kept[0]["marks"], kept[1]["marks"]) and bool((kept[0]["marks"] != 0).all())


def test_the_schemes_differ(trained: dict[int, Path]) -> None:
    states = [load(trained[2], "epochs", name)["state"]["3.weight"] for name in NAMES]
    for i, state in enumerate(states):
        assert all((state - other).abs().max() > 1e-4 for other in states[:i])
    assert load(trained[2], "epochs", "minmax")["weights"].shape == (25, 2)
    assert not (trained[2] / "another disk").exists()


@pytest.mark.parametrize(("size", "count"), [(8, 2), (7, 3), (1, 2), (2, 5)])
def test_shares_are_a_partition_and_their_factors_make_the_mean(size: int, count: int) -> None:
    x = torch.arange(float(size)).view(size, 1)
    (whole,) = TensorBatches(x, torch.arange(size), size, None).numbered(0)
    shares = [whole.share(rank, count) for rank in range(count)]
    counted = torch.cat([share.rows for share in shares if share.factor])
    assert torch.equal(counted, torch.arange(size))
    assert all(len(share.x) >= 1 and torch.equal(share.x.flatten().long(), share.rows) for share in shares)
    assert sum(float(share.x.mean()) * share.factor for share in shares) / count == pytest.approx(float(x.mean()))


def test_a_network_that_a_fabric_has_set_up_is_refused_in_a_sentence() -> None:
    x, y = torch.rand(8, 3), torch.zeros(8, dtype=torch.int64)
    ready = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"model must be the network itself, .*: hand over its .module"):
        fit(ready, (x, y), Scheme("natural"), epochs=1)


def trained_alone(fabric: Fabric | None, precision: str = "fp32") -> torch.Tensor:
    """Return the parameters of a small model trained with DPAR."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        x = torch.rand(12, 6)
    scheme = Scheme("minmax", (Linf(0.1), L2(0.3)), 2, dpar=0.1)
    fit(model, (x, torch.arange(12) % 3), scheme, epochs=2, batch_size=5, fabric=fabric, precision=precision)  # type: ignore[arg-type]
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_fabric_of_one_process_changes_nothing() -> None:
    assert torch.equal(trained_alone(Fabric(accelerator="cpu", devices=1)), trained_alone(None))


def test_a_fabric_brings_its_precision() -> None:
    mixed = trained_alone(Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"))
    torch.testing.assert_close(mixed, trained_alone(None, "bf16"), rtol=0, atol=1e-4)
    assert (mixed - trained_alone(None)).abs().max() > 1e-3


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="fabric must have precision 32-true or bf16-mixed, got 64-true"):
        trained_alone(Fabric(accelerator="cpu", devices=1, precision="64-true"))


def test_the_loggers_of_a_fabric_are_told() -> None:
    told = []

    class Mine:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            told.append((step, "loss" in metrics))

    trained_alone(Fabric(accelerator="cpu", devices=1, loggers=[Mine()]))  # type: ignore[list-item]
    assert told == [(1, True), (2, True)]
