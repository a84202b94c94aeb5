#!/usr/bin/env bash
# safetensors 0.8.0 and torch 2.13.0: load_model refuses a file that holds both names of a tied weight, which
# load_state_dict(load_file(...)) takes, and which other writers than save_model make.
# Seen: RuntimeError "Unexpected key(s) in state_dict" although the model has both names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/tied.safetensors" <<'PYTHON'
import sys

from safetensors.torch import load_file, load_model, save_file
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


file = sys.argv[1]
save_file({name: value.clone() for name, value in Tied().state_dict().items()}, file)
Tied().load_state_dict(load_file(file))
print("load_state_dict(load_file(...)): loaded")
try:
    load_model(Tied(), file)
except RuntimeError as error:
    print("load_model:", " ".join(str(error).split()))
    assert "Unexpected key(s) in state_dict" in str(error)
else:
    raise SystemExit("load_model takes the file: the behaviour has changed")
PYTHON
echo "as described"
