"""What the paper claims of Tables 4, A7 and A8."""

from __future__ import annotations

from omnirobust.paper.training_budgets import EPS_L2, NAMES, Arch, Method
from omnirobust.paper.training_contrasts import (
    ATTACKED,
    BETWEEN_CLEAN,
    BETWEEN_MEANS,
    MULTI,
    SINGLE,
    TrainingClaim,
    each,
    label,
    over,
    over_radii,
)
from omnirobust.paper.training_findings import Against

DIVERSE: tuple[tuple[Method, Method], ...] = (("avg_dpar", "avg"), ("minmax_dpar", "minmax"))
"""Trainings with DPAR, and the same without."""

_BOTH: tuple[Against, ...] = ("max", "avg")
_WHERE: dict[Against, str] = {"linf": "under linf", "l2": "under l2", "avg3": "on the mean of all three"}
_LONG: dict[Against, str] = {"max": "Acc_adv^max", "avg": "Acc_adv^avg"}


def table_4(arch: Arch) -> tuple[TrainingClaim, ...]:
    """Return what is claimed of Table 4, of one network."""
    rivals: tuple[Method, ...] = ("natural", *SINGLE, *MULTI)
    dpar = DIVERSE
    return (
        TrainingClaim(
            "diagonal-linf", "Under linf training with linf alone is best.", over(arch, ("linf",), rivals, "linf")
        ),
        TrainingClaim("diagonal-l2", "Under l2 training with l2 alone is best.", over(arch, ("l2",), rivals, "l2")),
        *(
            TrainingClaim(
                f"multi-beats-single-{against}",
                f"On {_LONG[against]} every training with both norms beats each with one.",
                over(arch, MULTI, SINGLE, against),
            )
            for against in _BOTH
        ),
        *(
            TrainingClaim(
                f"minmax-beats-average-{against}",
                f"Min-max beats the average on {_LONG[against]}.",
                over(arch, ("minmax",), ("avg",), against),
            )
            for against in _BOTH
        ),
        *(
            TrainingClaim(
                f"minmax-dpar-beats-average-dpar-{against}",
                f"With DPAR, min-max beats the average on {_LONG[against]}.",
                over(arch, ("minmax_dpar",), ("avg_dpar",), against),
            )
            for against in _BOTH
        ),
        *(
            TrainingClaim(
                f"dpar-gains-{against}",
                f"DPAR raises {_LONG[against]} of the average and of min-max.",
                each(arch, dpar, against),
            )
            for against in _BOTH
        ),
        TrainingClaim(
            "top-two",
            "Min-max and the average with DPAR are the two best on Acc_adv^max.",
            over(arch, ("avg_dpar", "minmax_dpar"), ("natural", *SINGLE, "avg", "minmax"), "max"),
        ),
        TrainingClaim(
            "clean-kept",
            "Whatever is trained against, clean accuracy falls by no more than 0.5 points.",
            over(arch, ATTACKED, ("natural",), "clean", margin=-0.005),
            between=BETWEEN_CLEAN,
        ),
        TrainingClaim(
            "gradients-correlated",
            "The input gradients of the linf and the l2 attack are strongly correlated: a mean cosine above 0.5.",
            lambda f, metric: {label(method): f.cosine(arch, method, EPS_L2) - 0.5 for method in _PLAIN},
            scale=1.0,
            digits=3,
            between=0.01,
            unit="above 0.5",
        ),
        TrainingClaim(
            "attacker-diversifies",
            "Attacks with DPAR have gradients less alike than attacks without, on the same model.",
            lambda f, metric: {
                label(method): f.cosine(arch, method, EPS_L2) - f.cosine(arch, method, EPS_L2, diverse=True)
                for method in MULTI
            },
            scale=1.0,
            digits=3,
            between=0.01,
            unit="lower",
        ),
        TrainingClaim(
            "defender-diversifies",
            "Training with DPAR leaves a model on which the gradients of plain attacks are less alike. (Not claimed: "
            "(17) has the defender make them more alike.)",
            lambda f, metric: {
                f"{label(plain)} − {label(diverse)}": f.cosine(arch, plain, EPS_L2) - f.cosine(arch, diverse, EPS_L2)
                for diverse, plain in dpar
            },
            scale=1.0,
            digits=3,
            between=0.01,
            unit="lower",
        ),
    )


