"""Draw ``transforms.png``: one image under every transformation, with fixed and with drawn amounts."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from omnirobust.domains.transforms import named
from omnirobust.zoo import data

FIXED = "ori flh flv bri:0.1 gam:1.3 crop:0.8 rot:30 shift:4 scale:0.8 noise:0.05 blur:1 jpeg:30"
DRAWN = (
    "ori flh:p=0.5 flv:p=0.5 bri:-0.3..0.3 gam:0.5..2 crop:0.6..1 rot:-30..30 shift:-6..6 scale:0.7..1.3 "
    "noise:0..0.2 blur:0..2 jpeg:5..90"
)

image = data.load("cifar10", "test", limit=1, start=13).x
generator = torch.Generator().manual_seed(3)
figure, grid = plt.subplots(2, 12, figsize=(12, 2.5))
for row, texts in zip(grid, (FIXED, DRAWN), strict=True):
    for axis, text in zip(row, texts.split(), strict=True):
        axis.imshow(named(text)[1](image, generator)[0].clamp(0, 1).permute(1, 2, 0), interpolation="nearest")
        axis.set_title(text, fontsize=7.5)
        axis.axis("off")
figure.subplots_adjust(0.005, 0, 0.995, 0.9, 0.06, 0.15)
figure.savefig(Path(__file__).with_name("transforms.png"), dpi=110)
