"""Another name of ``omnirobust.domains.losses``."""

import sys

from omnirobust.domains import losses
from omnirobust.domains.losses import *  # noqa: F403

sys.modules[__name__] = losses
