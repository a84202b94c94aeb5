"""Another name of ``omnirobust.zoo.data``."""

import sys

from omnirobust.zoo import data
from omnirobust.zoo.data import *  # noqa: F403

sys.modules[__name__] = data
