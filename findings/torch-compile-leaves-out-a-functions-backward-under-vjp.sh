#!/usr/bin/env bash
# torch 2.13.0 (CPU wheel): torch.compile of a function that calls torch.func.vjp differentiates through the forward pass of a
# torch.autograd.Function and leaves out the backward pass that it brings along, without an error or a warning. A straight-through
# rounding, whose own backward pass hands the gradient on, so has the gradient 0 of the rounding. Compiled torch.autograd.grad of the
# same Function, and torch.func.vjp that is not compiled, call its backward pass. The compiler's back end plays no part. Who compiles
# an attack on a quantised or otherwise straight-through network by func.vjp attacks with zero gradients.
# Seen: [1, 1, 1] uncompiled, [0, 0, 0] compiled by "eager" and by "aot_eager"; by autograd.grad [1, 1, 1] both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/straight.py" <<'PYTHON'
import torch


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def by_vjp(x):
    value, pull = torch.func.vjp(Straight.apply, x)
    return pull(torch.ones_like(value))[0]


def by_grad(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(Straight.apply(x).sum(), x)[0]


x = torch.tensor([0.2, 0.7, 1.4])
print("torch", torch.__version__)
for backend in ("eager", "aot_eager"):
    torch.compiler.reset()
    found = {name: (f(x), torch.compile(f, backend=backend)(x)) for name, f in (("vjp", by_vjp), ("grad", by_grad))}
    for name, (plain, compiled) in found.items():
        print(backend, name, "uncompiled", plain.tolist(), "compiled", compiled.tolist())
    assert all(torch.equal(plain, torch.ones(3)) for plain, _ in found.values())
    assert torch.equal(found["vjp"][1], torch.zeros(3)) and torch.equal(found["grad"][1], torch.ones(3))
PYTHON
"$folder/venv/bin/python" "$folder/straight.py"
echo "as described"
