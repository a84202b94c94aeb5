"""Differentiable image transformations, deterministic or drawn anew for every image."""

from omnirobust.transforms.base import Amount as Amount
from omnirobust.transforms.base import Chain as Chain
from omnirobust.transforms.base import ImageTransform as ImageTransform
from omnirobust.transforms.blur import Blur as Blur
from omnirobust.transforms.blur import Jpeg as Jpeg
from omnirobust.transforms.colour import Brightness as Brightness
from omnirobust.transforms.colour import Gamma as Gamma
from omnirobust.transforms.colour import Identity as Identity
from omnirobust.transforms.colour import Noise as Noise
from omnirobust.transforms.geometry import CentralCrop as CentralCrop
from omnirobust.transforms.geometry import FlipHorizontal as FlipHorizontal
from omnirobust.transforms.geometry import FlipVertical as FlipVertical
from omnirobust.transforms.geometry import Rotate as Rotate
from omnirobust.transforms.geometry import Scale as Scale
from omnirobust.transforms.geometry import Translate as Translate
from omnirobust.transforms.names import NAMES as NAMES
from omnirobust.transforms.names import PAPER_DETERMINISTIC as PAPER_DETERMINISTIC
from omnirobust.transforms.names import PAPER_STOCHASTIC as PAPER_STOCHASTIC
from omnirobust.transforms.names import named as named
