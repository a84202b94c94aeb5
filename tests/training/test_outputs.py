"""Models that return the wrong thing are told so at the first batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from omnirobust.training import Scheme, accuracy, fit

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Wrapped(nn.Module):
    """A linear model whose output is passed through ``wrap``."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 2), wrap
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor):
        return self.wrap(self.linear(x))


def test_an_object_with_logits_is_as_good_as_logits() -> None:
    plain, wrapped = Wrapped(lambda z: z), Wrapped(lambda z: SimpleNamespace(logits=z))
    for model in (plain, wrapped):
        fit(model, (X, Y), Scheme("natural"), epochs=10, batch_size=8)
    assert torch.equal(plain.linear.weight, wrapped.linear.weight)
    assert accuracy(wrapped, (X, Y)) == accuracy(plain, (X, Y)) > 0.8


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: z.softmax(1), "model returns probabilities: it must return logits"),
        (lambda z: z[:, :, None], r"model must return logits of shape \(8, C\) with C >= 2, .* got \(8, 2, 1\)"),
        (lambda z: z[:1], r"got \(1, 2\)"),
        (lambda z: [z.tolist()], "got list"),
    ],
)
def test_other_outputs_are_refused(wrap, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Wrapped(wrap), (X, Y), Scheme("natural"), epochs=1, batch_size=8)
