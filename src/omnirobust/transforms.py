"""Another name of ``omnirobust.domains.transforms``."""

import sys

from omnirobust.domains import transforms
from omnirobust.domains.transforms import *  # noqa: F403

sys.modules[__name__] = transforms
