"""The command line: the only place that prints, and the only one where strings become objects."""

from omnirobust.cli.main import main as main
