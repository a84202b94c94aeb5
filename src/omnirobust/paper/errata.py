"""The paper's known slips: printed numbers that contradict each other, and what its text and its code leave open."""

from __future__ import annotations

from typing import NamedTuple

from omnirobust.study.tables import table

TITLE = "Slips of the paper"

NOTE = """\
Found by recomputing each printed number from the others of its table, and by comparing text, tables and released code.
None of them decides a claim that is judged here.\
"""


class Slip(NamedTuple):
    """One of them.

    Attributes:
        where: table, figure or section.
        printed: what stands there.
        found: what contradicts it.
        here: what this reproduction does about it.
    """

    where: str
    printed: str
    found: str
    here: str


SLIPS = (
    Slip(
        "Table 2, CIFAR-10, GoogLeNet, K = 10", "lift 600.0 %", "0.40 to 2.40 is a lift of 500 %", "rates are compared"
    ),
    Slip(
        "Table 2, CIFAR-10, All-CNNs, K = 5, min-max",
        "ASR_gp 55.74",
        "2,000 groups give multiples of 0.05; the lift beside it, 38.66, follows from 55.74",
        "taken as printed",
    ),
    Slip(
        "Table 1(b), text",
        "a mean lift of 17.48 % on CIFAR-10",
        "the four lifts of the table average 19.27; 17.48 is the mean of eight, with those of Table A3",
        "the claim is about both tables",
    ),
    Slip("Table A4, l2, w_c+d", "lift -58.56 %", "-58.55 from the rates beside it", "rounding; rates are compared"),
    Slip(
        "Tables 4(a) and A8(d), MLP, min-max with DPAR",
        "Acc_adv^avg 78.35",
        "the mean of its two columns is 78.33",
        "taken as printed",
    ),
    Slip("Table A8(e), MLP, average", "Acc_adv^avg 69.86", "the mean is 69.87", "rounding"),
    Slip(
        "Table A8(b), MLP, natural",
        "Acc_adv^avg 39.01",
        "the mean is 38.02: this or one of the two columns is misprinted",
        "taken as printed",
    ),
    Slip(
        "Table A8(f), LeNet, linf",
        "Acc_adv^avg 65.81",
        "the mean is 66.31: this or one of the two columns is misprinted",
        "taken as printed",
    ),
    Slip(
        "Table A8(f), LeNet, average with DPAR",
        "Acc_adv^avg 75.50",
        "the mean is 76.005; an l2 accuracy of 61.21 instead of 62.21 would fit this and Acc_adv^max",
        "taken as printed",
    ),
    Slip(
        "Table A8(a), (b), (f)",
        "Acc_adv^max of five rows",
        "above the smaller of the two columns, or below what two such accuracies leave at least: it is not the worst "
        "case, image by image, of the attacks in its row",
        "ours is, so it may lie a little lower",
    ),
    Slip(
        "Appendix E.1, text of Table A8",
        "min-max is always among the best two on Acc_adv^max and Acc_adv^avg",
        "not in 7 of the 24 places of the table",
        "judged on our rows",
    ),
    Slip(
        "Sections 4.2 and E.1",
        "S of min-max higher by 6.27 and 17.64 % (MLP), 6.27 and 17.63 % (LeNet)",
        "neither follows from Table A8 by any sum over its radii; two networks agree to 0.01",
        "S is the area by trapezoids, in points",
    ),
    Slip(
        "Section 4.1",
        "models are robust in the order C > D > A > B",
        "FGSM in Table A2 says C > D > B > A; the order is that of the average attack of Table 1(a)",
        "judged on Table 1(a)",
    ),
    Slip(
        "Figure A1",
        "a gamma of about 4 was adopted in Table 1",
        "Appendix C.2 lists 7, 5, 3, 3 and 1, 5, 3, 6",
        "those of C.2",
    ),
    Slip(
        "Table A9, digit 0, group 2, l1; digit 3, group 1, l0",
        "weights",
        "they sum to 0.992 and 0.859: digits are lost",
        "groups without a whole set of weights are left out",
    ),
    Slip(
        "Tables A9 and A10, five images",
        "distance and eps_min",
        "no perturbation of 784 pixels has them (eps_min <= distance <= 28 eps_min): columns are shifted, or distances "
        "not minimal",
        "our distances are checked",
    ),
    Slip(
        "Appendix C.2 and Table A8",
        "an adversarial ratio of 0.5, and one of 1.0",
        "equal if the first is a share of all images, the second a ratio to the clean ones",
        "as many attacked images as clean ones",
    ),
    Slip(
        "Appendix C.3",
        "rotation among the random transformations",
        "Table A5 has no column of it, nor of gamma correction",
        "the columns of Table A5",
    ),
    Slip(
        "Footnote 3",
        "LeNetV2 has more layers than LeNet",
        "Table A1 gives it four layers with weights against five",
        "the networks of Table A1",
    ),
    Slip(
        "Table 2, VGG16",
        "eps 0.35",
        "ten times that of every other network on CIFAR-10: 0.035 is likelier",
        "0.035",
    ),
    Slip(
        "Released code, loss",
        "max over the other classes in the text",
        "the TensorFlow code masks their logits to 0 by mistake, and so lowers the true one alone; the PyTorch "
        "code, for ImageNet, has the right mask",
        "the text's",
    ),
    Slip(
        "Released code, universal attack",
        "a descent on the weighted loss in the text",
        "the code steps up the loss that it should lower",
        "the text's",
    ),
    Slip(
        "Released code, training of the classifiers",
        "momentum 0.8 in the text; of checkpoints it says nothing",
        "the code has momentum 0.9, and keeps the checkpoint that is best on the test set",
        "momentum 0.8; checkpoints are chosen on held-out training images, if at all",
    ),
    Slip(
        "Released code, projections",
        "exact in the text",
        "five bisection steps, so that perturbations can leave the ball",
        "exact",
    ),
    Slip(
        "Released code, ResNet50",
        "the original architecture",
        "basic blocks (3, 4, 6, 3): ResNet34",
        "the original architecture",
    ),
)  # fmt: skip


def slips() -> str:
    """Return them all as a Markdown section."""
    return "\n\n".join([f"## {TITLE}", NOTE, table(["where", "printed", "but", "here"], SLIPS)]) + "\n"
