"""The command line: the only place that prints, and the only one where strings become objects."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: see ``cli.app``. Interrupted while libraries load, it ends as quietly as later."""
    try:
        from omnirobust.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted before anything began.\n")
        sys.exit(130)
    run(argv)
