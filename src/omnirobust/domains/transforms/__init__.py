"""Differentiable image transformations, deterministic or drawn anew for every image."""

from omnirobust.domains.transforms.base import Amount as Amount
from omnirobust.domains.transforms.base import Chain as Chain
from omnirobust.domains.transforms.base import ImageTransform as ImageTransform
from omnirobust.domains.transforms.blur import Blur as Blur
from omnirobust.domains.transforms.blur import Jpeg as Jpeg
from omnirobust.domains.transforms.colour import Brightness as Brightness
from omnirobust.domains.transforms.colour import Gamma as Gamma
from omnirobust.domains.transforms.colour import Identity as Identity
from omnirobust.domains.transforms.colour import Noise as Noise
from omnirobust.domains.transforms.geometry import CentralCrop as CentralCrop
from omnirobust.domains.transforms.geometry import FlipHorizontal as FlipHorizontal
from omnirobust.domains.transforms.geometry import FlipVertical as FlipVertical
from omnirobust.domains.transforms.geometry import Rotate as Rotate
from omnirobust.domains.transforms.geometry import Scale as Scale
from omnirobust.domains.transforms.geometry import Translate as Translate
from omnirobust.domains.transforms.names import NAMES as NAMES
from omnirobust.domains.transforms.names import PAPER_DETERMINISTIC as PAPER_DETERMINISTIC
from omnirobust.domains.transforms.names import PAPER_STOCHASTIC as PAPER_STOCHASTIC
from omnirobust.domains.transforms.names import named as named
from omnirobust.domains.transforms.warp import Warp as Warp
