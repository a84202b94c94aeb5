"""The paper's printed values on attacks, as data. All are percentages; ``source`` says where they stand.

Lifts are relative: 100 (ASR_all - ASR_all of the average) / ASR_all of the average; of groups, ASR_gp.
"""

from __future__ import annotations

from omnirobust.study.claims import Key
from omnirobust.study.spec import Printed


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


def _single(letter: str, clean: float, fgsm: float, place: str = "") -> dict[Key, Printed]:
    return {
        (place + letter, "clean"): Printed({letter: clean}, None, None, None, "Table A2"),
        (place + letter, "fgsm"): Printed({letter: fgsm}, None, None, None, "Table A2"),
    }


TABLE_A2 = (
    _single("A", 98.20, 18.92) | _single("B", 99.49, 50.95) | _single("C", 99.25, 63.23) | _single("D", 99.33, 56.36)
    | _single("A", 55.36, 11.25, "CIFAR-10 ") | _single("B", 84.18, 9.89, "CIFAR-10 ")
    | _single("C", 64.95, 14.45, "CIFAR-10 ") | _single("D", 74.89, 9.77, "CIFAR-10 ")
    | _single("E", 87.57, 10.83, "CIFAR-10 ") | _single("F", 88.11, 10.73, "CIFAR-10 ")
    | _single("G", 91.67, 15.78, "CIFAR-10 ") | _single("H", 90.92, 9.91, "CIFAR-10 ")
)  # fmt: skip
"""Accuracy on clean test images, and under FGSM with linf radius 0.2: the MNIST half, and then that of CIFAR-10."""


_TABLE_2: dict[tuple[str, int], tuple[float, float, float, float, float]] = {
    ("MNIST A", 2): (97.19, 94.48, 98.15, 96.96, 2.62),
    ("MNIST A", 4): (85.13, 56.64, 83.76, 72.32, 27.68),
    ("MNIST A", 5): (79.11, 38.05, 72.28, 53.70, 41.13),
    ("MNIST A", 10): (60.53, 3.50, 30.10, 6.70, 91.43),
    ("MNIST B", 2): (97.76, 95.52, 99.69, 99.38, 4.04),
    ("MNIST B", 4): (85.19, 51.92, 90.11, 75.64, 45.69),
    ("MNIST B", 5): (80.02, 31.25, 80.21, 53.50, 71.20),
    ("MNIST B", 10): (65.79, 2.10, 43.54, 4.30, 104.80),
    ("MNIST C", 2): (94.78, 89.96, 96.60, 94.58, 5.14),
    ("MNIST C", 4): (62.12, 28.72, 55.50, 36.72, 27.86),
    ("MNIST C", 5): (51.84, 19.15, 42.79, 25.80, 34.73),
    ("MNIST C", 10): (30.29, 4.30, 22.48, 7.20, 67.44),
    ("MNIST D", 2): (94.72, 90.04, 97.33, 95.68, 6.26),
    ("MNIST D", 4): (61.59, 26.60, 55.38, 35.52, 33.53),
    ("MNIST D", 5): (50.42, 17.05, 40.22, 21.05, 23.46),
    ("MNIST D", 10): (26.49, 4.80, 19.73, 7.10, 47.92),
    ("CIFAR-10 B", 2): (91.09, 83.08, 92.22, 85.98, 3.49),
    ("CIFAR-10 B", 4): (85.66, 54.72, 87.63, 65.80, 20.25),
    ("CIFAR-10 B", 5): (82.76, 40.20, 85.02, 55.74, 38.66),
    ("CIFAR-10 B", 10): (71.22, 4.50, 65.64, 11.80, 162.20),
    ("CIFAR-10 D", 2): (93.26, 86.90, 93.34, 87.08, 0.21),
    ("CIFAR-10 D", 4): (90.04, 66.12, 91.91, 71.64, 8.35),
    ("CIFAR-10 D", 5): (88.28, 55.00, 91.21, 63.55, 15.55),
    ("CIFAR-10 D", 10): (72.02, 8.90, 82.85, 25.10, 182.00),
    ("CIFAR-10 E", 2): (90.76, 82.56, 92.40, 85.92, 4.07),
    ("CIFAR-10 E", 4): (89.36, 63.92, 90.04, 70.40, 10.14),
    ("CIFAR-10 E", 5): (88.74, 55.20, 88.97, 63.30, 14.67),
    ("CIFAR-10 E", 10): (85.86, 22.40, 79.07, 30.80, 37.50),
    ("CIFAR-10 H", 2): (85.02, 72.48, 87.08, 77.82, 7.37),
    ("CIFAR-10 H", 4): (75.20, 32.68, 77.05, 46.20, 41.37),
    ("CIFAR-10 H", 5): (71.82, 19.60, 71.20, 33.70, 71.94),
    ("CIFAR-10 H", 10): (59.01, 0.40, 45.46, 2.40, 600.00),
}
"""Model and K to: ASR_avg and ASR_gp of the average, those of min-max, the lift."""

