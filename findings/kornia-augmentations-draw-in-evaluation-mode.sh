#!/usr/bin/env bash
# kornia 0.9.0: a random augmentation inside a network goes on drawing after .eval(), as dropout would not.
# Seen: two passes of an nn.Sequential of RandomGaussianNoise and a linear layer in evaluation mode differ; with Dropout in
# the place of the noise they are equal. A robust accuracy taken by one pass is then that of one draw.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 kornia==0.9.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import kornia.augmentation as K
import torch
from torch import nn

torch.manual_seed(0)
head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
images = torch.rand(4, 1, 8, 8)
for first, draws in ((K.RandomGaussianNoise(std=0.5, p=1.0), True), (nn.Dropout(0.5), False)):
    network = nn.Sequential(first, head).eval()
    with torch.no_grad():
        differ = not torch.equal(network(images), network(images))
    print(type(first).__name__, "in evaluation mode: two passes", "differ" if differ else "are equal")
    assert differ is draws
PYTHON
echo "as described"
