"""What may be chosen by a word: each set of words once, for annotations, checks and the command line alike."""

from __future__ import annotations

from typing import Literal, TypeAlias

Keep: TypeAlias = Literal["last", "best"]
Precision: TypeAlias = Literal["fp32", "bf16"]
Start: TypeAlias = Literal["zero", "normal"]