_TABLE_3: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("A", "avg"): (10.80, 21.93, 14.75, 11.52, 10.66, 20.03, 85.05, 55.88, None),
    ("A", "minmax"): (12.14, 18.05, 13.61, 13.52, 11.99, 16.78, 85.65, 60.03, 7.43),
    ("B", "avg"): (5.49, 11.56, 9.51, 5.43, 5.75, 15.89, 91.06, 72.21, None),
    ("B", "minmax"): (6.22, 8.61, 9.74, 6.35, 6.42, 11.99, 91.78, 77.43, 7.23),
    ("C", "avg"): (7.66, 21.88, 15.50, 8.15, 7.87, 15.36, 87.26, 56.51, None),
    ("C", "minmax"): (8.51, 14.75, 13.88, 9.16, 8.58, 13.35, 88.63, 63.58, 12.51),
    ("D", "avg"): (8.00, 20.47, 13.46, 7.73, 8.52, 15.90, 87.65, 61.13, None),
    ("D", "minmax"): (9.19, 13.18, 12.72, 8.79, 9.18, 13.11, 88.97, 67.49, 10.4),
}
"""Model and weights to: the accuracy under each transformation, ASR_avg, ASR_gp, the lift."""

_TABLE_A5: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("A", "avg"): (11.55, 21.60, 13.64, 12.30, 22.37, 83.71, 55.97, None),
    ("A", "minmax"): (13.06, 18.90, 13.43, 13.90, 20.27, 84.09, 59.17, 5.72),
    ("B", "avg"): (6.74, 11.55, 10.33, 6.59, 18.21, 89.32, 69.52, None),
    ("B", "minmax"): (8.19, 11.13, 10.31, 8.31, 16.29, 89.15, 71.18, 2.39),
    ("C", "avg"): (8.23, 17.47, 13.93, 8.54, 18.83, 86.60, 58.85, None),
    ("C", "minmax"): (9.68, 13.45, 13.41, 9.95, 18.23, 87.06, 61.63, 4.72),
    ("D", "avg"): (8.67, 19.75, 11.60, 8.46, 19.35, 86.43, 60.96, None),
    ("D", "minmax"): (10.43, 16.41, 12.14, 10.15, 17.64, 86.65, 63.64, 4.4),
}

_TABLE_A6: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("A", "avg"): (11.06, 22.37, 14.81, 12.32, 10.92, 20.40, 15.89, 84.60, 49.24, None),
    ("A", "minmax"): (13.51, 18.84, 14.03, 15.20, 13.00, 18.03, 14.79, 84.66, 52.31, 6.23),
    ("B", "avg"): (5.55, 11.96, 9.97, 5.63, 5.94, 16.42, 11.47, 90.44, 65.18, None),
    ("B", "minmax"): (6.75, 9.13, 10.56, 6.72, 7.11, 12.23, 10.80, 90.96, 70.38, 7.98),
    ("C", "avg"): (7.65, 22.30, 15.82, 8.17, 8.07, 15.44, 15.09, 86.78, 49.67, None),
    ("C", "minmax"): (9.05, 15.10, 14.57, 9.57, 9.31, 14.11, 14.23, 87.72, 55.37, 11.48),
    ("D", "avg"): (8.22, 20.88, 13.49, 7.91, 8.71, 16.33, 14.98, 87.07, 53.52, None),
    ("D", "minmax"): (10.17, 14.65, 13.62, 10.03, 10.35, 14.36, 13.82, 87.57, 57.36, 7.17),
}


