"""Another name of ``omnirobust.attacks.adapters``."""

import sys

from omnirobust.attacks import adapters
from omnirobust.attacks.adapters import *  # noqa: F403

sys.modules[__name__] = adapters
