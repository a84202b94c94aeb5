"""Attack after attack, threat after threat, each on what still stands."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnirobust.attacks.masking import MASKED, GradientMaskingError, GradientMaskingWarning
from omnirobust.core.threat_models import ThreatModel
from omnirobust.evaluation.suite import STRONG, Attempt, EvaluationAttack, Problem, Run
from omnirobust.evaluation.survivors import Standing


@dataclass
class Walk:
    """The threats attacked so far, and what stands under each."""

    problem: Problem
    attacks: tuple[EvaluationAttack, ...]
    batch_size: int | None
    found: dict[str, Standing] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """What attacks tell while they run under one threat."""

    def runs_in_all(self, threats: Iterable[ThreatModel]) -> int:
        """Count the runs under all threats."""
        return sum(len(self._runs(threat)) for threat in threats)

    def attack(self, name: str, state: Standing, advance: Callable[[int], None]) -> None:
        """Run all attacks under one threat, each on what stands."""
        whole = int(state.right.sum())
        for other in self.found.values():
            state.borrow(other)
        self.found[name] = state
        self._note_stand_ins(name, state.threat)
        self.problem.masked.clear()
        tried: Counter[str] = Counter()
        for number, (label, run) in enumerate(self._runs(state.threat)):
            rows = state.rows()
            tried[label] += len(rows)
            masked = self._run(state, rows, label, run, advance)
            if number == 0 and masked and len(rows) == whole and len(masked) == len(rows.split(self._size(rows))):
                raise masked[0]  # not even the first attack saw a single input
            advance(len(state.right) - len(rows))
        self.notes += [f"{name}: {text}" for text in dict.fromkeys(self.told)]
        self.told.clear()
        self._note_masked(name, tried)
        self._note_unmoved(name, state)

    def apply(self, name: str, state: Standing, delta: Tensor) -> None:
        """Try one perturbation (*S) on all that stands."""
        self.found[name], rows = state, state.rows()
        if len(rows):
            state.note(rows, delta.expand(len(rows), *delta.shape), name)

    def exchange(self) -> None:
        """Let every example count under every threat that allows it."""
        for state in self.found.values():
            for other in self.found.values():
                state.borrow(other)

    def _run(
        self, state: Standing, rows: Tensor, label: str, run: Attempt, advance: Callable[[int], None]
    ) -> list[GradientMaskingError]:
        """Attack ``rows`` in batches; return what batches said that no gradient reaches."""
        masked = []
        for piece in rows.split(self._size(rows)) if len(rows) else ():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", GradientMaskingWarning)  # a note says it once
                    delta = run(piece)
                state.note(piece, delta, label)
            except GradientMaskingError as error:
                masked.append(error)
                self.problem.masked[label] += len(piece)
            advance(len(piece))
        return masked

    def _size(self, rows: Tensor) -> int:
        return self.batch_size or max(len(rows), 1)

    def _runs(self, threat: ThreatModel) -> list[Run]:
        classes = self.problem.rivals.shape[1] + 1
        fitting = [attack for attack in self.attacks if attack.fits(threat, classes)]
        chosen = fitting or [attack for attack in STRONG if attack.fits(threat, classes)]
        problem = replace(self.problem, threat=threat, tell=self.told.append)
        return [run for attack in chosen for run in attack.runs(problem)]

    def _note_stand_ins(self, name: str, threat: ThreatModel) -> None:
        classes = self.problem.rivals.shape[1] + 1
        missing = [attack.name for attack in self.attacks if not attack.fits(threat, classes)]
        if len(missing) == len(self.attacks):
            self.notes.append(f"{name}: {', '.join(missing)} does not exist here; the default attacks ran instead.")

    def _note_masked(self, name: str, tried: Counter[str]) -> None:
        """Tell of the attacks that began on too many inputs without a gradient, which may be due to their loss."""
        masked = {label: rows for label, rows in self.problem.masked.items() if rows >= max(MASKED * tried[label], 1)}
        if masked:
            said = ", ".join(f"{label} on {rows} of {tried[label]}" for label, rows in masked.items())
            self.notes.append(
                f"{name}: gradient masking: attacks began on inputs without any gradient, {said}; accuracy may be "
                "overstated (try a GradientAttack with losses.smooth_margin; AutoAttack's Square needs no gradient)."
            )
            warnings.warn(self.notes[-1], GradientMaskingWarning, stacklevel=4)

    def _note_unmoved(self, name: str, state: Standing) -> None:
        """Tell of inputs that stand because nothing had any effect: a model that hides its gradients looks so.

        Attacks that hand back what they do not fool, as AutoAttack does, say nothing of that; nor do the margins of a
        random model, which differ from draw to draw.
        """
        if self.problem.random or all(getattr(attack, "hands_back", False) for attack in self.attacks):
            return
        allowed = torch.as_tensor(state.threat.eps, device=state.right.device) > 0
        unmoved = int((state.right & allowed & (state.delta == 0).flatten(1).all(1)).sum())
        if unmoved:
            self.notes.append(
                f"{name}: on {unmoved} of {len(state.rows())} inputs that stand no attack lowered the margin at all; "
                "gradients may be masked there (AutoAttack's Square needs none)."
            )
