"""``omnirobust zoo``: the paper's models, trained on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from omnirobust.cli.arguments import DEVICE, chosen_device
from omnirobust.cli.console import progress_bars, say
from omnirobust.core.choices import RecipeName

app = typer.Typer(help="Train and list the paper's models.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the models that can be trained, and what those that were trained reach."""
    from rich.console import Console
    from rich.table import Table

    from omnirobust import zoo

    table = Table(title="Models of the zoo")
    for column in ("name", "epochs", "clean %", "FGSM linf 0.2 %", "state"):
        table.add_column(column)
    trained = zoo.names()
    for name in sorted({*zoo.RECIPES, *trained}):
        if name not in trained:
            table.add_row(name, "", "", "", "not trained", style="dim")
            continue
        card = zoo.card(name)
        fgsm = "" if card.fgsm_accuracy is None else f"{100 * card.fgsm_accuracy:.2f}"
        table.add_row(
            name,
            str(card.epochs),
            f"{100 * card.clean_accuracy:.2f}",
            fgsm,
            _state(name) if card.finished else "partly trained",
        )
    Console().print(table)
    say("Train one, or go on with it: omnirobust zoo train NAME")


def _state(name: str) -> str:
    from omnirobust.zoo.checkpoints import is_packaged

    return "comes with the package" if is_packaged(name) else "trained here"


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Data and letter, such as mnist/a or cifar10/c.")],
    seed: Annotated[int | None, typer.Option(help="Seed of weights, shuffling and dropout.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(help="The paper's; ours, fast, the default where there is one; or short, an hour for E, F, H."),
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    anew: Annotated[bool, typer.Option("--anew", help="Replace what was trained before.")] = False,
) -> None:
    """Train a model by its recipe; killed and called again, it goes on where it was up to five minutes before."""
    from omnirobust import zoo

    chosen_device(device)
    with progress_bars() as progress:
        card = zoo.train(
            name,
            seed,
            epochs,
            recipe=recipe,
            resume=not anew,
            device=device,
            progress=lambda epoch, total, _: progress(f"train {name}", epoch, total),
        )
    fgsm = "" if card.fgsm_accuracy is None else f", under FGSM (linf 0.2) {100 * card.fgsm_accuracy:.2f} %"
    say(f"{card.name}: {card.epochs} epochs, test accuracy {100 * card.clean_accuracy:.2f} %{fgsm}")
    say(f"Weights and card: {zoo.cache_dir() / 'zoo'}")
