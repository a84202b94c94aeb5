#!/usr/bin/env bash
# foolbox 3.3.4: L2FMNAttack, the fast minimum-norm attack under l2, never shortens a perturbation. Its projection multiplies
# by min(1, norms / norms), one, where the radius belongs above and the norm of the perturbation below. So it walks outwards
# by ever smaller steps, what it returns is seldom shorter than its first step, 1.0, and gamma, by which the radius shrinks
# and grows, changes nothing. Minimal l2 distances from it are far too large wherever images are closer than that.
# Seen: on a linear model whose boundary lies 0.1 away from each of 20 inputs it returns 0.99 to 1.00, bit by bit the
# same under gamma 0.05 and 0.5; DDNAttack returns 0.1 and LInfFMNAttack what is right under linf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 foolbox==3.3.4 numpy==2.4.6
GIT_PYTHON_REFRESH=quiet "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import eagerpy as ep
import foolbox
import torch

g = torch.Generator().manual_seed(0)
w = torch.randn(100, generator=g)
x = 0.3 + 0.4 * torch.rand(20, 100, generator=g)
x = x - ((x @ w - 0.5 * w.sum()) / w.norm() - 0.1).unsqueeze(1) * w / w.norm()  # 0.1 from the boundary, on the side of class 0
assert float(x.min()) > 0.1 and float(x.max()) < 0.9


class Linear(torch.nn.Module):
    def forward(self, v):
        value = (v - 0.5) @ w
        return torch.stack([value, torch.zeros_like(value)], 1)


model, y = foolbox.PyTorchModel(Linear().eval(), bounds=(0, 1), device="cpu"), torch.zeros(20, dtype=torch.long)


def sizes(attack, order):
    moved = attack.run(model, x, foolbox.criteria.Misclassification(y))
    assert bool((Linear()(moved).argmax(1) != y).all())
    return torch.linalg.vector_norm(moved - x, order, dim=1)


narrow, wide = (sizes(foolbox.attacks.L2FMNAttack(steps=500, gamma=gamma), 2) for gamma in (0.05, 0.5))
ddn = sizes(foolbox.attacks.DDNAttack(steps=500), 2)
linf = sizes(foolbox.attacks.LInfFMNAttack(steps=500), float("inf"))
print(f"the boundary is 0.1 away under l2; L2FMN {narrow.min():.4f} to {narrow.max():.4f}, DDN {ddn.min():.4f} to {ddn.max():.4f}")
exact = 0.1 * w.norm() / w.abs().sum()
print(f"under linf it is {exact:.5f} away; LInfFMN {linf.min():.5f} to {linf.max():.5f}")
far = ep.astensor(x + 3 * torch.randn(x.shape, generator=g))
kept = foolbox.attacks.L2FMNAttack().project(far, ep.astensor(x), ep.astensor(torch.full((20,), 0.01)))
print("projected onto the ball of radius 0.01:", float((kept.raw - x).norm(dim=1).min()), "away at least")
assert float(narrow.min()) > 0.9 and torch.equal(narrow, wide)
assert float(ddn.max()) < 0.11 and float(linf.max()) < 1.1 * float(exact)
assert float((kept.raw - x).norm(dim=1).min()) > 1
PYTHON
echo "as described"
