#!/usr/bin/env bash
# onnx2torch 1.5.15: the name of a node in an ONNX file becomes Python code of the network that is made of it, and is run.
# Seen: a file of one Relu, whose node's name ends a string and calls print, prints at the first call of the network;
# onnx and onnxruntime take the name for a name. torch.fx writes names of modules into the code it compiles, as
# getattr(self, "NAME"), and onnx2torch hands the file's names on. So a file of a stranger is to be renamed before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps onnx2torch==1.5.15
"$folder/venv/bin/python" - <<'PYTHON'
import builtins
import sys
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch

for name in ("torchvision", "torchvision.ops"):  # of which it takes two operations that are not used here
    sys.modules[name] = ModuleType(name)
sys.modules["torchvision.ops"].roi_align = None
import onnx2torch

ran = []
builtins.note = ran.append
ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
node = onnx.helper.make_node("Relu", ["x"], ["y"], name='no") if note("ran") else getattr(self, "no')
graph = onnx.helper.make_graph([node], "graph", ports[:1], ports[1:])
model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 17)])
onnx.checker.check_model(model)
x = np.array([-1, 1], np.float32)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print("onnxruntime says", session.run(None, {"x": x})[0])
assert not ran
try:
    onnx2torch.convert(model).eval()(torch.from_numpy(x))
except AttributeError as error:
    print("onnx2torch:", error)
print("the code in the name of the node was run" if ran else "the name is a name")
assert ran == ["ran"]
PYTHON
echo "as described"
