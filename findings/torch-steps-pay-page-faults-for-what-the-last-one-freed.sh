#!/usr/bin/env bash
# torch 2.13.0 on a processor, Linux with glibc: the gradient of a LeNet-sized network for 200 images takes thousands of page
# faults a step, in every step, since glibc gives what a step has freed back to the system and gets it again for the next. Its
# threshold for that follows the largest block that it has seen freed (mallopt(3), M_MMAP_THRESHOLD), up to 32 MiB: freeing one
# block of nearly that size, which nobody ever wrote to, ends the faults, and with them a fifth or so of the processor time.
# Seen: 3,900 faults a step before, 0 to 80 after; 45 and 30 ms a step on one thread. The check is of the faults alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
env -u LD_PRELOAD -u MALLOC_TRIM_THRESHOLD_ -u MALLOC_MMAP_THRESHOLD_ "$folder/venv/bin/python" - <<'PYTHON'
import resource
import time

import torch
from torch import nn

torch.set_num_threads(1)
network = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.Flatten(),
    nn.Linear(1600, 10),
)
images = torch.rand(200, 1, 28, 28, requires_grad=True)


def a_step(steps=20):
    """Return page faults and milliseconds of processor time of a step, after five that warm up."""
    for _ in range(5):
        torch.autograd.grad(network(images).sum(), images)
    faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    for _ in range(steps):
        torch.autograd.grad(network(images).sum(), images)
    spent = time.process_time() - began
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / steps, 1000 * spent / steps


before = a_step()
torch.empty(2**25 - 2**16, dtype=torch.uint8)
after = a_step()
print("before: %.0f page faults and %.1f ms a step" % before)
print("after:  %.0f page faults and %.1f ms a step" % after)
assert before[0] > 1000 and after[0] < 500
PYTHON
echo "as described"
