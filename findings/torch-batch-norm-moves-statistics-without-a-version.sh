#!/usr/bin/env bash
# torch 2.13.0 on a processor: batch_norm in training mode writes its running statistics without raising their version
# counter, which every in-place operation of Python raises. Code that looks at _version to learn whether a buffer was written
# to (to restore it, say) sees nothing.
# Seen: running_mean differs after one forward pass in training mode, its _version is what it was; add_ raises it by one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn

layer = nn.BatchNorm2d(3).train()
mean = layer.running_mean
before, version = mean.clone(), mean._version
with torch.no_grad():
    layer(torch.rand(8, 3, 4, 4) + 1)
moved, raised = not torch.equal(mean, before), mean._version - version
print("after a pass: moved", moved, "- version raised by", raised)
assert moved and raised == 0
version = mean._version
mean.add_(1)
print("after add_: version raised by", mean._version - version)
assert mean._version - version == 1
PYTHON
echo "as described"