def _groups() -> dict[Key, Printed]:
    rows: dict[Key, Printed] = {}
    for (place, size), (avg_images, avg_groups, images, groups, lift) in _TABLE_2.items():
        rows[place, "avg", str(size)] = Printed({}, avg_groups, avg_images, None, "Table 2")
        rows[place, "minmax", str(size)] = Printed({}, groups, images, lift, "Table 2")
    return rows


def _transforms(source: str, names: str, values: dict[tuple[str, str], tuple[float | None, ...]]) -> dict[Key, Printed]:
    columns = names.split()
    return {
        key: Printed(dict(zip(columns, row, strict=False)), row[-2], row[-3], row[-1], source)  # type: ignore[arg-type]
        for key, row in values.items()
    }


TABLE_2 = _groups()
TABLE_3 = _transforms("Table 3", "ori flh flv bri gam crop", _TABLE_3)
TABLE_A5 = _transforms("Table A5", "ori flh flv bri crop", _TABLE_A5)
TABLE_A6 = _transforms("Table A6", "ori flh flv bri gam crop rot", _TABLE_A6)

STATISTICS: dict[str, dict[str, float]] = {
    "table-a9": {
        "l0 and l1": 0.861,
        "l0 and l2": 0.852,
        "l0 and linf": 0.782,
        "l1 and l2": 0.834,
        "l1 and linf": 0.739,
        "l2 and linf": 0.918,
        "l0 and dist": 0.34,
        "l1 and dist": 0.293,
        "l2 and dist": 0.242,
        "linf and dist": 0.205,
        "l0 and eps_min": 0.533,
        "l1 and eps_min": 0.502,
        "l2 and eps_min": 0.533,
        "linf and eps_min": 0.504,
        "dist and eps_min": 0.67,
        "same top": 0.625,
        "top l0 is top dist": 0.625,
        "top l1 is top dist": 0.75,
        "top l2 is top dist": 0.5,
        "top linf is top dist": 0.5,
        "top l0 is top eps_min": 0.625,
        "top l1 is top eps_min": 0.75,
        "top l2 is top eps_min": 0.75,
        "top linf is top eps_min": 0.875,
    },
    "table-a10": {
        "l0 and l1": 0.742,
        "l0 and l2": 0.846,
        "l0 and linf": 0.792,
        "l1 and l2": 0.933,
        "l1 and linf": 0.86,
        "l2 and linf": 0.94,
        "l0 and dist": 0.409,
        "l1 and dist": 0.464,
        "l2 and dist": 0.528,
        "linf and dist": 0.537,
        "l0 and eps_min": 0.544,
        "l1 and eps_min": 0.664,
        "l2 and eps_min": 0.682,
        "linf and eps_min": 0.654,
        "dist and eps_min": 0.6,
        "same top": 0.8,
        "top l0 is top dist": 0.5,
        "top l1 is top dist": 0.4,
        "top l2 is top dist": 0.5,
        "top linf is top dist": 0.6,
        "top l0 is top eps_min": 0.7,
        "top l1 is top eps_min": 0.6,
        "top l2 is top eps_min": 0.7,
        "top linf is top eps_min": 0.8,
    },
}
"""What the printed weights come to: pooled Spearman correlations ("a and b"), and shares of the groups, 8 and 10 in
all, whose heaviest image is the same in all norms ("same top") or has the largest distortion ("top a is top b")."""

PRINTED: dict[str, dict[Key, Printed]] = {
    "table-1a": TABLE_1A,
    "table-1b": TABLE_1B,
    "table-a2": TABLE_A2,
    "table-a3": TABLE_A3,
    "table-a4": TABLE_A4,
    "table-2": TABLE_2,
    "table-3": TABLE_3,
    "table-a5": TABLE_A5,
    "table-a6": TABLE_A6,
}
"""Experiment name to its printed rows; figures print no numbers, and Tables A9 and A10 those of other images."""
