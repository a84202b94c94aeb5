"""Another name of ``omnirobust.attacks.universal``."""

import sys

from omnirobust.attacks import universal
from omnirobust.attacks.universal import *  # noqa: F403

sys.modules[__name__] = universal
