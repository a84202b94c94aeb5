#!/usr/bin/env bash
# pyautoattack 0.2.0, version="rand", on a network that errs on one pass of ten whatever the image: it reports about 73 %
# robust accuracy where every image, attacked or not, is classified right on 90 % of the passes.
# Seen: robust accuracy 73.00 %; over 200 passes the returned images are right on 90.1 %. An image is given up as soon as
# one pass errs: one before the attacks, after which it is never attacked, and one after each of the two attacks. So what
# is reported lies near 0.9^3, below the mean accuracy, and depends on how many attacks there are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pyautoattack==0.2.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import torch
from pyautoattack import AutoAttack

CLASSES = 4


class Coin(torch.nn.Module):
    def forward(self, x):
        logits = -torch.arange(float(CLASSES)).expand(len(x), CLASSES) + 0 * x.flatten(1).mean(1, keepdim=True)
        errs = torch.rand(len(x), 1) < 0.1
        return torch.where(errs, logits.roll(1, 1), logits)


said = []
log = logging.getLogger("auto-attack")
log.setLevel(logging.DEBUG)
log.addHandler(type("Keep", (logging.Handler,), {"emit": lambda self, record: said.append(record.getMessage())})())

torch.manual_seed(0)
network, images, labels = Coin(), torch.rand(500, 1, 4, 4), torch.zeros(500, dtype=torch.long)
attack = AutoAttack(network, norm="Linf", eps=0.001, version="rand", device="cpu", seed=0)
found, _ = attack.run_standard_evaluation(images, labels, batch_size=500)
reported = float([line for line in said if line.startswith("robust accuracy:")][-1].split()[-1].rstrip("%"))
with torch.no_grad():
    right = torch.stack([network(found).argmax(1) == labels for _ in range(200)])
true = 100 * float(right.float().mean())
print(f"reported: {reported:.2f} %; right on {true:.1f} % of 200 passes over the images that it returns")
assert abs(true - 90) < 1 and 68 < reported < 80
PYTHON
echo "as described"
