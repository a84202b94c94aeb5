"""Another name of ``omnirobust.jobs.folder``."""

import sys

from omnirobust.jobs import folder
from omnirobust.jobs.folder import *  # noqa: F403

sys.modules[__name__] = folder
