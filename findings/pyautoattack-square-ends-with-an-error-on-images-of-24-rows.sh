#!/usr/bin/env bash
# pyautoattack 0.2.0, standard version under l1 or l2, on images of 24 x 24 pixels: Square ends with a RuntimeError about
# sizes of tensors, 28 x 28 and 32 x 32 pass. Its first step divides the rows into squares of a fifth of them, 4 here, leaves
# out half of the remainder, 2 rows, and then lays 24 // 4 = 6 squares from there, so that the last one lies half outside.
# Seen: RuntimeError for 12, 14, 18, 19 and 24 rows of the square images from 10 to 40; under linf for none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pyautoattack==0.2.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from pyautoattack import AutoAttack


def ends_with_an_error(norm, side):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, 3)).eval()
    images = torch.rand(2, 1, side, side)
    attack = AutoAttack(model, norm=norm, eps=1e-3, device="cpu")
    attack.attacks_to_run = ["square"]
    attack.square.n_queries = 2
    try:
        attack.run_standard_evaluation(images, model(images).argmax(1))
    except RuntimeError:
        return True
    return False


found = {norm: [side for side in range(10, 41) if ends_with_an_error(norm, side)] for norm in ("L1", "L2", "Linf")}
print(found)
assert found == {"L1": [12, 14, 18, 19, 24], "L2": [12, 14, 18, 19, 24], "Linf": []}
PYTHON
echo "as described"
