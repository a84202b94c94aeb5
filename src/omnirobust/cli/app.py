"""Entry point: commands, and how errors and interruptions are told."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from omnirobust.cli import attack, evaluate, jobs, train, zoo
from omnirobust.cli.arguments import expand_lists
from omnirobust.cli.console import INTERRUPTED, interruptions, one_sentence, outlets, tell_error

LISTS = ("--model", "--models", "--threat", "--transfer", "--transforms", "--only")
"""Options that take several values, with or without repeating the option."""

app = typer.Typer(
    name="omnirobust",
    help="Min-max robustness over many domains at once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the plain form of click never cuts the name of an option, and rich takes its time to load
)
app.add_typer(attack.app, name="attack")
app.add_typer(zoo.app, name="zoo")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("demo")(jobs.demo)
app.command("report")(jobs.report)
app.command("reproduce")(jobs.reproduce)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"omnirobust {version('omnirobust')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@cache
def commands() -> Any:
    """Return the tree of all commands; built once, since reading all their options takes a tenth of a second."""
    return get_command(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The code is 0 if all is well, 2 on bad input, 3 if another process of the run stopped, 130 when interrupted. A
    closed pipe ends nothing.
    """
    with outlets(), interruptions() as interrupted:
        warnings.filterwarnings("ignore", "(.*: g|G)radient masking")  # the notes below the table say it
        try:
            given = expand_lists(sys.argv[1:] if argv is None else argv, LISTS)
            code = commands()(given, standalone_mode=False)
        except (typer.Abort, KeyboardInterrupt):
            code = 130
        except Exception as error:
            sentence = "" if interrupted else one_sentence(error)
            if sentence is None:
                raise
            if sentence:  # empty when a command without arguments has shown its help
                tell_error(sentence)
            code = 130 if interrupted else getattr(error, "exits", 2)
        if code == 130:  # typer returns it when it has caught the interruption itself
            tell_error(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)
