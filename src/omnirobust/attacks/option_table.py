"""The options that all attacks share, said once.

A field of ``AttackOptions`` is all that it takes to add an option: the recipes' signatures and docstrings, jobs, the
command line, the record of a run and the documentation take its name, type, default and text from there.

Nothing here imports torch, so that the command line can show its help without.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_type_hints

from omnirobust.core.choices import Keep, Precision, Preset, Start

if TYPE_CHECKING:
    from torch import Tensor

    from omnirobust._progress import ProgressHook
    from omnirobust.attacks.results import BatchStore
    from omnirobust.core.directions import Direction
    from omnirobust.core.types import WeightRule
    from omnirobust.domains.losses import Loss


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beside its name and type.

    Attributes:
        default: its value where it is not given.
        text: what it means; the command line shows the first sentence.
        least: the smallest whole number that it may be, for options that count.
        record: when the record of a run says it: "always", "changed" (where it is not the default, so that a new
            option leaves the records of earlier runs as they are) or "never" (no result hangs on it, or the resolved
            settings say it).
        settable: whether a job and the command line have it; the others belong to a single call.
    """

    default: Any
    text: str
    least: int | None = None
    record: Literal["always", "changed", "never"] = "changed"
    settable: bool = True


def _of_preset(text: str) -> Option:
    """Return an option that takes the place of what the preset says: the settings record it."""
    return Option(None, text, record="never")


def _of_call(default: Any, text: str, least: int | None = None) -> Option:
    """Return an option of a single call, on which no result hangs."""
    return Option(default, text, least, record="never", settable=False)


class AttackOptions(TypedDict, total=False):
    """The options that all attacks share."""

    rule: Annotated[
        WeightRule | None,
        _of_preset("how domain weights answer the losses, instead of the preset's. ``Uniform()`` is the average."),
    ]
    steps: Annotated[int, Option(50, "T, the steps of Algorithm 1, >= 0.", least=0, record="always")]
    step_size: Annotated[float | None, _of_preset("alpha, instead of the preset's; the direction says its units.")]
    direction: Annotated[Direction | None, _of_preset("how delta moves, instead of the preset's.")]
    loss: Annotated[Loss | None, _of_preset("per-example attack loss, low = fooled, instead of the preset's.")]
    preset: Annotated[
        Preset | None,
        _of_preset(
            '"paper" for the paper\'s settings of the norm; "transfer", under linf and l2, for models that are not '
            "attacked; None for the tuned default. All yield to arguments."
        ),
    ]
    targeted: Annotated[
        bool,
        Option(False, "whether ``y`` are classes to reach rather than to leave.", record="always", settable=False),
    ]
    true_labels: Annotated[
        Tensor | None,
        _of_call(
            None,
            "what the inputs are, (B,) int64, where ``y`` says something else: classes to reach, or predictions. They "
            "do not touch the attack: ``.accuracy`` counts against them. Without them it counts against ``y``, in a "
            "targeted attack against what each model says of the clean inputs.",
        ),
    ]
    keep: Annotated[
        Keep | None,
        _of_preset(
            '"best" (row by row, the iterate that fools most domains, ties by the lowest worst loss) or "last". Not '
            'given: "best", or "last" with a preset.'
        ),
    ]
    stop_when_fooled: Annotated[
        bool,
        Option(
            False,
            "drop inputs that fool every domain from the batch, and from later restarts. It is faster, with the same "
            'success up to rounding where keep="best". Their result is the iterate that did it, so with keep="last" '
            "success is at least that of the last iterate. Under random transformations, where one draw may be luck, "
            "inputs are dropped between restarts only.",
            record="always",
        ),
    ]
    restarts: Annotated[
        int,
        Option(
            1,
            "independent runs, >= 1; each input keeps its best. The first starts as the settings say, the others from "
            "noise.",
            least=1,
            record="always",
        ),
    ]
    samples: Annotated[
        int, Option(1, "draws a step of each domain that is random; its loss is their mean.", least=1, record="always")
    ]
    draws: Annotated[
        int | None,
        Option(
            None,
            "fresh draws on which iterates are compared, and as many others on which the result is judged, if anything "
            "is random; 10 if not given. A domain counts as fooled if all of them fool it; ``success`` has the share "
            "that does.",
            least=1,
            record="always",
        ),
    ]
    seed: Annotated[
        int, Option(0, "keys the noise and the draws, with the restart and the input's global row.", record="always")
    ]
    batch_size: Annotated[
        int | None,
        Option(None, "inputs (or groups of them) attacked together; None for all.", least=1, record="never"),
    ]
    precision: Annotated[
        Precision, Option("fp32", '"bf16" runs the models under autocast during the attack.', record="always")
    ]
    progress: Annotated[
        bool | ProgressHook,
        _of_call(False, "True draws a bar on the terminal; a callable is given (steps done, steps in all)."),
    ]
    init: Annotated[
        Tensor | Start | None,
        _of_preset(
            'where delta starts, "zero" or "normal", instead of the preset\'s. Or the first perturbations (B, *S); '
            "they are projected before they count as an iterate."
        ),
    ]
    history: Annotated[
        Literal["means", "full"],
        _of_call("means", '"full" keeps every input\'s losses, weights and success at every iterate.'),
    ]
    first_row: Annotated[int, _of_call(0, "global row of the first input, for attacks made in parts.", least=0)]
    store: Annotated[
        BatchStore | None, _of_call(None, "keeps finished batches, so that an interrupted attack resumes.")
    ]
    memory: Annotated[
        int | None,
        Option(None, "bytes that the graph of one forward pass may hold, see ``DomainGrid``.", record="never"),
    ]


class _Names(dict[str, Any]):
    """The names of this module; those of types that nobody has imported stand for any object."""

    def __missing__(self, name: str) -> Any:
        return object


_HINTS = get_type_hints(AttackOptions, None, _Names(vars(builtins) | globals()), include_extras=True)

OPTIONS: dict[str, Option] = {name: hint.__metadata__[0] for name, hint in _HINTS.items()}
"""The options by name."""

PLAIN: dict[str, Any] = {name: hint.__origin__ for name, hint in _HINTS.items()}
"""Their types, ``object`` in the place of what is no plain value: of tensors, losses, rules."""
