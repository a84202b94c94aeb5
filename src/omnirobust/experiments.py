"""The paper's experiments as data, and the engine that measures them: ``paper`` and ``study`` under one name."""

from omnirobust import paper, study
from omnirobust.paper import *  # noqa: F403
from omnirobust.study import *  # noqa: F403
from omnirobust.study import Laboratory as Laboratory  # CellCache, as it was called before

__all__: list[str] = []
__all__ += paper.__all__
__all__ += study.__all__
