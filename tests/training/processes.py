"""Train small models by several schemes and write their parameters: alone, or as processes of a Fabric."""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.core.weights import ProjectedAscent
from omnirobust.training import Scheme, fit

BOTH = (Linf(0.15), L2(0.6))
RULE = ProjectedAscent(0.2, 1.0)
SCHEMES = {
    "natural": Scheme("natural"),
    "average": Scheme("average", BOTH, 3),
    "minmax": Scheme("minmax", BOTH, 3, rule=RULE, persist="example"),
    "worst": Scheme("worst", BOTH, 3, adversarial_ratio=1.0),
    "dpar": Scheme("minmax", BOTH, 3, rule=RULE, dpar=0.1),
    "universal": Scheme("universal", BOTH[:1], 1),
    "carried": Scheme("minmax", BOTH, 3, rule=RULE, preset="paper"),
    "carried_worst": Scheme("worst", BOTH, 3, persist="all"),
    "msd": Scheme("msd", BOTH, 3),
    "alternate": Scheme("alternate", BOTH, 3),
    "ramp": Scheme("ramp", BOTH, 3),
    "parts": Scheme("minmax", (Linf(0.1), L2(0.4)), 3, rule=RULE),
    "radii": Scheme("minmax", (Linf(torch.linspace(0.01, 0.3, 25)), BOTH[1]), 3, rule=RULE),
}
IN_PARTS = "parts"
"""What several processes train in parts of one example, of which they have ever other numbers."""


def problem(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 25 examples: three batches of 8, and one of a single example, which leaves a process without any."""
    g = torch.Generator().manual_seed(0)
    return torch.rand(25, 1, 4, 4, generator=g).to(dtype), torch.arange(25) % 3


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)


def in_processes(out: Path, processes: int) -> None:
    """Train in processes that are forked from this one, which have all libraries loaded."""
    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork")
    fabric.launch(train, out)


def train(fabric: Fabric | None, out: Path) -> None:
    for name, scheme in SCHEMES.items():
        # one step on the whole set: the parameters tell the gradient; then two epochs, whose last batch is uneven
        for kind, dtype, batch_size, epochs in (("step", torch.float32, 25, 1), ("epochs", torch.float64, 8, 2)):
            data, first = problem(dtype), fabric is None or fabric.global_rank == 0
            for reached in range(1, epochs + 1) if fabric else [epochs]:  # interrupted after each epoch, or not at all
                model = network(dtype)
                result = fit(
                    model, data, scheme, epochs=reached, batch_size=batch_size, validation=data, fabric=fabric,
                    keep="best", optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
                    memory=1 if fabric and name == IN_PARTS else None,
                    out=out / kind / name if first else out / "another disk",
                )  # fmt: skip
            rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
            found = {"state": model.state_dict(), "weights": result.weights, "history": rows}
            if first:
                torch.save(found, out / kind / f"{name}.pt")
