"""Another name of ``omnirobust.jobs.report``."""

import sys

from omnirobust.jobs import report
from omnirobust.jobs.report import *  # noqa: F403

sys.modules[__name__] = report
