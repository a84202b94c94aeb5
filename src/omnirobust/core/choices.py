"""What may be chosen by a word: each set of words once, for annotations, checks and the command line alike.

It imports nothing: the command line shows its help without waiting for torch.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Attacks: TypeAlias = Literal["default", "autoattack"]
Clip: TypeAlias = Literal["image", "intersection"]
GroupBy: TypeAlias = Literal["random", "class"]
Keep: TypeAlias = Literal["last", "best"]
Labels: TypeAlias = Literal["true", "predicted"]
Norm: TypeAlias = Literal["linf", "l2", "l1", "l0"]
Optimizer: TypeAlias = Literal["adam", "sgd"]
Persist: TypeAlias = Literal["none", "example", "all"]
Precision: TypeAlias = Literal["fp32", "bf16"]
Preset: TypeAlias = Literal["paper", "transfer"]
RecipeName: TypeAlias = Literal["paper", "fast", "short"]
SchemeKind: TypeAlias = Literal[
    "natural", "single", "average", "minmax", "worst", "universal", "msd", "alternate", "ramp"
]
Start: TypeAlias = Literal["zero", "normal"]
TrainingPreset: TypeAlias = Literal["paper"]
TrainingStart: TypeAlias = Literal["random", "zero"]
Unit: TypeAlias = Literal["value", "pixel"]