_PLAIN: tuple[Method, ...] = ("natural", "avg", "minmax")


def table_a7(arch: Arch) -> tuple[TrainingClaim, ...]:
    """Return what is claimed of Table A7, of one network."""
    dpar: tuple[Method, ...] = ("avg_dpar", "minmax_dpar")
    return (
        *(
            TrainingClaim(
                f"beats-usgd-{against}",
                f"Every training with both norms beats uSGD {where}.",
                over(arch, MULTI, ("usgd",), against),
            )
            for against, where in _WHERE.items()
        ),
        TrainingClaim(
            "gain-over-usgd",
            "With DPAR, the average and min-max are 17 points or more above uSGD on the mean of linf and l2 "
            "(printed for the MLP: 17.85 and 17.97).",
            over(arch, dpar, ("usgd",), "avg", margin=0.17),
        ),
        TrainingClaim(
            "uni-degradation",
            "Under a universal perturbation they are at most 4 points below uSGD (printed for the MLP: 3.72).",
            over(arch, dpar, ("usgd",), "uni", margin=-0.04),
        ),
        TrainingClaim(
            "beats-single-avg3",
            "On the mean of all three every training with both norms beats each with one.",
            over(arch, MULTI, SINGLE, "avg3"),
        ),
        TrainingClaim(
            "similar-clean",
            "Clean accuracies are very similar: those with both norms are within 1 point of uSGD's, above or below.",
            lambda f, metric: (
                dict(over(arch, MULTI, ("usgd",), "clean", margin=-0.01)(f, metric))
                | {
                    f"1 − ({name})": d * -1.0 + 0.01
                    for name, d in over(arch, MULTI, ("usgd",), "clean")(f, metric).items()
                }
            ),
            between=BETWEEN_CLEAN,
        ),
    )


def table_a8() -> tuple[TrainingClaim, ...]:
    """Return what is claimed of Table A8, of each network."""
    return tuple(claim for arch in NAMES for claim in _table_a8(arch))


def _table_a8(arch: Arch) -> tuple[TrainingClaim, ...]:
    name, dpar = NAMES[arch], DIVERSE
    return (
        *(
            TrainingClaim(
                f"minmax-beats-average-{against}-{arch}",
                f"{name}: over the l2 radii min-max is above the average on {_LONG[against]}.",
                over_radii(arch, (("minmax", "avg"),), against),
                between=BETWEEN_MEANS,
            )
            for against in _BOTH
        ),
        *(
            TrainingClaim(
                f"dpar-gains-{against}-{arch}",
                f"{name}: over the l2 radii DPAR raises {_LONG[against]} of the average and of min-max.",
                over_radii(arch, dpar, against),
                between=BETWEEN_MEANS,
            )
            for against in _BOTH
        ),
        TrainingClaim(
            f"linf-enough-{arch}",
            f"{name}: at l2 radius 0.5, where the strengths differ most, training with linf alone beats min-max on "
            "Acc_adv^max.",
            over(arch, ("linf",), ("minmax",), "max", eps=0.5),
        ),
        TrainingClaim(
            f"always-top-two-{arch}",
            f"{name}: min-max with DPAR is never beaten by natural, single-norm or plain average training on "
            "Acc_adv^max, at any radius.",
            lambda f, metric: {
                f"min-max + DPAR − {label(other)} at {eps:g}": f.accuracy(arch, "minmax_dpar", eps, "max", metric)
                - f.accuracy(arch, other, eps, "max", metric)
                for eps in f.budget.grid
                for other in ("linf", "l2", "avg")
            },
        ),
    )
