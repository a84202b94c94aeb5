"""The paper's printed values, as data. All are percentages; ``source`` says where they stand.

Lifts are relative: 100 (ASR_all - ASR_all of the average) / ASR_all of the average.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omnirobust.study.spec import Key


@dataclass(frozen=True)
class Printed:
    """One printed row, in percent.

    Attributes:
        accuracy: model letter to its accuracy on the attacked images; a letter may be left out.
        asr_all: share of images that fool every model at once; None where the table has no such column.
        asr_avg: share of (image, model) pairs that are fooled; None likewise.
        lift: relative gain of asr_all over the average; None likewise.
        source: where they are printed, such as "Table 1(a)".
        images: on how many images they were measured.
    """

    accuracy: dict[str, float] = field(default_factory=dict)
    asr_all: float | None = None
    asr_avg: float | None = None
    lift: float | None = None
    source: str = ""
    images: int = 10_000


def _rows(source: str, values: dict[Key, tuple[float | None, ...]], models: str = "ABCD") -> dict[Key, Printed]:
    """Name the columns: four accuracies, ASR_avg, ASR_all, lift."""
    return {
        key: Printed(dict(zip(models, row[:4], strict=True)), row[5], row[4], row[6], source)  # type: ignore[arg-type]
        for key, row in values.items()
    }


TABLE_1A = _rows(
    "Table 1(a)",
    {
        ("l0", "avg"): (7.03, 1.51, 11.27, 2.48, None, 84.03, None),
        ("l0", "minmax"): (3.65, 2.36, 4.99, 3.11, None, 91.97, 9.45),
        ("l1", "avg"): (20.79, 0.15, 21.48, 6.70, None, 69.31, None),
        ("l1", "minmax"): (6.12, 2.53, 8.43, 5.11, None, 89.16, 28.64),
        ("l2", "avg"): (6.88, 0.03, 26.28, 14.50, None, 69.12, None),
        ("l2", "minmax"): (1.51, 0.89, 3.50, 2.06, None, 95.31, 37.89),
        ("linf", "avg"): (1.05, 0.07, 41.10, 35.03, None, 48.17, None),
        ("linf", "minmax"): (2.47, 0.37, 7.39, 5.81, None, 90.16, 87.17),
    },
)

TABLE_1B = _rows(
    "Table 1(b)",
    {
        ("l0", "avg"): (27.86, 3.15, 5.16, 6.17, None, 65.16, None),
        ("l0", "minmax"): (18.74, 8.66, 9.64, 9.70, None, 71.44, 9.64),
        ("l1", "avg"): (32.92, 2.07, 5.55, 6.36, None, 59.74, None),
        ("l1", "minmax"): (12.46, 3.74, 5.62, 5.86, None, 78.65, 31.65),
        ("l2", "avg"): (24.30, 1.51, 4.59, 4.20, None, 69.55, None),
        ("l2", "minmax"): (7.17, 3.03, 4.65, 5.14, None, 83.95, 20.70),
        ("linf", "avg"): (19.69, 1.55, 5.61, 4.26, None, 73.29, None),
        ("linf", "minmax"): (7.21, 2.68, 4.74, 4.59, None, 84.36, 15.10),
    },
)

TABLE_A3 = _rows(
    "Table A3",
    {
        ("l0", "avg"): (27.38, 6.33, 7.18, 6.99, None, 66.56, None),
        ("l0", "minmax"): (19.38, 8.72, 9.48, 8.94, None, 73.83, 10.92),
        ("l1", "avg"): (30.90, 2.06, 1.85, 1.84, None, 66.23, None),
        ("l1", "minmax"): (12.56, 3.21, 2.70, 2.72, None, 83.13, 25.52),
        ("l2", "avg"): (20.87, 1.75, 1.21, 1.54, None, 76.41, None),
        ("l2", "minmax"): (10.26, 3.15, 2.24, 2.37, None, 84.99, 11.23),
        ("linf", "avg"): (25.75, 2.59, 1.66, 2.27, None, 70.54, None),
        ("linf", "minmax"): (13.47, 3.79, 3.15, 3.48, None, 81.17, 15.07),
    },
    "AEFH",
)

TABLE_A4 = _rows(
    "Table A4",
    {
        ("l2", "avg"): (6.88, 0.03, 26.28, 14.50, 88.08, 69.12, None),
        ("l2", "w_c+d"): (69.03, 14.58, 5.11, 0.34, 77.74, 28.65, -58.56),
        ("l2", "w_a+c+d"): (1.34, 24.53, 11.69, 2.79, 89.91, 67.45, -2.42),
        ("l2", "w_clip"): (2.70, 0.02, 12.69, 4.13, 95.12, 85.33, 23.45),
        ("l2", "w_prior"): (6.28, 0.05, 6.78, 2.65, 96.06, 88.25, 27.68),
        ("l2", "w_static"): (4.52, 0.27, 3.35, 4.15, 96.93, 90.53, 30.98),
        ("l2", "minmax"): (1.51, 0.89, 3.50, 2.06, 98.01, 95.31, 37.89),
        ("linf", "avg"): (1.05, 0.07, 41.10, 35.03, 80.69, 48.17, None),
        ("linf", "w_c+d"): (60.37, 19.55, 15.10, 1.87, 75.78, 29.32, -39.13),
        ("linf", "w_a+c+d"): (0.46, 21.57, 25.36, 13.84, 84.69, 53.39, 10.84),
        ("linf", "w_clip"): (0.66, 0.03, 23.43, 13.23, 90.66, 71.54, 48.52),
        ("linf", "w_prior"): (1.57, 0.24, 17.67, 13.74, 91.70, 74.34, 54.33),
        ("linf", "w_static"): (10.58, 0.39, 9.28, 10.05, 92.43, 77.84, 61.59),
        ("linf", "minmax"): (2.47, 0.37, 7.39, 5.81, 95.99, 90.16, 87.17),
    },
)

W_PRIOR = (0.2, 0.1, 0.4, 0.3)
"""Table A4: fixed weights of A, B, C, D, larger where the authors expect more robustness."""

W_STATIC = {"l2": (0.209, 0.046, 0.495, 0.250), "linf": (0.080, 0.076, 0.541, 0.303)}
"""Appendix D.2: the mean converged weights of A, B, C, D that the authors got and then held fixed."""

W_D_PEAK, W_D_SETTLED = 0.45, 0.30
"""Section 4.1 on Figure 1(c): the weight of D rises to the first and falls to the second."""


def _single(letter: str, clean: float, fgsm: float) -> dict[Key, Printed]:
    return {
        (letter, "clean"): Printed({letter: clean}, None, None, None, "Table A2"),
        (letter, "fgsm"): Printed({letter: fgsm}, None, None, None, "Table A2"),
    }


TABLE_A2 = (
    _single("A", 98.20, 18.92) | _single("B", 99.49, 50.95) | _single("C", 99.25, 63.23) | _single("D", 99.33, 56.36)
)
"""MNIST half: accuracy on clean test images, and under FGSM with linf radius 0.2."""

PRINTED: dict[str, dict[Key, Printed]] = {
    "table-1a": TABLE_1A,
    "table-1b": TABLE_1B,
    "table-a2": TABLE_A2,
    "table-a3": TABLE_A3,
    "table-a4": TABLE_A4,
}
"""Experiment name to its printed rows; figures print no numbers."""
