"""Processes that tests start and kill: forked from the test's own, so that none need load the libraries anew."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

KILLED = -9
"""How a process ended that was killed by SIGKILL."""


def ended(work: Callable[[], object]) -> int:
    """Do ``work`` in a forked process, and return how it ended: 0, 70 after an error, -N if killed by signal N."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
